"""Dot products of gradients, summed over steps: the response kernel without propagation."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.integrate import cumulative_simpson, cumulative_trapezoid

from dlnflow import checks
from dlnflow._support.typing import FloatArray
from dlnflow.dynamics import loops, replay
from dlnflow.dynamics.defaults import MOMENTUM
from dlnflow.dynamics.item_gradients import dot, gram, item_pass, of_items, weighted_gram
from dlnflow.dynamics.linear import Run
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.replay import Moment
from dlnflow.dynamics.schedule import Schedule
from dlnflow.influence.grid import Grid, Items


def tracin(
    run: Run,
    steps: ArrayLike,
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
    steps : sequence of int
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
    if query_at == "final" and (not cumulative or run.optimizer == "flow"):
        raise ValueError(
            "`query_at='final'` needs a sum over the steps of an optimizer: use "
            "`cumulative=True` and an optimizer other than 'flow', or `query_at='each'`."
        )
    if run.optimizer == "flow":
        values = _along_flow(grid, cumulative)
    elif query_at == "final":
        values = _with_final_query(grid)
    else:
        values = _along_steps(grid, cumulative)
    return grid.result(-values, "tracin", attrs=attrs)


def _along_steps(grid: Grid, cumulative: bool) -> FloatArray:
    """(eta/N) grad l_q^T P grad l_i, summed or not, shape (T, n_query, n_train)."""
    total, kept = np.zeros((len(grid.query), len(grid.train))), []
    wanted, stop = set(grid.steps.tolist()), int(grid.steps[-1]) + 1
    for moment in replay.forward(grid.run.problem, stop):
        if cumulative or moment.step in wanted:
            kernel = _kernel(grid, moment)
        if moment.step in wanted:
            kept.append(total.copy() if cumulative else kernel)
        if cumulative:
            total += kernel
    return np.stack(kept)


def _kernel(grid: Grid, moment: Moment) -> FloatArray:
    products, n_items = moment.products, grid.run.task.n_items
    rate = _rate(grid.run, moment)
    # The errors of a pass of the objective carry 1/N each, so one N remains to be given back.
    if isinstance(rate, float):
        return n_items * rate * gram(products, grid.query, grid.train)
    return n_items * weighted_gram(products, rate, grid.query, grid.train)


def _with_final_query(grid: Grid) -> FloatArray:
    """Grad l_q(theta_t) . sum_k (eta/N) P_k grad l_i(theta_k), shape (T, n_query, n_train)."""
    problem, kept = grid.run.problem, []
    moved = [np.zeros((len(grid.train), *w.shape)) for w in problem.weights]
    wanted, stop = set(grid.steps.tolist()), int(grid.steps[-1]) + 1
    for moment in replay.forward(problem, stop):
        if moment.step in wanted:
            # dot with the pass of the objective includes 1/N.
            kept.append(problem.n_items * dot(moved, moment.products)[:, grid.query].T)
        rate = _rate(grid.run, moment)
        factors = [rate] * len(moved) if isinstance(rate, float) else rate
        gradients = of_items(moment.products, grid.train)
        for change, factor, gradient in zip(moved, factors, gradients, strict=True):
            change += factor * gradient
    return np.stack(kept)


def _rate(run: Run, moment: Moment) -> float | Weights:
    """Eta P: what a gradient moves the weights by in the end."""
    if run.optimizer == "momentum":
        return run.learning_rate / (1 - MOMENTUM)
    if run.optimizer == "adam":
        return run.problem.optimizer.preconditioner(moment.base.state)
    return run.learning_rate


def _along_flow(grid: Grid, cumulative: bool) -> FloatArray:
    """The same for gradient flow; the integral by Simpson's rule with one step as spacing."""
    problem, run = grid.run.problem, grid.run
    steps = np.arange(grid.steps[-1] + 1) if cumulative else grid.steps

    def record(weights: Weights) -> FloatArray:
        products = item_pass(weights, problem.x, problem.y)
        return gram(products, grid.query, grid.train) * run.learning_rate / problem.n_items

    unit = Schedule.constant(np.ones(problem.n_items))
    values = loops.run(problem, steps, unit, record)
    if not cumulative:
        return values
    if len(values) < 3:
        return cumulative_trapezoid(values, axis=0, initial=0)[grid.steps]
    return cumulative_simpson(values, axis=0, initial=0)[grid.steps]
