"""Loss traces as standardised columns z, with sum over draws of z_k z_l the estimate.

Shared by item influence, groups and pairs, which hold the losses of one checkpoint, as they are
stored, and a block of items in float64.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import result
from dlnflow._support import FloatArray
from dlnflow.traces.format import LEAST_DRAWS, check_traces

BLOCK = 1024
"""Items that are held in float64 at the same time."""


def enough_draws(traces: xr.DataArray, differences: bool) -> xr.DataArray:
    """Return loss traces in standard order, refused where differences of draws are too few.

    Raises
    ------
    TypeError
        If they are no DataArray.
    ValueError
        If they are no loss traces, or have too few draws.
    """
    traces = check_traces(traces)
    least = LEAST_DRAWS + differences
    if traces.sizes["draw"] < least:
        raise ValueError(
            f"`traces` have {traces.sizes['draw']} draws; a covariance with an error bar needs at "
            f"least {least}. Sample more: the store continues the chains."
        )
    return traces


def standardise(losses: FloatArray, normalised: bool, *, by_chain: bool = False) -> FloatArray:
    """Turn losses (chains, draws, K) into z in place, and return them.

    Centred per chain (nearly constant losses would lose their digits otherwise). The sum of z_k z_l
    over chains and draws is the Pearson correlation if `normalised`, else the covariance; the sum
    over the draws of one chain is that chain's own if `by_chain`. Items that never move are 0.
    """
    losses -= losses.mean(axis=1, keepdims=True)
    if normalised:
        square = np.einsum("cdk,cdk->ck", losses, losses)
        norm = np.sqrt(square if by_chain else square.sum(0, keepdims=True))[:, None]
    else:
        norm = np.sqrt((1 if by_chain else losses.shape[0]) * (losses.shape[1] - 1))
    losses /= np.where(norm > 0, norm, 1.0)
    return losses


def blocks(
    losses: NDArray,
    *,
    normalised: bool,
    differences: bool,
    by_chain: bool = False,
    parts: Sequence[slice | NDArray[np.intp]] | None = None,
) -> Iterator[tuple[slice | NDArray[np.intp], FloatArray]]:
    """Yield parts of the items and their z (chains, draws, part); by default stretches of `BLOCK`.

    `losses` (chains, draws, K) are those of one checkpoint; `differences`: of the draw-to-draw
    differences of the losses.
    """
    if parts is None:
        starts = range(0, losses.shape[-1], BLOCK)
        parts = [slice(start, min(start + BLOCK, losses.shape[-1])) for start in starts]
    for part in parts:
        z = losses[:, :, part].astype(np.float64)
        if differences:
            z = np.diff(z, axis=1)
        yield part, standardise(z, normalised, by_chain=by_chain)


def standardised(losses: NDArray, *, normalised: bool, differences: bool) -> FloatArray:
    """Return z (chains * draws, K) of all items, with z^T z the correlation or covariance."""
    chains, draws, n_items = losses.shape
    z = np.empty((chains * (draws - differences), n_items))
    for part, block in blocks(losses, normalised=normalised, differences=differences):
        z[:, part] = block.reshape(len(z), -1)
    return z


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
