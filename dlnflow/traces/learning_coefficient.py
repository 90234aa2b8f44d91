"""Local learning coefficient from loss traces; numpy and xarray only.

    lambda_hat = n_beta (E[L] - L(theta_0)),     L = (1/N) sum_i l_i

Defined where theta_0 is a local minimum of L; around a saddle the number is still computed, but
it is not a learning coefficient (and may be negative). The localisation removes
(1/2) localization / (n_beta h + localization) for every regular direction of curvature h.

References: Lau et al. (2025), "The local learning coefficient"; Aoyagi (2024) for the exact values
in deep linear networks (`dlnflow.rlct`).
"""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support import FloatArray
from dlnflow.traces import diagnostics
from dlnflow.traces.format import at, check_traces, labelled


def llc(traces: xr.DataArray) -> xr.Dataset:
    """Estimate the local learning coefficient at every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Losses of *all* training items, sampled with unit item weights.

    Returns
    -------
    Dataset
        Per time: `llc`, `standard_error` (from the effective sample size of the mean loss) and its
        degrees of freedom `dof`, and `verdict`, `r_hat`, `ess`, `n_diverged`, `diverged_chains` of
        the mean loss. NaN where the verdict is "diverged"; the standard error is NaN too where a
        chain never moved.

    Raises
    ------
    ValueError
        If the traces lack training items (the mean over a part is another quantity), or were
        sampled with item weights other than 1.
    """
    traces = check_traces(traces)
    if traces.sizes["item"] != traces.attrs["n_train"]:
        raise ValueError(
            f"`traces` hold {traces.sizes['item']} of {traces.attrs['n_train']} training items; "
            "the learning coefficient needs the mean over all of them. Observe every item."
        )
    if "weight" in traces.coords and not (traces.weight == 1).all():
        raise ValueError(
            "`traces` were sampled with item weights other than 1; the learning coefficient is "
            "that of the plain mean loss. Sample without `weights`."
        )
    mean, n_beta = _mean_losses(traces), traces.attrs["n_beta"]
    starts = mean.checkpoint_loss.values
    read = zip(diagnostics.checkpoints(mean), starts, strict=True)
    rows = np.array([diagnostics.mean_and_error(one.kept - s) for one, s in read])[..., 0]  # (T, 3)
    found = diagnostics.summary(mean).drop_vars("noise_floor")
    error = np.where(np.isinf(found.r_hat), np.nan, n_beta * rows[:, 1])  # a chain never moved
    return found.assign(
        llc=("time", n_beta * rows[:, 0]), standard_error=("time", error), dof=("time", rows[:, 2])
    ).assign_attrs(traces.attrs)


def _mean_losses(traces: xr.DataArray) -> xr.DataArray:
    """Return traces of the mean loss as their only item, one checkpoint in memory at a time."""
    start = traces.checkpoint_loss.transpose("time", "item").values
    with np.errstate(invalid="ignore", over="ignore"):
        means = [_means(at(traces, t), one) for t, one in enumerate(start)]
    return labelled(
        np.stack(means)[..., None],
        time=traces.time.values,
        items=["mean loss"],
        checkpoint_loss=start.mean(1, keepdims=True),
        attrs=traces.attrs,
    ).assign_coords(chain=traces.chain.values)


def _means(losses: NDArray, start: FloatArray) -> FloatArray:
    """Return the mean of losses (chains, draws, K) over items."""
    # differences first: the excess may be far smaller than the losses
    return np.stack([(chain - start).mean(-1) for chain in losses]) + start.mean()
