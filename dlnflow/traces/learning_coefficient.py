"""Local learning coefficient from loss traces; numpy and xarray only.

    lambda_hat = n_beta (E[L] - L(theta_0)),     L = (1/N) sum_i l_i

Defined where theta_0 is a local minimum of L; around a saddle the number is still computed, but
it is not a learning coefficient (and may be negative). The localisation removes
(1/2) localization / (n_beta h + localization) for every regular direction of curvature h.

References: Lau et al. (2025), "The local learning coefficient"; Aoyagi (2024) for the exact values
in deep linear networks (`dlnflow.rlct`).
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow._support import FloatArray
from dlnflow.checks import one_of
from dlnflow.traces import diagnostics
from dlnflow.traces.class_means import Estimated, class_means
from dlnflow.traces.excluded_pairs import numbered
from dlnflow.traces.format import KeptSums, at, averages, check_traces, labelled, mean_excess
from dlnflow.traces.intervals import t_quantile
from dlnflow.traces.membership import members_of


def llc(
    traces: xr.DataArray | KeptSums, of: str | xr.DataArray | ArrayLike | None = None
) -> xr.Dataset:
    """Estimate the local learning coefficient at every checkpoint: whole, by class, by item.

    Under traces sampled with `restrict=` it is weight-restricted: that of L as a function of the
    moving entries. Parts of the data are those of one posterior, n_beta (E[l_k] - l_k(theta_t)),
    and average to the whole.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Sampled with unit item weights, or class sums of them, which lack single items.
    of : {"observed", "item"}, DataArray or (K, G) bool array, optional
        Whose losses. Default: the mean of *all* training items, which the traces must hold.
        "observed": the mean of what was observed, e.g. held-out text. "item": every item. Classes
        as in `groups`: the mean over every class.

    Returns
    -------
    Dataset
        `llc`, `standard_error` and its degrees of freedom `dof`, dims (time), (time, item) or
        (time, token_class); errors are those of the effective sample size, for "observed" and
        classes those of chains and rows, as in `groups`. `at_minimum`: False where the 95 %
        interval lies below 0, so that the checkpoint is no minimum of that loss and the number no
        learning coefficient; True does not show that it is one. Per time: `verdict`, `r_hat`,
        `ess`, `n_diverged`, `diverged_chains` of the mean losses. NaN where the verdict is
        "diverged"; the standard error is NaN too where a chain never moved.

    Raises
    ------
    ValueError
        If `of` is left out and the traces lack training items (the mean over a part is another
        quantity), they were sampled with item weights other than 1, or `of` is unknown.
    """
    if not isinstance(traces, KeptSums) or (isinstance(of, str) and of == "item"):
        traces = check_traces(traces)
    if "weight" in traces.coords and not (traces.weight == 1).all():
        raise ValueError(
            "`traces` were sampled with item weights other than 1; the learning coefficient is "
            "that of the plain mean loss. Sample without `weights`."
        )
    if of is None:
        found = _whole(traces)
    elif isinstance(of, str):
        one_of("of", of, ["observed", "item"])
        every = np.ones((traces.sizes["item"], 1))
        found = _items(traces) if of == "item" else _classes(traces, every).isel(token_class=0)
        found = found.drop_vars("token_class", errors="ignore")
    else:
        found = _classes(traces, of)
    half = found.standard_error * t_quantile(found.dof)
    below = found.llc + half < 0
    return found.assign(at_minimum=~below).assign_attrs(traces.attrs)


def _whole(traces: xr.DataArray) -> xr.Dataset:
    """Return the coefficient of the mean over all training items."""
    if traces.sizes["item"] != traces.attrs["n_train"]:
        raise ValueError(
            f"`traces` hold {traces.sizes['item']} of {traces.attrs['n_train']} training items; "
            "the learning coefficient needs the mean over all of them. Observe every item, or ask "
            'for that of the observed ones by of="observed".'
        )
    mean = traces.mean_losses() if isinstance(traces, KeptSums) else _mean_losses(traces)
    n_beta = traces.attrs["n_beta"]
    starts = mean.checkpoint_loss.values
    read = zip(diagnostics.checkpoints(mean), starts, strict=True)
    rows = np.array([diagnostics.mean_and_error(one.kept - s) for one, s in read])[..., 0]  # (T, 3)
    found = diagnostics.summary(mean).drop_vars("noise_floor")
    error = np.where(np.isinf(found.r_hat), np.nan, n_beta * rows[:, 1])  # a chain never moved
    return found.assign(
        llc=("time", n_beta * rows[:, 0]), standard_error=("time", error), dof=("time", rows[:, 2])
    )


def _items(traces: xr.DataArray) -> xr.Dataset:
    """Return the coefficient of every item."""
    starts = traces.checkpoint_loss.transpose("time", "item").values

    def estimate(one: diagnostics.Checkpoint, start: FloatArray) -> Estimated:
        still = len(one.kept) > 0 and diagnostics.stuck(one.kept)
        parts = [
            diagnostics.mean_and_error(
                one.kept[..., k : k + diagnostics.BLOCK] - start[k : k + diagnostics.BLOCK]
            )
            for k in range(0, len(start), diagnostics.BLOCK)
        ]
        value, error, dof = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Estimated(value, np.full(error.shape, np.nan) if still else error, dof)

    found = list(map(estimate, diagnostics.checkpoints(traces), starts))
    judged = diagnostics.summary(traces)
    return _labelled(traces, found, "item", traces["item"].values, judged)


def _classes(traces: xr.DataArray | KeptSums, classes: xr.DataArray | ArrayLike) -> xr.Dataset:
    """Return the coefficient of every class."""
    members, names = members_of(classes, traces)
    rows = numbered(traces, "row") if "row" in traces.coords else None
    if isinstance(traces, KeptSums):
        excesses, means = traces.item_excess(), traces.averages(members, names)
    else:
        starts = traces.checkpoint_loss.transpose("time", "item").values
        excesses = map(diagnostics.item_excess, diagnostics.checkpoints(traces), starts)
        means = _averages(traces, members, names)

    def estimate(single: FloatArray) -> Estimated:
        if len(single) == 0:
            return Estimated(*np.full((3, len(names)), np.nan))
        return class_means(single.mean(0), single, members, rows)

    judged = diagnostics.summary(means)
    return _labelled(traces, list(map(estimate, excesses)), "token_class", names, judged)


def _averages(traces: xr.DataArray, members: FloatArray, names: Sequence[str]) -> xr.DataArray:
    """Return the mean losses of classes as loss traces."""
    start = traces.checkpoint_loss.transpose("time", "item").values
    weights = members / members.sum(0)
    about = {"time": traces.time.values, "items": names, "attrs": traces.attrs}
    means = [averages(at(traces, t), weights) for t in range(len(start))]
    classes = labelled(np.stack(means), checkpoint_loss=start @ weights, **about)
    return classes.assign_coords(chain=traces.chain.values)


def _labelled(
    traces: xr.DataArray | KeptSums,
    found: Sequence[Estimated],
    dim: str,
    names: ArrayLike,
    judged: xr.Dataset,
) -> xr.Dataset:
    """Return estimates with a verdict."""
    n_beta, dims = traces.attrs["n_beta"], ("time", dim)
    value, error, dof = (np.stack(part) for part in zip(*found, strict=True))
    return (
        judged.drop_vars("noise_floor")
        .assign(llc=(dims, n_beta * value), standard_error=(dims, n_beta * error), dof=(dims, dof))
        .assign_coords({dim: names})
    )


def _mean_losses(traces: xr.DataArray) -> xr.DataArray:
    """Return traces of the mean loss as their only item, one checkpoint in memory at a time."""
    start = traces.checkpoint_loss.transpose("time", "item").values
    means = [mean_excess(at(traces, t), one) for t, one in enumerate(start)]
    return labelled(
        np.stack(means)[..., None],
        time=traces.time.values,
        items=["mean loss"],
        checkpoint_loss=start.mean(1, keepdims=True),
        attrs=traces.attrs,
    ).assign_coords(chain=traces.chain.values)
