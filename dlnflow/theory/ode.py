"""One Runge-Kutta solver for every flow, and one error where it gives up."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp

from dlnflow._support import FloatArray


def solve(
    what: str,
    slope: Callable[..., FloatArray],
    start: FloatArray,
    times: ArrayLike,
    *,
    begin: float = 0.0,
    rtol: float,
    atol: float,
) -> FloatArray:
    """Solve dz/dt = slope(t, z) by DOP853 from z(begin) = start.

    Parameters
    ----------
    what : str
        What is integrated, for the error.
    slope : function of (t, z)
    start : array, shape (M,)
    times : array, shape (T,)
        Increasing, the last above `begin`, where the integration ends.
    begin : float
    rtol, atol : float
        Tolerances per step.

    Returns
    -------
    array, shape (M, T)

    Raises
    ------
    FloatingPointError
        If the solver gives up, with its reason.
    """
    times = np.asarray(times, dtype=np.float64)
    span = (begin, float(times[-1]))
    found = solve_ivp(slope, span, start, "DOP853", t_eval=times, rtol=rtol, atol=atol)
    if not found.success:
        raise FloatingPointError(f"{what} could not be integrated: {found.message}")
    return found.y
