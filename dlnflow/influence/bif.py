"""Bayesian influence: the covariance of losses under a posterior localised at the checkpoint.

    p(theta) ~ exp(-n_beta (1/N) sum_k w_k l_k - (localization / 2) |theta - theta_0|^2)
    d E[l_q] / d w_i = -(n_beta / N) Cov(l_i, l_q)

is an exact identity, so BIF has the sign of every other estimator: negative = the train item
helps. Normalised, it is minus the Pearson correlation. Sampling lives in `dlnflow.sampling` (it
needs torch); everything here starts from loss traces and needs only numpy and xarray.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks, result
from dlnflow._support.typing import FloatArray
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import Grid, Items, estimator
from dlnflow.influence.requirements import TWO_LAYERS, verb
from dlnflow.traces import diagnostics
from dlnflow.traces import format as loss_traces
from dlnflow.traces.columns import about
from dlnflow.traces.groups import groups
from dlnflow.traces.mixing import ess, ess_products, rhat, rhat_products, verdict
from dlnflow.traces.pairs import matrix, top_k


@estimator(
    title="Bayesian influence",
    choice="covariance of the localised posterior, sampled",
    page="sampling.md",
    needs=[TWO_LAYERS, verb("traces")],
    in_all=False,
)
def bif(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    query: Items = None,
    train: Items = None,
    normalised: bool = False,
    seed: int = 0,
    errors: bool = True,
    **sampling: Any,
) -> xr.DataArray:
    """Sampled Bayesian influence at checkpoints of a run.

    Parameters
    ----------
    run : Run
        Two layers, any inputs, any optimizer.
    steps : sequence of int, optional
        Checkpoints, strictly increasing within the run.
    query, train : item names, optional
        Default: all.
    normalised : bool
        Minus the Pearson correlation instead of -(n_beta/N) Cov.
    seed : int
        With the step and the chain number it fixes a chain's random numbers.
    errors : bool
        False leaves `standard_error` out, which is faster; verdicts stay.
    **sampling
        n_beta, localization, step_size, chains, draws, burn_in, thin, kernel, kernel_options,
        dtype: see `dlnflow.sampling.trace_run`. What is left out is set from the curvature of the
        whole run (`dlnflow.sampling.suggest(run)`), whatever `steps` are.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train), with coordinates `standard_error` (time, query, train) and,
        per time, `verdict` ("mixed", "short", "not mixed", "diverged"), `r_hat`, `ess`,
        `noise_floor`, `n_diverged`, `diverged_chains`; for MALA, `acceptance` (mean over
        chains); for SGLD and RMSProp-SGLD, `relative_step`, the step times the largest
        curvature x (median over chains): variances are 1 / (1 - x/4) times too large. NaN where
        the verdict is "diverged"; the standard error is NaN too where a chain never moved. The
        attribute `target_changed` names options that changed the posterior.

    Raises
    ------
    ValueError
        If steps, names or settings are invalid, or the run has more than two layers.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Kreer et al. (2025), "Bayesian influence functions for Hessian-free data attribution";
    Lee et al. (2025), appendix B.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), hidden=8)
    >>> inf = bif(run, [run.n_steps], draws=200, burn_in=100, normalised=True)
    >>> inf.dims, float(inf.sel(query="dog", train="dog").item().__round__(6))
    (('time', 'query', 'train'), -1.0)
    """
    from dlnflow import sampling as samplers

    grid = Grid.of(run, steps, query, train)
    traces = samplers.trace_run(run, steps, seed=seed, **sampling)
    traces.attrs["objective"] = result.OBJECTIVE
    names = np.asarray(run.task.items)
    return from_traces(
        traces,
        normalised,
        query=names[grid.query].tolist(),
        train=names[grid.train].tolist(),
        flow_time=grid.flow_time,
        errors=errors,
    )


def from_traces(
    traces: xr.DataArray,
    normalised: bool = False,
    *,
    observable: Callable[[FloatArray], FloatArray] | None = None,
    query: list[str] | None = None,
    train: list[str] | None = None,
    flow_time: ArrayLike | None = None,
    errors: bool = True,
) -> xr.DataArray:
    """Bayesian influence from loss traces of any model.

    Losses are centred per chain before they are multiplied (nearly constant losses would lose
    their digits otherwise); the products are then pooled over draws and kept chains.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces, from `dlnflow.sampling` or from elsewhere, with attributes n_beta, n_train
        (N) and n_parameters and the coordinate checkpoint_loss.
    normalised : bool
        Minus the Pearson correlation; has no unit and needs no n_beta.
    observable : callable, optional
        What the *query* side measures: losses (chain, draw, query) -> finite numbers of the same
        shape. Default: the losses themselves.
    query, train : list of str, optional
        Observed items; default all.
    flow_time : array, shape (T,), optional
        Second time coordinate.
    errors : bool
        Compute `standard_error`; without it a large item x item result is faster.

    Returns
    -------
    xarray.DataArray
        As `bif`.

    Raises
    ------
    ValueError
        If an item was not observed, the traces do not describe their posterior or have fewer
        than four draws, or `observable` returns another shape or values that are not finite.
    """
    traces = loss_traces.check_traces(traces)
    for name, value in (("normalised", normalised), ("errors", errors)):
        checks.flag(name, value)
    q, i = (
        loss_traces.positions(traces, names, side)
        for side, names in (("query", query), ("train", train))
    )
    blocks = diagnostics.kept_chains(traces)
    rows = [_estimate(b, q, i, normalised, observable=observable, errors=errors) for b in blocks]
    scale = 1.0 if normalised else traces.attrs["n_beta"] / traces.attrs["n_train"]
    names = np.asarray(traces["item"].values, dtype=str)
    time = traces.time.values
    array = result.influence(
        -scale * np.stack([row[0] for row in rows]),
        time,
        names[q],
        names[i],
        estimator="bif",
        flow_time=np.full(len(time), np.nan) if flow_time is None else np.asarray(flow_time),
        attrs=about(traces, normalised),
    )
    extra: dict[str, Any] = {
        name: ("time", value.values) for name, value in diagnostics.summary(traces).items()
    }
    if "acceptance" in traces.coords:
        extra["acceptance"] = ("time", traces.acceptance.mean("chain").values)
    if "relative_step" in traces.coords:
        extra["relative_step"] = ("time", traces.relative_step.median("chain").values)
    if errors:
        extra["standard_error"] = (array.dims, scale * np.stack([row[1] for row in rows]))
    return array.assign_coords(extra)


def _estimate(
    losses: FloatArray,
    query: NDArray,
    train: NDArray,
    normalised: bool,
    *,
    observable: Callable[[FloatArray], FloatArray] | None,
    errors: bool,
) -> tuple[FloatArray, FloatArray]:
    """Return covariance (or correlation) and its standard error at one checkpoint."""
    if len(losses) == 0:
        nothing = np.full((len(query), len(train)), np.nan)
        return nothing, nothing
    a, b = losses[:, :, query], losses[:, :, train]
    a = a if observable is None else _observed(observable, a)
    a, b = (z - z.mean(axis=1, keepdims=True) for z in (a, b))
    chains, draws = a.shape[:2]
    pooled = np.tensordot(a, b, axes=((0, 1), (0, 1))) / (chains * (draws - 1))
    if normalised:
        a, b = (_standardised(z) for z in (a, b))
        pooled = np.tensordot(a, b, axes=((0, 1), (0, 1))) / (chains * draws)
    if not errors or diagnostics.stuck(losses):
        return pooled, np.full(pooled.shape, np.nan)
    psi = a[:, :, :, None] * b[:, :, None, :]
    if normalised:
        # The delta method: a correlation also moves with the two standard deviations.
        psi = psi - 0.5 * pooled * (a[:, :, :, None] ** 2 + b[:, :, None, :] ** 2)
    error = np.stack([diagnostics.mean_and_error(psi[:, :, k])[1] for k in range(len(query))])
    return pooled, error


def _observed(observable: Callable[[FloatArray], FloatArray], losses: FloatArray) -> FloatArray:
    """Return what the observable makes of losses, checked."""
    found = checks.finite("observable", observable(losses))
    if found.shape != losses.shape:
        raise ValueError(
            f"`observable` must keep the shape (chain, draw, query) = {losses.shape}, it returned "
            f"{found.shape}."
        )
    return found


def _standardised(d: FloatArray) -> FloatArray:
    """Return d with pooled variance 1; losses that never move stay 0, uncorrelated with all."""
    spread = np.sqrt(np.mean(d**2, axis=(0, 1)))
    return d / np.where(spread > 0, spread, 1.0)


def standard_error(traces: xr.DataArray, normalised: bool = False, **options: Any) -> xr.DataArray:
    """Return the standard error of every entry of `from_traces`.

    sd(p) / sqrt(ESS(p)) of the centred products p = d_q d_i; for correlations p minus
    (r/2)(z_q^2 + z_i^2), the delta method.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    normalised : bool
        As in `from_traces`.
    **options
        As in `from_traces`.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train).
    """
    array = from_traces(traces, normalised, **options)
    return array.standard_error.drop_vars("standard_error")


# the function is its own namespace: influence.bif(run, steps), influence.bif.groups(traces, ...)
for _part in (
    from_traces, standard_error, rhat, ess, verdict, rhat_products, ess_products, groups, matrix,
    top_k,
):  # fmt: skip
    setattr(bif, _part.__name__, _part)
