"""Matrix Riccati solution of the balanced two-layer flow, in a form that never overflows.

Derived in docs/derivations/flow.md. With Q = [W1^T; W2] and S = s_yx, a lambda-balanced start
follows dQ/dt = F Q - 1/2 Q Q^T Q, F = [[-lambda/2, S^T], [S, lambda/2]], whose solution is known
up to a rotation of the hidden layer: Q Q^T, and with it W, is all of it that the data see.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from dlnflow._support import FloatArray

REACH = 2.0
"""Largest rate x time bridged from one state. exp(2 REACH) bounds the condition number met."""
CARRY = 0.25
"""Half a step of `carried`, in units of 1 / (largest rate)."""
ROUNDING = 1e-12
"""An imbalance below this, relative to the squared size of the start, is rounding."""


class Eigen(NamedTuple):
    """Eigen-decomposition F = O diag(rates) O^T of one or many flows, k = n_in + d_out.

    ``basis`` (..., k, k) leads from coordinates y to Q = basis y, ``dual`` (..., k, k) back,
    y = dual^T Q; both are O, until `stepped` rescales the modes. ``rates`` has shape (..., k).
    """

    basis: FloatArray
    rates: FloatArray
    dual: FloatArray


def eigen(s_yx: FloatArray, balance: FloatArray) -> Eigen:
    """Decompose F through the singular vectors of S, so that null modes are exactly null.

    Every singular triplet (u, s, v) spans a 2 x 2 block [[-lambda/2, s], [s, lambda/2]] on
    (v, u) with eigenvalues +-sqrt(s^2 + lambda^2/4); input directions outside have the rate
    -lambda/2, output directions outside lambda/2.

    Parameters
    ----------
    s_yx : array, shape (..., d_out, n_in)
    balance : array, shape (...)
        lambda.

    Returns
    -------
    Eigen
        `basis` and `dual` are the same orthogonal matrix.
    """
    u, s, vt = np.linalg.svd(s_yx, full_matrices=True)
    v = np.swapaxes(vt, -1, -2)
    (n_out, n_in), pairs = s_yx.shape[-2:], s.shape[-1]
    half = np.broadcast_to(balance[..., None] / 2, s.shape)
    angle = 0.5 * np.arctan2(s, -half)
    cos, sin = np.cos(angle)[..., None, :], np.sin(angle)[..., None, :]
    basis = np.zeros((*s.shape[:-1], n_in + n_out, n_in + n_out))
    basis[..., :n_in, :pairs] = v[..., :pairs] * cos
    basis[..., n_in:, :pairs] = u[..., :pairs] * sin
    basis[..., :n_in, pairs : 2 * pairs] = -v[..., :pairs] * sin
    basis[..., n_in:, pairs : 2 * pairs] = u[..., :pairs] * cos
    basis[..., :n_in, 2 * pairs : n_in + pairs] = v[..., pairs:]
    basis[..., n_in:, n_in + pairs :] = u[..., pairs:]
    rate = np.hypot(s, half)
    outside = np.repeat(balance[..., None] / 2, n_in + n_out - 2 * pairs, axis=-1)
    outside[..., : n_in - pairs] *= -1
    return Eigen(basis, np.concatenate([rate, -rate, outside], axis=-1), basis)


def stepped(flow: Eigen, step: float, momentum: float = 0.0) -> Eigen:
    """Replace the growth of every mode by that of gradient descent with a finite step.

    From a small start one step multiplies mode s by z = 1 + step s, with momentum beta by the
    larger root of z^2 - (1 + beta + (1 - beta) step s) z + beta = 0, so that the rate is
    log(z) / step, below s. Rescaling the coordinate of the mode by sqrt(rate / s) keeps the
    strength it converges to. Exact while a mode is small, which is where most time is spent; the
    approach to s is still that of the flow, to leading order. Decaying modes are left alone.

    Parameters
    ----------
    flow : Eigen
    step : float
        Step of gradient descent > 0, in units of flow time.
    momentum : float
        beta in [0, 1).

    Returns
    -------
    Eigen
        With the rates of the steps; `basis` and `dual` are no longer orthogonal.
    """
    grows = step * flow.rates > 0
    gain = np.where(grows, step * flow.rates, 1.0)
    # z - 1 without cancellation: rates of null modes are rounding, and tiny.
    push = (1 - momentum) * gain
    root = np.sqrt((1 - momentum) ** 2 + push * (2 + 2 * momentum + push))
    beyond = push * (1 + (2 + 2 * momentum + push) / (root + 1 - momentum)) / 2
    slowing = np.where(grows, np.log1p(beyond) / gain, 1.0)
    scale = np.sqrt(slowing)[..., None, :]
    return Eigen(flow.basis / scale, flow.rates * slowing, flow.dual * scale)


def start(flow: Eigen, w1: FloatArray, w2: FloatArray) -> FloatArray:
    """Factor y of the start, Q0 Q0^T = basis y y^T basis^T, shape (..., k, min(h, k))."""
    q = np.concatenate([np.swapaxes(w1, -1, -2), w2], axis=-2)
    y = np.swapaxes(flow.dual, -1, -2) @ q
    y = y + _tilt(flow, y, w1, w2)
    if y.shape[-1] > y.shape[-2]:
        y = np.swapaxes(np.linalg.qr(np.swapaxes(y, -1, -2), mode="r"), -1, -2)
    return y


def _tilt(flow: Eigen, y: FloatArray, w1: FloatArray, w2: FloatArray) -> FloatArray:
    """Leading effect of a remaining imbalance D' = W2^T W2 - W1 W1^T - lambda I: on what grows.

    D' couples the growing and the decaying direction of a mode with strength s and rate kappa;
    the combination that really grows is y_+ + s / (4 kappa^2) y_- D'. Damped where D' > kappa, for
    modes that are never learned. Zero for a start that is balanced to `ROUNDING`.

    Returns
    -------
    array, shape (..., k, h)
        What to add to `y`.
    """
    d = np.swapaxes(w2, -1, -2) @ w2 - w1 @ np.swapaxes(w1, -1, -2)
    h, pairs = d.shape[-1], min(w1.shape[-1], w2.shape[-2])
    lam = np.trace(d, axis1=-2, axis2=-1)[..., None] / h
    d = d - lam[..., None] * np.eye(h)
    size = np.linalg.norm(d, axis=(-2, -1))[..., None]
    rounding = ROUNDING * (np.sum(w1**2, axis=(-2, -1)) + np.sum(w2**2, axis=(-2, -1)))[..., None]
    size = np.where(size > rounding, size, 0.0)
    kappa, half = flow.rates[..., :pairs], lam / 2
    s = np.sqrt(np.maximum(kappa**2 - half**2, 0.0))
    weight = s / np.maximum(4 * kappa**2 + size**2, np.finfo(float).tiny)
    weight = np.where(size > 0, weight, 0.0)
    tilt = np.zeros_like(y)
    tilt[..., :pairs, :] = weight[..., None] * (y[..., pairs : 2 * pairs, :] @ d)
    return tilt


def factors(flow: Eigen, y: FloatArray, times: FloatArray) -> FloatArray:
    """Evolve the factor of Q Q^T = basis y y^T basis^T at increasing times >= 0.

        y(t + d) = e^{rates d} y R^{-1},   R^T R = I + y^T diag(phi) y,
        phi = (e^{2 rates d} - 1) / (2 rates)

    Returns
    -------
    array, shape (T, ..., k, m)
    """
    return np.concatenate(list(_evolve(flow, y, times, _factor)))


def maps(flow: Eigen, y: FloatArray, times: FloatArray, n_in: int) -> FloatArray:
    """W alone at increasing times >= 0, shape (T, ..., d_out, n_in), at half the cost."""
    inputs, outputs = flow.basis[..., :n_in, :], flow.basis[..., n_in:, :]

    def read(grown: FloatArray, core: FloatArray) -> FloatArray:
        return (outputs @ grown) @ np.linalg.solve(core, np.swapaxes(inputs @ grown, -1, -2))

    return np.concatenate(list(_evolve(flow, y, times, read)))


def carried(flow: Eigen, y: FloatArray, vector: FloatArray, times: FloatArray) -> FloatArray:
    """Evolve z = Q p for a fixed hidden direction p, e.g. the representation of an untrained input.

        dz/dt = (F - 1/2 Q Q^T) z

    is linear in z once Q Q^T is known, and needs no choice of the hidden rotation, which the
    Riccati solution leaves open. Solved by the classical fourth-order Runge-Kutta rule with steps
    of 2 `CARRY`: an error of about 1e-3 of z, which itself is of the size of the initial weights.

    Parameters
    ----------
    flow : Eigen
        Leading axes (...).
    y : array, shape (..., k, m)
        As from `start`.
    vector : array, shape (..., k)
        Q0 p.
    times : array, shape (T,)
        Increasing, >= 0.

    Returns
    -------
    array, shape (T, ..., k)
    """
    steps = max(1, int(np.ceil(times[-1] * float(np.abs(flow.rates).max()) / (2 * CARRY))))
    nodes = np.linspace(0.0, times[-1] or 1.0, 2 * steps + 1)
    states, width = factors(flow, y, nodes), nodes[2]

    def rate(node: int, z: FloatArray) -> FloatArray:
        state = states[node]
        return flow.rates * z - 0.5 * (state @ (np.swapaxes(state, -1, -2) @ z[..., None]))[..., 0]

    z = (np.swapaxes(flow.dual, -1, -2) @ vector[..., None])[..., 0]
    path, slopes = [z], [rate(0, z)]
    for left in range(0, 2 * steps, 2):
        k1 = slopes[-1]
        k2 = rate(left + 1, z + width / 2 * k1)
        k3 = rate(left + 1, z + width / 2 * k2)
        k4 = rate(left + 2, z + width * k3)
        z = z + width / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        path.append(z)
        slopes.append(rate(left + 2, z))
    between = CubicHermiteSpline(nodes[::2], np.array(path), np.array(slopes))(times)
    return (flow.basis @ between[..., None])[..., 0]


def _evolve(
    flow: Eigen,
    y: FloatArray,
    times: FloatArray,
    read: Callable[[FloatArray, FloatArray], FloatArray],
) -> Iterator[FloatArray]:
    """Yield `read` at all times, in portions.

    Each state serves all times within `REACH` of it, so that R is well conditioned and Q Q^T
    stays positive semidefinite; longer gaps are crossed in several steps.
    """
    reach = REACH / max(float(np.abs(flow.rates).max()), np.finfo(float).tiny)
    now, done = 0.0, 0
    while done < len(times):
        stop = int(np.searchsorted(times, now + reach, side="right"))
        ahead = times[done:stop] if stop > done else np.array([now + reach])
        grown, core = _advance(flow.rates, y, ahead - now)
        if stop > done:
            yield read(grown, core)
        now, done, y = ahead[-1], stop, _factor(grown[-1], core[-1])


def _advance(rates: FloatArray, y: FloatArray, delays: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return e^{rates d} y and I + y^T diag(phi) y for several delays from the same state."""
    delays = delays.reshape(-1, *(1,) * rates.ndim)
    exponent = 2 * rates * delays
    growth = np.where(exponent == 0, 1.0, np.expm1(exponent) / _nonzero(exponent))
    scaled = np.sqrt(delays * growth)[..., None] * y
    core = np.swapaxes(scaled, -1, -2) @ scaled + np.eye(y.shape[-1])
    return np.exp(exponent / 2)[..., None] * y, core


def _factor(grown: FloatArray, core: FloatArray) -> FloatArray:
    """Return grown R^{-1} with R^T R = core."""
    lower = np.linalg.cholesky(core)
    return np.swapaxes(np.linalg.solve(lower, np.swapaxes(grown, -1, -2)), -1, -2)


def _nonzero(value: FloatArray) -> FloatArray:
    return np.where(value == 0, 1.0, value)
