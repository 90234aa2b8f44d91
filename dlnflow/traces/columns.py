"""Loss traces as standardised columns, a block of items at a time; shared by groups and pairs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import result
from dlnflow._support.typing import FloatArray
from dlnflow.traces import diagnostics
from dlnflow.traces.format import check_traces

BLOCK = 1024
"""Items that are held in float64 at the same time."""


def usable(traces: xr.DataArray, differences: bool) -> list[NDArray[np.intp]]:
    """Return the chains of every checkpoint that did not diverge; empty if fewer than two are left.

    Raises
    ------
    ValueError
        If there are too few draws.
    """
    traces = check_traces(traces)
    least = 4 + differences
    if traces.sizes["draw"] < least:
        raise ValueError(
            f"`traces` have {traces.sizes['draw']} draws; a covariance with an error bar needs at "
            f"least {least}. Sample more: the store continues the chains."
        )
    good = ~diagnostics.diverged(traces).values
    needed = min(2, traces.sizes["chain"])
    return [np.flatnonzero(g) if g.sum() >= needed else np.flatnonzero(g)[:0] for g in good]


def blocks(
    traces: xr.DataArray, t: int, kept: NDArray[np.intp], *, normalised: bool, differences: bool,
    parts: Sequence[slice | NDArray[np.intp]] | None = None,
) -> Iterator[tuple[slice | NDArray[np.intp], FloatArray]]:  # fmt: skip
    """Yield z (chains, draws, block), so that sum over chains and draws of z_k z_l is the estimate.

    Centred per chain (nearly constant losses would lose their digits otherwise). The pooled sum
    is the Pearson correlation if `normalised`, else the covariance. Items that never move are 0.
    `parts` are the items of the blocks; by default stretches of `BLOCK`.
    """
    losses = traces.transpose("time", "chain", "draw", "item").values[t]
    if parts is None:
        starts = range(0, losses.shape[-1], BLOCK)
        parts = [slice(start, min(start + BLOCK, losses.shape[-1])) for start in starts]
    for part in parts:
        z = losses[kept][:, :, part].astype(np.float64)
        if differences:
            z = np.diff(z, axis=1)
        z -= z.mean(axis=1, keepdims=True)
        if normalised:
            norm = np.sqrt(np.einsum("cdk,cdk->k", z, z))
        else:
            norm = np.full(z.shape[2], np.sqrt(z.shape[0] * (z.shape[1] - 1)))
        z /= np.where(norm > 0, norm, 1.0)
        yield part, z


def scale_of(traces: xr.DataArray, normalised: bool) -> float:
    """Return the factor from the sums of `blocks` to the influence; it carries the sign."""
    return -1.0 if normalised else -float(traces.attrs["n_beta"] / traces.attrs["n_train"])


def about(traces: xr.DataArray, normalised: bool) -> dict[str, Any]:
    """Return the attributes that every result from loss traces has.

    Form, units and objective, and what the traces say of data and sampler, as far as a netCDF
    attribute can hold it.
    """
    kept = {k: v for k, v in traces.attrs.items() if isinstance(v, int | float | str)}
    kept = {k: int(v) if isinstance(v, bool) else v for k, v in kept.items()}
    if "units" in kept:
        kept["loss_units"] = kept["units"]
    return kept | {
        "normalised": int(normalised),
        "units": result.CORRELATION if normalised else result.UNITS,
        "objective": traces.attrs.get("objective", result.MEAN_LOSS),
    }


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
