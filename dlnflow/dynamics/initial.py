"""Initial weights for `dlnflow.Run(task, initial=...)`: random, aligned with the task, balanced.

A start W_1, ..., W_L is *balanced* when W_{l+1}^T W_{l+1} = W_l W_l^T at every interface, which
gradient flow conserves, and *aligned* when its singular vectors are those of the task, so that
every mode follows an equation of its own (`dlnflow.saxe`, `dlnflow.flow`).
"""

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.task import Task


def gaussian(
    task: Task, hidden: int, std: ArrayLike, *, depth: int = 2, seed: int = 0
) -> list[FloatArray]:
    """Independent N(0, std_l^2) entries, with a standard deviation per layer if wanted.

    Parameters
    ----------
    task : Task
    hidden : int
        Width of every hidden layer.
    std : float or sequence of float, length L
        One for all layers, or one per layer.
    depth : int
        Number of layers L.
    seed : int
        With equal `std` and seed the weights are those of ``Run(task, init_std=std, seed=seed)``.

    Returns
    -------
    list of arrays, shapes (out, in)

    Raises
    ------
    ValueError
        If a number is not positive or there is not one `std` per layer.
    """
    hidden, depth = (
        checks.positive_integer(name, value)
        for name, value in (("hidden", hidden), ("depth", depth))
    )
    spread = checks.positive_array("std", std)
    if spread.ndim > 1 or spread.size not in (1, depth):
        raise ValueError(f"`std` must be one number or one per layer, {depth}; got {std!r}.")
    sizes = [task.n_in, *[hidden] * (depth - 1), task.n_out]
    generator = np.random.default_rng(checks.whole_number("seed", seed))
    shapes = zip(sizes[1:], sizes[:-1], strict=True)
    every = np.broadcast_to(spread.ravel(), (depth,))
    return [s * generator.standard_normal(shape) for s, shape in zip(every, shapes, strict=True)]


def aligned(
    task: Task,
    hidden: int,
    strength: ArrayLike,
    *,
    imbalance: float = 0.0,
    depth: int = 2,
    seed: int = 0,
) -> list[FloatArray]:
    """Layers in the singular vectors of the task, W_L ... W_1 = U diag(a) V^T.

    Two layers: W_1 = R diag(a_1) V^T and W_2 = U diag(a_2) R^T with a_1 a_2 = a and
    a_2^2 - a_1^2 = imbalance, R random with orthonormal columns. More layers take a^(1/L) each.

    Parameters
    ----------
    task : Task
    hidden : int
        At least the rank of the task.
    strength : float or array, shape (rank,)
        a > 0: one for all modes, or one per mode in the order of ``task.modes.s``.
    imbalance : float
        0 is balanced; another value is for two layers.
    depth, seed : int

    Returns
    -------
    list of arrays, shapes (out, in)

    Raises
    ------
    ValueError
        If a strength is not positive, `hidden` is too narrow, or `imbalance` does not fit.
    """
    modes, a = task.modes, checks.positive_array("strength", strength)
    if a.ndim > 1 or a.size not in (1, modes.rank):
        raise ValueError(
            f"`strength` must be one number or one per mode, {modes.rank}; got shape {a.shape}."
        )
    if checks.positive_integer("hidden", hidden) < modes.rank:
        raise ValueError(f"`hidden` must be at least the rank of the task, {modes.rank}.")
    if checks.positive_integer("depth", depth) < 2:
        raise ValueError("`depth` must be at least 2 (the number of weight matrices).")
    imbalance = checks.real_number("imbalance", imbalance)
    if imbalance and depth != 2:
        raise ValueError("`imbalance` is for two layers; leave it 0 for more.")
    a = np.broadcast_to(a.ravel(), (modes.rank,))
    generator = np.random.default_rng(checks.whole_number("seed", seed))
    bases = [
        np.linalg.qr(generator.standard_normal((hidden, modes.rank)))[0] for _ in range(depth - 1)
    ]
    frames = [modes.v, *bases, modes.u]
    if depth == 2:
        # a_1^2 = (sqrt(c^2 + 4 a^2) - c) / 2, written so that nothing cancels for either sign.
        root = np.hypot(imbalance, 2 * a)
        larger = np.sqrt((root + abs(imbalance)) / 2)
        sizes = [a / larger, larger] if imbalance >= 0 else [larger, a / larger]
    else:
        sizes = [a ** (1 / depth)] * depth
    return [
        (above * size) @ below.T
        for size, below, above in zip(sizes, frames[:-1], frames[1:], strict=True)
    ]


def balanced(task: Task, hidden: int, std: float, *, seed: int = 0) -> list[FloatArray]:
    """Two balanced layers that know nothing of the task: W_2^T W_2 = W_1 W_1^T, W = a random map.

    W_2 W_1 is random of rank min(hidden, n_in, d_out) with singular values around
    hidden std^2 / 2, the scale that `gaussian` weights start to grow from.

    Parameters
    ----------
    task : Task
    hidden : int
    std : float
        Scale of the entries.
    seed : int

    Returns
    -------
    list of two arrays, shapes (hidden, n_in) and (d_out, hidden)

    Raises
    ------
    ValueError
        If a number is not positive.
    """
    hidden, std = checks.positive_integer("hidden", hidden), checks.positive("std", std)
    generator = np.random.default_rng(checks.whole_number("seed", seed))
    rank = min(hidden, task.n_in, task.n_out)

    def basis(size: int) -> FloatArray:
        return np.linalg.qr(generator.standard_normal((size, rank)))[0]

    v, r, u = basis(task.n_in), basis(hidden), basis(task.n_out)
    root = np.sqrt(hidden * std**2 / 2 * (0.5 + generator.random(rank)))
    return [(r * root) @ v.T, (u * root) @ r.T]
