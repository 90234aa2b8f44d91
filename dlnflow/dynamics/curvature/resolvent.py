"""(H + lambda)^-1 between gradients of a two-layer network, without forming H.

With D = (lambda - T)^-1 x I, which the singular vectors of G diagonalise into 2 x 2 blocks,

    H + lambda = D^-1 + J^T J,      g_i = J^T f_i,      K = J D J^T
    g_q^T (H + lambda)^-1 g_i = f_q^T K (I + K)^-1 f_i,

a system of size d_out * n_in instead of all parameters (the Woodbury identity). K depends on the
hidden layer only through W1^T W1, W2 W1 and W2 W2^T.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from dlnflow._support import FloatArray, IntArray, each
from dlnflow.dynamics.curvature.networks import Networks

Solve = Callable[[FloatArray], FloatArray]

CHUNK_ENTRIES = 2_000_000
"""Entries of K built at once, over checkpoints; bounds the working memory."""
SINGULAR_GAP = 1e-4
"""Nearer than this (relative) to a singular value of G, D is too large to go through K."""
AWAY = np.sqrt(np.e)
"""Factor that moves such a damping off the pole, where the value is replaced anyway."""
PSEUDO_RTOL = 1e-14
"""Eigenvalues of H + lambda below this, relative to the largest, count as zero."""


class Frame(NamedTuple):
    """Networks in the singular basis of G = U diag(sigma) V^T.

    ``w1`` (T, k, m) = W1 V, ``w2`` (T, d, k) = U^T W2, ``root`` (T, m, m) = V^T S^(1/2) V.
    """

    u: FloatArray
    sigma: FloatArray
    v: FloatArray
    w1: FloatArray
    w2: FloatArray
    root: FloatArray


def frame(points: Networks, correlation: FloatArray | None = None) -> Frame:
    """Return the singular basis of `correlation`, by default that of the checkpoints."""
    g = points.correlation if correlation is None else correlation
    u, sigma, vt = np.linalg.svd(g)
    v = vt.mT
    root = (vt * points.input_scale) @ v
    return Frame(u, sigma, v, points.w1 @ v, u.mT @ points.w2, root)


def coupling_inverse(
    sigma: FloatArray, lam: FloatArray, sizes: tuple[int, int]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Entries of (lambda - T)^-1 in the singular basis.

    Returns
    -------
    (on_outputs, on_inputs, across) : arrays, shapes (T, d), (T, m), (T, min(d, m))
        lambda/(lambda^2 - sigma^2) on each side, sigma/(lambda^2 - sigma^2) between them.
    """
    denominator = (lam[:, None] - sigma) * (lam[:, None] + sigma)
    same, across = lam[:, None] / denominator, sigma / denominator
    on_outputs, on_inputs = (
        np.concatenate(
            [same, np.broadcast_to(1 / lam[:, None], (len(lam), size - sigma.shape[1]))], axis=1
        )
        for size in sizes
    )
    return on_outputs, on_inputs, across


def apply_coupling_inverse(
    sigma: FloatArray, lam: FloatArray, p: FloatArray, q: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(lambda - T)^-1 of changes of both layers in the singular basis, (T, k, m) and (T, d, k)."""
    on_outputs, on_inputs, across = coupling_inverse(sigma, lam, (q.shape[1], p.shape[2]))
    r = sigma.shape[1]
    new_p, new_q = p * on_inputs[:, None], q * on_outputs[:, :, None]
    new_p[..., :r] += q[:, :r].mT * across[:, None]
    new_q[:, :r] += p[..., :r].mT * across[:, :, None]
    return new_p, new_q


def kernel(basis: Frame, lam: FloatArray) -> FloatArray:
    """K = J D J^T in the singular basis, shape (T, d m, d m), index = output * m + input."""
    w1, w2 = basis.w1, basis.w2
    times, d, m = len(lam), w2.shape[1], w1.shape[2]
    on_outputs, on_inputs, across = coupling_inverse(basis.sigma, lam, (d, m))
    inputs, w = w1.mT @ w1, w2 @ w1
    outputs = w2 @ w2.mT
    k = np.zeros((times, d, m, d, m))
    row, column, both = np.arange(d), np.arange(m), np.arange(min(d, m))
    # dW = Q W1 + W2 P with (P, Q) = D J^T z. Advanced indices move their axis to the front.
    k[:, row, :, row, :] += on_outputs.T[:, :, None, None] * inputs
    k[:, :, column, :, column] += on_inputs.T[:, :, None, None] * outputs
    k[:, both, :, :, both] += across.T[:, :, None, None] * w.mT
    k[:, :, both, both, :] += across[:, None, :, None] * w[:, :, None, :]
    root = basis.root
    k = (k.reshape(times, d * m * d, m) @ root).reshape(times, d, m, d * m)
    return (root[:, None] @ k).reshape(times, d * m, d * m)


def inverse_product(
    basis: Frame, lam: FloatArray, solve: Solve, changes: tuple[FloatArray, FloatArray]
) -> tuple[FloatArray, FloatArray]:
    """(H + lambda)^-1 of changes of both layers, D r - D J^T (I + K)^-1 J D r, singular basis.

    ``solve`` applies (I + K)^-1 to arrays of shape (T, d m).
    """
    p, q = apply_coupling_inverse(basis.sigma, lam, *changes)
    f = (q @ basis.w1 + basis.w2 @ p) @ basis.root
    z = solve(f.reshape(len(f), -1)).reshape(f.shape) @ basis.root
    dp, dq = apply_coupling_inverse(basis.sigma, lam, basis.w2.mT @ z, z @ basis.w1.mT)
    return p - dp, q - dq


def sources(points: Networks, basis: Frame, items: IntArray) -> FloatArray:
    """f_i = - r_i (S^(-1/2) x_i)^T in the singular basis, shape (T, len(items), d m)."""
    r = basis.u.mT @ points.residual[:, :, items]
    x = basis.v.mT @ (points.x[:, items] / points.input_scale[:, None])
    return -np.einsum("tdi,tmi->tidm", r, x).reshape(len(r), len(items), -1)


def hessian_influence(
    points: Networks, lam: FloatArray, query: IntArray, train: IntArray
) -> FloatArray:
    """-(1/N) g_q^T (H + lambda)^-1 g_i.

    Parameters
    ----------
    points : Networks
    lam : array, shape (M, T)
        Dampings in units of the curvature of L, M per checkpoint.
    query, train : item positions

    Returns
    -------
    array, shape (M, T, n_query, n_train)
    """
    values = np.empty((*lam.shape, len(query), len(train)))
    for part in chunks(points):
        here = points.at(part)
        basis = frame(here)
        f_q, f_i = sources(here, basis, query), sources(here, basis, train)
        near = _near_coupling(basis.sigma, lam[:, part])
        for index, damping in enumerate(np.where(near, AWAY * lam[:, part], lam[:, part])):
            k = kernel(basis, damping)
            left = f_q @ k
            np.einsum("taa->ta", k)[:] += 1
            values[index, part] = left @ np.linalg.solve(k, f_i.mT)
        for time in np.flatnonzero(np.any(near, axis=0)):
            rows, at = near[:, time], part.start + time
            values[rows, at] = _dense(here, time, lam[rows, at], query, train)
    return -values / points.n_items


def chunks(points: Networks) -> Iterator[slice]:
    """Slices of the checkpoints whose kernels fit into the working memory."""
    size = (points.w2.shape[1] * points.w1.shape[2]) ** 2
    step = max(1, CHUNK_ENTRIES // size)
    starts = each(range(0, len(points), step), "curvature at checkpoints")
    return (slice(at, min(at + step, len(points))) for at in starts)


def _near_coupling(sigma: FloatArray, lam: FloatArray) -> NDArray[np.bool_]:
    """Whether D nearly has a pole, for singular values (T, r) and dampings (M, T)."""
    lam = lam[..., None]
    return np.any(np.abs(lam - sigma) <= SINGULAR_GAP * lam, axis=-1)


def _dense(
    points: Networks, time: int, lam: FloatArray, query: IntArray, train: IntArray
) -> FloatArray:
    """The same through the eigenvectors of H in the reduced space."""
    eigenvalues, vectors = linalg.eigh(points.hessian(time))
    a, b = (points.gradients(time, items) @ vectors for items in (query, train))
    shifted = eigenvalues + lam[:, None]
    usable = np.abs(shifted) > PSEUDO_RTOL * np.abs(shifted).max()
    inverse = np.divide(1.0, shifted, out=np.zeros_like(shifted), where=usable)
    return np.einsum("qp,lp,ip->lqi", a, inverse, b)
