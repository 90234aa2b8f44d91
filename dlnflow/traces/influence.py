"""Bayesian influence between single items, with an error for every entry.

    BIF = -(n_beta / N) Cov(l_train, l_query)

Normalised, it is minus the Pearson correlation. Results carry the verdict of every checkpoint.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks, result
from dlnflow._support import FloatArray
from dlnflow.traces import diagnostics
from dlnflow.traces.columns import about, scale_of, standardise
from dlnflow.traces.format import check_traces, positions


def influence(
    traces: xr.DataArray,
    normalised: bool = False,
    *,
    observable: Callable[[FloatArray], FloatArray] | None = None,
    query: Sequence[str] | None = None,
    train: Sequence[str] | None = None,
    flow_time: ArrayLike | None = None,
    errors: bool = True,
) -> xr.DataArray:
    """Bayesian influence of every item on every item, from loss traces of any model.

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
    query, train : sequence of str, optional
        Observed items; default all.
    flow_time : array, shape (T,), optional
        Second time coordinate.
    errors : bool
        Compute `standard_error`; without it a large item x item result is faster.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train), negative = helps, with the coordinates of
        `dlnflow.influence.bif`. With p = d_q d_i the centred products, `standard_error` is
        sd(p) / sqrt(ESS(p)), with ESS(p) / 20 degrees of freedom (`dof`; see `interval`); for
        correlations those of z_q z_i - (r/2)(z_q^2 + z_i^2), the delta method.

    Raises
    ------
    ValueError
        If an item was not observed, the traces do not describe their posterior or have fewer
        than four draws, or `observable` returns another shape or values that are not finite.
    """
    traces = check_traces(traces)
    for name, value in (("normalised", normalised), ("errors", errors)):
        checks.flag(name, value)
    q, i = (positions(traces, side, name) for name, side in (("query", query), ("train", train)))

    def estimate(one: diagnostics.Checkpoint) -> tuple[FloatArray, FloatArray, FloatArray]:
        return _estimate(one.kept, q, i, normalised, observable=observable, errors=errors)

    rows = list(map(estimate, diagnostics.checkpoints(traces)))
    scale = scale_of(traces, normalised)
    names = np.asarray(traces["item"].values, dtype=str)
    time = traces.time.values
    array = result.influence(
        scale * np.stack([row[0] for row in rows]),
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
        extra["standard_error"] = (array.dims, abs(scale) * np.stack([row[1] for row in rows]))
        extra["dof"] = (array.dims, np.stack([row[2] for row in rows]))
    return array.assign_coords(extra)


def _estimate(
    losses: FloatArray,
    query: NDArray,
    train: NDArray,
    normalised: bool,
    *,
    observable: Callable[[FloatArray], FloatArray] | None,
    errors: bool,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return covariance (or correlation), its standard error and dof at one checkpoint."""
    nothing = np.full((len(query), len(train)), np.nan)
    if len(losses) == 0:
        return nothing, nothing, nothing
    a, b = (losses[:, :, side].astype(np.float64) for side in (query, train))
    a = a if observable is None else _observed(observable, a)
    a, b = (standardise(z, normalised) for z in (a, b))
    pooled = np.tensordot(a, b, axes=((0, 1), (0, 1)))
    if not errors or diagnostics.stuck(losses):
        return pooled, nothing, nothing
    count = losses.shape[0] * (losses.shape[1] - (not normalised))
    error, dof = np.empty(pooled.shape), np.empty(pooled.shape)
    for k in range(len(query)):
        psi = a[:, :, k, None] * b
        if normalised:
            # The delta method: a correlation also moves with the two standard deviations.
            psi -= 0.5 * pooled[k] * (a[:, :, k, None] ** 2 + b**2)
        _, error[k], dof[k] = diagnostics.mean_and_error(count * psi)
    return pooled, error, dof


def _observed(observable: Callable[[FloatArray], FloatArray], losses: FloatArray) -> FloatArray:
    """Return what the observable makes of losses, checked."""
    values = checks.finite("observable", observable(losses))
    if values.shape != losses.shape:
        raise ValueError(
            f"`observable` must keep the shape (chain, draw, query) = {losses.shape}, it returned "
            f"{values.shape}."
        )
    return np.array(values, dtype=np.float64)
