"""One mode of a two-layer network whose layers start at different strengths."""

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray


def unbalanced_mode(
    t: ArrayLike, s: ArrayLike, a1: ArrayLike, a2: ArrayLike, tau: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    r"""Strengths of both layers of one mode, from any pair of initial strengths.

        tau a1' = a2 (s - a1 a2),   tau a2' = a1 (s - a1 a2)

    The sum r = a1 + a2 grows and the difference q = a2 - a1 shrinks by the same factor rho,
    because r q = a2^2 - a1^2 = c is conserved:

        r = r0 rho,  q = q0 / rho,  rho^2 = [1 + (2 s + q0^2) K] / [1 - T + (kappa - 2 s + r0^2) K],
        kappa = sqrt(c^2 + 4 s^2),  T = tanh(kappa t / 2 tau),  K = T / kappa

    Every term is >= 0, so that nothing cancels or overflows; c = 0 is the balanced mode.

    Parameters
    ----------
    t : array-like
        Time, >= 0. All arguments but `tau` broadcast.
    s : array-like
        Strength to be learned (a singular value), >= 0.
    a1, a2 : array-like
        Initial strengths of the first and second layer, of any sign. With a1 + a2 = 0 the mode
        is never learned and decays to 0.
    tau : float
        Time constant, > 0.

    Returns
    -------
    (a1, a2) : arrays, broadcast shape
        The mode strength is a1 * a2.

    Raises
    ------
    ValueError
        If `t` or `s` is negative, `tau` is not > 0, or anything is not finite.

    References
    ----------
    Saxe, McClelland & Ganguli 2013, arXiv:1312.6120; the form above: docs/derivations/flow.md.

    Examples
    --------
    >>> a1, a2 = unbalanced_mode(50.0, s=2.0, a1=0.0, a2=1.0)
    >>> round(float(a1 * a2), 12), round(float(a2**2 - a1**2), 12)
    (2.0, 1.0)
    """
    t, s = checks.nonnegative("t", t), checks.nonnegative("s", s)
    a1, a2 = checks.finite("a1", a1), checks.finite("a2", a2)
    t = t / checks.positive("tau", tau)
    total, difference = a1 + a2, a2 - a1
    c = total * difference
    kappa = np.hypot(c, 2 * s)
    safe = np.where(kappa == 0, 1.0, kappa)
    y = kappa * t / 2
    ratio = np.where(kappa == 0, t / 2, np.tanh(y) / safe)
    decay = 2 * np.exp(-2 * y) / (1 + np.exp(-2 * y))
    excess = c * c / np.where(kappa == 0, 1.0, kappa + 2 * s)  # kappa - 2 s without cancellation
    growth = 1 + (2 * s + difference**2) * ratio
    shrink = np.sqrt((decay + (excess + total**2) * ratio) / growth)  # 1 / rho
    grown = np.where(total == 0, 0.0, total / np.where(shrink == 0, 1.0, shrink))
    left = difference * shrink
    return (grown - left) / 2, (grown + left) / 2
