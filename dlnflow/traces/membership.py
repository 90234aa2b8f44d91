"""Which item is in which class."""

from collections.abc import Sequence

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
        If shapes disagree or a class has no tokens.
    """
    if isinstance(classes, xr.DataArray):
        names = [str(n) for n in classes["token_class"].values]
        if "position" in classes.dims:
            # a loss belongs to its target, and position 0 has none
            classes = classes.isel(position=slice(1, None))
            classes = classes.transpose("sequence", "position", "token_class")
            classes = classes.values.reshape(-1, len(names))
        else:
            classes = classes.transpose(..., "token_class").values
    members = np.asarray(classes, dtype=np.float64)
    if members.ndim != 2 or len(members) != n_items:
        raise ValueError(
            f"`classes` must say of each of the {n_items} items which classes it is in; got shape "
            f"{members.shape}. Classify the observed sequences themselves."
        )
    names = [str(g) for g in range(members.shape[1])] if names is None else list(names)
    empty = [name for name, n in zip(names, members.sum(0), strict=True) if n == 0]
    if empty:
        raise ValueError(
            f"`classes` {', '.join(empty)} have no tokens among the observed ones; drop them "
            "(classes.sel(token_class=[...])) or observe more text."
        )
    return members, names
