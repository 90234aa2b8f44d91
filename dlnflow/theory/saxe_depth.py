"""Mode strength of networks with more than two layers, by inverting time as a function of strength.

With z = a/s, v = z^(1/L), p = 2 - 2/L and T = s^p t / tau the mode equation has the implicit
solution T = G(v) - G(v0),

    G(v) = v^(2-L)/(2-L) - (1/L) sum_k w_k^2 Log(1 - v conj(w_k)),    w_k = e^(2 pi i k / L).

It is solved by Newton iteration in q = ln(z/(1-z)) below the final strength and q = ln(z-1) above
it, where the gap s - a keeps its relative accuracy. See docs/derivations/saxe.md.
"""

import numpy as np

from dlnflow._support.typing import FloatArray

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


def deep(
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


def half_time(s: FloatArray, a0: FloatArray, tau: FloatArray, depth: int) -> tuple[FloatArray, ...]:
    """Return tau s^-p [G(2^(-1/L)) - G(v0)], 0 from s/2 on."""
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
    """da/ds = z^p (z - 1) int_y0^y x^p (1 - x)^-2 dx with y = 1/z, as a power series.

    Far above s the general expression is a small difference of large terms.
    """
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
    """Newton iteration for G(q) = G(q0) + T.

    G is concave and increasing in q below s, convex and decreasing above it: after one step the
    iterate lies on the side from which Newton converges monotonically.
    """
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
