"""Groups of like curves: planted ones are found, every pair is in one, and sizes do not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow import result
from dlnflow.analysis import shapes
from dlnflow.analysis.shapes import CLUSTERED, FAINT, by_similarity, log_time

TIME = np.linspace(0.0, 1.0, 50)
PLANTED = np.array(
    [
        np.exp(-(((TIME - 0.3) / 0.08) ** 2)),
        -np.exp(-(((TIME - 0.5) / 0.08) ** 2)),
        np.sin(2 * np.pi * TIME) * (1 - TIME),
        np.exp(-(((TIME - 0.8) / 0.1) ** 2)) - np.exp(-(((TIME - 0.6) / 0.1) ** 2)),
    ]
)
"""Shapes, in the order of the time at which they are largest."""
ORDER = np.argsort(np.abs(PLANTED).argmax(axis=1))


def curves(values, time=TIME):
    """A result of curves (T, query, train) of items 0, 1, ..."""
    items = [f"item{k}" for k in range(max(values.shape[1:]))]
    return result.influence(
        values,
        np.arange(len(values)),
        items[: values.shape[1]],
        items[: values.shape[2]],
        estimator="tangent",
        flow_time=time,
    )


def planted(n, rng, noise=0.0):
    """Curves of n x n pairs, each one of the shapes at its own size; and which one it is."""
    which = rng.integers(len(PLANTED), size=(n, n))
    size = rng.uniform(0.2, 2.0, (n, n))
    values = np.moveaxis(PLANTED[which], 2, 0) * size
    return values + noise * size * rng.standard_normal(values.shape), which


@pytest.mark.parametrize("n", [12, 60])  # the second has more pairs than are clustered
def test_planted_shapes_are_found(n):
    values, which = planted(n, np.random.default_rng(0), noise=0.02)
    assert (n * (n - 1) > CLUSTERED) == (n == 60)
    found = shapes(curves(values))
    off = ~np.eye(n, dtype=bool)
    np.testing.assert_array_equal(ORDER[found.group.values[off]], which[off])
    np.testing.assert_array_equal(
        found.table["count"], np.bincount(which[off], minlength=len(PLANTED))[ORDER]
    )
    assert np.all(found.group.values[~off] == -1) and not found.log


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sizes_do_not_matter_and_every_pair_is_counted_once(seed):
    rng = np.random.default_rng(seed)
    values, _ = planted(5, rng, noise=0.3)
    other = values * 10.0 ** rng.uniform(-0.4, 0.4, (5, 5))
    one, two = shapes(curves(values)), shapes(curves(other))
    # The representative is the largest of the typical ones, and names the order of groups.
    labels = [np.unique(f.group.values, return_inverse=True)[1].reshape(5, 5) for f in (one, two)]
    same = [x[:, :, None, None] == x[None, None] for x in labels]
    np.testing.assert_array_equal(*same)
    for found in (one, two):
        assert found.table["count"].sum() == (found.group != -1).sum() == 20
        for k, row in found.table.iterrows():
            assert found.group.sel(query=row["query"], train=row["train"]) == k
            pair = np.abs(curves(values).sel(query=row["query"], train=row["train"])).values
            assert found is two or row["size"] == pytest.approx(pair.max())


def test_representatives_are_typical():
    rng = np.random.default_rng(3)
    values, which = planted(12, rng)
    odd = values.copy()
    odd[:, 0, 1] = 50 * (PLANTED[which[0, 1]] + 0.2 * np.sin(9 * np.pi * TIME))  # large, but odd
    row = shapes(curves(odd)).table
    assert not ((row["query"] == "item0") & (row["train"] == "item1")).any()


def test_few_pairs_are_their_own_and_faint_ones_none():
    values, _ = planted(3, np.random.default_rng(1))
    values /= np.abs(values).max(axis=0)
    values[:, 0, 1] *= 0.5 * FAINT
    values[:, 0, 0] = 1e6  # an item on itself hides nothing
    found = shapes(curves(values))
    assert found.table["count"].tolist() == [1] * 5
    assert found.group.values[0, 1] == -1
    zero = shapes(curves(values * 0))
    assert zero.table.empty and np.all(zero.group == -1)


def test_at_most_as_many_as_asked():
    values, _ = planted(12, np.random.default_rng(0), noise=0.5)
    assert [len(shapes(curves(values), most=k).table) for k in (1, 2, 5)] == [1, 2, 5]
    with pytest.raises(ValueError, match="most"):
        shapes(curves(values), most=0)


def test_early_curves_are_compared_on_a_log_scale():
    time = np.geomspace(1e-3, 1.0, 50)
    values = np.exp(-((np.log(time / 0.01)) ** 2))[:, None, None] * np.ones((3, 3))
    assert shapes(curves(values, time)).log and log_time(curves(values, time))
    late = np.exp(-((np.log(time / 0.5)) ** 2))[:, None, None] * np.ones((3, 3))
    assert not log_time(curves(late, time))


def test_the_first_estimator_and_the_mean_of_seeds_count():
    values, _ = planted(5, np.random.default_rng(0))
    one, other = curves(values), curves(values[::-1]).assign_attrs(estimator="leave_one_out")
    expected = shapes(one).table.drop(columns="size")
    stacked = shapes(dln.stack(one, other)).table.drop(columns="size")
    assert expected.equals(stacked)
    seeds = result.joined([one * 0.5, one * 1.5], "seed", [0, 1])
    assert expected.equals(shapes(seeds).table.drop(columns="size"))
    with pytest.raises(ValueError, match="damping"):
        shapes(one.expand_dims(damping=[1.0, 2.0]))


@pytest.mark.parametrize("n", [1, 2, 40, 3200])
def test_similar_rows_become_neighbours(n):
    rng = np.random.default_rng(0)
    kind = rng.integers(4, size=n)
    rows = np.eye(4)[kind] * 10 + 0.1 * rng.standard_normal((n, 4))
    order = by_similarity(rows)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert np.count_nonzero(np.diff(kind[order])) == len(set(kind)) - 1
