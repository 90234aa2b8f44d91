"""Shapes and times that every trajectory of dlnflow.flow takes."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support.typing import FloatArray


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
