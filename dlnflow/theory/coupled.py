"""Exact response of an aligned network to the weight of an item: S_yx and S_xx both change.

With b = a^(2/L) and g = s - a, the symmetric and antisymmetric part Sig, Om of dW between modes
j and k (per unit of x_ij x_ik / c) obey, in flow time,

    Sig' = c (g_j + g_k)/2 + [ (a_j + a_k)(g_j A_j + g_k A_k) - c ] Sig
    Om'  = c (g_j - g_k)/2 + [ (a_j - a_k)(g_j A_j - g_k A_k) - c ] Om
    c = (a_j^2 - a_k^2)/(b_j - b_k),   A_k = (c - L a_k^p)/(a_j^2 - a_k^2),   p = 2 - 2/L,

which are sums of positive terms in b. See docs/derivations/perturbation.md.
"""

import numpy as np

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.theory import ode
from dlnflow.theory.saxe import mode_strength_derivatives

RTOL = 1e-11
"""Of the integration, relative to Sig and Om at the time and to what they grow from."""


def coefficients(s: FloatArray, times: FloatArray, a0: float, depth: int, null: bool) -> FloatArray:
    """A_ab = [(g_a + g_b) Sig_ab + (g_a - g_b) Om_ab] / 2 over distinct s.

    Parameters
    ----------
    s : array, shape (r,)
        Distinct singular values, descending.
    times : array, shape (T,)
        Flow times, increasing.
    a0 : float
        Initial strength of every mode.
    depth : int
        Number of weight matrices L.
    null : bool
        Whether to add a last row and column for the null space, where a = s = 0.

    Returns
    -------
    array, shape (T, r, r), or (T, r + 1, r + 1) with the null space
        Symmetric.

    Raises
    ------
    FloatingPointError
        If the integrator gives up.
    """
    size = len(s) + null

    def strengths(t: float) -> tuple[FloatArray, FloatArray]:
        m = mode_strength_derivatives(t, s, a0, depth=depth)
        return np.pad(m.a, (0, int(null))), np.pad(m.gap, (0, int(null)))

    def rhs(t: float, y: FloatArray) -> FloatArray:
        a, g = strengths(t)
        c, weight = _pair_rates(a, depth)
        gain = g[:, None] * weight  # g_j A_j; its transpose is g_k A_k
        sig, om = y.reshape(2, size, size)
        return np.stack(
            [
                c * (g[:, None] + g) / 2 + ((a[:, None] + a) * (gain + gain.T) - c) * sig,
                c * (g[:, None] - g) / 2 + ((a[:, None] - a) * (gain - gain.T) - c) * om,
            ]
        ).ravel()

    # What grows by a factor 1 / a0 has to be accurate when it is still small.
    floor = RTOL * min(a0, s[-1]) ** (2 - 2 / depth) * s[-1] / s[0]
    start = np.zeros(2 * size**2)
    path = start[:, None]
    if times[-1] > 0:
        path = ode.solve("the coupled response", rhs, start, times, rtol=RTOL, atol=floor)
    matrices = np.empty((len(times), size, size))
    for out, t, y in zip(matrices, times, path.T, strict=True):
        g = strengths(t)[1]
        sig, om = y.reshape(2, size, size)
        out[:] = ((g[:, None] + g) * sig + (g[:, None] - g) * om) / 2
    return (matrices + matrices.mT) / 2


def kernel(s: FloatArray, times: FloatArray, at: float, a0: float) -> FloatArray:
    """Response at one time to the weight of an item at others, two layers: d A_ab(at) / dt.

        [ (g_a + g_b)^+ Phi_s^+ / Phi_s (a_a + a_b)(g_a + g_b) / 2
          + (g_a - g_b)^+ Phi_w^+ / Phi_w (a_a + a_b)(g_a - g_b) / 2 ] / 2,
        Phi_s = sqrt(a_a g_a a_b g_b),    Phi_w = (a_a + a_b) sqrt(g_a g_b / (a_a a_b)),

    where + marks the time `at`. Its integral from 0 to `at` is `coefficients`; over a window it is
    the response to a weight that is changed in the window only.

    Parameters
    ----------
    s : array, shape (r,)
        Distinct singular values, > a0.
    times : array, shape (T,)
        Flow times from 0 to `at`.
    at : float
        Flow time at which the losses are measured.
    a0 : float
        Initial strength of every mode.

    Returns
    -------
    array, shape (T, r, r)
        Symmetric. The influence of i on q at that time is - sum_ab A_ab P_a[q, i] P_b[q, i], P_a
        the projector onto the input modes of strength s_a.

    Raises
    ------
    ValueError
        If a time is outside [0, at], a number is not finite or not > 0, or a0 is not below all s.
    """
    times, at = checks.finite("times", times), checks.positive("at", at)
    s, a0 = np.atleast_1d(checks.positive_array("s", s)), checks.positive("a0", a0)
    if np.any((times < 0) | (times > at)):
        raise ValueError(f"`times` must lie between 0 and `at` = {at:g}.")
    if not np.all(s > a0):
        raise ValueError(f"`a0` = {a0:g} must be below all singular values, {s.min():g} and above.")

    def pairs(t: FloatArray) -> tuple[FloatArray, ...]:
        column = np.asarray(t)[..., None]
        m = mode_strength_derivatives(column, s, a0, depth=2)
        a, g = m.a, m.gap
        total = a[..., :, None] + a[..., None, :]
        # g / a = (s / a0 - 1) e^(-2 s t), whose logarithm is there when g is below all floats
        log_a, log_w = np.log(a), 0.5 * (np.log(s / a0 - 1) - 2 * s * column)
        log_s = log_a + log_w
        both, apart = (g[..., :, None] + sign * g[..., None, :] for sign in (1, -1))
        phi_s = log_s[..., :, None] + log_s[..., None, :]
        phi_w = np.log(total) + log_w[..., :, None] + log_w[..., None, :]
        return total, both, apart, phi_s, phi_w

    total, both, apart, phi_s, phi_w = pairs(times)
    _, both_end, apart_end, end_s, end_w = pairs(at)
    return (total / 4) * (
        both_end * np.exp(end_s - phi_s) * both + apart_end * np.exp(end_w - phi_w) * apart
    )


def _pair_rates(a: FloatArray, depth: int) -> tuple[FloatArray, FloatArray]:
    """c_jk = sum_n b_j^n b_k^(L-1-n) and A_j = sum_n (n + 1) b_j^n b_k^(L-2-n) / c_jk."""
    b = a ** (2 / depth)
    powers = b ** np.arange(depth)[:, None]
    c = sum(np.outer(powers[n], powers[depth - 1 - n]) for n in range(depth))
    weight = sum((n + 1) * np.outer(powers[n], powers[depth - 2 - n]) for n in range(depth - 1))
    return c, weight / np.where(c > 0, c, 1.0)  # c = 0 between null modes only, where all rests
