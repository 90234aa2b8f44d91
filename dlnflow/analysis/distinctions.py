"""What a mode tells apart, in words: the items and features that load on it, on two sides."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from dlnflow._support import FloatArray
from dlnflow.influence import closed_form
from dlnflow.task import Task

ITEM_SHARE, FEATURE_SHARE = 0.3, 0.6
"""Items and features load on a mode from this fraction of the largest loading on."""
NAMES = 3
"""Most names on each side of a distinction."""
ROUNDING = 1e-9
"""Loadings that differ by less are equal, so that rounding orders nothing."""


class Distinctions:
    """What modes tell apart, in words, along the direction of a train item.

    The part of the item in the block, P_a x_i, is one direction however degenerate the block is:
    item j loads with x_j^T P_a x_i, feature f with (U_a V_a^T x_i)_f. For a single mode these are
    the singular vectors, with the sign that puts the train item on the first side.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.loadings = closed_form.Items(task, np.arange(task.n_items)).x
        self.along = lru_cache(maxsize=4096)(self._along)

    def between(self, mode: int, train: int, query: int) -> str:
        """Return e.g. "dog, cat against sparrow, penguin; features: mammal against bird"."""
        sides, features = self.along(mode, train)
        if len(sides[0]) == self.task.n_items:
            items = "all items"
        else:
            items = _against(sides, self.task.items, (train, query))
        size = len(self.task.modes.blocks[mode])
        block = f"; one of {size} equal modes" if size > 1 else ""
        return f"{items}; features: {features}{block}"

    def _along(self, mode: int, train: int) -> tuple[list[dict[int, None]], str]:
        modes = self.task.modes
        block = slice(modes.blocks[mode][0], modes.blocks[mode][-1] + 1)
        x = self.loadings[:, block]
        direction = x[train]
        if np.abs(x @ direction).max() <= ROUNDING * np.sum(x**2, axis=1).max():
            lengths = np.sum(x**2, axis=1)
            direction = x[np.argmax(lengths >= (1 - ROUNDING) * lengths.max())]
        features = _sides(modes.u[:, block] @ direction, FEATURE_SHARE)
        named = _against(features, self.task.features)
        return _sides(x @ direction, ITEM_SHARE), named


def _sides(loadings: FloatArray, fraction: float) -> list[dict[int, None]]:
    """Positions that load positively and negatively, the largest first, equal ones in order."""
    size = np.round(np.abs(loadings) / (ROUNDING * np.abs(loadings).max()))
    order = np.argsort(-size, kind="stable")
    kept = order[size[order] >= np.round(fraction / ROUNDING)]
    return [dict.fromkeys(kept[side * loadings[kept] > 0].tolist()) for side in (1, -1)]


def _against(
    sides: Sequence[dict[int, None]], names: Sequence[str], first: Sequence[int] = ()
) -> str:
    """Return "a, b, c and 4 more against d", with those of `first` that are on a side ahead."""
    listed = []
    for side in sides:
        ahead = [k for k in first if k in side]
        order = dict.fromkeys([*ahead, *islice(side, NAMES)])
        more = f" and {len(side) - NAMES} more" if len(side) > NAMES else ""
        listed.append(", ".join(names[k] for k in islice(order, NAMES)) + more)
    return " against ".join(text for text in listed if text)
