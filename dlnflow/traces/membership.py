"""Which item is in which class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow._support import FloatArray


def membership(
    classes: xr.DataArray | ArrayLike, n_items: int, names: Sequence[str] | None = None
) -> tuple[FloatArray, list[str]]:
    """Return which item is in which class, (K, G), and the names of the classes.

    Raises
    ------
    ValueError
        If shapes disagree, a class has no tokens, or something else than True and False is there.
    """
    if isinstance(classes, xr.Dataset):
        raise ValueError(
            "`classes` must be a DataArray or an array, got a Dataset; name one of it."
        )
    if isinstance(classes, xr.DataArray):
        if "token_class" not in classes.dims:
            raise ValueError(f"`classes` must have the dim token_class, got {classes.dims}.")
        names = [str(n) for n in classes["token_class"].values]
        if "position" in classes.dims:
            # a loss belongs to its target, and position 0 has none
            classes = classes.isel(position=slice(1, None))
            classes = classes.transpose("sequence", "position", "token_class")
            classes = classes.values.reshape(-1, len(names))
        else:
            classes = classes.transpose(..., "token_class").values
    try:
        members = np.asarray(classes, dtype=np.float64)
    except (TypeError, ValueError) as error:  # text, rows of several lengths
        raise ValueError(
            f"`classes` must be True or False of each item: {str(error).rstrip('.')}."
        ) from error
    if members.ndim != 2 or len(members) != n_items:
        raise ValueError(
            f"`classes` must say of each of the {n_items} items which classes it is in; got shape "
            f"{members.shape}. Classify the observed sequences themselves."
        )
    if not np.isin(members, (0, 1)).all():
        wrong = members[~np.isin(members, (0, 1))][0]
        raise ValueError(f"`classes` must be True or False (1 or 0) of each item, got {wrong:g}.")
    names = [str(g) for g in range(members.shape[1])] if names is None else list(names)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`classes` must have different names, at least one; got {names}.")
    empty = [name for name, n in zip(names, members.sum(0), strict=True) if n == 0]
    if empty:
        raise ValueError(
            f"`classes` {', '.join(empty)} have no tokens among the observed ones; drop them "
            "(classes.sel(token_class=[...])) or observe more text."
        )
    return members, names


def members_of(classes: xr.DataArray | ArrayLike, traces: Any) -> tuple[FloatArray, list[str]]:
    """Return `membership` of the items of loss traces, or of class sums.

    Raises
    ------
    ValueError
        As `membership`, or if the classes name other items, or the same in another order.
    """
    found = membership(classes, traces.sizes["item"])
    named = isinstance(classes, xr.DataArray) and "item" in classes.coords
    if named and "item" in traces.coords and not np.array_equal(classes["item"], traces["item"]):
        raise ValueError(
            "`classes` name other items than `traces`, or in another order; "
            "classes.reindex(item=traces['item']) puts them in that of the traces."
        )
    return found
