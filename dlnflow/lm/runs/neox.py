"""GPT-NeoX in few operations on a CPU: losses of tokens, and the gradient of their mean by hand.

    xhat   = (x - mean) / std                                        of every token
    x_next = x + O attention(A xhat + a) + D gelu(U xhat + u) + shift

The layer norms of a block share xhat: their weights and biases are folded into A, a, U and u, and
gradients are unfolded. Before attention the first block knows no more of a token than its id, and
is computed once for every id that occurs. A has the rows of all q, all k and all v. In each head
the two coordinates that a rotary angle turns lie side by side, as one complex number. Heads are
views of A xhat + a, without copies.
"""

from __future__ import annotations

import copy
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 256
"""Tokens whose logits exist at the same time."""
QUERIES = 64
"""Queries whose scores are formed at once; they meet no key beyond the last of them."""
STATES = ("training", "gradient_checkpointing")
"""Numbers of modules that follow from no configuration; the losses of evaluation do not need them.
"""
aten = torch.ops.aten


class Block(NamedTuple):
    """Folded weights of one block; W is `query_key_value` in the order of A."""

    W: Tensor
    A: Tensor
    a: Tensor
    U: Tensor
    u: Tensor
    O: Tensor
    D: Tensor
    shift: Tensor


class Kept(NamedTuple):
    """What the backward pass of one block needs."""

    x: Tensor
    places: Tensor | None
    mean: Tensor
    rstd: Tensor
    xhat: Tensor
    qkv: Tensor
    inner: Tensor
    o: Tensor
    active: Tensor
    weights: list[list[Tensor]]


class NeoX:
    """Losses and gradients of a `GPTNeoXForCausalLM` for which `written_out` is true.

    Those of evaluation mode, without dropout; hooks of modules are not called.

    Parameters
    ----------
    model : transformers.GPTNeoXForCausalLM
        Its parameters are read at every call.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._layers = model, list(model.gpt_neox.layers)
        config = model.config
        self._heads, self._width = config.num_attention_heads, config.hidden_size
        self._size, self._eps = self._width // self._heads, config.layer_norm_eps
        self._rotary = 2 * len(model.gpt_neox.rotary_emb.inv_freq)
        self._angles: dict[int, Tensor] = {}

    @cached_property
    def _order(self) -> Tensor:
        """Row of `query_key_value` that is row i of A."""
        pairs = torch.arange(self._rotary).view(2, -1).T.flatten()
        pairs = torch.cat([pairs, torch.arange(self._rotary, self._size)])
        rows = torch.arange(3 * self._width).view(self._heads, 3, self._size).transpose(0, 1)
        return torch.cat([rows[:2, :, pairs], rows[2:]]).flatten()

    def losses(self, ids: Tensor, bf16: bool = False) -> Tensor:
        """Return l[n, k] = -log p(ids[n, k + 1] | ids[n, :k + 1]) in nats.

        Parameters
        ----------
        ids : (n, T) int64 tensor
            Token ids.
        bf16 : bool
            As in `token_losses`.

        Returns
        -------
        (n, T - 1) tensor
            Losses.
        """
        x, _, places = self._embedded(ids)
        kind = torch.bfloat16 if bf16 else x.dtype
        for layer in self._layers:
            x = self._forward(self._folded(layer, kind), x, places, ids.shape[1] - 1)[0]
            places = None
        final, head = self._model.gpt_neox.final_layer_norm, self._head.to(kind)
        h = torch.layer_norm(x, [self._width], final.weight, final.bias, self._eps).to(kind)
        parts = zip(h.split(TOKENS), ids[:, 1:].reshape(-1, 1).split(TOKENS), strict=True)
        found = [(part @ head.T).to(x.dtype).log_softmax(1).gather(1, own) for part, own in parts]
        return torch.cat(found).neg_().view(len(ids), -1)

    def mean_loss(self, ids: Tensor, bf16: bool = False) -> Tensor:
        """Return the mean of `losses`, and write its gradient into `grad` of every parameter.

        Parameters
        ----------
        ids, bf16
            As in `losses`.

        Returns
        -------
        () tensor
            The mean loss.
        """
        (x, occurring, places), length = self._embedded(ids), ids.shape[1] - 1
        kind, blocks, kept = torch.bfloat16 if bf16 else x.dtype, [], []
        for layer in self._layers:
            blocks.append(self._folded(layer, kind))
            x, keep = self._forward(blocks[-1], x, places, length)
            kept.append(keep)
            places = None
        loss, g = self._output(x, ids[:, 1:].reshape(-1, 1), kind)
        for layer in reversed(self._layers):
            g = self._backward(layer, blocks.pop(), kept.pop(), g, length)
        self._model.gpt_neox.embed_in.weight.grad.zero_()[occurring] = g
        return loss

    @property
    def _head(self) -> Tensor:
        return self._model.get_output_embeddings().weight.data

    def _embedded(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return embeddings of the ids that occur, these ids, and which one is at each token."""
        occurring, places = torch.unique(ids[:, :-1], return_inverse=True)
        return self._model.gpt_neox.embed_in.weight.data[occurring], occurring, places.flatten()

    def _folded(self, layer: Any, kind: torch.dtype) -> Block:
        qkv, mlp, dense = layer.attention.query_key_value, layer.mlp, layer.attention.dense
        before, beside = layer.input_layernorm, layer.post_attention_layernorm
        W, U, D = qkv.weight.data[self._order], mlp.dense_h_to_4h, mlp.dense_4h_to_h
        return Block(
            W,
            (W * before.weight).to(kind),
            torch.addmv(qkv.bias.data[self._order], W, before.bias).to(kind),
            (U.weight * beside.weight).to(kind),
            torch.addmv(U.bias, U.weight, beside.bias).to(kind),
            dense.weight.data.to(kind),
            D.weight.data.to(kind),
            dense.bias + D.bias,
        )

    def _forward(
        self, block: Block, x: Tensor, places: Tensor | None, length: int
    ) -> tuple[Tensor, Kept]:
        """Return the residual stream (n, width) behind a block, and what was formed on the way.

        With `places`, x has one row for all tokens of the same place.
        """
        normed, mean, rstd = torch.native_layer_norm(x, [self._width], None, None, self._eps)
        xhat = normed.to(block.A.dtype)
        qkv = torch.addmm(block.a, xhat, block.A.T)
        inner = torch.addmm(block.u, xhat, block.U.T)
        active = torch.nn.functional.gelu(inner)
        behind = (x + block.shift).add_(active @ block.D.T)
        if places is not None:
            qkv, behind = qkv.index_select(0, places), behind.index_select(0, places)
        self._turn(qkv, self._angle(length))
        o = qkv.new_empty(behind.shape)
        heads = zip(self._views(qkv, length), self._views(o, length), strict=True)
        ahead = qkv.new_full((length, length), -math.inf).triu_(1)
        weights = [_attend(*head, ahead, self._size**-0.5) for head in heads]
        kept = Kept(x, places, mean, rstd, xhat, qkv, inner, o, active, weights)
        return behind.add_(o @ block.O.T), kept

    def _output(self, x: Tensor, own: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the mean loss and its gradient by x; write those of what stands behind x."""
        final, head = self._model.gpt_neox.final_layer_norm, self._head.to(kind)
        affine = (final.weight.data, final.bias.data)
        normed, *moments = torch.native_layer_norm(x, [self._width], *affine, self._eps)
        h, d_h, n = normed.to(kind), torch.empty_like(x, dtype=kind), len(x)
        shares, d_head, losses = h / n, head.new_zeros(head.shape[::-1]), []
        for k in range(0, n, TOKENS):
            part = slice(k, k + TOKENS)
            p = (h[part] @ head.T).to(x.dtype)
            peak, mine = p.amax(1, keepdim=True), p.gather(1, own[part])
            aten._softmax.out(p, 1, False, out=p)
            # with the largest p, log p = z - max z + log max p
            losses.append(peak.sub_(p.amax(1, keepdim=True).log_()).sub_(mine))
            r = p.scatter_(1, own[part], losses[-1].neg().expm1_()).to(kind)
            torch.mm(r, head, out=d_h[part])
            d_head.addmm_(shares[part].T, r)
        self._model.get_output_embeddings().weight.grad.copy_(d_head.T)
        d_h, wanted = d_h.to(x.dtype).div_(n), [True] * 3
        g, *d_affine = aten.native_layer_norm_backward(
            d_h, x, [self._width], *moments, *affine, wanted
        )
        final.weight.grad.copy_(d_affine[0])
        final.bias.grad.copy_(d_affine[1])
        return torch.cat(losses).mean(), g

    def _backward(self, layer: Any, block: Block, kept: Kept, g: Tensor, length: int) -> Tensor:
        """Return the gradient by x before a block; write those of its parameters."""
        dense, mlp = layer.attention.dense, layer.mlp
        before, beside = layer.input_layernorm, layer.post_attention_layernorm
        d_shift = g.sum(0)
        dense.bias.grad.copy_(d_shift)
        mlp.dense_4h_to_h.bias.grad.copy_(d_shift)
        d = g.to(block.O.dtype)
        dense.weight.grad.copy_(d.T @ kept.o)
        d_o, d_qkv = d @ block.O, torch.empty_like(kept.qkv)
        views = (self._views(y, length) for y in (kept.qkv, d_o, d_qkv))
        heads = zip(*views, kept.weights, strict=True)
        for head in heads:
            _attend_backward(*head, self._size**-0.5)
        self._turn(d_qkv, self._angle(length).conj())
        if kept.places is not None:
            g = _summed(g, kept.places, len(kept.x))
            d = g.to(d.dtype)
            d_qkv = _summed(d_qkv.to(g.dtype), kept.places, len(kept.x)).to(d.dtype)
        mlp.dense_4h_to_h.weight.grad.copy_(d.T @ kept.active)
        d_inner = d @ block.D
        aten.gelu_backward.grad_input(d_inner, kept.inner, grad_input=d_inner)
        _unfold(layer.attention.query_key_value, before, block.W, d_qkv, kept.xhat, self._order)
        U = mlp.dense_h_to_4h
        _unfold(U, beside, U.weight.data, d_inner, kept.xhat, slice(None))
        d_xhat = torch.addmm(d_inner @ block.U, d_qkv, block.A).to(g.dtype)
        return aten.native_layer_norm_backward(
            d_xhat, kept.x, [self._width], kept.mean, kept.rstd, None, None, [True, False, False]
        )[0].add_(g)

    def _views(self, y: Tensor, length: int) -> list[tuple[Tensor, ...]]:
        """Return of every head what each `width` columns have, (rows, length, size)."""
        pieces = y.unflatten(0, (-1, length)).split(self._size, 2)
        return [pieces[k :: self._heads] for k in range(self._heads)]

    def _angle(self, length: int) -> Tensor:
        """Return exp(i position frequency), shape (length, 1, rotary / 2)."""
        if length not in self._angles:
            frequency = self._model.gpt_neox.rotary_emb.inv_freq.float()  # as there
            angle = torch.outer(torch.arange(length).float(), frequency)[:, None]
            parts = angle.cos().to(self._head.dtype), angle.sin().to(self._head.dtype)
            self._angles[length] = torch.complex(*parts)
        return self._angles[length]

    def _turn(self, qkv: Tensor, angle: Tensor) -> None:
        """Turn the rotary pairs of q and k in place."""
        pairs = qkv[:, : 2 * self._width].unflatten(1, (-1, self._size))[..., : self._rotary]
        wide = pairs.to(torch.promote_types(qkv.dtype, torch.float32))
        turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))).unflatten(0, (-1, len(angle)))
        turned.mul_(angle)
        if wide is not pairs:
            pairs.copy_(wide)


def _attend(
    head: tuple[Tensor, ...], to: tuple[Tensor, ...], ahead: Tensor, scale: float
) -> list[Tensor]:
    """Write softmax(scale q k^T + ahead) v of one head; return the weights by `QUERIES`."""
    (q, k, v), (o,), weights = head, to, []
    for start in range(0, q.shape[1], QUERIES):
        some, end = slice(start, start + QUERIES), min(start + QUERIES, q.shape[1])
        p = torch.baddbmm(ahead[some, :end], q[:, some], k[:, :end].mT, alpha=scale)
        aten._softmax.out(p, -1, False, out=p)
        torch.bmm(p, v[:, :end], out=o[:, some])
        weights.append(p)
    return weights


def _attend_backward(
    head: tuple[Tensor, ...],
    by: tuple[Tensor, ...],
    to: tuple[Tensor, ...],
    weights: list[Tensor],
    scale: float,
) -> None:
    """Write the gradients of one head, from the last queries, whose keys are all, to the first."""
    (q, k, v), (d_o,), (d_q, d_k, d_v), beta = head, by, to, 0
    for start in reversed(range(0, q.shape[1], QUERIES)):
        some, p = slice(start, start + QUERIES), weights.pop()
        end = p.shape[2]
        d_p = d_o[:, some] @ v[:, :end].mT
        aten._softmax_backward_data.out(d_p, p, -1, p.dtype, grad_input=d_p)
        d_q[:, some].baddbmm_(d_p, k[:, :end], beta=0, alpha=scale)
        d_v[:, :end].baddbmm_(p.mT, d_o[:, some], beta=beta)
        d_k[:, :end].baddbmm_(d_p.mT, q[:, some], beta=beta, alpha=scale)
        beta = 1


def _summed(d: Tensor, places: Tensor, count: int) -> Tensor:
    """Return the sums of the rows of the same place."""
    return d.new_zeros(count, d.shape[1]).index_add_(0, places, d)


def _unfold(
    linear: Any, norm: Any, weight: Tensor, d: Tensor, xhat: Tensor, rows: Tensor | slice
) -> None:
    """Write the gradients of a linear map and of the layer norm before it.

    W (norm.weight * xhat + norm.bias) + b, where row i of W is row rows[i] of the map; d is the
    gradient by what it gives.
    """
    d_folded, d_bias = (d.T @ xhat).to(weight.dtype), d.sum(0, dtype=weight.dtype)
    torch.sum(d_folded * weight, 0, out=norm.weight.grad)
    torch.mv(weight.T, d_bias, out=norm.bias.grad)
    linear.weight.grad[rows] = torch.addr(d_folded.mul_(norm.weight), d_bias, norm.bias)
    linear.bias.grad[rows] = d_bias


def written_out(model: PreTrainedModel) -> bool:
    """Whether `NeoX` computes what a model computes: GPT-NeoX of Pythia's kind, on a CPU.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Any causal language model.

    Returns
    -------
    bool
        False for other architectures, devices and activations, for shared or half-precision
        weights, without blocks or rotary embeddings, with heads of odd size, with attention of the
        user's own, and where modules are not those that the configuration describes. Only what
        never changes is asked: hooks that an observable left behind would send the next chain
        another way.
    """
    from transformers import GPTNeoXForCausalLM

    if type(model) is not GPTNeoXForCausalLM or model.device.type != "cpu":
        return False
    config, kinds = model.config, {p.dtype for p in model.parameters()}
    plain = config.use_parallel_residual and config.hidden_act == "gelu" and config.attention_bias
    rope = config.rope_parameters.get("rope_type") == "default"
    even = config.hidden_size // config.num_attention_heads % 2 == 0
    turned = even and len(model.gpt_neox.rotary_emb.inv_freq) > 0
    own = model.get_output_embeddings().weight is not model.gpt_neox.embed_in.weight
    exact = len(kinds) == 1 and kinds <= {torch.float32, torch.float64}
    causal = config._attn_implementation in ("eager", "sdpa") and getattr(config, "is_causal", True)
    some = len(model.gpt_neox.layers) > 0
    known = plain and rope and turned and own and exact and causal and some
    return bool(known) and _as_described(model)


def _as_described(model: PreTrainedModel) -> bool:
    """Whether modules are those of the configuration: no adapters, other heads or other numbers."""
    with torch.device("meta"):
        built = type(model)(copy.deepcopy(model.config))
    return _described(model) == _described(built)


def _described(model: PreTrainedModel) -> tuple[Any, ...]:
    """Return the modules of a model, shapes of parameters, numbers, and functions put in place."""
    numbers = [
        {
            name: value
            for name, value in vars(part).items()
            if (type(value) in (bool, int, float) and name not in STATES and name[0] != "_")
            or (name == "forward" and getattr(value, "__func__", None) is not type(part).forward)
        }
        for part in model.modules()
    ]
    return repr(model), [tuple(p.shape) for p in model.parameters()], numbers
