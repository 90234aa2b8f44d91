"""Where two free energies cross: the last root of a n + b log n - d log log n + c."""

from collections.abc import Callable
from math import exp, inf, log, nan, pi

from scipy import optimize, special

LARGEST_LOG = 709.0
"""exp of more overflows."""


def last_crossing(a: float, b: float, d: float, c: float) -> float:
    """Log of the largest n with a n + b log n - d log log n + c = 0.

    The first of a, b, -d that is not zero is positive, so the expression ends above zero. Closed
    form unless both a and d differ from zero.

    Returns
    -------
    float
        log n; NaN if the expression is positive at every n (every n > 1 if d != 0).
    """
    if a > 0:
        return _last_root_with_log_log(a, b, d, c) if d else log_lambert(a, b, c)
    if b > 0:  # the same equation one logarithm up, in log n
        return _exp(log_lambert(b, -d, c)) if d else -c / b
    return _exp(c / d)


def log_lambert(slope: float, power: float, constant: float) -> float:
    """Log of the largest z > 0 with slope z + power log z + constant = 0, slope > 0.

    With k = |power| / slope and w = z / k it reads w -+ log w = y, so that w = -W_{-1}(-e^-y) for
    power < 0 (none if y < 1) and w = W_0(e^y) for power > 0.

    Returns
    -------
    float
        log z, or NaN if there is no such z.
    """
    if power == 0:
        return log(-constant / slope) if constant < 0 else nan
    k = abs(power) / slope
    if power < 0:
        y = log(k) + constant / power
        if y < 1:
            return nan
        # W_{-1}(-e^-y) through Wright's omega, which has no e^-y to underflow. Its argument lies on
        # a branch cut, where rounding of pi decides between W_{-1} and W_0: W_{-1} is the smaller.
        return log(k) + log(-min(special.wrightomega(complex(-y, s * pi)).real for s in (1, -1)))
    y = -constant / power - log(k)
    w = special.wrightomega(y)
    return log(k) + (log(w) if y > 0 else y - w)  # y - w does not underflow with w


def _last_root_with_log_log(a: float, b: float, d: float, c: float) -> float:
    """Bracket the root in x = log n > 0 of D(x) = a e^x + b x - d log x + c, a > 0, d != 0."""

    def difference(x: float) -> float:
        return a * exp(x) + b * x - d * log(x) + c

    low = _last_minimum(a, b, d)
    if low > 0 and difference(low) <= 0:
        return _root_above(difference, low)
    if d > 0:  # D -> +infinity at both ends and is positive in between
        return nan
    low = 1.0  # D -> -infinity as x -> 0: one root left of its positive part
    while difference(low) > 0:
        low /= 2
        if low == 0:
            return nan  # n = 1 to all digits: no transition anyone could see
    return _root_above(difference, low)


def _last_minimum(a: float, b: float, d: float) -> float:
    """Place of the last local minimum of D(x) in x > 0; 0 if D has none.

    x D'(x) = a x e^x + b x - d is convex, so its last root follows its own minimum.
    """

    def slope(x: float) -> float:
        return a * x * exp(x) + b * x - d

    target = min(max(-b, a), a * exp(LARGEST_LOG - 10)) / a  # of (1 + x) e^x, capped below overflow
    bottom = float(special.lambertw(target * exp(1)).real) - 1
    return min(_root_above(slope, bottom), LARGEST_LOG) if slope(bottom) < 0 else 0.0


def _root_above(function: Callable[[float], float], low: float) -> float:
    """Root of a function that is <= 0 at `low` and has one sign change above it."""
    high = low + 1.0
    while high < LARGEST_LOG and function(high) <= 0:
        high = low + 2 * (high - low)
    high = min(high, LARGEST_LOG)
    if function(high) <= 0:
        return inf
    return optimize.brentq(function, low, high, xtol=1e-300, rtol=1e-15)


def _exp(x: float) -> float:
    return exp(x) if x < LARGEST_LOG else inf if x == x else nan
