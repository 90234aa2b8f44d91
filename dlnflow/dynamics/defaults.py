"""Learning rate and length of a run where none is given.

At a balanced solution with strengths s_j the largest curvature of (1/N) sum_i l_i is
L s_max^(2 - 2/L) lambda_max(X X^T) / N; 2 over that is the largest stable step of gradient descent.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from dlnflow._support.typing import FloatArray
from dlnflow.task import Task
from dlnflow.theory.saxe import half_time

STEP_FRACTION = 0.01
"""Default learning rate, as a fraction of the largest stable one at the solution."""
ADAM_FRACTION = 2e-3
"""Adam's default: the change per step relative to the final size of a weight,"""
ADAM_STEPS = 5000
"""and its default length, ten such sizes."""
LEARNED = 1e-3
"""A mode counts as learned when this fraction of its strength is missing."""
MARGIN = 1.1
"""The default length is this many times what the slowest mode needs."""
MIN_STEPS = 200
"""The default length is at least this, so that a learning rate beyond stability shows,"""
MAX_STEPS = 200_000
"""and at most this, with a warning that says how many modes are left out."""
MOMENTUM = 0.9
"""Of the heavy ball."""


def stable_learning_rate(task: Task, depth: int, optimizer: str) -> float:
    """Return the largest stable step at the solution; momentum beta allows 1 + beta times as much.

    Infinite for flow, whose learning rate only scales time. NaN for Adam, whose step does not
    shrink with the gradient, so that curvature sets no bound.

    Parameters
    ----------
    task : Task
    depth : int
    optimizer : str

    Returns
    -------
    float
    """
    if optimizer in ("flow", "adam"):
        return float("inf" if optimizer == "flow" else "nan")
    strength = task.modes.s[0] ** (2 - 2 / depth)
    scale = np.linalg.norm(task.x, 2) ** 2 / task.n_items
    bound = 2 / (depth * strength * scale)
    return float(bound * (1 + MOMENTUM) if optimizer == "momentum" else bound)


def learning_rate(task: Task, weights: Sequence[FloatArray], optimizer: str) -> float:
    """Return a hundredth of the stable step of gradient descent; for Adam a fraction of a weight.

    The curvature at the start is at most about sum_l prod_{m != l} |W_m|^2 lambda_max(X X^T) / N;
    it decides where initial weights are larger than learned ones.

    Parameters
    ----------
    task : Task
    weights : sequence of arrays (out, in)
        Initial weights.
    optimizer : str
        Momentum's step is smaller by 1 - beta, so that runs take as many steps as descent.

    Returns
    -------
    float
    """
    depth, hidden = len(weights), weights[0].shape[0]
    if optimizer == "adam":
        return float(ADAM_FRACTION * np.sqrt(task.modes.s[0] ** (2 / depth) / hidden))
    norms = np.array([_spectral_norm(w) for w in weights])
    others = [np.prod(np.delete(norms, layer)) ** 2 for layer in range(depth)]
    curvature = max(float(np.sum(others)) * np.linalg.norm(task.x, 2) ** 2 / task.n_items, 1e-300)
    step = STEP_FRACTION * min(stable_learning_rate(task, depth, "gd"), 2 / curvature)
    return step * (1 - MOMENTUM) if optimizer == "momentum" else step


def _spectral_norm(w: FloatArray) -> float:
    """|w|_2 through the smaller Gram matrix, so that width hardly counts."""
    gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    return float(np.sqrt(np.linalg.norm(gram, 2)))


def time_per_step(task: Task, learning_rate: float, optimizer: str) -> float:
    """Return the flow time of one step, learning_rate * c / N with c the mean eigenvalue of X X^T.

    Parameters
    ----------
    task : Task
    learning_rate : float
    optimizer : str
        Momentum beta multiplies by its effective step, 1 / (1 - beta).

    Returns
    -------
    float
    """
    boost = 1 / (1 - MOMENTUM) if optimizer == "momentum" else 1.0
    return learning_rate * boost * float(np.sum(task.x**2)) / task.n_in / task.n_items


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
    # Without whitening the slowest input direction slows a mode: lambda_mean / lambda_min.
    spread = np.linalg.svd(task.x, compute_uv=False) ** 2
    spread = spread[spread > 1e-12 * spread[0]]
    slowing = float(np.sum(task.x**2)) / task.n_in / spread[-1]
    steps = np.ceil(MARGIN * max(slowing, 1.0) * times / time_per_step)
    if steps.max() > MAX_STEPS:
        stability = f" (stable below {stable:.3g})" if np.isfinite(stable) else ""
        warnings.warn(
            f"{int(np.sum(steps > MAX_STEPS))} of {len(s)} modes need up to {steps.max():.3g} "
            f"steps; the run is cut at {MAX_STEPS}. Give `n_steps` or a larger "
            f"`learning_rate`{stability}.",
            stacklevel=5,
        )
    return int(np.clip(steps.max(), MIN_STEPS, MAX_STEPS))
