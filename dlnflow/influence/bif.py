"""Bayesian influence: the covariance of losses under a posterior localised at the checkpoint.

    p(theta) ~ exp(-n_beta (1/N) sum_k w_k l_k - (localization / 2) |theta - theta_0|^2)
    d E[l_q] / d w_i = -(n_beta / N) Cov(l_i, l_q)

is an exact identity, so BIF has the sign of every other estimator: negative = the train item
helps. Normalised, it is minus the Pearson correlation. Sampling lives in `dlnflow.sampling` (it
needs torch), and what reads the loss traces in `dlnflow.traces` (it needs only numpy and xarray).
"""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import result, traces
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import TWO_LAYERS, Grid, Items, estimator, verb


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
        Networks, strictly increasing within the run.
    query, train : item names, optional
        Default: all.
    normalised : bool
        Minus the Pearson correlation instead of -(n_beta/N) Cov.
    seed : int
        With the step and the chain number it fixes a chain's random numbers.
    errors : bool
        False leaves `standard_error` and `dof` out, which is faster; verdicts stay.
    **sampling
        n_beta, localization, step_size, chains, draws, burn_in, thin, kernel, kernel_options,
        dtype: see `dlnflow.sampling.trace_run`. What is left out is set from the curvature of the
        whole run (`dlnflow.sampling.suggest(run)`), whatever `steps` are.

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
    grid = Grid.of(run, steps, query, train)
    losses = run.traces(grid.steps, seed=seed, **sampling)
    losses.attrs["objective"] = result.OBJECTIVE
    queries, items = (np.asarray(names) for names in (run.queries, run.items))
    return traces.influence(
        losses,
        normalised,
        query=queries[grid.query].tolist(),
        train=items[grid.train].tolist(),
        flow_time=grid.flow_time,
        errors=errors,
    )
