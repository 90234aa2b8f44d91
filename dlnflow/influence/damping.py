"""What both damped estimators share: dampings, the centre, coordinates and the warning."""

import warnings
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.influence.estimator import Grid

SCALES = ("relative", "absolute")
CENTRES = ("checkpoint", "proximal")


class Options(NamedTuple):
    """How much is added to the diagonal, in which unit, and where curvature is taken."""

    damping: ArrayLike
    damping_is: str
    at: str


def damped(grid: Grid, estimator: str, options: Options, *, matrix: str) -> xr.DataArray:
    """Evaluate influence through the damped inverse of a matrix at every damping, and label it.

    Parameters
    ----------
    grid : Grid
    estimator : str
    options : Options
    matrix : {"hessian", "gauss_newton", "ekfac"}
        The last two are positive semidefinite, so that no warning is due.

    Raises
    ------
    ValueError
        If an option is invalid.
    """
    dampings, single = checks.positive_list("damping", options.damping)
    checks.one_of("damping_is", options.damping_is, SCALES)
    checks.one_of("at", options.at, CENTRES)
    points = grid.run.curvature(grid.steps)
    smallest, largest = points.extremes()
    unit = np.ones(len(points))
    if options.damping_is == "relative":
        unit = np.maximum(largest, -smallest)
    lam = dampings[:, None] * unit
    pair = grid.query, grid.train
    if options.at == "proximal":
        centres = [points.proximal(row) for row in lam]
        rows = zip(centres, lam, strict=True)
        values = np.concatenate([c.influence(row[None], *pair, matrix=matrix) for c, row in rows])
        smallest = np.stack([c.extremes(largest=False)[0] for c in centres])
    else:
        values = points.influence(lam, *pair, matrix=matrix)
        smallest = np.broadcast_to(smallest, lam.shape)
        if matrix == "hessian":
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
            stacklevel=5,
        )
