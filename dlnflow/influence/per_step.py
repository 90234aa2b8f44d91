"""The response kernel itself: the effect of an item's weight at one step on a later loss."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import DIFFERENTIABLE, STEPS, Grid, Items, estimator, verb


@estimator(
    title="per step",
    choice="the weight of an item at a single step (adjoint)",
    page="derivations/unrolling.md",
    needs=[STEPS, DIFFERENTIABLE, verb("adjoint")],
    in_all=False,
)
def per_step(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    at: str | int = "end",
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence of an item's weight at one single step on a later loss, to first order.

        e[k, q, i] = d l_q(theta_K) / d w_i(k)
                   = -(eta / N) grad l_q(theta_K)^T Phi grad l_i(theta_k),
               Phi = (I - eta H_{K-1}) ... (I - eta H_{k+1}),      K = at,

    for gradient descent with step eta; momentum and Adam have the corresponding exact product of
    the derivatives of their steps. This is the response kernel itself. Its sum over all k < K is
    `tangent` at step K, its sum over a window is ``windowed(..., first_order=True)``.

    Parameters
    ----------
    run : Run
        Optimizer "gd", "momentum" or "adam"; any depth and inputs.
    steps : sequence of int, optional
        Steps k: the ``time`` of the result. Steps at or after ``at`` have no effect (0).
    at : "end" or int
        Step at which the losses are measured; "end" is the last of the run.
    query, train : item names, optional
        Default: all. The cost is one sweep back, proportional to the number of queries.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query.

    Raises
    ------
    ValueError
        If steps, ``at`` or names are invalid, or the optimizer is "flow".
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Hara et al. 2019, "Data cleansing for models trained with SGD"; docs/derivations/unrolling.md.

    Examples
    --------
    >>> import numpy as np
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(3), n_steps=200)
    >>> one, whole = per_step(run, range(200)), dln.influence.tangent(run, [200])
    >>> bool(np.allclose(one.sum("time"), whole[0], rtol=1e-10))
    True
    """
    grid = Grid.of(run, steps, query, train)
    measured = checks.measured_step(at, run.n_steps, within=False)
    values = np.zeros((len(grid.steps), len(grid.query), len(grid.train)))
    position = {int(step): k for k, step in enumerate(grid.steps)}
    for step, effect in run.adjoint(measured, grid.query):
        if step in position:
            values[position[step]] = effect[:, grid.train]
    return grid.result(values, "per_step", attrs={"at": str(at)})
