"""Influence between single items: the whole matrix in blocks, or the largest entries alone."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow import result
from dlnflow._support import FloatArray
from dlnflow.checks import flag, positive_integer
from dlnflow.traces.columns import BLOCK, about, scale_of, standardised
from dlnflow.traces.diagnostics import checkpoints
from dlnflow.traces.excluded_pairs import ExcludedPairs
from dlnflow.traces.format import enough_draws, positions

ENTRIES = 1 << 24
"""Similarities that are held at the same time."""


def matrix(
    traces: xr.DataArray,
    *,
    query: Sequence[str] | None = None,
    normalised: bool = True,
    differences: bool = False,
) -> xr.DataArray:
    """Influence of every item on every queried item; memory is the result's and one block.

    Single entries have standard errors of about 1 / sqrt(effective draws): use `groups` unless
    there are thousands.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    query : sequence of str, optional
        Queried items; default all.
    normalised, differences : bool
        As in `groups`.

    Returns
    -------
    DataArray, dims (time, query, train)
        Influence, negative = helps.

    Raises
    ------
    ValueError
        If draws are too few or an item was not observed.
    """
    traces, normalised = enough_draws(traces, differences), flag("normalised", normalised)
    rows = positions(traces, query, "query")
    names = traces["item"].values.astype(str)
    values = np.full((len(traces), len(rows), len(names)), np.nan)
    for t, one in enumerate(checkpoints(traces)):
        if len(losses := one.kept):
            z = standardised(losses, normalised=normalised, differences=differences)
            scale = scale_of(traces, normalised)
            for start in range(0, len(rows), BLOCK):
                part = slice(start, start + BLOCK)
                np.matmul(scale * z[:, rows[part]].T, z, out=values[t, part])
            del z
        del one, losses
    return result.influence(
        values,
        traces.time.values,
        names[rows],
        names,
        estimator="bif",
        flow_time=np.full(len(traces), np.nan),
        attrs=about(traces, normalised),
    )


def top_k(
    traces: xr.DataArray,
    k: int,
    *,
    query: Sequence[str] | None = None,
    normalised: bool = True,
    differences: bool = False,
) -> xr.Dataset:
    """Return the k items that help each queried item most, without holding the matrix.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    k : int
        Items per query; an item is never its own neighbour.
    query : sequence of str, optional
        Queried items; default all.
    normalised, differences : bool
        As in `groups`.

    Returns
    -------
    Dataset
        `influence` and `train` (names), dims (time, query, rank), most negative first.

    Raises
    ------
    ValueError
        If `k` is not below the number of items.
    """
    traces, normalised = enough_draws(traces, differences), flag("normalised", normalised)
    k = checked_k(k, traces)
    rows = positions(traces, query, "query")
    names = traces["item"].values.astype(str)
    values = np.full((len(traces), len(rows), k), np.nan)
    found = np.full(values.shape, "", dtype=names.dtype)
    for t, one in enumerate(checkpoints(traces)):
        if len(losses := one.kept) == 0:
            continue
        z = standardised(losses, normalised=normalised, differences=differences)
        for part, best, similarity in nearest(z, k, rows, ExcludedPairs.of(traces)):
            values[t, part] = scale_of(traces, normalised) * similarity
            found[t, part] = names[best]
        del one, losses, z
    dims = ("time", "query", "rank")
    return xr.Dataset(
        {"influence": (dims, values), "train": (dims, found)},
        coords={"time": traces.time.values, "query": names[rows], "rank": np.arange(k)},
        attrs={"sign": result.SIGN} | about(traces, normalised),
    )


def nearest(z: FloatArray, k: int, rows: NDArray[np.intp], without: ExcludedPairs):
    """Yield (part of `rows`, positions of the k largest z_q . z_k, their values), block by block.

    Each of the rows needs k items that are no excluded pair with it.
    """
    width = max(1, min(BLOCK, ENTRIES // z.shape[1]))
    for start in range(0, len(rows), width):
        part = slice(start, start + width)
        similarity = z[:, rows[part]].T @ z
        similarity[without.pairs(rows[part])] = -np.inf
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similarity, best, 1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, 1)
        yield part, best, np.take_along_axis(similarity, best, 1)


def checked_k(k: int, traces: xr.DataArray) -> int:
    """Check a number of neighbours."""
    if positive_integer("k", k) >= traces.sizes["item"]:
        raise ValueError(f"`k` must be below the number of items, {traces.sizes['item']}; got {k}.")
    return int(k)
