"""Influence between classes of items, from sums over classes: never the item x item matrix.

    G[g, h] = mean over k in g, l in h, k != l of the influence of l on k

With z the standardised loss, s_g = sum_{k in g} z_k and pairs of the same item taken out,

    sum_{k in g, l in h} z_k z_l - sum_{k in g and h} z_k^2 = s_g s_h - sum_{k in g and h} z_k^2,

so one pass over the losses gives every entry. With s_v[g] the sum of z over the items of class g
whose vocabulary id is v, and s_rv[g] that in row r, pairs of the same id are taken out by

    same id:                sum_v s_v[g] s_v[h]
    same id, without row r: sum_v (s_v - s_rv)[g] (s_v - s_rv)[h]

so a pass over the rows gives both, and a second one is needed for the jackknife over rows.

Chains and rows are both samples, and every chain sees every row. The variance of the mean is that
of two crossed random effects,

    standard_error^2 = chain_error^2 + max(row_error^2 - both^2, 0),

since each of the two errors holds what varies with chain and row together: `both` is the jackknife
over rows of the differences between chains. Every chain enters with its own correlation, which
moves with its standard deviations too.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import result
from dlnflow._support import FloatArray
from dlnflow.traces import diagnostics
from dlnflow.traces.columns import about, blocks, enough_draws, membership, scale_of
from dlnflow.traces.excluded_pairs import excluded, numbered
from dlnflow.traces.format import labelled

BYTES = 1 << 28
"""Sums of ids that are held at the same time; if there are more, the draws are taken in parts."""


def groups(
    traces: xr.DataArray,
    classes: xr.DataArray | ArrayLike,
    *,
    normalised: bool = True,
    exclude: str | Sequence[str] = "item",
    differences: bool = False,
) -> xr.DataArray:
    """Mean influence of every class on every class at every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    classes : DataArray or (K, G) bool array
        From `dlnflow.lm.data.token_classes.classify` on the observed sequences, or dims
        (item, token_class). Classes may overlap.
    normalised : bool
        Minus the Pearson correlation; else -(n_beta / N) Cov.
    exclude : {"item", "row", "token"} or several of them
        Pairs left out: an item with itself (always), all pairs within one sequence, all pairs
        of the same vocabulary id.
    differences : bool
        Use draw-to-draw differences of the losses, which removes drifts that are slow compared
        with the distance of draws. A rise that vanishes then was shared drift.

    Returns
    -------
    DataArray, dims (time, query, train)
        Influence between classes, negative = helps. Coordinates: `standard_error`, from
        `chain_error` (spread of the chains / sqrt(chains), NaN with one chain) and `row_error`
        (jackknife over sequences, 0 where items have no rows) without counting twice what both
        hold; its degrees of freedom `dof` (chains - 1 and rows - 1, by Welch and Satterthwaite;
        see `interval`); `pairs`, how many were averaged; `verdict`, `r_hat`, `ess` and
        `noise_floor` of the mean losses of the classes. NaN where a class has no pairs or no two
        chains are left.

    Raises
    ------
    ValueError
        If a class has no tokens, draws are too few, or shapes disagree.
    """
    without = excluded(exclude)
    traces = enough_draws(traces, differences)
    members, names = membership(classes, traces.sizes["item"])
    layout = _layout(traces, members, without)
    ones = np.ones((1, 1, traces.sizes["item"]))
    pairs = layout.sums(lambda parts=None: ((p, ones[:, :, p]) for p in parts or [slice(None)]))
    weights = (members / members.sum(0)).astype(traces.dtype)
    found, means = [], []
    for one in diagnostics.checkpoints(traces):
        with np.errstate(invalid="ignore"):  # a diverged chain: NaN in all its classes
            means.append(one.losses @ weights)
        losses = one.kept
        if len(losses) == 0:
            nothing = np.full((len(Estimate._fields), *pairs.by_chain[0].shape), np.nan)
            found.append(Estimate(*nothing))
            continue
        z = partial(blocks, losses, normalised=normalised, differences=differences)
        pooled = layout.sums(z)
        single = layout.sums(partial(z, by_chain=True)) if normalised else pooled.times(len(losses))
        found.append(_estimate(pooled, single, pairs))
        del one, losses, z
    scale = scale_of(traces, normalised)
    stacked = {name: np.stack([getattr(e, name) for e in found]) for name in Estimate._fields}
    array = result.influence(
        scale * stacked.pop("value"),
        traces.time.values,
        names,
        names,
        estimator="bif",
        flow_time=np.full(traces.sizes["time"], np.nan),
        attrs=about(traces, normalised)
        | {"differences": int(differences), "exclude": ", ".join(sorted(without))},
    )
    judged = diagnostics.summary(_class_means(traces, means, weights, names))
    return array.assign_coords(
        dof=(array.dims, stacked.pop("dof")),
        pairs=(("query", "train"), pairs.by_chain[0]),
        **{name: (array.dims, abs(scale) * value) for name, value in stacked.items()},
        **{name: ("time", value.values) for name, value in judged.items()},
    )


class Estimate(NamedTuple):
    """Mean over pairs, its errors and the degrees of freedom of `standard_error`, each (G, G)."""

    value: FloatArray
    standard_error: FloatArray
    chain_error: FloatArray
    row_error: FloatArray
    dof: FloatArray


class Sums(NamedTuple):
    """Sums of z_k z_l over kept pairs: by chain (C, G, G), and without each row (R, C, G, G)."""

    by_chain: FloatArray
    without_row: FloatArray

    def times(self, factor: float) -> "Sums":
        """Return them, multiplied by a factor."""
        return Sums(factor * self.by_chain, factor * self.without_row)


class Layout(NamedTuple):
    """Who is in which class (K, G) and row (K,), the id of every item, and what is left out."""

    members: FloatArray
    row_of: NDArray[np.intp]
    ids: NDArray[np.intp] | None
    without: frozenset[str]

    @property
    def rows(self) -> list[NDArray[np.intp]]:
        """Return the items of every row."""
        return [np.flatnonzero(self.row_of == r) for r in range(self.row_of.max() + 1)]

    def sums(self, z: Callable) -> Sums:
        """Sum over pairs; `z` gives blocks of standardised losses, of ones to count pairs."""
        by_row, own = _sums(z(), self.members, self.row_of)
        total = by_row.sum(0)
        every = np.einsum("cdg,cdh->cgh", total, total)
        rest = total - by_row
        every_rest = np.einsum("rcdg,rcdh->rcgh", rest, rest, optimize=True)
        if self.ids is not None:
            by_rows = partial(z, parts=self.rows)
            or_row = "row" in self.without
            within, lost = same_token(by_rows, self.members, self.ids, or_row=or_row)
        else:
            if "row" in self.without:
                own = np.einsum("rcdg,rcdh->rcgh", by_row, by_row, optimize=True)
            within, lost = own.sum(0), own
        return Sums(every - within, every_rest - (within - lost))


def _layout(traces: xr.DataArray, members: FloatArray, without: frozenset[str]) -> Layout:
    """Number rows and ids from 0; one row if there are none."""
    known = "row" in without or "row" in traces.coords
    row_of = numbered(traces, "row") if known else np.zeros(len(members), np.intp)
    ids = numbered(traces, "token") if "token" in without else None
    return Layout(members, row_of, ids, without)


def _sums(z_blocks, members: FloatArray, row_of: NDArray[np.intp]):
    """Return s[r] (R, chains, draws, G) and own[r] (R, chains, G, G), sum over k of z_k^2."""
    sums = own = None
    for part, z in z_blocks:
        if sums is None:
            n_rows, n_classes = row_of.max() + 1, members.shape[1]
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


Rows = Callable[[], Iterator[tuple[NDArray[np.intp], FloatArray]]]
"""Gives, again at every call, the items of each row and their z (chains, draws, items)."""


class Within(NamedTuple):
    """Sums over pairs to leave out: by chain (C, G, G), those lost without a row (R, C, G, G)."""

    total: FloatArray
    by_row: FloatArray


def same_token(rows: Rows, members: FloatArray, ids: NDArray[np.intp], *, or_row: bool) -> Within:
    """Sum z_k z_l over k in g and l in h with the same id, or with the same id or row.

    Parameters
    ----------
    rows : callable
        See `Rows`.
    members : (K, G) array
        Which item is in which class.
    ids : (K,) int array
        Vocabulary ids, numbered from 0 without gaps.
    or_row : bool
        Add pairs of the same row.

    Returns
    -------
    Within
        The sums.
    """
    first = next(iter(rows()))[1]
    chains, draws = first.shape[:2]
    width = max(1, BYTES // (8 * chains * (ids.max() + 1) * members.shape[1]))
    found = [
        _same_token(partial(_some_draws, rows, slice(start, start + width)), members, ids, or_row)
        for start in range(0, draws, width)
    ]
    return Within(sum(one.total for one in found), sum(one.by_row for one in found))


def _some_draws(rows: Rows, draws: slice) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
    """Give rows with a part of their draws; sums of products add up over the parts."""
    return ((items, z[:, draws]) for items, z in rows())


def _same_token(rows: Rows, members: FloatArray, ids: NDArray[np.intp], or_row: bool) -> Within:
    """Do the work of `same_token` with sums of every id at every draw in memory."""
    of_id = None
    for items, z in rows():
        if of_id is None:
            shape = len(z), ids.max() + 1, members.shape[1], z.shape[1]
            of_id = np.zeros(shape)  # draws last: what is gathered is contiguous
        here, sums = _by_id(z, members[items], ids[items])
        of_id[:, here] += sums
    total = _products(of_id, of_id)
    by_row = []
    for items, z in rows():
        here, sums = _by_id(z, members[items], ids[items])
        crossed = _products(of_id[:, here], sums)
        own = _products(sums, sums)
        lost = crossed + crossed.swapaxes(1, 2) - own
        if or_row:
            row = sums.sum(1, keepdims=True)
            # pairs that share both would count twice
            extra = _products(row, row) - own
            total += extra
            lost += extra
        by_row.append(lost)
    return Within(total, np.stack(by_row))


def _products(a: FloatArray, b: FloatArray) -> FloatArray:
    """Sum products of classes over ids and draws, (C, V, G, D) and the same to (C, G, G)."""
    return np.matmul(a, b.swapaxes(-1, -2)).sum(1)


def _by_id(
    z: FloatArray, members: FloatArray, ids: NDArray[np.intp]
) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the ids of a row and the sums (chains, id, class, draws) over their items."""
    here, number = np.unique(ids, return_inverse=True)
    spread = np.zeros((len(here), members.shape[1], len(ids)))
    spread[number, :, np.arange(len(ids))] = members
    sums = np.matmul(spread.reshape(-1, len(ids)), z.swapaxes(1, 2))
    return here, sums.reshape(len(z), *spread.shape[:2], -1)


def _estimate(pooled: Sums, single: Sums, pairs: Sums) -> Estimate:
    """Turn sums into means over pairs; errors are of chains that each have their own estimate."""
    n_chains, n_rows = len(single.by_chain), len(single.without_row)
    value = _ratio(pooled.by_chain.sum(0), pairs.by_chain[0])
    per_chain = _ratio(single.by_chain, pairs.by_chain)
    chain = per_chain.var(0, ddof=1) / n_chains if n_chains > 1 else np.full(value.shape, np.nan)
    row = both = np.zeros(value.shape)
    if n_rows > 1:
        row = _jackknife(_ratio(pooled.without_row.sum(1), pairs.without_row[:, 0]))
        alone = _ratio(single.without_row, pairs.without_row)
        if n_chains > 1:
            apart = alone - alone.mean(1, keepdims=True)
            both = _jackknife(apart).sum(0) / (n_chains * (n_chains - 1))
    apart = np.maximum(row - both, 0.0)
    parts = [(chain, n_chains - 1), (apart, n_rows - 1)]
    return Estimate(
        value, np.sqrt(chain + apart), np.sqrt(chain), np.sqrt(row), welch_satterthwaite(parts)
    )


def welch_satterthwaite(parts: list[tuple[FloatArray, int]]) -> FloatArray:
    """Return the degrees of freedom of a sum of variances, each with its own; NaN for no sum."""
    total = sum(variance for variance, _ in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total**2 / sum(variance**2 / dof for variance, dof in parts if dof)


def _jackknife(without: FloatArray) -> FloatArray:
    """Return the jackknife variance of estimates that each lack one row, on the first axis."""
    n_rows = len(without)
    some = np.maximum(np.isfinite(without).sum(0), 1)
    deviation = without - np.nansum(without, axis=0) / some
    return (n_rows - 1) / n_rows * np.nansum(deviation**2, axis=0)


def _ratio(numerator: FloatArray, pairs: FloatArray) -> FloatArray:
    """Divide, NaN where there are no pairs."""
    return np.where(pairs > 0, numerator / np.where(pairs > 0, pairs, 1.0), np.nan)


def _class_means(
    traces: xr.DataArray, means: list[FloatArray], weights: FloatArray, names: list[str]
) -> xr.DataArray:
    """Return the mean loss of every class as loss traces."""
    start = traces.checkpoint_loss.transpose("time", "item").values
    return labelled(
        np.stack(means),
        time=traces.time.values,
        items=names,
        checkpoint_loss=start @ weights,
        attrs=traces.attrs,
    )
