"""First-order change of the learned map when its target changes.

An aligned network holds W(t) = f_t(S): the singular values s of the target S are replaced by
f_t(s) = a(t; s, a0) and the singular vectors are kept. The derivative of such a function of a
matrix along D needs only divided differences of f_t, whether singular values are distinct, close
or equal, and no choice of basis inside a degenerate block. See docs/derivations/perturbation.md.
"""

import numpy as np

from dlnflow._support import FloatArray
from dlnflow.checks import positive
from dlnflow.theory.modes import Modes
from dlnflow.theory.saxe import ModeStrength, mode_strength_derivatives

NULL_RTOL = 1e-10
"""A direction touches no pair of null spaces if that part is this small, relative to it all."""
ARRIVED = 1e100
"""Times are cut here: every mode has long arrived, and squares stay finite."""
SERIES_TERMS = 20
"""Terms of the two-variable power series for exponents below 1, for a relative 1e-17."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
SEPARATED = 1e-3
"""Strengths of deep networks are subtracted only if they differ by more than this, relatively."""


def divided_differences(
    s: FloatArray,
    t: float,
    a0: float,
    tau: float = 1.0,
    depth: int = 2,
    *,
    rows: slice = slice(None),
) -> tuple[FloatArray, FloatArray]:
    """Gam_jk = (f_j - f_k)/(s_j - s_k), f'(s_j) where equal, and Del_jk = (f_j + f_k)/(s_j + s_k).

    Parameters
    ----------
    s : array, shape (r,)
        Singular values > 0.
    t : float
        Time >= 0, in the unit of `tau`.
    a0 : float
        Common initial strength > 0.
    tau : float
        Time constant > 0.
    depth : int
        Number of weight matrices L >= 2.
    rows : slice
        Rows j to compute, so that large matrices need not be held at once.

    Returns
    -------
    (Gam, Del) : arrays, shape (n_rows, r)
        Both symmetric to the last bit when all rows are computed.

    Raises
    ------
    ValueError
        If `a0` or `s` is not positive, or an argument of the mode equation is out of range.

    Notes
    -----
    Two layers: sums of positive terms in closed form, with a relative error of a few 1e-15 for
    every gap s_j - s_k from 0 up. More layers: the quotient where strengths are well separated,
    16-point Gauss-Legendre quadrature of f' over [s_k, s_j] elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> gam, _ = divided_differences(np.array([2.0, 2.0 + 1e-9, 1.0]), t=2.0, a0=0.01)
    >>> gam.round(6)[:2].tolist()
    [[1.347769, 1.347769, 1.51938], [1.347769, 1.347769, 1.51938]]
    """
    positive("a0", a0)
    s = np.asarray(s, dtype=np.float64)
    if np.any(s <= 0):
        raise ValueError("`s` must be > 0: null singular values have no divided differences.")
    m = mode_strength_derivatives(t, s, a0, tau, depth)
    if depth == 2:
        gam = _two_layers(s, min(2 * t / tau, ARRIVED), a0, m.a, rows)
    else:
        gam = _deep(s, m, (t, a0, tau, depth), rows)
    return gam, (m.a[rows, None] + m.a) / (s[rows, None] + s)


def derivative(
    modes: Modes,
    direction: FloatArray,
    t: float,
    a0: float,
    *,
    tau: float = 1.0,
    depth: int = 2,
) -> FloatArray:
    """DW for S -> S + eps D, where W(t) = U diag(a(t; s, a0)) V^T is the aligned solution.

        dW = U [Gam o (E + E^T)/2 + Del o (E - E^T)/2] V^T
             + (1 - U U^T) D V diag(f/s) V^T + U diag(f/s) U^T D (1 - V V^T),    E = U^T D V,

    with `o` the entrywise product. Start and singular vectors follow the perturbed target: the
    network stays aligned, as in the paper.

    Parameters
    ----------
    modes : Modes
        Modes of the target S, shape (d_out, n_in).
    direction : array, shape (..., d_out, n_in)
        D, one or a stack.
    t, a0, tau, depth
        As for `divided_differences`.

    Returns
    -------
    array, shape (..., d_out, n_in)

    Raises
    ------
    ValueError
        If shapes disagree, or if D connects the null spaces of S: it would create modes that start
        at a0 instead of 0, so that W jumps and has no derivative.

    References
    ----------
    Noferini 2017, "A formula for the Frechet derivative of a generalized matrix function".

    Examples
    --------
    >>> import numpy as np
    >>> from dlnflow.theory.modes import modes_of
    >>> target = np.diag([2.0, 1.0, 1.0])
    >>> derivative(modes_of(target), target, t=100.0, a0=0.01).round(9).tolist()
    [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    u, s, v = modes.u, modes.s, modes.v
    direction = np.asarray(direction, dtype=np.float64)
    if direction.shape[-2:] != (len(u), len(v)):
        raise ValueError(
            f"`direction` must have the shape of the target, {(len(u), len(v))} on its last two "
            f"axes; got {direction.shape}."
        )
    left, right = u.T @ direction, direction @ v  # U^T D, D V
    core = left @ v  # E
    left_rest, right_rest = left - core @ v.T, right - u @ core
    null = direction - u @ left - right_rest @ v.T
    if np.abs(null).max(initial=0) > NULL_RTOL * np.abs(direction).max(initial=0):
        raise ValueError(
            "`direction` maps the null space of the target onto the complement of its range; the "
            "modes it creates start at a0, so W(t) jumps and has no derivative there. Project "
            "that part out, or compare finite perturbations."
        )
    gam, del_ = divided_differences(s, t, a0, tau, depth)
    transposed = np.swapaxes(core, -1, -2)
    inner = gam * (core + transposed) / 2 + del_ * (core - transposed) / 2
    gain = mode_strength_derivatives(t, s, a0, tau, depth).a / s
    return (u @ inner + right_rest * gain) @ v.T + (u * gain) @ left_rest


def _two_layers(s: FloatArray, x: float, a0: float, a: FloatArray, rows: slice) -> FloatArray:
    """f[s_j, s_k] = a_j a_k (x^2 e2 + (x / a0) e1), from 1/f = x phi(s x) + e^(-s x) / a0."""
    # e1 = - exp(-.)[u_j, u_k] and e2 = exp(-.)[0, u_j, u_k] are divided differences of e^-u at
    # u = s x, both positive.
    u = s * x
    small, large = np.minimum(u[rows, None], u), np.maximum(u[rows, None], u)
    e1 = np.exp(-small) * _phi(x * np.abs(s[rows, None] - s))
    with np.errstate(invalid="ignore", divide="ignore"):
        e2 = (_phi(small) - e1) / large
    near = large < 1  # where the difference cancels
    if np.any(near):
        e2[near] = _second_difference(small[near], large[near])
    reach, start = a * x, a / np.sqrt(a0)
    return np.outer(reach[rows], reach) * e2 + np.outer(start[rows], start) * (x * e1)


def _phi(u: FloatArray) -> FloatArray:
    """(1 - e^-u) / u."""
    small = u < 1e-16
    return np.where(small, 1.0, -np.expm1(-u) / np.where(small, 1.0, u))


def _second_difference(u: FloatArray, w: FloatArray) -> FloatArray:
    """exp(-.)[0, u, w] = sum_n (-1)^n h_n(u, w) / (n + 2)!, h_n the complete homogeneous sum."""
    total, homogeneous, power, factorial = np.zeros_like(u), np.ones_like(u), np.ones_like(u), 2.0
    for n in range(SERIES_TERMS):
        total += homogeneous / factorial
        power = power * -w
        homogeneous = -u * homogeneous + power
        factorial *= n + 3
    return total


def _deep(
    s: FloatArray, m: ModeStrength, setting: tuple[float, float, float, int], rows: slice
) -> FloatArray:
    t, a0, tau, depth = setting
    first, gaps = s[rows, None], s[rows, None] - s
    rate = np.maximum(np.maximum(first, s), a0) ** (1 - 2 / depth)
    change = m.a[rows, None] - m.a
    close = depth * rate * (t / tau) * np.abs(gaps) < 1
    close |= np.abs(change) <= SEPARATED * np.maximum(m.a[rows, None], m.a)
    gam = change / np.where(close, 1.0, gaps)
    low = np.broadcast_to(np.minimum(first, s), gaps.shape)[close]
    between = low[:, None] + np.abs(gaps)[close][:, None] * (1 + NODES) / 2
    gam[close] = mode_strength_derivatives(t, between, a0, tau, depth).ds @ (WEIGHTS / 2)
    return gam
