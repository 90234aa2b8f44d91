"""Recall of classes from nearest neighbours against loops over pairs of items."""

import numpy as np
import pytest
import xarray as xr

from dlnflow.traces import matrix, neighbours
from dlnflow.traces.neighbours import predicted, wilson
from tests.traces.samples import NAMES, make


def test_prediction_by_hand():
    """Classes of 4 and 2 of 7 tokens: two votes for the rare one outweigh three for the other."""
    members = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], float)
    # query 6: votes (3, 2); query 4, left out of its class: votes (3, 1); query 0: no votes
    for frequency, best, expected in (
        ([4 / 6, 2 / 6], [0, 1, 2, 4, 5], [0, 1]),
        ([4 / 6, 1 / 6], [0, 1, 2, 5], [0, 1]),
        ([3 / 6, 2 / 6], [6], [0, 0]),
    ):
        assert predicted(members, np.array([frequency]), np.array([best])).tolist() == [expected]


@pytest.mark.parametrize("exclude", ["item", "row", "token", ("row", "token")])
def test_recall_and_chance_against_loops(exclude):
    """Neighbours, frequencies and random neighbours come from the same allowed items."""
    rng = np.random.default_rng(5)
    classes = rng.random((30, 3)) < 0.4
    classes[:3] |= np.eye(3, dtype=bool)
    row, token = np.repeat(np.arange(6), 5), rng.integers(9, size=30)
    traces = make(rng.standard_normal((1, 2, 60, 30)), row).assign_coords(token=("item", token))
    found = neighbours(traces, classes, k=4, exclude=exclude, seed=1)
    similarity = -matrix(traces).values[0]
    kinds = {"item": np.arange(30), "row": row, "token": token}
    labels = [kinds[e] for e in ([exclude] if isinstance(exclude, str) else exclude)]
    hits, chance = np.zeros((30, 3)), np.zeros((30, 3))
    for q in np.flatnonzero(classes.any(1)):
        allowed = [j for j in range(30) if not any(label[j] == label[q] for label in labels)]
        frequency = classes[allowed].mean(0)

        def vote(best, frequency=frequency):
            score = classes[best].sum(0) / np.where(frequency > 0, frequency, np.inf)
            return np.eye(3)[score.argmax()] * (score.max() > 0)

        hits[q] = vote(sorted(allowed, key=lambda j: -similarity[q, j])[:4])
        chance[q] = np.mean([vote(rng.choice(allowed, 4, replace=False)) for _ in range(400)], 0)
    count = classes.sum(0)
    np.testing.assert_allclose(found.recall[0], (hits * classes).sum(0) / count, atol=1e-12)
    # binomial error of 20 and 400 draws for each of the class's tokens
    error = np.sqrt(0.25 / count * (1 / 20 + 1 / 400))
    assert (abs(found.chance - (chance * classes).sum(0) / count) < 4 * error).all()


def test_more_neighbours_than_exclude_leaves():
    traces = make(np.random.default_rng(0).standard_normal((1, 2, 9, 6)), np.repeat([0, 1], 3))
    neighbours(traces, np.eye(2)[np.arange(6) % 2], k=3, exclude="row")
    with pytest.raises(ValueError, match="`k` must be at most 3"):
        neighbours(traces, np.eye(2)[np.arange(6) % 2], k=4, exclude="row")
    for kind in ("row", "token"):
        with pytest.raises(ValueError, match=f'no coordinate "{kind}"'):
            neighbours(traces.drop_vars("row"), np.ones((6, 1)), k=1, exclude=kind)


def test_separate_clusters_are_recalled_and_noise_is_chance():
    rng = np.random.default_rng(0)
    classes = xr.DataArray(
        np.repeat(np.eye(3), 40, axis=0),
        dims=("item", "token_class"),
        coords={"token_class": NAMES},
    )
    cause = rng.standard_normal((1, 2, 300, 3)) @ classes.values.T
    noise = rng.standard_normal((1, 2, 300, 120))
    found = neighbours(make(cause + noise), classes, k=5)
    np.testing.assert_array_equal(found.recall, 1.0)
    assert (found.low > found.chance).all()
    nothing = neighbours(make(noise), classes, k=5)
    assert (abs(nothing.recall - nothing.chance) < 0.2).all()
    # f_c(q) leaves q out, so a draw between classes goes to q's own: chance is above 1/3
    assert (found.chance > 1 / 3).all()
    assert (found.chance < 0.5).all()
    assert not found.too_rare.any()


def test_neighbours_of_the_same_row_can_be_excluded():
    rng = np.random.default_rng(0)
    cause = np.repeat(rng.standard_normal((1, 2, 100, 8)), 2, axis=3)  # pairs within a row
    rows = np.repeat(np.arange(8), 2)
    classes = np.zeros((16, 2))
    classes[:8, 0] = classes[8:, 1] = 1
    traces = make(cause + 0.01 * rng.standard_normal((1, 2, 100, 16)), rows)
    assert (neighbours(traces, classes, k=1).recall == 1).all()
    apart = neighbours(traces, classes, k=1, exclude="row")
    assert (apart.recall < 1).any()
    assert apart.too_rare.all()
    same = neighbours(traces.assign_coords(token=("item", rows)), classes, k=1, exclude="token")
    assert same.drop_attrs().identical(apart.drop_attrs())


def test_wilson_interval():
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10, 10, 10]))
    np.testing.assert_allclose(low, [0.0, 0.2366, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1.0], atol=1e-4)
