"""Learning rate and length of a run where none is given.

At a balanced solution with strengths s_j the largest curvature of (1/N) sum_i l_i is
L s_max^(2 - 2/L) lambda_max(X X^T) / N; 2 over that is the largest stable step of gradient descent.
What an update rule makes of that bound stands in its traits.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from dlnflow._support import FloatArray
from dlnflow.task import Task
from dlnflow.theory.saxe import half_time

LEARNED = 1e-3
"""A mode counts as learned when this fraction of its strength is missing."""
MARGIN = 1.1
"""The default length is this many times what the slowest mode needs."""
MIN_STEPS = 200
"""The default length is at least this, so that a learning rate beyond stability shows,"""
MAX_STEPS = 200_000
"""and at most this, with a warning that says how many modes are left out."""


def stable_learning_rate(task: Task, depth: int) -> float:
    """Return the largest stable step of gradient descent at the solution.

    Parameters
    ----------
    task : Task
    depth : int
        Number of layers L.

    Returns
    -------
    float
        2 N / (L s_max^(2 - 2/L) lambda_max(X X^T)).
    """
    strength = task.modes.s[0] ** (2 - 2 / depth)
    return float(2 * task.n_items / (depth * strength * largest_input(task)))


def stable_everywhere(task: Task, weights: Sequence[FloatArray]) -> float:
    """Return the largest step that is stable at the solution and at the start.

    The curvature at the start is at most about sum_l prod_{m != l} |W_m|^2 lambda_max(X X^T) / N;
    it decides where initial weights are larger than learned ones.

    Parameters
    ----------
    task : Task
    weights : sequence of arrays (out, in)
        Initial weights.

    Returns
    -------
    float
    """
    depth = len(weights)
    norms = np.array([_spectral_norm(w) for w in weights])
    others = [np.prod(np.delete(norms, layer)) ** 2 for layer in range(depth)]
    curvature = max(float(np.sum(others)) * largest_input(task) / task.n_items, 1e-300)
    return min(stable_learning_rate(task, depth), 2 / curvature)


def weight_unit(task: Task, depth: int) -> float:
    """Return the size of learned weights by the units of the data, (max |y| / max |x|)^(1/L).

    1 for tables of zeros and ones. What is given in it scales with the data: features in another
    unit give the same run in another unit.
    """
    inputs = 1.0 if task.one_hot else float(np.abs(task.x).max())
    return (float(np.abs(task.y).max()) / inputs) ** (1 / depth)


def largest_input(task: Task) -> float:
    """Return lambda_max(X X^T)."""
    return 1.0 if task.one_hot else float(np.linalg.norm(task.x, 2) ** 2)


def mean_input(task: Task) -> float:
    """Return the mean eigenvalue of X X^T."""
    return 1.0 if task.one_hot else float(np.sum(task.x**2)) / task.n_in


def _spectral_norm(w: FloatArray) -> float:
    """|w|_2 through the smaller Gram matrix, so that width hardly counts."""
    gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    return float(np.sqrt(np.linalg.norm(gram, 2)))


def weight_size(task: Task, weights: Sequence[FloatArray]) -> float:
    """Return the typical size of a learned weight, sqrt(s_max^(2/L) / hidden)."""
    return float(np.sqrt(task.modes.s[0] ** (2 / len(weights)) / weights[0].shape[0]))


def length(task: Task, *, start: float, depth: int, time_per_step: float, stable: float) -> int:
    """Return steps until the slowest mode is within `LEARNED` of its strength, plus a margin.

    Parameters
    ----------
    task : Task
    start : float
        Initial strength of a mode.
    depth : int
    time_per_step : float
        Flow time of one step.
    stable : float
        Largest stable learning rate, for the warning.

    Returns
    -------
    int
        Between `MIN_STEPS` and `MAX_STEPS`; a warning names how many modes the latter leaves out.

    Raises
    ------
    ValueError
        If it leaves out all of them, whatever the inputs.
    """
    s = task.modes.s
    transition = half_time(s, np.minimum(start, s / 2), depth=depth)
    times = transition - np.log(LEARNED) / (depth * s ** (2 - 2 / depth))
    first = float(np.min(times)) / time_per_step
    if first > MAX_STEPS:
        raise ValueError(
            f"no mode is learned within {MAX_STEPS} steps, the longest default: the first needs "
            f"{first:.3g}. Give `n_steps`, a larger `learning_rate`, or an `init_std` that allows "
            "one."
        )
    steps = np.ceil(MARGIN * max(_slowing(task), 1.0) * times / time_per_step)
    if steps.max() > MAX_STEPS:
        stability = f" (stable below {stable:.3g})" if np.isfinite(stable) else ""
        warnings.warn(
            f"{int(np.sum(steps > MAX_STEPS))} of {len(s)} modes need up to {steps.max():.3g} "
            f"steps; the run is cut at {MAX_STEPS}. Give `n_steps` or a larger "
            f"`learning_rate`{stability}.",
            stacklevel=5,
        )
    return int(np.clip(steps.max(), MIN_STEPS, MAX_STEPS))


def _slowing(task: Task) -> float:
    """lambda_mean / lambda_min: without whitening the slowest input direction slows a mode."""
    if task.one_hot:
        return 1.0
    spread = np.linalg.svd(task.x, compute_uv=False) ** 2
    spread = spread[spread > 1e-12 * spread[0]]
    return mean_input(task) / spread[-1]
