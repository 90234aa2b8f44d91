"""Pairs of items that are left out: an item with itself, of one row, of one vocabulary id."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support import FloatArray, IntArray
from dlnflow.checks import one_of

KINDS = ("item", "row", "token")
"""What a pair may share to be left out."""


def excluded(exclude: str | Sequence[str]) -> frozenset[str]:
    """Return the kinds of pairs that are left out; an item with itself always is.

    Raises
    ------
    ValueError
        If one is unknown.
    """
    one = isinstance(exclude, str) or not np.iterable(exclude)
    asked = (exclude,) if one else tuple(exclude)
    for one in asked:
        one_of("exclude", one, KINDS)
    return frozenset(asked) - {"item"} or frozenset({"item"})


def numbered(traces: xr.DataArray, kind: str) -> IntArray:
    """Number the items' rows or vocabulary ids from 0 without gaps.

    Raises
    ------
    ValueError
        If the traces do not say them of every item.
    """
    if kind not in traces.coords:
        what = "vocabulary ids" if kind == "token" else "sequences"
        raise ValueError(
            f'`exclude` has "{kind}", but `traces` have no coordinate "{kind}" with the {what} of '
            "the items; assign one."
        )
    labels = traces[kind]
    if labels.dims != ("item",) or labels.isnull().any():
        raise ValueError(
            f'`traces` must have one number for each item in the coordinate "{kind}", got dims '
            f"{labels.dims}" + (" with gaps." if labels.isnull().any() else ".")
        )
    return np.unique(traces[kind].values, return_inverse=True)[1]


class ExcludedPairs(NamedTuple):
    """Items that are no pair, because they agree in one of the labels, each (K,)."""

    labels: tuple[IntArray, ...]

    @classmethod
    def of(cls, traces: xr.DataArray, exclude: str | Sequence[str] = "item") -> "ExcludedPairs":
        """Label the items by what they must not share."""
        kinds = sorted(excluded(exclude))
        if kinds == ["item"]:
            return cls((np.arange(traces.sizes["item"]),))
        return cls(tuple(numbered(traces, kind) for kind in kinds))

    def pairs(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return whether items `rows` are excluded pairs with every item, (n, K)."""
        return np.any([label[rows][:, None] == label for label in self.labels], axis=0)

    def total(self, weights: FloatArray) -> FloatArray:
        """Sum (K, G) weights over the items excluded as partners of each item, (K, G)."""
        found = sum(_within(label, weights) for label in self.labels)
        if len(self.labels) == 2:  # those that agree in both were counted twice
            both = np.unique(np.stack(self.labels), axis=1, return_inverse=True)[1].ravel()
            found = found - _within(both, weights)
        return found


def _within(label: IntArray, weights: FloatArray) -> FloatArray:
    """Sum weights over the items with the same label."""
    sums = np.zeros((label.max() + 1, weights.shape[1]))
    np.add.at(sums, label, weights)
    return sums[label]
