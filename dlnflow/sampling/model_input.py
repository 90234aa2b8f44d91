"""Checks of what a user gives `dlnflow.sampling.sample`."""

from collections.abc import Sequence

import torch
from torch import nn

from dlnflow.sampling.functional import Batch


def check_evaluation_mode(model: nn.Module) -> None:
    """Refuse models in training mode: dropout noise would enter the covariances.

    Raises
    ------
    ValueError
        Naming the first module in training mode.
    """
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"`model` is in training mode ({name or 'the whole model'}): dropout and batch "
                "statistics would enter the losses. Call model.eval() first."
            )


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
    if isinstance(observed, tuple) and observed and all(torch.is_tensor(o) for o in observed):
        if len(observed) != len(data):
            raise ValueError(f"`observed` must have {len(data)} tensors, got {len(observed)}.")
        check_data("observed", observed)
        return observed
    where = torch.as_tensor(observed)
    size = len(data[0])
    if where.ndim != 1 or len(where) == 0 or where.is_floating_point():
        raise ValueError("`observed` must be tensors like `data`, or positions in it.")
    outside = where[(where < 0) | (where >= size)]
    if len(outside):
        raise ValueError(f"`observed` item {int(outside[0])} is not in the data (0..{size - 1}).")
    return tuple(d[where] for d in data)


def item_names(items: Sequence[str] | None, count: int) -> list[str]:
    """Return names of the observed losses.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If their number is wrong.
    """
    names = [str(k) for k in range(count)] if items is None else [str(i) for i in items]
    if len(names) != count:
        raise ValueError(f"`items` has {len(names)} names for {count} observed losses.")
    return names
