"""Per-token losses without keeping logits: the output layer and the cross-entropy in one pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 256
"""Tokens whose logits exist at the same time."""
LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Configuration entries of models that change their logits after the output layer."""


class _LinearCrossEntropy(torch.autograd.Function):
    """l_n = logsumexp_v(z_nv) - z_n,y(n), z = h W^T; gradients from the stored probabilities.

    dl/dh_n = sum_v p_nv W_v - W_y(n) and dl/dW_v = sum_n (p_nv - 1[v = y(n)]) h_n, so a token's
    incoming gradient scales rows of width d, never of width V.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor):
        wanted = any(ctx.needs_input_grad[:2])
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        p = hidden.new_empty(len(hidden) if wanted else 0, len(weight))
        for start in range(0, len(hidden), ROWS):
            part = slice(start, start + ROWS)
            z = (hidden[part] @ weight.T).float()
            own = z.gather(1, targets[part, None])
            if not wanted:
                losses[part] = -z.log_softmax(1).gather(1, targets[part, None])[:, 0]
                continue
            peak = z.amax(1, keepdim=True)
            z.sub_(peak).exp_()
            total = z.sum(1, keepdim=True)
            losses[part] = (total.log() + peak - own)[:, 0]
            p[part] = z.div_(total)
        if wanted:
            ctx.save_for_backward(hidden, weight, targets, p)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor):
        hidden, weight, targets, p = ctx.saved_tensors
        g = gradient[:, None].to(hidden.dtype)
        d_hidden = (p @ weight - weight[targets]) * g if ctx.needs_input_grad[0] else None
        d_weight = None
        if ctx.needs_input_grad[1]:
            scaled = hidden * g
            d_weight = (p.T @ scaled).index_add_(0, targets, scaled, alpha=-1)
        return d_hidden, d_weight, None


def autocast(device: torch.device | str, bf16: bool) -> AbstractContextManager:
    """Return bf16 autocast for a device, or a context that does nothing."""
    return torch.autocast(torch.device(device).type, torch.bfloat16) if bf16 else nullcontext()


def token_losses(model: PreTrainedModel, ids: torch.Tensor, *, bf16: bool = False) -> torch.Tensor:
    """Return l[n, k] = -log p(ids[n, k + 1] | ids[n, :k + 1]) in nats.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal language model of transformers.
    ids : (n, T) int64 tensor
        Token ids.
    bf16 : bool
        Compute matrix products in bfloat16; losses are summed in float32.

    Returns
    -------
    (n, T - 1) float32 tensor
        Losses; position 0 of a sequence has none.
    """
    inputs, targets = ids[:, :-1], ids[:, 1:].flatten()
    head = model.get_output_embeddings()
    with autocast(ids.device, bf16):
        plain = not any(getattr(model.config, name, None) for name in LOGIT_TRANSFORMS)
        if plain and getattr(head, "bias", None) is None:
            hidden = model.base_model(inputs).last_hidden_state.flatten(0, 1)
            kind = torch.bfloat16 if bf16 else hidden.dtype
            flat = _LinearCrossEntropy.apply(hidden.to(kind), head.weight.to(kind), targets)
        else:
            logits = model(inputs).logits.float().flatten(0, 1)
            flat = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return flat.view(len(ids), -1)
