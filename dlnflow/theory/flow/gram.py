"""Gram flow of a two-layer network: exact for any start, any hidden width and any inputs."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.theory import ode

ODE_RTOL = 1e-12
"""Relative tolerance of the Gram flow: two digits above rounding."""


class Gram(NamedTuple):
    """The three products of the weights that determine every prediction and every kernel.

    Attributes
    ----------
    inputs : array, shape (..., n_in, n_in)
        W1^T W1, inner products of the hidden representations of the inputs.
    map : array, shape (..., d_out, n_in)
        W = W2 W1.
    outputs : array, shape (..., d_out, d_out)
        W2 W2^T.
    """

    inputs: FloatArray
    map: FloatArray
    outputs: FloatArray


def _blocks(w1: FloatArray, w2: FloatArray) -> Gram:
    """Gram blocks of given weights."""
    return Gram(transposed(w1) @ w1, w2 @ w1, w2 @ transposed(w2))


def gram(
    w1: ArrayLike,
    w2: ArrayLike,
    s_yx: ArrayLike,
    s_xx: ArrayLike,
    t: ArrayLike,
    *,
    step: float = 0.0,
    rtol: float = ODE_RTOL,
) -> Gram:
    """Gram flow: exact for any start, any hidden width and any inputs.

        A' = G^T W + W^T G,  W' = G A + C G,  C' = G W^T + W G^T,   G = S_yx - W S_xx

    with A = W1^T W1 and C = W2 W2^T, integrated by DOP853.

    Parameters
    ----------
    w1 : array, shape (..., h, n_in)
    w2 : array, shape (..., d_out, h)
        Leading axes are independent problems and broadcast; they share one step size control.
    s_yx : array, shape (..., d_out, n_in)
    s_xx : array, shape (..., n_in, n_in)
        Weighted input-output and input-input correlation.
    t : float or array, shape (T,)
        Times >= 0, in any order.
    step : float
        0: the flow. Otherwise gradient descent with this step, in units of t, to second order in
        it: the modified equation dW/dt = v - (step/2) dv/dt, with v the velocity of the flow.
    rtol : float
        Relative tolerance of the integrator.

    Returns
    -------
    Gram
        W1^T W1, W and W2 W2^T, each with a time axis before the last two where t has one.

    Raises
    ------
    ValueError
        If shapes disagree, something is not finite, or a time or `step` is negative.
    FloatingPointError
        If the integrator gives up.

    Examples
    --------
    >>> import numpy as np
    >>> blocks = gram([[0.3]], [[0.1]], [[2.0]], [[1.0]], 20.0)
    >>> round(float(blocks.map[0, 0]), 9)
    2.0
    """
    w1, w2, s_yx = weights_and_map(w1, w2, s_yx)
    s_xx = input_gram("s_xx", s_xx, s_yx)
    initial = _broadcast(_blocks(w1, w2), s_yx, s_xx)

    still = (np.zeros_like(s_yx), np.zeros_like(s_xx))
    half = float(checks.nonnegative("step", checks.real_number("step", step))) / 2

    def rate(*blocks: FloatArray) -> Gram:
        state = Gram(*blocks)
        velocity = _velocity(state, s_yx, s_xx)
        if half == 0:
            return velocity
        bent = _velocity_tangent(state, velocity, (s_yx, s_xx), still)
        squares = _step_squares(state, s_yx, s_xx)
        parts = zip(velocity, bent, squares, strict=True)
        return Gram(*(v - half * (b - 2 * q) for v, b, q in parts))

    def solve(times: FloatArray) -> list[FloatArray]:
        return _integrate(rate, initial, times, checks.positive("rtol", rtol))

    return Gram(*at_times(t, solve))


def gram_tangent(
    w1: ArrayLike,
    w2: ArrayLike,
    data: tuple[ArrayLike, ArrayLike],
    change: tuple[ArrayLike, ArrayLike],
    t: ArrayLike,
    *,
    rtol: float = ODE_RTOL,
) -> tuple[Gram, Gram]:
    """Gram flow and its derivative along a change of the data, from the same start.

    Weighting item i up by d moves S_yx by (d/N) y_i x_i^T and S_xx by (d/N) x_i x_i^T; the
    derivative solves the linearised flow, with no difference quotient.

    Parameters
    ----------
    w1 : array, shape (..., h, n_in)
    w2 : array, shape (..., d_out, h)
    data : (s_yx, s_xx)
        As for `gram`.
    change : (ds_yx, ds_xx)
        Directions, shapes (..., d_out, n_in) and (..., n_in, n_in). Extra leading axes are
        several directions at once.
    t : float or array, shape (T,)
    rtol : float
        Relative tolerance of the integrator.

    Returns
    -------
    (blocks, tangents) : Gram, Gram
        The blocks as from `gram`, and their derivatives with the broadcast leading axes.

    Raises
    ------
    ValueError
        If shapes disagree, something is not finite, or a time is negative.
    FloatingPointError
        If the integrator gives up.
    """
    w1, w2, s_yx = weights_and_map(w1, w2, data[0])
    s_xx = input_gram("s_xx", data[1], s_yx)
    ds_yx = checks.finite_stack("ds_yx", change[0])
    if ds_yx.shape[-2:] != s_yx.shape[-2:]:
        raise ValueError(
            f"`ds_yx` must have the shape of `s_yx`, {s_yx.shape[-2:]}; got {ds_yx.shape[-2:]}."
        )
    ds_xx = input_gram("ds_xx", change[1], s_yx)
    state = _broadcast(_blocks(w1, w2), s_yx, s_xx)
    tangent = [np.zeros_like(part) for part in _broadcast(state, ds_yx, ds_xx)]

    def rate(*parts: FloatArray) -> tuple[FloatArray, ...]:
        base, moved = Gram(*parts[:3]), Gram(*parts[3:])
        return _velocity(base, s_yx, s_xx) + _velocity_tangent(
            base, moved, (s_yx, s_xx), (ds_yx, ds_xx)
        )

    def solve(times: FloatArray) -> list[FloatArray]:
        return _integrate(rate, (*state, *tangent), times, checks.positive("rtol", rtol))

    parts = at_times(t, solve)
    return Gram(*parts[:3]), Gram(*parts[3:])


def _velocity(state: Gram, s_yx: FloatArray, s_xx: FloatArray) -> Gram:
    """Right-hand side, A' = G^T W + W^T G,  W' = G A + C G,  C' = G W^T + W G^T."""
    a, w, c = state
    g = s_yx - w @ s_xx
    gw, wg = transposed(g) @ w, g @ transposed(w)
    return Gram(gw + transposed(gw), g @ a + c @ g, wg + transposed(wg))


def _step_squares(state: Gram, s_yx: FloatArray, s_xx: FloatArray) -> Gram:
    """Products of two velocities of the weights: G^T C G,  G W^T G,  G A G^T.

    The blocks are quadratic in the weights, so that the second derivative of a block is the change
    that bending the weights makes plus twice these, which must not be bent away.

    Returns
    -------
    Gram
    """
    a, w, c = state
    g = s_yx - w @ s_xx
    return Gram(transposed(g) @ c @ g, g @ transposed(w) @ g, g @ a @ transposed(g))


def _velocity_tangent(
    state: Gram, tangent: Gram, data: tuple[FloatArray, FloatArray], change: tuple
) -> Gram:
    """Differentiate `_velocity` along a change of the state and of the data (S_yx, S_xx)."""
    (a, w, c), (da, dw, dc), (s_yx, s_xx), (ds_yx, ds_xx) = state, tangent, data, change
    g = s_yx - w @ s_xx
    dg = ds_yx - dw @ s_xx - w @ ds_xx
    gw, wg = transposed(dg) @ w + transposed(g) @ dw, dg @ transposed(w) + g @ transposed(dw)
    return Gram(gw + transposed(gw), dg @ a + g @ da + dc @ g + c @ dg, wg + transposed(wg))


def _integrate(
    rate: Callable[..., tuple[FloatArray, ...]],
    initial: tuple[FloatArray, ...],
    times: FloatArray,
    rtol: float,
) -> list[FloatArray]:
    """Integrate a tuple of arrays with DOP853.

    The absolute tolerance is `rtol` times the largest entry of the start, because a small random
    start grows by orders of magnitude and its relative accuracy decides when each mode is learned.

    Returns
    -------
    list of arrays
        Each array of `initial` with a leading time axis.

    Raises
    ------
    FloatingPointError
        If the integrator gives up.
    """
    cuts = np.cumsum([part.size for part in initial])[:-1]

    def unpack(vector: FloatArray) -> list[FloatArray]:
        parts = np.split(vector, cuts, axis=0)
        return [
            part.reshape(*array.shape, *vector.shape[1:])
            for part, array in zip(parts, initial, strict=True)
        ]

    def flat(parts: tuple[FloatArray, ...]) -> FloatArray:
        return np.concatenate([np.ravel(part) for part in parts])

    begin = flat(initial)
    if times[-1] == 0:
        path = np.repeat(begin[:, None], len(times), axis=1)
    else:
        scale = float(np.abs(begin).max()) or 1.0
        path = ode.solve(
            "the Gram flow",
            lambda _, vector: flat(rate(*unpack(vector))),
            begin,
            times,
            rtol=rtol,
            atol=rtol * min(scale, 1.0),
        )
    return [np.moveaxis(part, -1, 0) for part in unpack(path)]


def _broadcast(blocks: Gram, *data: FloatArray) -> Gram:
    lead = np.broadcast_shapes(blocks[0].shape[:-2], *(d.shape[:-2] for d in data))
    return Gram(*(np.broadcast_to(b, lead + b.shape[-2:]) for b in blocks))


def weights_and_map(
    w1: ArrayLike, w2: ArrayLike, s_yx: ArrayLike
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Check shapes; broadcast the leading axes of the weights and of the map."""
    w1, w2 = checks.finite_stack("w1", w1), checks.finite_stack("w2", w2)
    s_yx = checks.finite_stack("s_yx", s_yx)
    check_hidden(w1, w2)
    expected = (w2.shape[-2], w1.shape[-1])
    if s_yx.shape[-2:] != expected:
        raise ValueError(
            f"`s_yx` must be (d_out, n_in) = {expected} for these weights, got {s_yx.shape[-2:]}."
        )
    lead = np.broadcast_shapes(w1.shape[:-2], w2.shape[:-2], s_yx.shape[:-2])
    return tuple(np.broadcast_to(a, lead + a.shape[-2:]) for a in (w1, w2, s_yx))


def check_hidden(w1: FloatArray, w2: FloatArray) -> None:
    """Refuse layers of different hidden width."""
    if w1.shape[-2] != w2.shape[-1]:
        raise ValueError(
            f"`w1` must be (h, n_in) and `w2` (d_out, h) with one hidden width; got "
            f"{w1.shape[-2:]} and {w2.shape[-2:]}."
        )


def input_gram(name: str, value: ArrayLike, s_yx: FloatArray) -> FloatArray:
    """Return S_xx, checked against the shape of S_yx."""
    matrix, n_in = checks.finite_stack(name, value), s_yx.shape[-1]
    if matrix.shape[-2:] != (n_in, n_in):
        raise ValueError(f"`{name}` must be (n_in, n_in) = {(n_in, n_in)}, got {matrix.shape}.")
    return matrix


def at_times(t: ArrayLike, solve: Callable[[FloatArray], list[FloatArray]]) -> list[FloatArray]:
    """Call `solve` at sorted distinct times and put its time axis before the last two."""
    times = checks.nonnegative("t", t)
    if times.ndim > 1 or times.size == 0:
        raise ValueError(f"`t` must be one time or a list of times, got shape {times.shape}.")
    distinct, where = np.unique(times, return_inverse=True)
    parts = [np.moveaxis(part[where.reshape(-1)], 0, -3) for part in solve(distinct)]
    return [part[..., 0, :, :] for part in parts] if times.ndim == 0 else parts


def transposed(matrix: FloatArray) -> FloatArray:
    """Swap the last two axes."""
    return np.swapaxes(matrix, -1, -2)
