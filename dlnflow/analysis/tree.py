"""The tree of items: which are alike in the data, and how far a network has told them apart."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import linkage

from dlnflow._support import FloatArray, IntArray

MOST_ORDERED = 300
"""Of more items, leaves stand in the order of joins: the best order costs their cube."""
NUMBERS = 2**23
"""Numbers of means of branches that are held at once."""


def item_tree(features: ArrayLike) -> NDArray[np.intp]:
    """Join the items or branches whose squared distances grow least, until all are joined (Ward).

    Parameters
    ----------
    features : (N, d) array
        One row per item.

    Returns
    -------
    (N - 1, 2) int array
        The two branches of every join, the closest first. Branch k < N is item k, branch N + j
        is join j.

    Examples
    --------
    >>> [sorted(join) for join in item_tree([[0.0], [1.0], [5.0]]).tolist()]
    [[0, 1], [2, 3]]
    """
    features = np.asarray(features, dtype=np.float64)
    if len(features) < 2:
        return np.zeros((0, 2), dtype=np.intp)
    joins = linkage(features, "ward", optimal_ordering=len(features) <= MOST_ORDERED)
    return joins[:, :2].astype(np.intp)


def leaf_order(tree: NDArray[np.intp]) -> IntArray:
    """Return the items from left to right, so that no branches cross.

    Parameters
    ----------
    tree : (N - 1, 2) int array
        What `item_tree` returns.

    Returns
    -------
    (N,) int array
    """
    items = len(tree) + 1
    order, open_ = [], [2 * items - 2]
    while open_:
        branch = open_.pop()
        if branch < items:
            order.append(branch)
        else:
            open_ += reversed(tree[branch - items].tolist())
    return np.array(order, dtype=np.int64)


def relabelled(tree: NDArray[np.intp], order: IntArray) -> NDArray[np.intp]:
    """Return the same tree of items that stand in another order.

    Parameters
    ----------
    tree : (N - 1, 2) int array
        What `item_tree` returns.
    order : (N,) int array
        Old places of the items in their new order, such as `leaf_order`.

    Returns
    -------
    (N - 1, 2) int array
    """
    places = np.arange(2 * len(order) - 1)
    places[order] = np.arange(len(order))
    return places[tree]


def heights(tree: NDArray[np.intp], points: FloatArray) -> FloatArray:
    """h^2 = mean over a in A and b in B of |p_a - p_b|^2 = |m_A - m_B|^2 + v_A + v_B.

    The distance of the two branches A and B of every join, with m the mean of a branch and v its
    mean squared distance from that.

    Parameters
    ----------
    tree : (N - 1, 2) int array
        What `item_tree` returns.
    points : (T, k, N) array
        Places of the items at T times, such as `Trajectory.hidden`.

    Returns
    -------
    (T, N - 1) array
        In the unit of `points`. At a given time a join can be lower than one of its branches.
    """
    length = max(1, NUMBERS // (2 * points.shape[1] * points.shape[2]))
    parts = [
        _heights(tree, points[first : first + length]) for first in range(0, len(points), length)
    ]
    return np.concatenate(parts)


def _heights(tree: NDArray[np.intp], points: FloatArray) -> FloatArray:
    times, width, items = points.shape
    count = np.ones(items + len(tree))
    mean = np.zeros((items + len(tree), times, width))
    mean[:items] = np.moveaxis(points, 2, 0)
    spread = np.zeros((items + len(tree), times))
    found = np.zeros((times, len(tree)))
    for j, (a, b) in enumerate(tree, start=items):
        apart = np.sum((mean[a] - mean[b]) ** 2, axis=1)
        found[:, j - items] = np.sqrt(apart + spread[a] + spread[b])
        count[j] = count[a] + count[b]
        first, second = count[a] / count[j], count[b] / count[j]
        mean[j] = first * mean[a] + second * mean[b]
        spread[j] = first * spread[a] + second * spread[b] + first * second * apart
    return found
