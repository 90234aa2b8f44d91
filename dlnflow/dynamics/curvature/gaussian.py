"""Covariance of losses under a Gaussian in parameter space, for networks of two layers.

For quadratic losses with gradients g_i and Hessians H_i at the mean, and covariance R / n_beta,

    n_beta Cov(l_i, l_q) = g_i^T R g_q + 1/(2 n_beta) tr (H_i R H_q R),     R = (H + lambda)^-1,

over all parameters. H_i = J_i^T J_i - T_i x I has rank d in its first part, and T_i, which couples
x_i with r_i, has rank two on every hidden direction, so that the trace needs R only between those
few vectors. Hidden directions that the network does not use have gradient zero but fluctuate too:
each adds tr (T_i D T_q D), D = (lambda - T)^-1.
"""

import numpy as np

from dlnflow._support import FloatArray, IntArray, each
from dlnflow.dynamics.curvature import resolvent
from dlnflow.dynamics.curvature.networks import Networks
from dlnflow.dynamics.curvature.resolvent import Frame


def fluctuations(points: Networks, lam: FloatArray, items: IntArray) -> FloatArray:
    """Traces tr (H_i R H_q R) over all parameters.

    Parameters
    ----------
    points : Networks
        With lambda above every singular value of G, as at proximal points.
    lam : array, shape (T,)
    items : item positions

    Returns
    -------
    array, shape (T, n, n)
    """
    traces = np.empty((len(points), len(items), len(items)))
    for time in each(range(len(points)), "fluctuations at checkpoints"):
        here, one = points.at(slice(time, time + 1)), lam[time : time + 1]
        traces[time] = _trace(here, resolvent.frame(here), one, items)
    return traces


def _trace(points: Networks, basis: Frame, lam: FloatArray, items: IntArray) -> FloatArray:
    """The traces at a single checkpoint."""
    w1, w2, root = basis.w1[0], basis.w2[0], basis.root[0]
    (k, m), d, n = w1.shape, len(w2), len(items)
    x = basis.v[0].T @ points.x[:, items]
    white = np.linalg.solve(root, x)  # J_i = (I x white_i^T) J
    # The ends of all T_i = x_i r_i^T + r_i x_i^T: first (x_i, 0), then (0, r_i).
    ends = np.zeros((m + d, 2 * n))
    ends[:m, :n], ends[m:, n:] = x, basis.u[0].T @ points.residual[0][:, items]
    moved = resolvent.apply_coupling_inverse(basis.sigma, lam, ends[None, :m].mT, ends[None, m:])
    moved_ends = np.concatenate([moved[0][0].T, moved[1][0]])
    between = (ends.T @ moved_ends).reshape(2, n, 2, n)
    # J D at an end on hidden direction h, as (output, input): z -> h . W2^T z and z^T W1^T . h
    reach = np.einsum("la,jh,lb->ahjb", moved_ends[:m], w2, root, optimize=True)
    reach += np.einsum("ja,hb->ahjb", moved_ends[m:], w1 @ root, optimize=True)
    reach = reach.reshape(2 * n * k, d * m)
    kernel = resolvent.kernel(basis, lam)[0]
    solved = np.linalg.solve(np.eye(d * m) + kernel, np.concatenate([reach, kernel]).T).T
    reach_solved, kernel_solved = np.split(solved, [2 * n * k])

    first = _outputs(kernel_solved.reshape(d, m, d, m), white)
    mixed = reach_solved.reshape(2, n, k * d, m) @ white  # R J_i^T at the ends of T_q
    mixed = 2 * np.einsum("qci,qci->iq", mixed[0], mixed[1])
    inside = -(reach_solved @ reach.T).reshape(2, n, k, 2, n, k)
    np.einsum("aihbjh->aibjh", inside)[:] += between[..., None]
    second = _bent(inside) + points.spare * _bent(between[:, :, None, :, :, None])
    return first - mixed - mixed.T + second


def _outputs(share: FloatArray, white: FloatArray) -> FloatArray:
    """|J_i R J_q^T|^2, from J R J^T = K (I + K)^-1."""
    blocks = np.einsum("ai,dafb,bq->dfiq", white, share, white, optimize=True)
    return np.sum(blocks**2, axis=(0, 1))


def _bent(r: FloatArray) -> FloatArray:
    """Traces tr (T_i R T_q R), from R between the ends of T_i and T_q, (end, i, h, end, q, h)."""
    pairs = "ihqg,ihqg->iq"
    same = np.einsum(pairs, r[0, :, :, 0], r[1, :, :, 1])
    return 2 * (same + np.einsum(pairs, r[0, :, :, 1], r[1, :, :, 0]))
