"""Confidence intervals of sampled influence.

    lower, upper = value -+ t_{nu, (1 + level) / 2} standard_error

with nu the degrees of freedom of the standard error (coordinate `dof`): an error from four chains
has three, and 1.96 of it would cover 87 % instead of 95 %.
"""

import math

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from dlnflow import checks
from dlnflow._support import FloatArray

TWO_SIGMA = math.erf(math.sqrt(2))
"""Probability within two standard deviations of a normal law, 0.9545."""


def interval(array: xr.DataArray, level: float = 0.95) -> xr.Dataset:
    """Interval that holds the exact value with probability `level`, for every entry.

    Parameters
    ----------
    array : DataArray
        With the coordinate `standard_error` and its degrees of freedom, `dof`, as `influence` and
        `groups` return it. Without `dof`, or where it is NaN, the error counts as exact (normal
        law).
    level : float
        Between 0 and 1.

    Returns
    -------
    Dataset
        `lower` and `upper`, dims of `array`; NaN where there is no standard error.

    Raises
    ------
    TypeError
        If it is no DataArray.
    ValueError
        If `array` has no standard errors or `level` is not between 0 and 1.

    Examples
    --------
    >>> import xarray as xr
    >>> mean = xr.DataArray(1.0, coords={"standard_error": 0.1, "dof": 3})
    >>> found = interval(mean)
    >>> round(float(found.lower), 3), round(float(found.upper), 3)
    (0.682, 1.318)
    """
    if not isinstance(array, xr.DataArray):
        raise TypeError(f"`array` must be an xarray.DataArray, got {type(array).__name__}.")
    if "standard_error" not in array.coords:
        raise ValueError(
            "`array` must have the coordinate `standard_error`, as sampled influence has; it has "
            f"{', '.join(map(str, array.coords)) or 'none'}. Compute it with errors=True."
        )
    dof = array.coords.get("dof", xr.DataArray(np.inf)).reset_coords(drop=True)
    error = array.standard_error.reset_coords(drop=True)
    half = error * xr.apply_ufunc(t_quantile, dof, kwargs={"level": level})
    bare = array.reset_coords(drop=True)
    lower, upper = ((bare + sign * half).transpose(*array.dims) for sign in (-1, 1))
    return xr.Dataset({"lower": lower, "upper": upper})


def t_quantile(dof: ArrayLike, level: float = 0.95) -> FloatArray:
    """Return how many standard errors on either side are an interval of probability `level`.

    Parameters
    ----------
    dof : array
        Degrees of freedom of the standard error; NaN counts as infinitely many.
    level : float
        Between 0 and 1.

    Returns
    -------
    array

    Raises
    ------
    ValueError
        If `level` is not between 0 and 1.
    """
    if not 0 < checks.positive("level", level) < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}; 0.95 is 95 %.")
    dof = np.asarray(dof, dtype=np.float64)
    return stdtrit(np.where(np.isnan(dof), np.inf, dof), (1 + level) / 2)
