"""Trees of items: joins of the closest, and distances of branches by brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.analysis import tree


def members(joins):
    """Items below every branch."""
    items = len(joins) + 1
    found = {k: [k] for k in range(items)}
    for j, (a, b) in enumerate(joins, start=items):
        found[j] = found[a] + found[b]
    return found


@given(st.integers(2, 9), st.integers(0, 10**6))
def test_heights_are_mean_distances_of_branches(items, seed):
    points = np.random.default_rng(seed).standard_normal((3, 4, items))
    joins = tree.item_tree(points[-1].T)
    found, below = tree.heights(joins, points), members(joins)
    for j, (a, b) in enumerate(joins):
        squared = [
            np.sum((points[:, :, x] - points[:, :, y]) ** 2, axis=1)
            for x in below[a]
            for y in below[b]
        ]
        np.testing.assert_allclose(found[:, j] ** 2, np.mean(squared, axis=0), rtol=1e-9)


@given(st.integers(2, 12), st.integers(0, 10**6))
def test_branches_stand_together_in_the_order(items, seed):
    features = np.random.default_rng(seed).standard_normal((items, 3))
    joins = tree.item_tree(features)
    order = tree.leaf_order(joins).tolist()
    assert sorted(order) == list(range(items))
    for inside in members(joins).values():
        places = sorted(order.index(k) for k in inside)
        assert places == list(range(places[0], places[-1] + 1))


def test_a_tree_in_its_own_order_has_the_same_heights():
    points = np.random.default_rng(3).standard_normal((2, 3, 7))
    joins = tree.item_tree(points[-1].T)
    order = tree.leaf_order(joins)
    moved = tree.relabelled(joins, order)
    assert tree.leaf_order(moved).tolist() == [*range(7)]
    expected = tree.heights(joins, points)
    np.testing.assert_allclose(tree.heights(moved, points[:, :, order]), expected, rtol=1e-12)


def test_the_hierarchy_is_the_tree_of_its_features():
    import dlnflow as dln

    task = dln.semantic_hierarchy()
    below = members(tree.item_tree(task.y.T))
    names = {frozenset(task.items[k] for k in inside) for inside in below.values()}
    assert {"dog", "cat"} in names and {"dog", "cat", "sparrow", "penguin"} in names


def test_many_times_are_taken_in_pieces(monkeypatch):
    points = np.random.default_rng(0).standard_normal((7, 3, 5))
    joins = tree.item_tree(points[-1].T)
    whole = tree.heights(joins, points)
    monkeypatch.setattr(tree, "NUMBERS", 2 * 3 * 5 * 2)
    np.testing.assert_array_equal(tree.heights(joins, points), whole)


@pytest.mark.parametrize("items", [1, 2])
def test_few_items_have_a_tree_too(items):
    joins = tree.item_tree(np.eye(items))
    assert joins.shape == (items - 1, 2) and tree.leaf_order(joins).tolist() == [*range(items)]
    assert tree.heights(joins, np.ones((2, 3, items))).shape == (2, items - 1)
