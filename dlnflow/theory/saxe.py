"""Strength of one aligned mode of a deep linear network over time.

A balanced network of L layers whose layers are aligned with the singular vectors of its target
learns every singular value s on its own:

    tau da/dt = L a^(2 - 2/L) (s - a),    a(0) = a0.

Two layers have the sigmoid of Saxe et al. (2014) as solution, ``a = s e^{2st/tau} /
(e^{2st/tau} - 1 + s/a0)``; it is computed here without overflow or cancellation. More layers have
an implicit solution: with z = a/s, v = z^(1/L), p = 2 - 2/L and T = s^p t / tau it is
T = G(v) - G(v0),

    G(v) = v^(2-L)/(2-L) - (1/L) sum_k w_k^2 Log(1 - v conj(w_k)),    w_k = e^(2 pi i k / L).

It is solved by Newton iteration in q = ln(z/(1-z)) below the final strength and q = ln(z-1) above
it, where the gap s - a keeps its relative accuracy. The derivation is docs/derivations/saxe.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from dlnflow._support import FloatArray
from dlnflow.checks import nonnegative, positive_array, whole_numbers

LARGEST = 1e300
"""Times and exponents are cut here, where every mode has long arrived."""
LATE = 650.0
"""Beyond this exponent e^-u is no longer a normal float64 and logarithms take over."""
SERIES_TERMS = 19
"""Terms of the power series of psi below u = 1, for a relative 1e-17."""
NEGLIGIBLE = 1e-20
"""A final strength smaller than this times a(t) has not been felt yet: s = 0 is used."""
FAR = 40.0
"""Beyond |q| = FAR, e^-|q| vanishes against 1 and logarithms are replaced by their limits."""
TAIL = 8.0
"""Above z = TAIL the series of G in 1/z is used: the closed form would cancel."""
TAIL_TERMS = 22
MAX_ITERATIONS = 100
SHORT = 0.05
"""Below this relative change of strength and gap, da/ds is a quadrature over time."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)


class ModeStrength(NamedTuple):
    """Mode strength and its derivatives, all of the broadcast shape.

    Attributes
    ----------
    a : array
        Strength a(t).
    gap : array
        What is still missing, g = s - a, to full relative accuracy also when a rounds to s.
    ds, da0, dt : array
        Derivatives of a with respect to s, a0 and t.
    """

    a: FloatArray
    gap: FloatArray
    ds: FloatArray
    da0: FloatArray
    dt: FloatArray


def mode_strength(
    t: ArrayLike, s: ArrayLike, a0: ArrayLike, tau: ArrayLike = 1.0, depth: ArrayLike = 2
) -> FloatArray:
    """Strength a(t) of a mode that obeys tau da/dt = L a^(2-2/L) (s - a).

    Parameters
    ----------
    t : array_like
        Time >= 0, in the unit of `tau`.
    s : array_like
        Final strength >= 0, the singular value of the target map.
    a0 : array_like
        Initial strength >= 0. A mode that starts at 0 stays there.
    tau : array_like
        Time constant > 0.
    depth : array_like of int
        Number of weight matrices L >= 2.

    Returns
    -------
    array
        a(t), of the shape that all arguments broadcast to.

    Raises
    ------
    ValueError
        If an argument is negative, not finite or of a wrong range.

    Notes
    -----
    Relative error below 1e-12, for two layers below 1e-15, in units of the condition number: one
    rounding of t changes a by (t/a) da/dt times as much, a factor that reaches about
    (s/a0)^(1-2/L) after the plateau of a tiny start. Measurements: docs/derivations/saxe.md.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", arXiv:1312.6120.

    Examples
    --------
    >>> mode_strength([0.0, 2.3, 10.0], s=2.0, a0=2e-4).round(4).tolist()
    [0.0002, 0.9949, 2.0]
    """
    return mode_strength_derivatives(t, s, a0, tau, depth).a


def mode_strength_derivatives(
    t: ArrayLike, s: ArrayLike, a0: ArrayLike, tau: ArrayLike = 1.0, depth: ArrayLike = 2
) -> ModeStrength:
    """a(t), the gap s - a(t) and the derivatives of a with respect to s, a0 and t.

    Parameters
    ----------
    t, s, a0, tau, depth : array_like
        As for `mode_strength`.

    Returns
    -------
    ModeStrength
        Five arrays of the broadcast shape. At a0 = 0, `da0` is the limit from above (which
        overflows to infinity for two layers beyond s t / tau = 355).

    Raises
    ------
    ValueError
        As `mode_strength`.

    Examples
    --------
    >>> m = mode_strength_derivatives(40.0, s=1.0, a0=0.01)
    >>> float(m.a), f"{m.gap:.3g}"
    (1.0, '1.79e-33')
    """
    depth = whole_numbers("depth", depth, smallest=2)
    checked = (
        nonnegative("t", t),
        nonnegative("s", s),
        nonnegative("a0", a0),
        positive_array("tau", tau),
    )
    return ModeStrength(*_by_depth(_two_layers, _deep, checked, depth))


def half_time(
    s: ArrayLike, a0: ArrayLike, tau: ArrayLike = 1.0, depth: ArrayLike = 2
) -> FloatArray:
    """Time at which a mode reaches half its final strength; two layers: (tau/2s) ln(s/a0 - 1).

    Parameters
    ----------
    s, a0, tau, depth : array_like
        As for `mode_strength`.

    Returns
    -------
    array
        It has the broadcast shape; 0 where a0 >= s/2 already, infinite where a0 = 0 < s.

    Raises
    ------
    ValueError
        As `mode_strength`.

    Examples
    --------
    >>> round(float(half_time(2.0, 2e-4)), 4), float(half_time(2.0, 1.0))
    (2.3026, 0.0)
    """
    depth = whole_numbers("depth", depth, smallest=2)
    checked = (
        nonnegative("s", s),
        nonnegative("a0", a0),
        positive_array("tau", tau),
    )
    return _by_depth(_two_layer_half_time, _deep_half_time, checked, depth)[0]


def _by_depth(
    two: Callable[..., tuple[FloatArray, ...]],
    deep: Callable[..., tuple[FloatArray, ...]],
    arguments: tuple[FloatArray, ...],
    depth: FloatArray,
) -> list[FloatArray]:
    """Broadcast everything and evaluate `two` or `deep(..., L)` for every depth that occurs."""
    *arguments, depth = np.broadcast_arrays(*arguments, depth)
    with np.errstate(all="ignore"):
        if depth.size == 0 or np.all(depth == depth.flat[0]):
            level = int(depth.flat[0]) if depth.size else 2
            parts = two(*arguments) if level == 2 else deep(*arguments, level)
            return [np.asarray(part)[()] for part in parts]
        results: list[FloatArray] = []
        for level in np.unique(depth).astype(int):
            at = depth == level
            inside = [argument[at] for argument in arguments]
            parts = two(*inside) if level == 2 else deep(*inside, level)
            results = results or [np.empty(depth.shape) for _ in parts]
            for result, part in zip(results, parts, strict=True):
                result[at] = part
        return results


def _two_layers(
    t: FloatArray, s: FloatArray, a0: FloatArray, tau: FloatArray
) -> tuple[FloatArray, ...]:
    """The sigmoid from u = 2 s t / tau and the growth e^-u that a mode without limit would undo."""
    x = np.minimum(2 * t / tau, LARGEST)
    u = np.minimum(s * x, LARGEST)
    e = np.exp(-u)
    reach = np.where(u > 1e-16, -np.expm1(-u) / s, x)  # (1 - e^-u)/s, the limit of a for a0 -> inf
    a = np.where(a0 > 1, 1 / (e / a0 + reach), a0 / (e + a0 * reach))
    ratio = np.where(a0 > 0, a / a0, np.exp(u))
    decay = np.where(a0 > 0, e * ratio, 1.0)  # (s - a) / (s - a0)
    late = u > LATE
    if np.any(late):
        exponent = u + np.log(a0) - np.log(s)
        a = np.where(late, s * expit(exponent), a)
        ratio = np.where(late & (a0 > 0), a / a0, ratio)
        decay = np.where(late, expit(-exponent), decay)
    a = np.where(t == 0, a0, a)
    gap = decay * (s - a0)
    curvature = np.where(u < 1, (a * x) ** 2 * _psi(u), (a / s) ** 2 * (1 - e * (1 + u)))
    ds = decay * a * x + curvature
    return a, gap, ds, ratio * decay, 2 / tau * (a * gap)


def _two_layer_half_time(s: FloatArray, a0: FloatArray, tau: FloatArray) -> tuple[FloatArray, ...]:
    growth = np.log((s - a0) / a0)
    return (np.where(2 * a0 >= s, 0.0, tau * growth / (2 * s)),)


def _psi(u: FloatArray) -> FloatArray:
    """(1 - e^-u (1 + u)) / u^2 = sum_k (-u)^k / (k! (k + 2)) for 0 <= u <= 1."""
    u = np.minimum(u, 1.0)
    total, factorial = np.zeros_like(u), 1.0
    coefficients = []
    for k in range(SERIES_TERMS):
        factorial *= max(k, 1)
        coefficients.append(1 / (factorial * (k + 2)))
    for coefficient in reversed(coefficients):
        total = coefficient - u * total
    return total


def _deep(
    t: FloatArray, s: FloatArray, a0: FloatArray, tau: FloatArray, depth: int
) -> tuple[FloatArray, ...]:
    """(a, gap, da/ds, da/da0, da/dt) for L > 2; the arguments have one common shape."""
    p = 2 - 2 / depth
    null = _no_target(t, s, a0, tau, depth)
    rest = (a0 > 0) & (a0 != s) & (s > NEGLIGIBLE * null[0])
    still = _resting(t, s, a0, tau, depth)
    use_still = (a0 == 0) | ((a0 == s) & (s > 0))
    results = [np.array(np.where(use_still, b, a)) for a, b in zip(null, still, strict=True)]
    if np.any(rest):
        moving = _strength(*(np.asarray(v)[rest] for v in (t, s, a0, tau)), depth)
        for result, part in zip(results, moving, strict=True):
            result[rest] = part
    a, gap = results[:2]
    return (*results, depth / tau * (a**p * gap))


def _deep_half_time(
    s: FloatArray, a0: FloatArray, tau: FloatArray, depth: int
) -> tuple[FloatArray, ...]:
    """Time tau s^-p [G(2^(-1/L)) - G(v0)]; 0 where the mode starts at s/2 or above."""
    later = 2 * a0 < s
    q0 = np.where(later & (a0 > 0), np.log(a0 / np.abs(s - a0)), 0.0)
    time = tau * s ** (2 / depth - 2) * (_below(np.zeros_like(q0), depth) - _below(q0, depth))
    return (np.where(later, np.where(a0 > 0, time, np.inf), 0.0),)


def _no_target(
    t: FloatArray, s: FloatArray, a0: FloatArray, tau: FloatArray, depth: int
) -> tuple[FloatArray, ...]:
    """Algebraic decay for s = 0, where a^-p grows linearly in time."""
    p = 2 - 2 / depth
    growth = p * depth * (t / tau) * a0**p
    log_growth = np.log(p * depth) + np.log(t) - np.log(tau) + p * np.log(a0)
    log_ratio = -np.where(growth < 1e300, np.log1p(growth), log_growth) / p
    a = a0 * np.exp(log_ratio)
    return a, s - a, -np.expm1((p + 1) * log_ratio) / (p + 1), np.exp((p + 1) * log_ratio)


def _resting(
    t: FloatArray, s: FloatArray, a0: FloatArray, tau: FloatArray, depth: int
) -> tuple[FloatArray, ...]:
    """The fixed points a0 = 0 (neutral for L > 2) and a0 = s (stable)."""
    decay = np.minimum(depth * s ** (2 - 2 / depth) * t / tau, 1e300)
    at_zero = a0 == 0
    ds = np.where(at_zero, 0.0, -np.expm1(-decay))
    return a0, s - a0, ds, np.where(at_zero, 1.0, np.exp(-decay))


def _strength(
    t: FloatArray, s: FloatArray, a0: FloatArray, tau: FloatArray, depth: int
) -> tuple[FloatArray, ...]:
    """(a, gap, da/ds, da/da0) between the fixed points."""
    p = 2 - 2 / depth
    time = np.minimum(s**p * (t / tau), 1e300)
    log_a, log_gap = _solve(time, s, a0, depth)
    a, gap = a0 * np.exp(log_a), (s - a0) * np.exp(log_gap)
    da0 = np.exp(p * log_a + log_gap)
    z = a / s
    ds = z + p * depth * time * z**p * (gap / s) - (a0 / s) * da0
    ds = np.where(z > TAIL, _far_above_ds(s / a, s / a0, p), ds)
    # The three terms cancel while little has happened; there the integral over time is short.
    short = (np.abs(log_a) < SHORT) & (np.abs(log_gap) < SHORT)
    if np.any(short):
        inside = (v[short] for v in (time, s, a0, z, log_gap))
        ds[short] = _short_time_ds(*inside, depth)
    return a, gap, ds, da0


def _far_above_ds(y: FloatArray, y0: FloatArray, p: float) -> FloatArray:
    """da/ds = z^p (z - 1) int_y0^y x^p (1 - x)^-2 dx with y = 1/z, as a power series."""
    # Far above s the general expression is a small difference of large terms.
    ratio = (y0 / y) ** (p + 1)
    total = np.zeros_like(y)
    for k in range(2 * TAIL_TERMS):
        total += (k + 1) / (p + 1 + k) * (y**k - ratio * y0**k)
    return (1 - y) * total


def _short_time_ds(
    time: FloatArray,
    s: FloatArray,
    a0: FloatArray,
    z: FloatArray,
    log_gap: FloatArray,
    depth: int,
) -> FloatArray:
    """da/ds = L z^p int_0^T [gap(T) / gap(T')] dT' by Gauss-Legendre quadrature."""
    nodes = time[..., None] * (1 + NODES) / 2
    s, a0 = (np.broadcast_to(v[..., None], nodes.shape) for v in (s, a0))
    inner = _solve(nodes, s, a0, depth)[1]
    mean = np.exp(log_gap[..., None] - inner) @ (WEIGHTS / 2)
    return depth * z ** (2 - 2 / depth) * time * mean


def _solve(
    time: FloatArray, s: FloatArray, a0: FloatArray, depth: int
) -> tuple[FloatArray, FloatArray]:
    """ln(a/a0) and ln(gap/gap0) at time T = s^p t / tau."""
    log_a, log_gap = np.empty_like(time), np.empty_like(time)
    for rising in (True, False):
        at = (a0 < s) == rising
        if not np.any(at):
            continue
        log_z0 = np.log(a0[at]) - np.log(s[at])
        q0 = np.log(np.abs(s[at] - a0[at]))
        q0 = np.log(a0[at]) - q0 if rising else q0 - np.log(s[at])
        q = _invert(time[at], q0, log_z0, depth, rising)
        sign = -1.0 if rising else 1.0
        log_a[at] = sign * (np.logaddexp(0, sign * q) - np.logaddexp(0, sign * q0))
        log_gap[at] = np.logaddexp(0, q0) - np.logaddexp(0, q) if rising else q - q0
    return log_a, log_gap


def _invert(
    time: FloatArray, q0: FloatArray, log_z0: FloatArray, depth: int, rising: bool
) -> FloatArray:
    """Newton iteration for G(q) = G(q0) + T."""
    # G is concave and increasing in q below s, convex and decreasing above it: after one step the
    # iterate lies on the side from which Newton converges monotonically.
    curve = _below if rising else _above
    target = curve(q0, depth) + time
    q = _start(target, q0, log_z0, time, depth, rising)
    power = 1 - 2 / depth if rising else 2 - 2 / depth
    previous = np.full_like(q, np.inf)
    for _ in range(MAX_ITERATIONS):
        log_z = -np.logaddexp(0, -q) if rising else np.logaddexp(0, q)
        slope = np.exp(-power * log_z) / (depth if rising else -depth)
        moved = q - (curve(q, depth) - target) / slope
        moved = np.maximum(moved, q0) if rising else np.minimum(moved, q0)
        step, q = np.abs(moved - q), moved
        small = step <= 1e-15 * np.maximum(1, np.abs(q))
        if np.all(small | ((step < 1e-6) & (step >= previous))):  # converged, or rounding noise
            break
        previous = step
    return q


def _start(
    target: FloatArray,
    q0: FloatArray,
    log_z0: FloatArray,
    time: FloatArray,
    depth: int,
    rising: bool,
) -> FloatArray:
    """First guess: the power law that holds far from s, or the bend where it ends."""
    if rising:
        bend = np.full_like(q0, -np.log(2.0**depth - 1))  # v = 1/2
        log_v = np.log(np.maximum((2 - depth) * target, 1e-300)) / (2 - depth)
        law = depth * log_v - np.log1p(-np.exp(np.minimum(depth * log_v, -depth * np.log(1.5))))
        return np.maximum(q0, np.where(target >= _below(bend, depth), bend, law))
    power = 2 - 2 / depth
    log_z = -np.log(np.exp(-power * log_z0) + power * depth * time) / power
    law = np.log(np.expm1(np.maximum(log_z, np.log(2.0))))
    return np.minimum(q0, law)


def _below(q: FloatArray, depth: int) -> FloatArray:
    """G at z = 1/(1 + e^-q) < 1."""
    log_v = -np.logaddexp(0, -q) / depth
    far = q > FAR
    log_rest = np.where(far, -q - np.log(depth), np.log(-np.expm1(np.where(far, -1.0, log_v))))
    return _closed_form(log_v, log_rest, depth)


def _above(q: FloatArray, depth: int) -> FloatArray:
    """G at z = 1 + e^q > 1, up to a constant."""
    log_v = np.logaddexp(0, q) / depth
    far = q < -FAR
    log_rest = np.where(far, q - np.log(depth), np.log(np.expm1(np.where(far, 1.0, log_v))))
    ratio = np.exp(-np.maximum(depth * log_v, np.log(TAIL)))
    series = np.zeros_like(q)
    for k in reversed(range(TAIL_TERMS)):
        series = 1 / ((k + 2) * depth - 2) + ratio * series
    tail = np.exp((2 - 2 * depth) * log_v) * series
    # The closed form tends to this constant; without it G keeps its accuracy far above s.
    limit = np.pi / depth / np.tan(2 * np.pi / depth)
    near = _closed_form(np.minimum(log_v, np.log(2 * TAIL)), log_rest, depth) - limit
    return np.where(depth * log_v > np.log(TAIL), tail, near)


def _closed_form(log_v: FloatArray, log_rest: FloatArray, depth: int) -> FloatArray:
    """G(v) from ln v and ln|1 - v|."""
    v = np.exp(log_v)
    total = log_rest
    for k in range(1, depth):
        root = np.exp(2j * np.pi * k / depth)
        total = total + (root**2 * np.log(1 - v * np.conj(root))).real
    return np.exp((2 - depth) * log_v) / (2 - depth) - total / depth
