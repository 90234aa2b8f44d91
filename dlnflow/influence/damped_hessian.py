"""The classical influence function at checkpoints: dynamics frozen, curvature damped."""

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.damping import Options, damped
from dlnflow.influence.estimator import TWO_LAYERS, Grid, Items, estimator, verb


@estimator(
    title="damped Hessian",
    choice="dynamics frozen at theta_t: (H + lambda)^-1",
    page="derivations/damped.md",
    needs=[TWO_LAYERS, verb("curvature")],
)
def damped_hessian(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    damping: ArrayLike = 0.1,
    damping_is: str = "relative",
    at: str = "checkpoint",
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence through the damped inverse Hessian, exact over all parameters.

    K[t, q, i] = -(1/N) grad l_q^T (H + lambda)^-1 grad l_i,    H the Hessian of (1/N) sum_k l_k.

    This is the response of a minimum of L + (lambda/2) |theta - theta_t|^2 to the weight of item
    i. A checkpoint in the middle of training is not that minimum: with ``at="proximal"`` gradients
    and Hessian are taken where the minimum is, and K is its exact response. At the checkpoint
    itself K is the textbook formula, which means something only where H + lambda > 0.

    Linear networks of two layers, of any width, any inputs and any optimizer. A torch model has a
    dense factor up to 4,000 parameters and conjugate gradients to 1e-10 (1e-5 in float32) beyond,
    which need H + lambda > 0 and the extra `curvature`.

    Parameters
    ----------
    run : Run
    steps : sequence of int, optional
        Networks, strictly increasing within the run.
    damping : float or list of float
        lambda; a list becomes the leading dim ``damping``.
    damping_is : {"relative", "absolute"}
        In units of the largest absolute eigenvalue of H at each checkpoint, or as it is, in units
        of the curvature of (1/N) sum_k l_k.
    at : {"checkpoint", "proximal"}
        Where gradients and Hessian are taken. The proximal point, argmin L + (lambda/2)
        |theta - theta_t|^2, is an implicit Euler step of length 1/lambda ahead.
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims ([damping,] time, query, train); negative = the train item helps the query.
        Coordinates over ([damping,] time): ``added_to_diagonal``, lambda itself, and
        ``smallest_eigenvalue`` of H where it is taken. Their sum is positive where H + lambda is
        positive definite, always so at the proximal point.

    Raises
    ------
    ValueError
        If steps, names or options are invalid, if the network does not have two layers, or if a
        checkpoint sits exactly on a saddle, so that there is no isolated proximal point.
    dlnflow.DivergenceError
        If the run diverges.

    Warns
    -----
    UserWarning
        Once per call, if H + lambda is not positive definite at some checkpoints.

    References
    ----------
    Koh & Liang 2017, "Understanding black-box predictions via influence functions"; Lee et al.
    2025, appendix C.4; docs/derivations/damped.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = damped_hessian(run, [800, run.n_steps], damping=[0.1, 1.0], at="proximal")
    >>> inf.dims, bool((inf.smallest_eigenvalue + inf.added_to_diagonal > 0).all())
    (('damping', 'time', 'query', 'train'), True)
    """
    grid = Grid.of(run, steps, query, train)
    options = Options(damping, damping_is, at)
    return damped(grid, "damped_hessian", options, matrix="hessian")
