"""Data value embedding: the unrolled response with Gauss-Newton in place of the Hessian."""

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import DIFFERENTIABLE, Grid, Items, estimator, verb


@estimator(
    title="data value embedding (DVEmb)",
    choice="the tangent with Gauss-Newton matrices",
    page="derivations/unrolling.md",
    needs=[DIFFERENTIABLE, verb("tangents")],
)
def dvemb(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence along the whole run with every Hessian replaced by a Gauss-Newton matrix (DVEmb).

        K[t, q, i] = - sum_{k < t} eta grad l_q(theta_t)^T Phi(t, k) c_i(k) grad l_i(theta_k),
        Phi(t, k) = (1 - eta F_{t-1}) ... (1 - eta F_{k+1}),   F_k = sum_j c_j(k) J_j^T A_j J_j,

    for gradient descent with step eta; other optimizers have the derivative of their own steps. J_j
    is the Jacobian of the outputs for item j at theta_k, A_j the curvature of its loss in the
    outputs (1 for squared errors) and c_j(k) the share of item j in the objective of step k: 1/N,
    or 1/B in a minibatch.

    Approximation: the term of the Hessian in which residuals multiply the curvature of the outputs
    is left out. So displacements never grow, although those along a mode that is being learned do;
    the estimate is `tangent` where outputs are a linear function of the weights, which wide
    networks with large initial weights approach. The published method also replaces J^T A J by
    products of the batch's gradients, stores projected vectors and takes a first-order product.

    Parameters
    ----------
    run : Run or TorchRun
        An optimizer with a derivative; any batch.
    steps : sequence of int, optional
        Strictly increasing within the run.
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query.

    Raises
    ------
    ValueError
        If steps or names are invalid, or the optimizer declares no derivative.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Wang et al. 2024, "Capturing the temporal dependence of training data influence";
    docs/derivations/unrolling.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = dvemb(run, [400, 800], query=["cat", "pine"], train="dog")
    >>> inf.dims
    ('time', 'query', 'train')
    """
    grid = Grid.of(run, steps, query, train)
    values = run.tangents(
        grid.steps, grid.train_directions, query=grid.query, matrix="gauss_newton"
    )
    return grid.result(values, "dvemb")
