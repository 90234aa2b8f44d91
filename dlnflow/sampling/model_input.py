"""Checks of what a user gives `dlnflow.sampling.sample`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dlnflow import checks
from dlnflow.sampling.functional import Batch
from dlnflow.sampling.settings import Settings


def check_model(model: object) -> None:
    """Refuse what is no module, and modules in training mode.

    Raises
    ------
    TypeError
        If it is not a torch.nn.Module.
    ValueError
        Naming the first module in training mode.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"`model` is in training mode ({name or 'the whole model'}): dropout and batch "
                "statistics would enter the losses. Call model.eval() first."
            )


def check_settings(settings: object) -> None:
    """Refuse settings that were not checked.

    Raises
    ------
    TypeError
        If they are not a `Settings`.
    """
    if not isinstance(settings, Settings):
        raise TypeError(
            f"`settings` must be a dlnflow.sampling.Settings, got {type(settings).__name__}."
        )


def ordered(checkpoints: Mapping[int, Mapping[str, Tensor]]) -> dict[int, Mapping[str, Tensor]]:
    """Return checkpoints by increasing step.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If there are none, or a key is no step.
    """
    if not isinstance(checkpoints, Mapping) or not checkpoints:
        raise ValueError(
            "`checkpoints` must map at least one step to a state dict, e.g. {100: "
            f"model.state_dict()}}; got {type(checkpoints).__name__}."
        )
    steps = {checks.whole_number("checkpoints", step): step for step in checkpoints}
    return {step: checkpoints[steps[step]] for step in sorted(steps)}


def check_data(name: str, data: Batch) -> int:
    """Return the number of items.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is not a tuple of tensors of one length.
    """
    if not isinstance(data, tuple) or not data or not all(torch.is_tensor(d) for d in data):
        raise ValueError(f"`{name}` must be a tuple of tensors, e.g. (inputs, targets).")
    lengths = {len(d) for d in data}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"tensors of `{name}` must have one length > 0, got {[len(d) for d in data]}."
        )
    return len(data[0])


def in_precision(data: Batch, dtype: torch.dtype) -> Batch:
    """Return floating-point tensors in the precision of the chains, others as they are."""
    return tuple(d.to(dtype) if d.is_floating_point() else d for d in data)


def first_items(data: Batch, count: int | None) -> Batch:
    """Return the first `count` items; None returns all."""
    return tuple(d[:count] for d in data)


def observed_positions(data: Batch, observed: Batch | Sequence[int] | None) -> list[int]:
    """Return the positions that name the observed items.

    Returns
    -------
    list of int
        In `data`; in `observed` itself where it holds tensors.

    Raises
    ------
    ValueError
        If positions are no whole numbers, outside the data, or repeat.
    """
    if observed is None:
        return list(range(len(data[0])))
    if _is_batch(observed):
        return list(range(len(observed[0])))
    try:
        where = torch.as_tensor(observed)
    except (TypeError, ValueError, RuntimeError):
        where = torch.tensor([])
    size = len(data[0])
    kind = where.is_floating_point() or where.is_complex() or where.dtype == torch.bool
    if where.ndim != 1 or len(where) == 0 or kind:
        raise ValueError(
            "`observed` must be a tuple of tensors like `data`, or a list of whole numbers, "
            f"positions in it; got {observed!r:.80}."
        )
    outside = where[(where < 0) | (where >= size)]
    if len(outside):
        raise ValueError(f"`observed` item {int(outside[0])} is not in the data (0..{size - 1}).")
    if len(where.unique()) < len(where):
        raise ValueError("`observed` must name different items; drop the repeats.")
    return where.tolist()


def observed_items(data: Batch, observed: Batch | Sequence[int]) -> Batch:
    """Return the observed items as tensors.

    Returns
    -------
    tuple of Tensor

    Raises
    ------
    ValueError
        If positions are outside the data, repeat, or tensors do not match.
    """
    if _is_batch(observed):
        if len(observed) != len(data):
            raise ValueError(f"`observed` must have {len(data)} tensors, got {len(observed)}.")
        check_data("observed", observed)
        return observed
    where = observed_positions(data, observed)
    return tuple(d[where] for d in data)


def _is_batch(observed: object) -> bool:
    """Whether observed items are given as tensors."""
    return isinstance(observed, tuple) and bool(observed) and all(map(torch.is_tensor, observed))


def item_names(items: Sequence[str] | None, positions: Sequence[int], count: int) -> list[str]:
    """Return different names of `count` observed losses.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If their number is wrong or one repeats.
    """
    if items is None:
        each = count // len(positions)
        if each == 1:
            return [str(p) for p in positions]
        return [f"{p}.{k}" for p in positions for k in range(each)]
    names = [str(i) for i in items]
    if len(names) != count:
        raise ValueError(f"`items` has {len(names)} names for {count} observed losses.")
    if len(set(names)) < count:
        raise ValueError("`items` must be different names.")
    return names
