"""What both damped estimators share: dampings, the centre, coordinates and the warning."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support.typing import FloatArray, IntArray
from dlnflow.dynamics.curvature.checkpoints import Checkpoints
from dlnflow.dynamics.curvature.extremes import extreme_eigenvalues
from dlnflow.dynamics.curvature.proximal import proximal_points
from dlnflow.influence.grid import Grid

Influence = Callable[[Checkpoints, FloatArray, IntArray, IntArray], FloatArray]
SCALES = ("relative", "absolute")
CENTRES = ("checkpoint", "proximal")


class Options(NamedTuple):
    """How much is added to the diagonal, in which unit, and where curvature is taken."""

    damping: ArrayLike
    damping_is: str
    at: str


def damped(
    grid: Grid, estimator: str, options: Options, influence: Influence, *, definite: bool
) -> xr.DataArray:
    """Evaluate `influence` at every damping and label it.

    Parameters
    ----------
    grid : Grid
    estimator : str
    options : Options
    influence : function
        (checkpoints, dampings (M, T), query, train) -> (M, T, n_query, n_train).
    definite : bool
        Whether the matrix is positive semidefinite, so that no warning is due.

    Raises
    ------
    ValueError
        If an option is invalid or the network does not have two layers.
    """
    dampings, single = checks.positive_list("damping", options.damping)
    checks.one_of("damping_is", options.damping_is, SCALES)
    checks.one_of("at", options.at, CENTRES)
    points = Checkpoints.of(grid.run, grid.steps, estimator)
    smallest, largest = extreme_eigenvalues(points)
    unit = largest if options.damping_is == "relative" else np.ones(len(points))
    lam = dampings[:, None] * unit
    pair = grid.query, grid.train
    if options.at == "proximal":
        centres = [proximal_points(points, row) for row in lam]
        rows = [influence(c, row[None], *pair) for c, row in zip(centres, lam, strict=True)]
        values = np.concatenate(rows)
        smallest = np.stack([extreme_eigenvalues(c, largest=False)[0] for c in centres])
    else:
        values = influence(points, lam, *pair)
        smallest = np.broadcast_to(smallest, lam.shape)
        if not definite:
            _warn(estimator, lam, smallest)
    attrs = {"damping_is": options.damping_is, "at": options.at}
    dims: tuple[str, ...] = ("damping", "time")
    if single:
        values, lam, smallest, dims = values[0], lam[0], smallest[0], ("time",)
        attrs["damping"] = float(dampings[0])
    leading = None if single else {"damping": dampings}
    array = grid.result(values, estimator, attrs=attrs, leading=leading)
    return array.assign_coords(added_to_diagonal=(dims, lam), smallest_eigenvalue=(dims, smallest))


def _warn(estimator: str, lam: FloatArray, smallest: FloatArray) -> None:
    indefinite = smallest + lam <= 0
    if np.any(indefinite):
        times, every = int(np.sum(np.any(indefinite, axis=0))), lam.shape[1]
        warnings.warn(
            f"{estimator}: H + damping is not positive definite at {times} of {every} checkpoints "
            f"(least eigenvalue {np.min((smallest + lam)[indefinite]):.3g}), so that influence "
            "there is no response of a minimum and can have either sign. See the coordinate "
            "`smallest_eigenvalue`; use a larger `damping`, or at='proximal'.",
            stacklevel=4,
        )
