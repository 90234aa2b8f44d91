"""Influence at checkpoints with the Gauss-Newton matrix in place of the Hessian."""

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.damping import Options, damped
from dlnflow.influence.estimator import TWO_LAYERS, Grid, Items, estimator, verb


@estimator(
    title="damped Gauss-Newton",
    choice="the same with the Gauss-Newton matrix",
    page="derivations/damped.md",
    needs=[TWO_LAYERS, verb("curvature")],
)
def damped_gauss_newton(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    damping: ArrayLike = 0.1,
    damping_is: str = "relative",
    at: str = "checkpoint",
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence through the damped inverse Gauss-Newton matrix, exact over all parameters.

    K[t, q, i] = -(1/N) grad l_q^T (F + lambda)^-1 grad l_i,   F = (1/N) sum_k J_k^T J_k,

    with J_k the Jacobian of the outputs W x_k. F is the Hessian without the term in which
    residuals multiply the curvature of the outputs. It is positive semidefinite, so that K is
    defined at every checkpoint, but blind to the instability that makes a mode grow.

    It is diagonal in eigenvectors of products of the layers: one decomposition for all dampings.
    Two-layer networks of any width, any inputs and any optimizer.

    Parameters
    ----------
    run : Run
    steps : sequence of int, optional
        Networks, strictly increasing within the run.
    damping : float or list of float
        lambda; a list becomes the leading dim ``damping``.
    damping_is : {"relative", "absolute"}
        In units of the largest absolute eigenvalue of the *Hessian* at each checkpoint, so that
        equal dampings are comparable with `damped_hessian`; or as it is.
    at : {"checkpoint", "proximal"}
        Where gradients and F are taken, as for `damped_hessian`.
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims ([damping,] time, query, train); negative = the train item helps the query.
        Coordinates over ([damping,] time): ``added_to_diagonal``, lambda itself, and
        ``smallest_eigenvalue`` of the Hessian where F is taken.

    Raises
    ------
    ValueError
        If steps, names or options are invalid, if the network does not have two layers, or if a
        checkpoint sits exactly on a saddle, so that there is no isolated proximal point.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Martens & Grosse 2015; Bae et al. 2022, "If influence functions are the answer, then what is
    the question?"; Lee et al. 2025, appendix C.4; docs/derivations/damped.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = damped_gauss_newton(run, [400, 800], train="dog", query=["cat", "pine"])
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.087, 0.017], [0.084, 0.0]]
    """
    grid = Grid.of(run, steps, query, train)
    options = Options(damping, damping_is, at)
    return damped(grid, "damped_gauss_newton", options, matrix="gauss_newton")
