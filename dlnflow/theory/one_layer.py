"""The posterior of one layer of a linear network, the others fixed: a Gaussian in closed form.

    W = A W_l B,   l_i = 1/2 |y_i - A W_l B x_i|^2,   N items of weight w_i
    p(W_l) ~ exp(-(n_beta / N) sum_i w_i l_i - (localization / 2) |W_l - W_l(t)|^2)

With A^T A = P diag(a) P^T and (1/N) B X diag(w) X^T B^T = Q diag(s) Q^T, the entries of
z = P^T (W_l - W_l(t)) Q are independent,

    z_jk ~ N(m_jk, v_jk),   v_jk = 1 / (n_beta a_j s_k + localization),

and with c_i = Q^T B x_i, e_i the residual at the checkpoint in the basis of A's left vectors,
r_ij = e_ij - sqrt(a_j) sum_k m_jk c_ki and V_j = diag_k v_jk,

    E l_i        = 1/2 sum_j (r_ij^2 + a_j c_i^T V_j c_i) + what A cannot reach
    Cov(l_i, l_q) = sum_j [ a_j r_ij r_qj (c_i^T V_j c_q) + 1/2 a_j^2 (c_i^T V_j c_q)^2 ].

This is exact: a loss is quadratic in one layer, whatever the depth. Susceptibilities and
weight-restricted learning coefficients of a layer follow (docs/derivations/susceptibility.md).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray


class LayerPosterior(NamedTuple):
    """Exact moments of the losses of N items under the posterior of one layer.

    Attributes
    ----------
    mean : array, shape (N,)
        E l_i.
    covariance : array, shape (N, N)
        Cov(l_i, l_q).
    checkpoint_loss : array, shape (N,)
        l_i at the checkpoint.
    """

    mean: FloatArray
    covariance: FloatArray
    checkpoint_loss: FloatArray


def layer_posterior(
    layers: Sequence[ArrayLike],
    layer: int,
    x: ArrayLike,
    y: ArrayLike,
    *,
    n_beta: float,
    localization: float,
    weights: ArrayLike | None = None,
) -> LayerPosterior:
    """Exact losses of a linear network when only one of its layers is sampled.

    Parameters
    ----------
    layers : sequence of arrays
        W_1 (h_1, n_in), ..., W_L (d_out, h_{L-1}).
    layer : int
        Which of them moves, from 1 to L.
    x, y : arrays, shape (n_in, N), (d_out, N)
        Inputs and targets.
    n_beta, localization : float
        Inverse temperature of the mean loss, and precision around the checkpoint.
    weights : array, shape (N,), optional
        w_i >= 0; default 1.

    Returns
    -------
    LayerPosterior

    Raises
    ------
    ValueError
        If there is no such layer, or a number is not positive.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), hidden=8)
    >>> found = layer_posterior(
    ...     run.initial_weights(), 1, run.task.x, run.task.y, n_beta=100.0, localization=10.0
    ... )
    >>> found.covariance.shape, bool((found.covariance.diagonal() > 0).all())
    ((8, 8), True)
    """
    n_beta = checks.positive("n_beta", n_beta)
    localization = checks.positive("localization", localization)
    if not 1 <= layer <= len(layers):
        raise ValueError(f"`layer` must lie in [1, {len(layers)}], got {layer}.")
    matrices = [np.asarray(w, dtype=np.float64) for w in layers]
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    w = np.ones(x.shape[1]) if weights is None else checks.nonnegative("weights", weights)
    hidden = x
    for below in matrices[: layer - 1]:
        hidden = below @ hidden
    above = np.eye(matrices[layer - 1].shape[0])
    for matrix in matrices[layer:]:
        above = matrix @ above
    # A = left diag(root) P^T, so that a = root^2
    left, root, _ = np.linalg.svd(above, full_matrices=False)
    s, q = np.linalg.eigh((hidden * w) @ hidden.T / x.shape[1])
    c = q.T @ hidden  # (k, N)
    residual = y - above @ matrices[layer - 1] @ hidden
    e = left.T @ residual  # (j, N); what is left of the residual does not move
    a = root**2
    variance = 1 / (n_beta * np.outer(a, np.maximum(s, 0.0)) + localization)  # (j, k)
    force = n_beta * root[:, None] * ((e * w) @ c.T) / x.shape[1]
    r = e - root[:, None] * ((variance * force) @ c)
    overlap = np.einsum("ki,jk,kq->jiq", c, variance, c, optimize=True)
    first = np.einsum("j,ji,jq,jiq->iq", a, r, r, overlap, optimize=True)
    covariance = first + 0.5 * np.einsum("j,jiq->iq", a**2, overlap**2)
    idle = 0.5 * (np.sum(residual**2, axis=0) - np.sum(e**2, axis=0))
    own = np.einsum("jii->ji", overlap)
    mean = 0.5 * np.sum(r**2 + a[:, None] * own, axis=0) + idle
    return LayerPosterior(mean, covariance, 0.5 * np.sum(residual**2, axis=0))
