"""Exact derivative of the training run with respect to the weight of a training item."""

from inspect import signature

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import DIFFERENTIABLE, Grid, Items, estimator, verb


@estimator(
    title="exact tangent",
    choice="the exact derivative of training",
    page="derivations/response.md",
    needs=[DIFFERENTIABLE, verb("tangents")],
)
def tangent(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    at_weight: float = 1.0,
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence as the exact first-order response of the actual training run.

    K[t, q, i] = d l_q(theta_t) / d w_i at w_i = ``at_weight`` and all other weights 1, with w_i
    changed for the whole run and the initial weights fixed. At weight 1 that is the influence of
    an item that is trained on, at weight 0 that of one that is not: the effect of its introduction.
    For gradient descent with step eta the derivative of the weights obeys

        theta'_{k+1} = (I - eta H_k) theta'_k - (eta / N) grad l_i(theta_k),   theta'_0 = 0,

    and K = grad l_q . theta'; momentum, Adam and gradient flow have the corresponding exact
    recursion (for Adam through its moments). This is the response kernel with the full Hessian at
    every step, integrated over training: HyDRA without its approximation.

    Parameters
    ----------
    run : Run
        Any optimizer, depth and inputs.
    steps : sequence of int, optional
        Times at which influence is wanted, strictly increasing within the run.
    at_weight : float
        Weight >= 0 of the train item at which the derivative is taken. Other than 1 it needs a
        training for every train item, in one batch.
    query, train : item names, optional
        Default: all. Cost is proportional to the number of train items.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query.

    Raises
    ------
    ValueError
        If steps, names or `at_weight` are invalid, or the run has one weight only.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Chen et al. 2021, "HyDRA: Hypergradient data relevance analysis"; docs/derivations/response.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = tangent(run, [400, 800], query=["cat", "pine"], train="dog")
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.507, 0.052], [0.096, -0.006]]
    """
    grid = Grid.of(run, steps, query, train)
    at_weight, at = grid.at_weight(at_weight), {}
    if at_weight != 1:
        if "weights" not in signature(run.tangents).parameters:
            raise ValueError(
                f"`at_weight` must be 1 for {run.kind}, which is differentiated at the weights it "
                f"was trained with; got {at_weight:g}. `leave_one_out` retrains."
            )
        at = {"weights": 1 + (at_weight - 1) * grid.train_directions}
    values = run.tangents(grid.steps, grid.train_directions, query=grid.query, **at)
    return grid.result(values, "tangent", attrs={"at_weight": at_weight} if at else None)
