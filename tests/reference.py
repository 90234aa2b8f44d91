"""Slow, obviously correct implementations that tests compare with."""

from collections.abc import Callable
from functools import cache

import mpmath
from mpmath import mp, mpf

DIGITS = 50


# --- one mode -------------------------------------------------------------------------------------


def precise_strength(t, s, a0, depth, start=None) -> tuple:
    """(a, gap, da/ds, da/da0, da/dt) of da/dt = L a^(2-2/L) (s - a) in mpmath, tau = 1.

    More than two layers: root of t = int_a0^a db / (L b^p (s - b)), the integral as a Gauss
    hypergeometric function, by Newton from `start` = (a, gap) or by bisection.
    """
    t, s, a0 = mpf(t), mpf(s), mpf(a0)
    p = 2 - mpf(2) / depth
    with mp.extradps(25):
        exponent = depth * s**p * t
        if s == 0:
            ratio = (1 + p * depth * t * a0**p) ** (-1 / p) if a0 else mpf(1)
            parts = a0 * ratio, -a0 * ratio, (1 - ratio ** (p + 1)) / (p + 1), ratio ** (p + 1)
        elif a0 == s:
            decay = mp.exp(-exponent)
            parts = s, mpf(0), 1 - decay, decay
        elif a0 == 0:
            parts = a0, s, mpf(0), mp.exp(exponent) if depth == 2 else mpf(1)
        else:
            z0, time = a0 / s, s**p * t
            z, rest = _precise_ratio(time, z0, depth, p, start and (start[0] / s, start[1] / s))
            da0 = (z / z0) ** p * (rest / (1 - z0))
            ds = z + p * depth * time * z**p * rest - z0 * da0
            parts = s * z, s * rest, ds, da0
        return (*parts, depth * parts[0] ** p * parts[1])


def _precise_ratio(time, z0, depth, p, start):
    """(z, 1 - z) for dz/dT = L z^p (1 - z)."""
    if depth == 2:
        growth = mp.exp(-2 * time) * (1 - z0)
        return z0 / (z0 + growth), growth / (z0 + growth)
    if time == 0:
        return z0, 1 - z0
    rising = z0 < 1

    def ratio(q):
        e = mp.exp(-abs(q))
        if rising:
            return (1 / (1 + e), e / (1 + e)) if q > 0 else (e / (1 + e), 1 / (1 + e))
        return 1 + mp.exp(q), -mp.exp(q)

    def clock(z, rest):
        return _clock(z, rest, depth, p)

    target = clock(z0, 1 - z0) + time
    q = _guess(time, z0, depth, p, start, lambda q: clock(*ratio(q)) < target)
    for _ in range(30):
        z, rest = ratio(q)
        step = (clock(z, rest) - target) * depth * (z ** (p - 1) if rising else -(z**p))
        q -= step
        if abs(step) < mpf(10) ** (-DIGITS - 5) * max(1, abs(q)):
            return ratio(q)
    raise ArithmeticError("Newton iteration for the reference did not converge")


def _guess(time, z0, depth, p, start, early):
    """Where Newton may start in q = ln(z/(1-z)), or ln(z-1) above 1."""
    rising = z0 < 1
    q0 = mp.log(z0 / (1 - z0)) if rising else mp.log(z0 - 1)
    if start is not None and start[1] != 0:
        return mp.log(mpf(start[0]) / mpf(start[1])) if rising else mp.log(-mpf(start[1]))
    low, high = (q0, q0 + depth * time) if rising else (q0 - depth * time * z0**p, q0)
    if start is not None:  # the gap is too small for a float, and q almost linear in time
        return high if rising else low
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if early(middle) == rising else (low, middle)
    return low


def _clock(z, rest, depth, p):
    """A primitive of 1 / (L z^p (1 - z)), one for z < 1 and one for z > 1; rest = 1 - z."""
    if abs(rest) < mpf("0.3"):  # binomial series of z^-p in 1 - z, joined on at 0.3
        return _join(rest > 0, depth, p, mp.prec) + _near_one(rest, depth, p)
    if z < 1:
        return z ** (1 - p) / (depth * (1 - p)) * mp.hyp2f1(1, 1 - p, 2 - p, z)
    return z ** (-p) / (depth * p) * mp.hyp2f1(1, p, 1 + p, 1 / z)


@cache
def _join(below, depth, p, _precision):
    edge = mpf("0.3") if below else -mpf("0.3")
    return _clock(1 - edge, edge, depth, p) - _near_one(edge, depth, p)


def _near_one(rest, depth, p):
    total, term, k = mp.log(abs(rest)), mpf(1), 0
    while abs(term) > mp.eps * mpf("1e-3"):
        k += 1
        term *= (p + k - 1) / k * rest
        total += term / k
    return -total / depth


# --- the map and its derivative -------------------------------------------------------------------


def function_of(matrix: mpmath.matrix, function: Callable) -> mpmath.matrix:
    """U f(S) V^T in mpmath; singular values below 1e-13 of the largest are zero and stay zero."""
    flip = matrix.rows < matrix.cols
    u, s, vt = mp.svd_r(matrix.T if flip else matrix)
    floor = max(s) * mpf("1e-13")
    strengths = mp.diag([function(value) if value > floor else mpf(0) for value in s])
    result = u * strengths * vt
    return result.T if flip else result


def derivative_by_difference(
    matrix: mpmath.matrix, direction: mpmath.matrix, function: Callable
) -> mpmath.matrix:
    """Central difference of `function_of` with step 1e-16, whose error is about 1e-32."""
    with mp.workdps(DIGITS):
        h = mpf("1e-16")
        above = function_of(matrix + h * direction, function)
        below = function_of(matrix - h * direction, function)
        return (above - below) / (2 * h)


def dense_influence(y, x, t: float, a0: float, depth: int = 2):
    """K[q, i] = - r_q^T (dW_i) x_q item by item, from differences of f_t(S), X X^T = c I.

    S = Y X^T / c is perturbed by y_i x_i^T / c, in 50-digit arithmetic throughout.
    """
    import numpy as np

    with mp.workdps(DIGITS):
        y, x = mp.matrix(y.tolist()), mp.matrix(x.tolist())
        scale = mp.fsum(v**2 for v in x) / x.rows
        target = y * x.T / scale

        def function(s):
            return precise_strength(t, s, a0, depth)[0]

        residual = y - function_of(target, function) * x
        count = y.cols
        result = np.empty((count, count))
        for i in range(count):
            moved = derivative_by_difference(target, y[:, i] * x[:, i].T / scale, function)
            change = moved * x
            for q in range(count):
                result[q, i] = -mp.fsum(residual[k, q] * change[k, q] for k in range(y.rows))
    return result


def paper_influence(u, s, v, t: float, a0: float):
    """K[q, i] for one-hot inputs by the paper's construction, from exact factors of S = Y.

    Skew rotations A_U, A_V of the singular vectors; inside a degenerate block the basis R that
    diagonalises the symmetric part of the direction. The factors are orthonormalised to
    50 digits; S has full column rank.
    """
    import numpy as np

    with mp.workdps(DIGITS):
        values = [mpf(value) for value in s]
        u, v = (mp.qr(mp.matrix(m.tolist()), mode="skinny")[0] for m in (u, v))
        target = u * mp.diag(values) * v.T
        strengths = {value: precise_strength(t, value, a0, 2) for value in values}
        count = v.rows
        residual = target - u * mp.diag([strengths[x][0] for x in values]) * v.T
        result = np.empty((count, count))
        for i in range(count):
            direction = target[:, i] * mp.matrix([[int(k == i) for k in range(count)]])
            change = _paper_change(u, values, v, direction, strengths)
            for q in range(count):
                result[q, i] = -mp.fsum(residual[k, q] * change[k, q] for k in range(u.rows))
    return result


def _paper_change(u, s, v, direction, strengths):
    """dW = U [A_U A + A' - A A_V] V^T plus the part of dU outside the span of U."""
    size = len(s)
    core = u.T * direction * v
    turn = mp.eye(size)
    for value in set(s):
        block = [k for k in range(size) if s[k] == value]
        part = mp.matrix(len(block))
        for a, j in enumerate(block):
            for b, k in enumerate(block):
                part[a, b] = (core[j, k] + core[k, j]) / 2
        _, basis = mp.eigsy(part)
        for a, j in enumerate(block):
            for b, k in enumerate(block):
                turn[j, k] = basis[a, b]
    u, v, core = u * turn, v * turn, turn.T * core * turn
    a = [strengths[value][0] for value in s]
    inner = mp.matrix(size)
    for j in range(size):
        for k in range(size):
            if j == k:
                inner[j, j] = strengths[s[j]][2] * core[j, j]
            elif s[j] == s[k]:
                inner[j, k] = a[j] / s[j] * (core[j, k] - core[k, j]) / 2
            else:
                gap = s[k] ** 2 - s[j] ** 2
                left = (s[k] * core[j, k] + s[j] * core[k, j]) / gap
                right = (s[k] * core[k, j] + s[j] * core[j, k]) / gap
                inner[j, k] = left * a[k] - a[j] * right
    outside = direction * v - u * core
    return (u * inner + outside * mp.diag([x / y for x, y in zip(a, s, strict=True)])) * v.T
