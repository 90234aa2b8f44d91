"""Dot products of gradients, summed over steps: the response kernel without propagation."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.integrate import cumulative_simpson, cumulative_trapezoid

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import DISPLACEMENT, Grid, Items, estimator, verb


@estimator(
    title="TracIn",
    choice="Phi = identity, summed over steps",
    page="derivations/unrolling.md",
    needs=[DISPLACEMENT, verb("moments")],
)
def tracin(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    cumulative: bool = True,
    query_at: str = "each",
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence from gradient dot products along the run (TracIn).

        K[t, q, i] = - sum_{k < t} (eta / N) grad l_q(theta_k)^T P_k grad l_i(theta_k),

    with P = 1 for gradient descent and flow (there the sum over k is the integral). What a
    gradient moves is what the optimizer makes of it: for momentum beta P = 1/(1 - beta), the sum
    of all displacements it causes, and for Adam eta P_k is diagonal, the step of each weight per
    unit of its mean gradient,

        eta / [(1 - beta1^(k+1)) (sqrt(v_{k+1}) / sqrt(1 - beta2^(k+1)) + epsilon)],

    with v_{k+1}, which the step from theta_k has updated, held fixed.

    Approximation: a displacement stays as it is, however later steps would amplify or undo it
    (Phi = identity in the response kernel); docs/why_peaks_differ.md measures what that costs.

    Parameters
    ----------
    run : Run
        Any optimizer, depth and inputs.
    steps : sequence of int, optional
    cumulative : bool
        False: the kernel at theta_t alone, - (eta / N) grad l_q^T P_t grad l_i, the effect of
        one step.
    query_at : {"each", "final"}
        Where the query's gradient is taken: at theta_k, as published, or at theta_t, so that
        K[t] = - grad l_q(theta_t) . sum_k (eta / N) P_k grad l_i(theta_k) is `tangent` with all
        Hessians dropped (HyDRA in its approximate form).
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query.

    Raises
    ------
    ValueError
        If steps, names or `query_at` are invalid, or ``query_at="final"`` is combined with
        ``cumulative=False`` or with flow.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Pruthi et al. 2020, "Estimating training data influence by tracing gradient descent";
    docs/derivations/unrolling.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = tracin(run, [400, 800], query=["cat", "pine"], train="dog")
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.121, -0.002], [-0.248, 0.048]]
    """
    grid = Grid.of(run, steps, query, train)
    checks.one_of("query_at", query_at, ("each", "final"))
    checks.flag("cumulative", cumulative)
    attrs = {"cumulative": int(cumulative), "query_at": query_at}
    continuous = run.traits.continuous
    if query_at == "final" and (not cumulative or continuous):
        raise ValueError(
            "`query_at='final'` needs a sum over the steps of an optimizer: use "
            "`cumulative=True` and an optimizer other than 'flow', or `query_at='each'`."
        )
    if query_at == "final":
        values = _with_final_query(grid)
    elif continuous and cumulative:
        values = _integral(grid)
    else:
        values = _each(grid, cumulative)
    return grid.result(-values, "tracin", attrs=attrs)


def _each(grid: Grid, cumulative: bool) -> FloatArray:
    """Grad l_q^T (eta P) grad l_i / N, summed or not, shape (T, n_query, n_train)."""
    total, kept = np.zeros((len(grid.query), len(grid.train))), []
    wanted, last = set(grid.steps.tolist()), int(grid.steps[-1])
    for moment in grid.run.moments(last + 1):
        if moment.step in wanted and cumulative:
            kept.append(total.copy())
        elif moment.step in wanted:
            kept.append(moment.kernel(grid.query, grid.train))
        if cumulative and moment.step < last:
            total += moment.kernel(grid.query, grid.train)
    return np.stack(kept)


def _integral(grid: Grid) -> FloatArray:
    """The same along gradient flow, by Simpson's rule with one step as spacing."""
    every = grid.run.moments(int(grid.steps[-1]) + 1)
    values = np.stack([moment.kernel(grid.query, grid.train) for moment in every])
    if len(values) < 3:
        return cumulative_trapezoid(values, axis=0, initial=0)[grid.steps]
    return cumulative_simpson(values, axis=0, initial=0)[grid.steps]


def _with_final_query(grid: Grid) -> FloatArray:
    """Grad l_q(theta_t) . sum_k (eta/N) P_k grad l_i(theta_k), shape (T, n_query, n_train)."""
    kept, moved = [], None
    wanted, last = set(grid.steps.tolist()), int(grid.steps[-1])
    for moment in grid.run.moments(last + 1):
        change = moment.displacements(grid.train)
        moved = [0 * part for part in change] if moved is None else moved
        if moment.step in wanted:
            kept.append(moment.along(moved, grid.query))
        moved = [total + part for total, part in zip(moved, change, strict=True)]
    return np.stack(kept)
