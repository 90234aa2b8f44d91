"""Influence at checkpoints with the Gauss-Newton matrix in place of the Hessian."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow._support.typing import FloatArray, IntArray
from dlnflow.dynamics.curvature.checkpoints import Checkpoints
from dlnflow.dynamics.linear import Run
from dlnflow.influence.damping import Options, damped
from dlnflow.influence.grid import Grid, Items


def damped_gauss_newton(
    run: Run,
    steps: ArrayLike,
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
    steps : sequence of int
        Checkpoints, strictly increasing within the run.
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
    return damped(grid, "damped_gauss_newton", options, _influence, definite=True)


def _influence(
    points: Checkpoints, lam: FloatArray, query: IntArray, train: IntArray
) -> FloatArray:
    """-(1/N) g_q^T (F + lambda)^-1 g_i for dampings of shape (M, T)."""
    # With F = J^T J and g = J^T f this is f_q^T M (M + lambda)^-1 f_i, where M = J J^T is
    # S^(1/2) W1^T W1 S^(1/2) x I + S x W2 W2^T: in the eigenbasis of W2 W2^T, one n_in x n_in
    # matrix per output direction.
    root = points.input_scale
    inputs = root[:, None] * (points.w1.mT @ points.w1) * root
    b, u = np.linalg.eigh(points.w2 @ points.w2.mT)
    curvature, v = np.linalg.eigh(inputs[:, None] + b[..., None, None] * np.diag(root**2))
    curvature = np.maximum(curvature, 0.0).reshape(len(points), -1)  # rounding below zero

    def source(items: IntArray) -> FloatArray:
        r = u.mT @ points.residual[:, :, items]  # (T, d, n)
        x = v.mT @ (points.x[:, items] / root[:, None])  # (T, d, m, n)
        f = np.moveaxis(r[:, :, None] * x, 3, 1)
        return f.reshape(len(points), len(items), -1)

    f_q, f_i = source(query), source(train).mT
    shares = curvature / (curvature + lam[..., None])  # (M, T, d m)
    rows = [(f_q * share[:, None]) @ f_i for share in shares]
    return -np.stack(rows) / points.n_items
