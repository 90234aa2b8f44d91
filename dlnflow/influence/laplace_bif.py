"""Bayesian influence in closed form: the localised posterior as a Gaussian at its mode."""

import warnings
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, result
from dlnflow._support import FloatArray, each
from dlnflow.dynamics.protocol import Curvature, Dynamics
from dlnflow.influence.estimator import LINEAR, TWO_LAYERS, Grid, Items, estimator
from dlnflow.sampling.suggested import default_n_beta

LOCALIZATION_FACTOR = 2.0
"""Default localization / (n_beta * largest negative curvature met); above 1 saddles are held. `bif`
takes 10, with which sampled influence follows retraining better (docs/sampling.md)."""


@estimator(
    title="Bayesian influence, Laplace",
    choice="covariance of the posterior as a Gaussian",
    page="derivations/laplace_bif.md",
    needs=[LINEAR, TWO_LAYERS],
)
def laplace_bif(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    n_beta: ArrayLike | None = None,
    localization: ArrayLike | None = None,
    order: int = 2,
    normalised: bool = False,
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Bayesian influence of the Gaussian approximation of the localised posterior.

    The posterior exp(-n_beta (1/N) sum_k l_k - (localization/2) |theta - theta_t|^2) has its mode
    at the proximal point theta* of lambda = localization / n_beta. With gradients g, Hessians H_i
    and H there, and R = (H + lambda)^-1,

        K[t, q, i] = -(n_beta/N) Cov(l_i, l_q),
        n_beta Cov = g_i^T R g_q + 1/(2 n_beta) tr (H_i R H_q R),

    exact for the Gaussian with quadratic losses, over all parameters of the full hidden width.
    The posterior itself is not Gaussian: terms from the cubic and quartic parts of the losses are
    left out, of the same order 1/n_beta as the second term. Both vanish as n_beta grows at fixed
    lambda, where K tends to ``damped_hessian(..., at="proximal")``; as localization grows,
    K * localization tends to -(n_beta/N) grad l_i^T grad l_q.

    Parameters
    ----------
    run : Run
        Two layers; any width, inputs and optimizer.
    steps : sequence of int, optional
        Networks, strictly increasing within the run.
    n_beta : float or list of float, optional
        Inverse temperature; a list becomes the leading dim ``beta``. Default: 1e4 over the square
        of the largest feature.
    localization : float or list of float, optional
        A list becomes the leading dim ``localization``. Default: n_beta times twice the largest
        negative curvature at these checkpoints, so that the posterior stays near saddles. `bif`
        takes ten times that curvature, because its samples then follow retraining better
        (docs/sampling.md); give both the same to compare them.
    order : {1, 2}
        1 leaves out the trace, in which losses of fitted items still fluctuate.
    normalised : bool
        Minus the correlation of the two losses in place of -(n_beta/N) Cov.
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims ([beta,] [localization,] time, query, train); negative = the train item helps.
        Coordinates: ``smallest_eigenvalue`` of H at theta*, over sweeps and time, always above
        -lambda; ``checkpoint_eigenvalue`` (time), the same at the checkpoint.

    Raises
    ------
    ValueError
        If steps, names or options are invalid, if the network does not have two layers, or if a
        checkpoint sits exactly on a saddle, so that the posterior has no isolated mode.
    dlnflow.DivergenceError
        If the run diverges.

    Warns
    -----
    UserWarning
        Once per call, if lambda is below the negative curvature of some checkpoints: the posterior
        has left those saddles and describes a later stage of training.

    References
    ----------
    Kreer et al. 2025, "Bayesian influence functions for Hessian-free data attribution"; Lee et al.
    2025, eq. 2; docs/derivations/laplace_bif.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = laplace_bif(run, [400, 800], localization=[5e3, 5e4])
    >>> inf.dims, bool((inf.smallest_eigenvalue > -inf.localization / inf.n_beta).all())
    (('localization', 'time', 'query', 'train'), True)
    """
    grid = Grid.of(run, steps, query, train)
    if order not in (1, 2) or isinstance(order, bool):
        raise ValueError(f"`order` must be 1 or 2, got {order!r}.")
    checks.flag("normalised", normalised)
    points = run.curvature(grid.steps)
    start, _ = points.extremes(largest=False)
    n_beta = default_n_beta(run) if n_beta is None else n_beta
    sweep = _sweep(points, n_beta, localization)
    if np.any(sweep.strength.min() + start < 0):
        _warn(start, sweep.strength)
    items, where = np.unique(np.concatenate([grid.query, grid.train]), return_inverse=True)
    strengths, index = np.unique(sweep.strength, return_inverse=True)
    index = index.reshape(sweep.strength.shape)
    values = np.empty((*index.shape, len(points), len(items), len(items)))
    smallest = np.empty((*index.shape, len(points)))
    for number, strength in enumerate(each(strengths, "localised posteriors")):
        lam = np.full(len(points), strength)
        centres = points.proximal(lam)
        first = centres.influence(lam[None], items, items, matrix="hessian")[0]
        second = 0.0 if order == 1 else centres.fluctuations(lam, items) / (2 * len(run.items))
        chosen = index == number
        temperature = np.broadcast_to(1 / sweep.n_beta[:, None], index.shape)[chosen]
        values[chosen] = first - temperature[:, None, None, None] * second
        smallest[chosen], _ = centres.extremes(largest=False)
    if normalised:
        values = _correlation(values)
    q, i = np.split(where.reshape(-1), [len(grid.query)])
    attrs = {"order": order, "normalised": int(normalised)}
    if normalised:
        attrs["units"] = result.CORRELATION
    return _label(grid, sweep, (values[..., q[:, None], i], smallest, start), attrs)


class _Sweep(NamedTuple):
    """n_beta (B,) and localization (B, L), and which of the two the user gave as a list."""

    n_beta: FloatArray
    localization: FloatArray
    beta_listed: bool
    localization_listed: bool

    @property
    def strength(self) -> FloatArray:
        """Lambda = localization / n_beta, shape (B, L)."""
        with np.errstate(over="ignore"):  # refused as too large where it is used
            return self.localization / self.n_beta[:, None]


def _sweep(points: Curvature, n_beta: ArrayLike, localization: ArrayLike | None) -> _Sweep:
    betas, one_beta = checks.positive_list("n_beta", n_beta)
    if localization is not None:
        values, single = checks.positive_list("localization", localization)
        grid = np.broadcast_to(values, (len(betas), len(values)))
        return _Sweep(betas, grid, not one_beta, not single)
    curvature = float(points.negative_curvature().max())
    if not curvature > 0:
        raise ValueError(
            "every checkpoint fits the task perfectly, so that curvature sets no scale; give "
            "`localization`."
        )
    return _Sweep(betas, LOCALIZATION_FACTOR * curvature * betas[:, None], not one_beta, False)


def _warn(start: FloatArray, strength: FloatArray) -> None:
    left = int(np.sum(strength.min() + start < 0))
    warnings.warn(
        f"laplace_bif: localization / n_beta = {strength.min():.3g} is below the negative "
        f"curvature of {left} of {len(start)} checkpoints (up to {-start.min():.3g}). The "
        "posterior has left those saddles for a later stage of training; a larger `localization` "
        "keeps it.",
        stacklevel=4,
    )


def _correlation(covariances: FloatArray) -> FloatArray:
    """Divide by the standard deviations; losses that never move correlate with nothing."""
    spread = np.sqrt(-np.einsum("...ii->...i", covariances))
    spread = np.where(spread > 0, spread, 1.0)
    return covariances / (spread[..., :, None] * spread[..., None, :])


def _label(
    grid: Grid,
    sweep: _Sweep,
    arrays: tuple[FloatArray, FloatArray, FloatArray],
    attrs: dict[str, object],
) -> xr.DataArray:
    """Drop the axes that are no sweeps and record what was chosen."""
    values, smallest, start = arrays
    leading: dict[str, FloatArray] = {}
    coords: dict[str, object] = {"checkpoint_eigenvalue": ("time", start)}
    axes: tuple[int, ...] = ()
    if sweep.beta_listed:
        leading["beta"] = sweep.n_beta
    else:
        attrs["n_beta"], axes = float(sweep.n_beta[0]), (*axes, 0)
    if sweep.localization_listed:
        leading["localization"] = sweep.localization[0]
    else:
        axes = (*axes, 1)
        if sweep.beta_listed:
            coords["localization"] = ("beta", sweep.localization[:, 0])
        else:
            attrs["localization"] = float(sweep.localization[0, 0])
    array = grid.result(values.squeeze(axes), "laplace_bif", attrs=attrs, leading=leading)
    coords["smallest_eigenvalue"] = ((*leading, "time"), smallest.squeeze(axes))
    return array.assign_coords(coords)
