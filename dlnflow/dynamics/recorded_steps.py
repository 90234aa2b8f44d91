"""Steps at which influence is worth recording."""

import numpy as np

from dlnflow import checks
from dlnflow._support import IntArray


def even_and_geometric(n_steps: int, points: int) -> IntArray:
    """Return about `points` steps from 0 to `n_steps`, half even, half at equal ratios.

    Raises
    ------
    ValueError
        If `points` is below 3.
    """
    if checks.positive_integer("points", points) < 3:
        raise ValueError(f"`points` must be at least 3, got {points}.")
    points = min(points, 2 * (n_steps + 1))  # which is every step
    even = np.linspace(0, n_steps, points - points // 2)
    ratios = np.geomspace(max(1.0, n_steps / 1000), n_steps, points // 2)
    return np.unique(np.concatenate([even, ratios]).round().astype(np.int64))
