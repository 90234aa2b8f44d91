"""Influence between classes of items, from sums over classes: never the item x item matrix.

    G[g, h] = mean over k in g, l in h, k != l of the influence of l on k

The pairs are summed by `dlnflow.traces.pair_sums`, never one by one.

Chains and rows are both samples, and every chain sees every row. The variance of the mean is that
of two crossed random effects,

    standard_error^2 = chain_error^2 + max(row_error^2 - both^2, 0),

since each of the two errors holds what varies with chain and row together: `both` is the jackknife
over rows of the differences between chains. Every chain enters with its own correlation, which
moves with its standard deviations too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import result
from dlnflow._support import FloatArray
from dlnflow.checks import flag
from dlnflow.traces import diagnostics
from dlnflow.traces.class_sums import KINDS, ClassSums, class_weights, means_of, reduced, weighed
from dlnflow.traces.columns import about, scale_of
from dlnflow.traces.excluded_pairs import excluded
from dlnflow.traces.format import enough_draws, labelled
from dlnflow.traces.membership import members_of
from dlnflow.traces.pair_sums import Layout, Sums


def groups(
    traces: xr.DataArray | ClassSums,
    classes: xr.DataArray | ArrayLike | None = None,
    *,
    normalised: bool = True,
    exclude: str | Sequence[str] = "item",
    differences: bool = False,
) -> xr.DataArray:
    """Mean influence of every class on every class at every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces, or what `class_sums` made of them.
    classes : DataArray or (K, G) bool array
        From `dlnflow.lm.data.token_classes.classify` on the observed sequences, or dims
        (item, token_class). Classes may overlap. Class sums have their own: all are taken, or
        those that are named here.
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
    options = {"normalised": normalised, "differences": differences}
    options = {name: flag(name, value) for name, value in options.items()} | {"exclude": without}
    if isinstance(traces, ClassSums):
        read = _from_sums(traces, traces.chosen(classes), **options)
    else:
        read = _from_losses(enough_draws(traces, differences), classes, **options)
    means, pairs, found = read
    names, time = means["item"].values.tolist(), means.time.values
    scale = scale_of(traces, normalised)
    stacked = {name: np.stack([getattr(e, name) for e in found]) for name in Estimate._fields}
    array = result.influence(
        scale * stacked.pop("value"),
        time,
        names,
        names,
        estimator="bif",
        flow_time=np.full(len(time), np.nan),
        attrs=about(traces, normalised)
        | {"differences": int(differences), "exclude": ", ".join(sorted(without))},
    )
    judged = diagnostics.summary(means)
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


Read = tuple[xr.DataArray, Sums, list[Estimate]]
"""Mean losses of the classes as loss traces, counts of pairs, and what is found by checkpoint."""


def _from_losses(
    traces: xr.DataArray,
    classes: xr.DataArray | ArrayLike | None,
    *,
    normalised: bool,
    differences: bool,
    exclude: frozenset[str],
) -> Read:
    """Sum over pairs, one checkpoint after another."""
    if classes is None:
        raise ValueError(
            "`classes` must say of each item which classes it is in; only class sums know theirs."
        )
    members, names = members_of(classes, traces)
    layout = Layout.of(traces, members, [exclude])
    pairs = layout.pairs(exclude)
    weights = class_weights(members, traces.dtype)
    kinds = KINDS[:2] if normalised else KINDS[2:]
    found, means = [], []
    for one in diagnostics.checkpoints(traces):
        means.append(means_of(one.losses, weights))
        if one.which:
            sums = reduced(one, layout, kinds, differences, [exclude])
            draws = one.losses.shape[1] - differences
            both = weighed([sums[kind][exclude] for kind in kinds], draws)
            found.append(_estimate(*both, pairs))
        else:
            found.append(_nothing(len(names)))
        del one
    start = traces.checkpoint_loss.transpose("time", "item").values
    of_classes = labelled(
        np.stack(means),
        time=traces.time.values,
        items=names,
        checkpoint_loss=start @ weights,
        attrs=traces.attrs,
    )
    return of_classes, pairs, found


def _from_sums(sums: ClassSums, chosen: list[int], **options: Any) -> Read:
    """Read sums over pairs of some classes that were kept."""
    sums.judged()  # the chains are those that have not diverged
    found = []
    for t in range(len(sums.time)):
        pairs, both = sums.sums(t, **options)
        parts = [one.part(chosen) for one in both]
        pairs = pairs.part(chosen)
        found.append(_estimate(*parts, pairs) if parts else _nothing(len(chosen)))
    return sums.class_means(chosen), pairs, found


def _nothing(n_classes: int) -> Estimate:
    """Return NaN for a checkpoint with too few chains."""
    return Estimate(*np.full((len(Estimate._fields), n_classes, n_classes), np.nan))


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
