"""Bayesian influence: the covariance of losses under a posterior localised at the checkpoint.

    p(theta) ~ exp(-n_beta (1/N) sum_k w_k l_k - (localization / 2) |theta - theta_0|^2)
    d E[l_q] / d w_i = -(n_beta / N) Cov(l_i, l_q)

is an exact identity, so BIF has the sign of every other estimator: negative = the train item
helps. Normalised, it is minus the Pearson correlation. Sampling lives in `dlnflow.sampling` (it
needs torch), and what reads the loss traces in `dlnflow.traces` (it needs only numpy and xarray).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import result, traces
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import TWO_LAYERS, Grid, Items, estimator, verb

VERDICTS = ("mixed", "short", "not mixed", "diverged")
"""From best to worst."""


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
    at_weight: float = 1.0,
    errors: bool = True,
    **sampling: Any,
) -> xr.DataArray:
    """Sampled Bayesian influence at checkpoints of a run.

    K[t, q, i] = -(n_beta / N) Cov(l_i, l_q) under the posterior in which the item weight w_i is
    ``at_weight`` and all others are 1, around the checkpoint of the run trained with these weights.
    At weight 0 it is the influence of an item that is not trained on.

    Parameters
    ----------
    run : Run
        Two layers, any inputs, any optimizer.
    steps : sequence of int, optional
        Networks, strictly increasing within the run.
    query, train : item names, optional
        Default: all.
    normalised : bool
        Minus the Pearson correlation instead of -(n_beta/N) Cov.
    at_weight : float
        Weight >= 0 of the train item. Other than 1 it needs a training, and chains at every
        checkpoint, for every train item; verdict and diagnostics are then those of the worst.
    errors : bool
        False leaves `standard_error` and `dof` out, which is faster; verdicts stay.
    **sampling
        n_beta, localization, step_size, chains, draws, burn_in, thin, kernel, kernel_options,
        dtype, and seed, which fixes a chain's random numbers with the step and the chain: see
        `dlnflow.sampling.trace_run`. What is left out is set from the curvature of the whole run
        (`dlnflow.sampling.suggest(run)`), whatever `steps` are.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train), with coordinates `standard_error` and its degrees of freedom
        `dof` (time, query, train; see `dlnflow.traces.interval`) and, per time, `verdict` ("mixed",
        "short", "not mixed", "diverged"), `r_hat`, `ess`, `noise_floor`, `n_diverged`,
        `diverged_chains`; for MALA, `acceptance` (mean over chains); for SGLD and RMSProp-SGLD,
        `relative_step`, the step times the largest curvature x (median over chains): variances are
        1 / (1 - x/4) times too large. NaN where the verdict is "diverged"; the standard error is
        NaN too where a chain never moved. The attribute `target_changed` names options that changed
        the posterior.

    Raises
    ------
    ValueError
        If steps, names, `at_weight` or settings are invalid, or the run has more than two layers.
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
    grid, at_weight = Grid.of(run, steps, query, train), Grid.at_weight(at_weight)

    def sampled(train: list[int], **weights: Any) -> xr.DataArray:
        pair = {"query": grid.query, "train": np.asarray(train)}
        losses = run.traces(grid.steps, **pair, **weights, **sampling)
        losses.attrs["objective"] = result.OBJECTIVE
        return traces.influence(
            losses,
            normalised,
            query=[run.queries[q] for q in grid.query],
            train=[run.items[i] for i in train],
            flow_time=grid.flow_time,
            errors=errors,
        )

    if at_weight == 1:
        return sampled(list(grid.train))
    columns = []
    for item in grid.train:
        weights = np.ones(len(run.items))
        weights[item] = at_weight
        columns.append(sampled([item], weights=weights, trained_weights=weights))
    return _joined(columns).assign_attrs(at_weight=at_weight)


def _joined(columns: Sequence[xr.DataArray]) -> xr.DataArray:
    """Join results of different posteriors along their train items.

    Verdict and diagnostics of a time are those of the column that is worst there: diverged, then
    not mixed, short, mixed, and of these the one with the largest R-hat.

    Returns
    -------
    xarray.DataArray
        With the train items of all columns.
    """
    badness = np.array(
        [
            [(VERDICTS.index(v), r) for v, r in zip(c.verdict.values, c.r_hat.values, strict=True)]
            for c in columns
        ]
    )  # (columns, T, 2)
    worst = np.lexsort((badness[..., 1], badness[..., 0]), axis=0)[-1]
    judged = {
        name: ("time", np.array([columns[k][name].values[t] for t, k in enumerate(worst)]))
        for name, coordinate in columns[0].coords.items()
        if coordinate.dims == ("time",) and name not in ("time", "flow_time")
    }
    return xr.concat(
        [column.drop_vars(list(judged)) for column in columns], "train", combine_attrs="override"
    ).assign_coords(judged)
