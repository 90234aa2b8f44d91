"""Strength of one aligned mode of a deep linear network over time.

A balanced network of L layers whose layers are aligned with the singular vectors of its target
learns every singular value s on its own:

    tau da/dt = L a^(2 - 2/L) (s - a),    a(0) = a0.

Two layers have the sigmoid of Saxe et al. (2014) as solution, ``a = s e^{2st/tau} /
(e^{2st/tau} - 1 + s/a0)``; it is computed here without overflow or cancellation. More layers have
an implicit solution, see `dlnflow.theory.saxe_depth`. The derivation is docs/derivations/saxe.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from dlnflow._support.typing import FloatArray
from dlnflow.checks import nonnegative, positive_array, whole_numbers
from dlnflow.theory import saxe_depth

LARGEST = 1e300
"""Times and exponents are cut here, where every mode has long arrived."""
LATE = 650.0
"""Beyond this exponent e^-u is no longer a normal float64 and logarithms take over."""
SERIES_TERMS = 19
"""Terms of the power series of psi below u = 1, for a relative 1e-17."""


class ModeStrength(NamedTuple):
    """Mode strength and its derivatives, all of the broadcast shape.

    Attributes
    ----------
    a : array
        Strength a(t).
    gap : array
        What is still missing, g = s - a, to full relative accuracy also when a rounds to s.
    ds, da0, dt : array
        Derivatives of a with respect to s, a0 and t.
    """

    a: FloatArray
    gap: FloatArray
    ds: FloatArray
    da0: FloatArray
    dt: FloatArray


def mode_strength(
    t: ArrayLike, s: ArrayLike, a0: ArrayLike, tau: ArrayLike = 1.0, depth: ArrayLike = 2
) -> FloatArray:
    """Strength a(t) of a mode that obeys tau da/dt = L a^(2-2/L) (s - a).

    Parameters
    ----------
    t : array_like
        Time >= 0, in the unit of `tau`.
    s : array_like
        Final strength >= 0, the singular value of the target map.
    a0 : array_like
        Initial strength >= 0. A mode that starts at 0 stays there.
    tau : array_like
        Time constant > 0.
    depth : array_like of int
        Number of weight matrices L >= 2.

    Returns
    -------
    array
        a(t), of the shape that all arguments broadcast to.

    Raises
    ------
    ValueError
        If an argument is negative, not finite or of a wrong range.

    Notes
    -----
    Relative error below 1e-12, for two layers below 1e-15, in units of the condition number: one
    rounding of t changes a by (t/a) da/dt times as much, a factor that reaches about
    (s/a0)^(1-2/L) after the plateau of a tiny start. Measurements: docs/derivations/saxe.md.

    References
    ----------
    Saxe, McClelland, Ganguli 2014, "Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks", arXiv:1312.6120.

    Examples
    --------
    >>> mode_strength([0.0, 2.3, 10.0], s=2.0, a0=2e-4).round(4).tolist()
    [0.0002, 0.9949, 2.0]
    """
    return mode_strength_derivatives(t, s, a0, tau, depth).a


def mode_strength_derivatives(
    t: ArrayLike, s: ArrayLike, a0: ArrayLike, tau: ArrayLike = 1.0, depth: ArrayLike = 2
) -> ModeStrength:
    """a(t), the gap s - a(t) and the derivatives of a with respect to s, a0 and t.

    Parameters
    ----------
    t, s, a0, tau, depth : array_like
        As for `mode_strength`.

    Returns
    -------
    ModeStrength
        Five arrays of the broadcast shape. At a0 = 0, `da0` is the limit from above (which
        overflows to infinity for two layers beyond s t / tau = 355).

    Raises
    ------
    ValueError
        As `mode_strength`.

    Examples
    --------
    >>> m = mode_strength_derivatives(40.0, s=1.0, a0=0.01)
    >>> float(m.a), f"{m.gap:.3g}"
    (1.0, '1.79e-33')
    """
    depth = whole_numbers("depth", depth, smallest=2)
    checked = (
        nonnegative("t", t),
        nonnegative("s", s),
        nonnegative("a0", a0),
        positive_array("tau", tau),
    )
    return ModeStrength(*_by_depth(_two_layers, saxe_depth.deep, checked, depth))


def half_time(
    s: ArrayLike, a0: ArrayLike, tau: ArrayLike = 1.0, depth: ArrayLike = 2
) -> FloatArray:
    """Time at which a mode reaches half its final strength; two layers: (tau/2s) ln(s/a0 - 1).

    Parameters
    ----------
    s, a0, tau, depth : array_like
        As for `mode_strength`.

    Returns
    -------
    array
        Of the broadcast shape; 0 where a0 >= s/2 already, infinite where a0 = 0 < s.

    Raises
    ------
    ValueError
        As `mode_strength`.

    Examples
    --------
    >>> round(float(half_time(2.0, 2e-4)), 4), float(half_time(2.0, 1.0))
    (2.3026, 0.0)
    """
    depth = whole_numbers("depth", depth, smallest=2)
    checked = (
        nonnegative("s", s),
        nonnegative("a0", a0),
        positive_array("tau", tau),
    )
    return _by_depth(_two_layer_half_time, saxe_depth.half_time, checked, depth)[0]


def _by_depth(
    two: Callable[..., tuple[FloatArray, ...]],
    deep: Callable[..., tuple[FloatArray, ...]],
    arguments: tuple[FloatArray, ...],
    depth: FloatArray,
) -> list[FloatArray]:
    """Broadcast everything and evaluate `two` or `deep(..., L)` for every depth that occurs."""
    *arguments, depth = np.broadcast_arrays(*arguments, depth)
    with np.errstate(all="ignore"):
        if depth.size == 0 or np.all(depth == depth.flat[0]):
            level = int(depth.flat[0]) if depth.size else 2
            parts = two(*arguments) if level == 2 else deep(*arguments, level)
            return [np.asarray(part)[()] for part in parts]
        results: list[FloatArray] = []
        for level in np.unique(depth).astype(int):
            at = depth == level
            inside = [argument[at] for argument in arguments]
            parts = two(*inside) if level == 2 else deep(*inside, level)
            results = results or [np.empty(depth.shape) for _ in parts]
            for result, part in zip(results, parts, strict=True):
                result[at] = part
        return results


def _two_layers(
    t: FloatArray, s: FloatArray, a0: FloatArray, tau: FloatArray
) -> tuple[FloatArray, ...]:
    """The sigmoid from u = 2 s t / tau and the growth e^-u that a mode without limit would undo."""
    x = np.minimum(2 * t / tau, LARGEST)
    u = np.minimum(s * x, LARGEST)
    e = np.exp(-u)
    reach = np.where(u > 1e-16, -np.expm1(-u) / s, x)  # (1 - e^-u)/s, the limit of a for a0 -> inf
    a = np.where(a0 > 1, 1 / (e / a0 + reach), a0 / (e + a0 * reach))
    ratio = np.where(a0 > 0, a / a0, np.exp(u))
    decay = np.where(a0 > 0, e * ratio, 1.0)  # (s - a) / (s - a0)
    late = u > LATE
    if np.any(late):
        exponent = u + np.log(a0) - np.log(s)
        a = np.where(late, s * expit(exponent), a)
        ratio = np.where(late & (a0 > 0), a / a0, ratio)
        decay = np.where(late, expit(-exponent), decay)
    a = np.where(t == 0, a0, a)
    gap = decay * (s - a0)
    curvature = np.where(u < 1, (a * x) ** 2 * _psi(u), (a / s) ** 2 * (1 - e * (1 + u)))
    ds = decay * a * x + curvature
    return a, gap, ds, ratio * decay, 2 / tau * (a * gap)


def _two_layer_half_time(s: FloatArray, a0: FloatArray, tau: FloatArray) -> tuple[FloatArray, ...]:
    growth = np.log((s - a0) / a0)
    return (np.where(2 * a0 >= s, 0.0, tau * growth / (2 * s)),)


def _psi(u: FloatArray) -> FloatArray:
    """(1 - e^-u (1 + u)) / u^2 = sum_k (-u)^k / (k! (k + 2)) for 0 <= u <= 1."""
    u = np.minimum(u, 1.0)
    total, factorial = np.zeros_like(u), 1.0
    coefficients = []
    for k in range(SERIES_TERMS):
        factorial *= max(k, 1)
        coefficients.append(1 / (factorial * (k + 2)))
    for coefficient in reversed(coefficients):
        total = coefficient - u * total
    return total
