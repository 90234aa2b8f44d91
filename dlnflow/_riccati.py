"""Matrix Riccati solution of the balanced two-layer flow, in a form that never overflows.

Derived in docs/derivations/flow.md. With Q = [W1^T; W2] and S = s_yx, a lambda-balanced start
follows dQ/dt = F Q - 1/2 Q Q^T Q, F = [[-lambda/2, S^T], [S, lambda/2]], whose solution is known
up to a rotation of the hidden layer: Q Q^T, and with it W, is all of it that the data see.
"""

from typing import NamedTuple

import numpy as np

from dlnflow._typing import FloatArray

REACH = 2.0
"""Largest rate x time bridged from one state. exp(2 REACH) bounds the condition number met."""


class Eigen(NamedTuple):
    """Eigen-decomposition F = O diag(rates) O^T of one or many flows.

    ``basis`` has shape (..., n_in + d_out, n_in + d_out), ``rates`` shape (..., n_in + d_out).
    """

    basis: FloatArray
    rates: FloatArray


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
    return Eigen(basis, np.concatenate([rate, -rate, outside], axis=-1))


def start(flow: Eigen, w1: FloatArray, w2: FloatArray) -> FloatArray:
    """Factor y of O^T Q0 Q0^T O = y y^T, shape (..., k, min(h, k)) with k = n_in + d_out."""
    q = np.concatenate([np.swapaxes(w1, -1, -2), w2], axis=-2)
    if q.shape[-1] > q.shape[-2]:
        q = np.swapaxes(np.linalg.qr(np.swapaxes(q, -1, -2), mode="r"), -1, -2)
    return np.swapaxes(flow.basis, -1, -2) @ q


def factors(flow: Eigen, y: FloatArray, times: FloatArray) -> FloatArray:
    """Evolve the factor: O^T Q Q^T O = y y^T at increasing times >= 0.

        y(t + d) = e^{rates d} y R^{-1},   R^T R = I + y^T diag(phi) y,
        phi = (e^{2 rates d} - 1) / (2 rates)

    Each state serves all times within `REACH` of it, so that R is well conditioned and Q Q^T
    stays positive semidefinite; longer gaps are crossed in several steps.

    Returns
    -------
    array, shape (T, ..., k, m)
    """
    rates = flow.rates
    reach = REACH / max(float(np.abs(rates).max()), np.finfo(float).tiny)
    result = np.empty((len(times), *y.shape))
    now, done = 0.0, 0
    while done < len(times):
        stop = int(np.searchsorted(times, now + reach, side="right"))
        if stop > done:
            result[done:stop] = _advance(rates, y, times[done:stop] - now)
            now, done, y = times[stop - 1], stop, result[stop - 1]
        else:
            y = _advance(rates, y, np.array([reach]))[0]
            now += reach
    return result


def _advance(rates: FloatArray, y: FloatArray, delays: FloatArray) -> FloatArray:
    """Take `factors` over several delays from the same state."""
    delays = delays.reshape(-1, *(1,) * rates.ndim)
    exponent = 2 * rates * delays
    phi = delays * np.where(exponent == 0, 1.0, np.expm1(exponent) / _nonzero(exponent))
    scaled = np.sqrt(phi)[..., None] * y
    gram = np.swapaxes(scaled, -1, -2) @ scaled
    lower = np.linalg.cholesky(gram + np.eye(y.shape[-1]))
    grown = np.exp(exponent / 2)[..., None] * y
    return np.swapaxes(np.linalg.solve(lower, np.swapaxes(grown, -1, -2)), -1, -2)


def _nonzero(value: FloatArray) -> FloatArray:
    return np.where(value == 0, 1.0, value)
