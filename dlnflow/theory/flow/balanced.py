"""Closed-form trajectories from balanced starts, checked and labelled as matrices of the user."""

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.theory.flow import riccati
from dlnflow.theory.flow.gram import Gram, at_times, check_hidden, transposed, weights_and_map

BALANCE_TOL = 1e-10
"""Largest imbalance, relative to the data, that still counts as rounding."""


def imbalance(w1: ArrayLike, w2: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Split the conserved D = W2^T W2 - W1 W1^T into lambda I and a remainder.

    Parameters
    ----------
    w1 : array, shape (..., h, n_in)
    w2 : array, shape (..., d_out, h)

    Returns
    -------
    (balance, remainder) : arrays, shape (...)
        lambda = tr(D) / h and the largest absolute eigenvalue of D - lambda I, which is 0 for a
        balanced start. Both have the units of a mode strength.

    Raises
    ------
    ValueError
        If the shapes disagree.
    """
    w1, w2 = checks.finite_stack("w1", w1), checks.finite_stack("w2", w2)
    check_hidden(w1, w2)
    d = transposed(w2) @ w2 - w1 @ transposed(w1)
    balance = np.trace(d, axis1=-2, axis2=-1) / d.shape[-1]
    eigenvalues = np.linalg.eigvalsh(d) - balance[..., None]
    return balance, np.abs(eigenvalues).max(axis=-1)


def balanced(
    w1: ArrayLike,
    w2: ArrayLike,
    s_yx: ArrayLike,
    t: ArrayLike,
    *,
    balance_tol: float = BALANCE_TOL,
) -> FloatArray:
    """Exact W(t) from a balanced or lambda-balanced start, white inputs.

        Q Q^T(t) = e^{Ft} Q0 [I + Q0^T Phi(t) Q0]^{-1} Q0^T e^{Ft},   Phi = int_0^t e^{2Fx} dx,
        Q = [W1^T; W2],   F = [[-lambda/2, S^T], [S, lambda/2]],   W = lower left block

    Parameters
    ----------
    w1 : array, shape (..., h, n_in)
        First layer at t = 0. Leading axes are independent problems and broadcast.
    w2 : array, shape (..., d_out, h)
        Second layer at t = 0.
    s_yx : array, shape (..., d_out, n_in)
        The map S to be learned; any rank, and h may be smaller than it. A white S_xx = c I is
        brought to this form by S_yx / c and time c t.
    t : float or array, shape (T,)
        Times >= 0, in any order; a mode of strength s follows da/dt = 2 a (s - a). The work
        grows with max(s) * max(t), and little with the number of times.
    balance_tol : float
        Accepted imbalance |W2^T W2 - W1 W1^T - lambda I| / max(|S|, |Q0|^2), spectral norms. A
        larger value accepts a start that is only nearly balanced, such as a small random one; the
        leading effect of its imbalance on what grows is included, and W is then off by a few per
        cent of imbalance times |S| (measured in docs/derivations/flow.md).

    Returns
    -------
    array, shape (..., d_out, n_in) for a scalar t, (..., T, d_out, n_in) otherwise

    Raises
    ------
    ValueError
        If shapes disagree, something is not finite, a time is negative, or the start is not
        balanced within `balance_tol`.

    References
    ----------
    Fukumizu 1998; Braun, Domine, Fitzgerald & Saxe 2022; Domine et al. 2024 (lambda-balanced).

    Examples
    --------
    >>> import numpy as np
    >>> w = balanced(np.full((1, 1), 0.1), np.full((1, 1), 0.1), [[2.0]], [0.0, 1.0, 50.0])
    >>> w[:, 0, 0].round(4).tolist()
    [0.01, 0.4306, 2.0]
    """
    return balanced_gram(w1, w2, s_yx, t, balance_tol=balance_tol).map


def balanced_gram(
    w1: ArrayLike,
    w2: ArrayLike,
    s_yx: ArrayLike,
    t: ArrayLike,
    *,
    balance_tol: float = BALANCE_TOL,
) -> Gram:
    """All Gram blocks of the solution `balanced` gives: also the hidden representations.

    Parameters
    ----------
    w1, w2, s_yx, t, balance_tol
        As for `balanced`.

    Returns
    -------
    Gram
        W1^T W1, W and W2 W2^T, each with a time axis before the last two where t has one.

    Raises
    ------
    ValueError
        As for `balanced`.
    """
    w1, w2, s_yx = weights_and_map(w1, w2, s_yx)
    lam = _check_balance(w1, w2, s_yx, balance_tol)
    flow = riccati.eigen(s_yx, lam)
    y = riccati.start(flow, w1, w2)
    q = at_times(t, lambda times: [flow.basis @ riccati.factors(flow, y, times)])[0]
    q_in, q_out = q[..., : w1.shape[-1], :], q[..., w1.shape[-1] :, :]
    return Gram(q_in @ transposed(q_in), q_out @ transposed(q_in), q_out @ transposed(q_out))


def _check_balance(
    w1: FloatArray, w2: FloatArray, s_yx: FloatArray, balance_tol: float
) -> FloatArray:
    """Return lambda of a start that is balanced within the tolerance, else say by how much not."""
    lam, remainder = imbalance(w1, w2)
    size = np.linalg.norm(w1, 2, axis=(-2, -1)) ** 2 + np.linalg.norm(w2, 2, axis=(-2, -1)) ** 2
    relative = remainder / np.maximum(np.maximum(_norm(s_yx), size), np.finfo(float).tiny)
    worst = float(np.max(relative))
    if worst > checks.positive("balance_tol", balance_tol):
        raise ValueError(
            f"`w1`, `w2` are not balanced: W2^T W2 - W1 W1^T - lambda I is {worst:.3g} of the "
            f"larger of |s_yx| and |start|^2, more than `balance_tol` = {balance_tol:g}. Use "
            "flow.gram, which is exact for any start, or accept the error with "
            f"balance_tol={_round_up(worst):g}."
        )
    return lam


def _round_up(value: float) -> float:
    """Return the next power of ten."""
    return 10.0 ** np.ceil(np.log10(value))


def _norm(matrix: FloatArray) -> FloatArray:
    return np.linalg.norm(matrix, 2, axis=(-2, -1))
