"""Per-token losses without keeping logits: the output layer and the cross-entropy in one pass.

On a CPU in small blocks, which stay in its cache; on a GPU in few large pieces, whose size follows
from its memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 256
"""Tokens whose logits exist at the same time on a CPU."""
SHARE = 1 / 16
"""Part of a GPU's memory that the logits of one piece may take."""
KEPT = 1 / 4
"""Part of it that probabilities kept for the backward pass may take; beyond, they are formed anew.
"""
PROBE = 6
"""Tokens on which a model is tried."""
ROUNDING = 1e-4
"""Share of the largest logit by which logits may change without a cause."""
CLOSE = 1e-3
"""Largest difference between two ways to the same loss, in nats per nat."""
_one_text_a_row = ContextVar("one text a row", default=False)
"""Whether transformers need not look for several texts in a row."""
_direct: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Models tried so far, and whether their logits are just hidden states times the output layer."""


class _LinearCrossEntropy(torch.autograd.Function):
    """l_n = logsumexp_v(z_nv) - z_n,y(n), z = h W^T; gradients from the stored probabilities.

    dl/dh_n = sum_v p_nv W_v - W_y(n) and dl/dW_v = sum_n (p_nv - 1[v = y(n)]) h_n, so a token's
    incoming gradient scales rows of width d, never of width V. Differentiable once, since
    what is stored counts as constant: backward() through the gradients raises an error.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor):
        kind = torch.promote_types(hidden.dtype, torch.float32)
        losses = torch.empty(len(hidden), dtype=kind, device=hidden.device)
        p = hidden.new_empty(len(hidden), len(weight))
        for start in range(0, len(hidden), ROWS):
            part = slice(start, start + ROWS)
            z = (hidden[part] @ weight.T).to(kind)
            own = z.gather(1, targets[part, None])
            peak = z.amax(1, keepdim=True)
            z.sub_(peak).exp_()
            total = z.sum(1, keepdim=True)
            losses[part] = (total.log() + peak - own)[:, 0]
            p[part] = z.div_(total)
        ctx.save_for_backward(hidden, weight, targets, p)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor):
        hidden, weight, targets, p = ctx.saved_tensors
        g = gradient[:, None].to(hidden.dtype)
        d_hidden = (p @ weight - weight[targets]) * g if ctx.needs_input_grad[0] else None
        d_weight = None
        if ctx.needs_input_grad[1]:
            scaled = hidden * g
            d_weight = (p.T @ scaled).index_add_(0, targets, scaled, alpha=-1)
        return d_hidden, d_weight, None


class _InOnePass(torch.autograd.Function):
    """The same in pieces of `at_once` tokens, by fused operations and without atomic additions.

    What is kept is r_nv = p_nv - 1[v = y(n)], in the precision of the hidden states; without
    `keep` it is formed again from the logits, piece by piece, when gradients are wanted.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        at_once: int,
        keep: bool,
    ):
        losses, kept = [], hidden.new_empty(len(hidden) if keep else 0, len(weight))
        for start in range(0, len(hidden), at_once):
            part = slice(start, start + at_once)
            z, own = hidden[part] @ weight.T, targets[part, None]
            losses.append(_residuals(z, own, kept[part]) if keep else _only_losses(z, own))
        ctx.save_for_backward(hidden, weight, targets, kept)
        ctx.at_once, ctx.keep = at_once, keep
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor):
        hidden, weight, targets, kept = ctx.saved_tensors
        g = gradient[:, None].to(hidden.dtype)
        scaled = hidden * g
        if ctx.keep:
            return (kept @ weight).mul_(g), kept.T @ scaled, None, None, None
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=_at_least_single(weight))
        for start in range(0, len(hidden), ctx.at_once):
            part = slice(start, start + ctx.at_once)
            z = hidden[part] @ weight.T
            r = torch.empty_like(z)
            _residuals(z, targets[part, None], r)
            d_hidden[part] = (r @ weight).mul_(g[part])
            d_weight += r.T @ scaled[part]
        return d_hidden, d_weight.to(weight.dtype), None, None, None


def _at_least_single(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _only_losses(z: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Return the losses of logits (n, V) at own tokens (n, 1)."""
    return -z.log_softmax(1, dtype=_at_least_single(z)).gather(1, own)[:, 0]


def _residuals(z: torch.Tensor, own: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write p - 1 at the own token and p elsewhere; return the losses."""
    kind = _at_least_single(z)
    if z.device.type == "cpu":
        # exponentials are what costs there: with the largest p, log p = z - max z + log max p
        z = z.to(kind)
        p = z.softmax(1)
        losses = z.amax(1) - p.amax(1).log() - z.gather(1, own)[:, 0]
        out.copy_(p.scatter_(1, own, losses.neg().expm1()[:, None]))
        return losses
    log_p = z.log_softmax(1, dtype=kind)
    mine = log_p.gather(1, own)
    torch.exp(log_p, out=out)
    out.scatter_(1, own, mine.expm1().to(out.dtype))
    return -mine[:, 0]


def pieces(
    device: torch.device, n_tokens: int, vocabulary: int, dtype: torch.dtype
) -> tuple[int, bool]:
    """Return how many tokens' logits are formed at once, and whether probabilities are kept.

    Parameters
    ----------
    device : torch.device
        Device of the model.
    n_tokens, vocabulary : int
        Shape of all logits.
    dtype : torch.dtype
        Type of the hidden states.

    Returns
    -------
    (int, bool)
        As large as `SHARE` and `KEPT` of the memory of a GPU allow; on a CPU `ROWS`, kept.
    """
    if device.type != "cuda":
        return ROWS, True
    memory = torch.cuda.get_device_properties(device).total_memory
    each = vocabulary * (4 + dtype.itemsize)
    return max(ROWS, int(SHARE * memory) // each), (
        n_tokens * vocabulary * dtype.itemsize <= KEPT * memory
    )


def autocast(device: torch.device | str, bf16: bool) -> AbstractContextManager:
    """Return bf16 autocast for a device, or a context that does nothing."""
    if not bf16:
        return nullcontext()
    kind = torch.device(device).type
    # what is cached while a graph is captured would be gone when it is replayed
    return torch.autocast(kind, torch.bfloat16, cache_enabled=kind == "cpu")


def token_losses(
    model: PreTrainedModel, ids: torch.Tensor, *, bf16: bool = False, one_pass: bool = False
) -> torch.Tensor:
    """Return l[n, k] = -log p(ids[n, k + 1] | ids[n, :k + 1]) in nats.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model of transformers.
    ids : (n, T) int64 tensor
        Token ids.
    bf16 : bool
        Compute matrix products in bfloat16; losses are summed in float32.
    one_pass : bool
        On a CPU, form probabilities in one pass: faster, and another rounding than that of
        training runs, which go on with the bits they began with. On a GPU it is always so.

    Returns
    -------
    (n, T - 1) float32 tensor, float64 for a model in double precision
        Losses, the cross-entropy of the model's own logits; position 0 of a sequence has none.

    Raises
    ------
    ValueError
        As `is_direct`, which is asked once per model.
    """
    with autocast(ids.device, bf16), _rows_of_one_text():
        if is_direct(model, ids):
            flat = _from_hidden(model, ids, bf16, one_pass)
        else:
            flat = _from_logits(model, ids)
    return flat.view(len(ids), -1)


@contextmanager
def _rows_of_one_text() -> Iterator[None]:
    """Keep transformers from reading positions to find several texts in a row.

    There is one in each. To see that, the host would wait for the device, and while a graph is
    captured, where it cannot, other attention would be chosen than before.
    """
    _ask_before_looking()
    token = _one_text_a_row.set(True)
    try:
        yield
    finally:
        _one_text_a_row.reset(token)


@cache
def _ask_before_looking() -> None:
    """Put a question before the function of transformers that looks, where there is one."""
    from transformers import masking_utils

    look = getattr(masking_utils, "find_packed_sequence_indices", None)
    if look is None:
        return

    def unless_known(*arguments: Any, **options: Any) -> Any:
        return None if _one_text_a_row.get() else look(*arguments, **options)

    masking_utils.find_packed_sequence_indices = unless_known


def _from_hidden(
    model: PreTrainedModel, ids: torch.Tensor, bf16: bool, one_pass: bool = False
) -> torch.Tensor:
    """Return the losses without logits; the model must be direct."""
    weight = model.get_output_embeddings().weight
    hidden = model.base_model(ids[:, :-1]).last_hidden_state.flatten(0, 1)
    kind = torch.bfloat16 if bf16 else hidden.dtype
    hidden, weight, targets = hidden.to(kind), weight.to(kind), ids[:, 1:].flatten()
    at_once, keep = pieces(hidden.device, len(hidden), len(weight), kind)
    if not (torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)):
        parts = zip(hidden.split(at_once), targets.split(at_once), strict=True)
        return torch.cat([_only_losses(h @ weight.T, y[:, None]) for h, y in parts])
    if one_pass or hidden.device.type != "cpu":
        return _InOnePass.apply(hidden, weight, targets, at_once, keep)
    return _LinearCrossEntropy.apply(hidden, weight, targets)


def _from_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the losses from the model's own logits."""
    logits = model(ids[:, :-1], use_cache=False).logits.flatten(0, 1)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")


def is_direct(model: PreTrainedModel, ids: torch.Tensor | None = None) -> bool:
    """Whether logits are the last hidden states times the weight of the output layer, no more.

    Tried once per model, by putting numbers of our own in place of what the layers give: soft
    caps, scales, multipliers and masks change them, however small the logits are so far.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model.
    ids : (n, T) int tensor, optional
        Token ids to try it on; by default the first of the vocabulary.

    Returns
    -------
    bool
        If so, losses need no logits.

    Raises
    ------
    ValueError
        If it is no causal language model, or the losses are not those of its logits.
    """
    if model not in _direct:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            _direct[model] = _tried(model, _some(model, ids))
    return _direct[model]


def _some(model: PreTrainedModel, ids: torch.Tensor | None) -> torch.Tensor:
    """Return one row of token ids."""
    if ids is not None and ids.shape[1] > 2:
        return ids[:1, :PROBE]
    size = model.get_input_embeddings().weight.shape[0]
    return (torch.arange(PROBE, device=model.device) * 7 % size)[None]


def _tried(model: PreTrainedModel, ids: torch.Tensor) -> bool:
    """Try a model on some ids."""
    name = type(model).__name__
    logits = getattr(model(ids, use_cache=False), "logits", None)
    if logits is None or logits.shape[:2] != ids.shape or logits.shape[2] <= int(ids.max()):
        raise ValueError(
            f"{name} gives no logits (row, token, vocabulary) for ids up to "
            f"{int(ids.max())}; take a causal language model."
        )
    changed = torch.cat([ids[:, :-1], (ids[:, -1:] + 1) % logits.shape[2]], 1)
    others = model(changed, use_cache=False).logits
    if _later_matters(logits[:, :-1], others[:, :-1]):
        raise ValueError(
            f"logits of {name} change with tokens that come later, so their losses "
            "are not those of a causal language model. Set is_decoder in config.json "
            "if it was trained as one, or take another model."
        )
    direct = _takes_as_is(model, ids)
    if direct and not _near(_from_hidden(model, ids, False), _from_logits(model, ids)):
        raise ValueError(
            f"losses of {name} from its hidden states are not those of its logits, "
            "although its layers look like it. Please report this model."
        )
    return direct


def _later_matters(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether logits changed by more than rounding; ones that are not finite say nothing."""
    size = before.abs().amax()
    return bool(size.isfinite() and (before - after).abs().amax() > ROUNDING * size)


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a.float(), b.float(), rtol=CLOSE, atol=CLOSE, equal_nan=True)


def _takes_as_is(model: PreTrainedModel, ids: torch.Tensor) -> bool:
    """Whether what is put in for hidden states and logits reaches the other end unchanged."""
    head, base = model.get_output_embeddings(), model.base_model
    if type(head) is not torch.nn.Linear or head.bias is not None or base is model:
        return False
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*ids.shape, head.in_features, generator=generator).to(head.weight)
    scores = 100 * torch.randn(*ids.shape, head.out_features, generator=generator).to(head.weight)
    seen: list[torch.Tensor] = []

    def replace_hidden(_: Any, __: Any, output: Any) -> Any:
        output.last_hidden_state = hidden
        return output

    def replace_scores(_: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> torch.Tensor:
        seen.append(inputs[0])
        return scores

    hooks = [base.register_forward_hook(replace_hidden), head.register_forward_hook(replace_scores)]
    try:
        logits = model(ids, use_cache=False, return_dict=True).logits
    except AttributeError:  # the body returns something else than a named last_hidden_state
        return False
    finally:
        for hook in hooks:
            hook.remove()
    return len(seen) == 1 and torch.equal(seen[0], hidden) and torch.equal(logits, scores)
