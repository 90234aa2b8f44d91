"""Components of a language model by name: which entries of which parameters are whose.

    layer1, layer1.attention, layer1.mlp, layer1.norms
    layer1.head3    its rows of query, key and value, and its columns of the output projection
    embedding, unembedding, final_norm

GPT-NeoX keeps query, key and value in one tensor, interleaved per head: rows 3 h d to 3 (h + 1) d
are q, k, v of head h of size d. GPT-2 keeps them in columns, all queries first. Llama and its kin
have tensors of their own, and heads of one group share their key and value rows: those belong to
every head of the group. The bias of the output projection belongs to no head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlnflow.sampling import restriction

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BLOCK = re.compile(r"^(?:.*\.)?(?:layers|h|blocks)\.(\d+)\.(.+)$")
"""Parameters of a layer: its number, and the name within."""
ATTENTION = re.compile(r"^(attention|self_attn|attn|self_attention)\.")
MLP = re.compile(r"^(mlp|feed_forward|ffn)\.")
FUSED = re.compile(r"(query_key_value|c_attn)\.(weight|bias)$")
APART = re.compile(r"\b(q|k|v)_proj\.(weight|bias)$")
OUTPUT = re.compile(r"\b(dense|c_proj|o_proj|out_proj)\.weight$")
FUSED_KINDS = ("gpt_neox", "gpt2")
"""Models whose fused tensors are laid out as above; others with such names may differ."""


class Sizes(NamedTuple):
    """Heads of a layer, heads of its keys, width of a head."""

    heads: int
    keys: int
    width: int


def components(model: PreTrainedModel) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Return the components of a model: name -> parameter -> mask of its entries.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Heads are known of GPT-NeoX, GPT-2 and Llama, and of models with their names of
        parameters; of others the layers are.

    Returns
    -------
    dict of str to dict of str to bool array
        What `restrict` of `dlnflow.lm.Sampler` and `dlnflow.sampling.sample` takes.

    Raises
    ------
    TypeError
        If it is no language model.

    Examples
    --------
    >>> from dlnflow.lm.runs.model import RunSettings, build
    >>> model = build(RunSettings(vocab_size=60, layers=1, width=8, heads=2, context=8))
    >>> sorted(components(model))[-4:]
    ['layer0.head1', 'layer0.mlp', 'layer0.norms', 'unembedding']
    """
    if not hasattr(model, "get_output_embeddings"):
        raise TypeError(
            f"`model` must be a transformers.PreTrainedModel, got {type(model).__name__}; entries "
            "of another module are given to `restrict` as masks."
        )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for name, shape in shapes.items():
        for component, mask in _of(model, name, shape):
            found.setdefault(component, {})[name] = mask
    return dict(sorted(found.items()))


def moving(
    model: PreTrainedModel, restrict: restriction.Restrict
) -> tuple[tuple[str, ...], torch.Tensor | None]:
    """Return the parameters of which something moves, and which entries of them.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model.
    restrict : str, sequence of str, or mapping
        Names of components or parameters (`*` matches anything), or parameter -> mask; empty: all.

    Returns
    -------
    names : tuple of str
        Parameters, in the model's order; empty: all.
    entries : Tensor of int or None
        Positions in the flattened parameters; None: all of them.

    Raises
    ------
    ValueError
        If a name is no component and no parameter.
    """
    import torch

    if not restrict:
        return (), None
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    known = {} if isinstance(restrict, Mapping) else components(model)
    found = restriction.masks(shapes, restrict, known)
    entries = restriction.positions(found)
    device = next(model.parameters()).device
    return tuple(found), None if entries is None else torch.as_tensor(entries, device=device)


def size(model: PreTrainedModel, restrict: restriction.Restrict) -> int:
    """Return how many entries move."""
    names, entries = moving(model, restrict)
    if entries is not None:
        return len(entries)
    return sum(p.numel() for n, p in model.named_parameters() if not names or n in names)


def _of(
    model: PreTrainedModel, name: str, shape: tuple[int, ...]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Yield the components that a parameter has entries of."""
    whole = np.ones(shape, bool)
    block = BLOCK.match(name)
    if block is None:
        yield _outside(model, name), whole
        return
    layer, own = f"layer{block[1]}", block[2]
    yield layer, whole
    if MLP.match(own):
        yield f"{layer}.mlp", whole
    elif not ATTENTION.match(own):
        yield f"{layer}.norms", whole
    else:
        yield f"{layer}.attention", whole
        sizes = _sizes(model)
        for head in range(sizes.heads if _heads_are_known(model) else 0):
            mask = _head(own, shape, head, sizes)
            if mask is not None and mask.any():
                yield f"{layer}.head{head}", mask


def _outside(model: PreTrainedModel, name: str) -> str:
    """Return the component of a parameter outside the layers."""
    named = dict(model.named_parameters())
    value = named[name]
    head = model.get_output_embeddings()
    if head is not None and any(value is p for p in head.parameters()):
        same = value is model.get_input_embeddings().weight
        return "embedding" if same else "unembedding"
    return "embedding" if value.ndim == 2 else "final_norm"


def _heads_are_known(model: PreTrainedModel) -> bool:
    """Whether heads can be told apart: separate tensors, or a fused one of a known layout."""
    names = [name for name, _ in model.named_parameters()]
    return model.config.model_type in FUSED_KINDS or any(map(APART.search, names))


def _sizes(model: PreTrainedModel) -> Sizes:
    config = model.config
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    return Sizes(heads, keys, getattr(config, "head_dim", None) or config.hidden_size // heads)


def _head(name: str, shape: tuple[int, ...], head: int, sizes: Sizes) -> NDArray[np.bool_] | None:
    """Return the entries of one head; None for a parameter that belongs to no head."""
    mask, width = np.zeros(shape, bool), sizes.width
    own = slice(head * width, (head + 1) * width)
    if fused := FUSED.search(name):
        if fused[1] == "query_key_value":
            mask[3 * own.start : 3 * own.stop] = True
        else:  # GPT-2 stores (in, out), all queries before all keys
            for part in range(3):
                start = part * sizes.heads * width
                mask[..., start + own.start : start + own.stop] = True
    elif apart := APART.search(name):
        shared = head * sizes.keys // sizes.heads
        rows = own if apart[1] == "q" else slice(shared * width, (shared + 1) * width)
        mask[rows] = True
    elif output := OUTPUT.search(name):
        if output[1] == "c_proj":
            mask[own] = True
        else:
            mask[:, own] = True
    else:
        return None
    return mask
