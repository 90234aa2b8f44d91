"""Influence at checkpoints with the Gauss-Newton matrix in place of the Hessian."""

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
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
    approximation: str | None = None,
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence through the damped inverse Gauss-Newton matrix, over all parameters.

    K[t, q, i] = -(1/N) grad l_q^T (F + lambda)^-1 grad l_i,   F = (1/N) sum_k J_k^T J_k,

    with J_k the Jacobian of the outputs W x_k. F is the Hessian without the term in which
    residuals multiply the curvature of the outputs. It is positive semidefinite, so that K is
    defined at every checkpoint, but blind to the instability that makes a mode grow.

    Linear networks of two layers, of any width, any inputs and any optimizer, have one
    decomposition for all dampings. A torch model has a dense factor up to 4,000 parameters and
    conjugate gradients to 1e-10 (1e-5 in float32) beyond, which need the extra `curvature`.

    Approximation "ekfac": layers do not interact, and the block of a layer with inputs a (with a 1
    for the bias) and output gradients g is diagonal in the eigenvectors of E[a a^T] x E[g g^T], the
    diagonal being that of F. It is the block itself where a and g are independent, as in deep
    linear networks with squared errors, and F for one linear layer. As damping grows it tends to
    the exact form. docs/derivations/damped.md measures it.

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
    approximation : {None, "ekfac"}
        For torch models of linear and convolutional layers.
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
        If steps, names or options are invalid, if the network does not have two layers, if a
        checkpoint sits exactly on a saddle, so that there is no isolated proximal point, or if the
        model has no EK-FAC.
    ModuleNotFoundError
        If curvlinops is needed and not installed.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Martens & Grosse 2015; Bae et al. 2022, "If influence functions are the answer, then what is
    the question?"; Lee et al. 2025, appendix C.4; docs/derivations/damped.md. EK-FAC: George et al.
    2018, "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis".

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = damped_gauss_newton(run, [400, 800], train="dog", query=["cat", "pine"])
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.087, 0.017], [0.084, 0.0]]
    """
    grid = Grid.of(run, steps, query, train)
    matrix = "gauss_newton"
    if approximation is not None:
        matrix = checks.one_of("approximation", approximation, ("ekfac",))
        if run.linear:
            raise ValueError(
                "`approximation` is for torch models (dlnflow.TorchRun); a deep linear network has "
                "the exact matrix at no cost. Leave it out."
            )
    options = Options(damping, damping_is, at)
    found = damped(grid, "damped_gauss_newton", options, matrix=matrix)
    return found.assign_attrs(approximation=approximation or "none")
