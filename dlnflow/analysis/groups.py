"""Influence between classes of items, from sums over classes: never the item x item matrix.

    G[g, h] = mean over k in g, l in h, k != l of the influence of l on k

With z the standardised loss, s_g = sum_{k in g} z_k and pairs of the same item taken out,

    sum_{k in g, l in h} z_k z_l - sum_{k in g and h} z_k^2 = s_g s_h - sum_{k in g and h} z_k^2,

so one pass over the losses gives every entry.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import result
from dlnflow._checks import one_of
from dlnflow._typing import FloatArray
from dlnflow.analysis._standard import blocks, membership, scale_of, usable
from dlnflow.sampling import diagnostics
from dlnflow.sampling.traces import labelled


def groups(
    traces: xr.DataArray,
    classes: xr.DataArray | ArrayLike,
    *,
    normalised: bool = True,
    exclude: str = "item",
    differences: bool = False,
) -> xr.DataArray:
    """Mean influence of every class on every class at every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    classes : DataArray or (K, G) bool array
        From `dlnflow.lm.token_classes.classify` on the observed sequences, or dims
        (item, token_class). Classes may overlap.
    normalised : bool
        Minus the Pearson correlation; else -(n_beta / N) Cov.
    exclude : {"item", "row"}
        Pairs left out: an item with itself, or all pairs within one sequence.
    differences : bool
        Use draw-to-draw differences of the losses, which removes drifts that are slow compared
        with the distance of draws. A rise that vanishes then was shared drift.

    Returns
    -------
    DataArray, dims (time, query, train)
        Influence between classes, negative = helps. Coordinates: `standard_error`, the root of
        the sum of squares of `chain_error` (spread of the chains / sqrt(chains), NaN with one
        chain) and `row_error` (jackknife over sequences, 0 where items have no rows); `pairs`, how
        many were averaged; `verdict`, `r_hat`, `ess` and `noise_floor` of the mean losses of the
        classes. NaN where a class has no pairs or no two chains are left.

    Raises
    ------
    ValueError
        If a class has no tokens, draws are too few, or shapes disagree.
    """
    one_of("exclude", exclude, ("item", "row"))
    members, names = membership(classes, traces.sizes["item"])
    kept = usable(traces, differences)
    row_of, n_rows = _rows(traces)
    counts = _counts(members, row_of, n_rows)
    found = []
    for t, chains in enumerate(kept):
        if len(chains) == 0:
            found.append(_nothing(len(names)))
            continue
        z = blocks(traces, t, chains, normalised=normalised, differences=differences)
        sums, own = _sums(z, members, row_of, n_rows)
        found.append(_estimate(sums, own, counts, exclude))
    scale = scale_of(traces, normalised)
    stacked = {name: np.stack([getattr(e, name) for e in found]) for name in Estimate._fields}
    units = "minus the Pearson correlation" if normalised else result.UNITS
    array = result.influence(
        scale * stacked["value"], traces.time.values, names, names, estimator="bif",
        flow_time=np.full(traces.sizes["time"], np.nan),
        attrs={"normalised": int(normalised), "units": units, "differences": int(differences),
               "exclude": exclude},
    )  # fmt: skip
    chain_error, row_error = (abs(scale) * stacked[n] for n in ("chain_error", "row_error"))
    judged = diagnostics.summary(_class_means(traces, members, names))
    return array.assign_coords(
        standard_error=(array.dims, np.hypot(chain_error, row_error)),
        chain_error=(array.dims, chain_error),
        row_error=(array.dims, row_error),
        pairs=(("query", "train"), counts.pairs(exclude)),
        **{name: ("time", value.values) for name, value in judged.items()},
    )


class Estimate(NamedTuple):
    """Mean over pairs and its two errors, each (G, G)."""

    value: FloatArray
    chain_error: FloatArray
    row_error: FloatArray


class Counts(NamedTuple):
    """Items by class (G,), by row and class (R, G), in both of two classes by row (R, G, G)."""

    total: FloatArray
    by_row: FloatArray
    both: FloatArray

    def pairs(self, exclude: str) -> FloatArray:
        """Return the number of pairs that are averaged, (G, G)."""
        if exclude == "row":
            same = np.einsum("rg,rh->gh", self.by_row, self.by_row)
        else:
            same = self.both.sum(0)
        return np.outer(self.total, self.total) - same


def _rows(traces: xr.DataArray) -> tuple[NDArray[np.intp], int]:
    """Return the sequence of every item, numbered from 0; one sequence if there are none."""
    if "row" not in traces.coords:
        return np.zeros(traces.sizes["item"], np.intp), 1
    unique, of = np.unique(traces["row"].values, return_inverse=True)
    return of, len(unique)


def _counts(members: FloatArray, row_of: NDArray[np.intp], n_rows: int) -> Counts:
    by_row = np.zeros((n_rows, members.shape[1]))
    np.add.at(by_row, row_of, members)
    both = np.stack([members[row_of == r].T @ members[row_of == r] for r in range(n_rows)])
    return Counts(members.sum(0), by_row, both)


def _sums(z_blocks, members: FloatArray, row_of: NDArray[np.intp], n_rows: int):
    """Return s[r] (R, chains, draws, G) and own[r] (R, chains, G, G), sum over k of z_k^2."""
    sums = own = None
    for part, z in z_blocks:
        if sums is None:
            n_classes = members.shape[1]
            sums = np.zeros((n_rows, *z.shape[:2], n_classes))
            own = np.zeros((n_rows, z.shape[0], n_classes, n_classes))
        squares = np.einsum("cdk,cdk->ck", z, z)
        for r in np.unique(row_of[part]):
            mine = np.flatnonzero(row_of[part] == r)
            # rows are stretches of items, so these are views and not copies
            mine = slice(mine[0], mine[-1] + 1) if len(mine) == np.ptp(mine) + 1 else mine
            m = members[part][mine]
            sums[r] += z[:, :, mine] @ m
            own[r] += np.einsum("ck,kg,kh->cgh", squares[:, mine], m, m, optimize=True)
    return sums, own


def _estimate(sums: FloatArray, own: FloatArray, counts: Counts, exclude: str) -> Estimate:
    """Turn sums into means over pairs, by chain and without each row."""
    n_chains = own.shape[1]
    total = sums.sum(0)
    every = np.einsum("cdg,cdh->cgh", total, total)
    within = np.einsum("rcdg,rcdh->rcgh", sums, sums) if exclude == "row" else own
    pairs = counts.pairs(exclude)
    per_chain = _ratio((every - within.sum(0)), pairs / n_chains)
    value = per_chain.mean(0)
    spread = per_chain.std(0, ddof=1) if n_chains > 1 else np.full(value.shape, np.nan)
    return Estimate(value, spread / np.sqrt(n_chains), _row_error(sums, within, counts, exclude))


def _row_error(sums: FloatArray, within: FloatArray, counts: Counts, exclude: str) -> FloatArray:
    """Jackknife over sequences of the mean over pairs."""
    n_rows = len(sums)
    if n_rows == 1:
        return np.zeros(within.shape[2:])
    without = []
    for r in range(n_rows):
        rest = np.delete(np.arange(n_rows), r)
        s = sums.sum(0) - sums[r]
        left = Counts(counts.total - counts.by_row[r], counts.by_row[rest], counts.both[rest])
        numerator = np.einsum("cdg,cdh->gh", s, s) - within[rest].sum((0, 1))
        without.append(_ratio(numerator, left.pairs(exclude)))
    deviation = np.stack(without) - np.nanmean(without, axis=0)
    return np.sqrt((n_rows - 1) / n_rows * np.nansum(deviation**2, axis=0))


def _ratio(numerator: FloatArray, pairs: FloatArray) -> FloatArray:
    """Divide, NaN where there are no pairs."""
    return np.where(pairs > 0, numerator / np.where(pairs > 0, pairs, 1.0), np.nan)


def _nothing(n_classes: int) -> Estimate:
    return Estimate(*(np.full((n_classes, n_classes), np.nan) for _ in range(3)))


def _class_means(traces: xr.DataArray, members: FloatArray, names: list[str]) -> xr.DataArray:
    """Return the mean loss of every class as loss traces."""
    weights = (members / members.sum(0)).astype(traces.dtype)
    losses = traces.transpose("time", "chain", "draw", "item").values
    start = traces.checkpoint_loss.transpose("time", "item").values
    return labelled(losses @ weights, time=traces.time.values, items=names,
                    checkpoint_loss=start @ weights, attrs=traces.attrs)  # fmt: skip
