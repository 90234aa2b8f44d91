"""Curves as integers times functions of time: the stated error is that of the page."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow import result
from dlnflow.explore import low_rank_curves as low_rank
from dlnflow.explore.document import unpacked
from tests.explore.reading import decoded


def made(values):
    """Influence of items a, b, ... on each other, from (time, query, train)."""
    names = [chr(97 + k) for k in range(max(values.shape[1:]))]
    return result.influence(
        values,
        np.arange(len(values)),
        names[: values.shape[1]],
        names[: values.shape[2]],
        estimator="demo",
        flow_time=np.arange(len(values)) / 10,
    )


@given(
    st.integers(1, 7),
    st.integers(1, 5),
    st.integers(1, 5),
    st.floats(1e-4, 0.3),
    st.integers(0, 99),
)
def test_the_error_is_measured_and_below_the_tolerance(times, queries, trains, tolerance, seed):
    values = np.random.default_rng(seed).standard_normal((times, queries, trains))
    blocks, pairs = low_rank.of_pairs(made(values), symmetric=False)
    found = low_rank.fit(blocks, pairs, tolerance)
    back = found.curves().reshape(values.shape)
    assert np.abs(back - values).max() == found.error <= tolerance
    content = found.content()
    read = unpacked(decoded(content["values"]), found.values.shape, 4)
    np.testing.assert_array_equal(read, found.values)


def test_blocks_of_queries_hold_every_pair_once(monkeypatch):
    values = np.random.default_rng(0).standard_normal((4, 5, 5))
    values += values.transpose(0, 2, 1)
    curves = made(values)
    monkeypatch.setattr(low_rank, "READ_NUMBERS", 4 * 5 * 2)
    for symmetric, kept in ((False, np.ones((5, 5), bool)), (True, np.triu(np.ones((5, 5), bool)))):
        blocks, pairs = low_rank.of_pairs(curves, symmetric=symmetric)
        joined = np.full((4, pairs), np.nan)
        for places, part in blocks():
            joined[:, places] = part
        np.testing.assert_array_equal(joined, values[:, kept])
    assert low_rank.measure(curves).symmetric


def test_few_functions_of_time_are_enough_for_influence():
    run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3)
    curves = dln.influence.analytic(run)
    blocks, pairs = low_rank.of_pairs(curves, symmetric=True)
    # four modes, and so at most ten products of two; four of them matter here
    found = low_rank.fit(blocks, pairs, 1e-5)
    assert found.values.shape == (4, 36)


@pytest.mark.parametrize("share", [0.0, 1e-6])
def test_symmetry_is_found_and_its_breach_too(share):
    values = np.random.default_rng(1).standard_normal((6, 9, 9))
    values += values.transpose(0, 2, 1)
    values[3, 2, 7] += share
    assert low_rank.measure(made(values)).symmetric == (share == 0)


def test_what_is_measured():
    values = np.zeros((3, 2, 2))
    values[1] = [[5.0, -2.0], [1.0, 4.0]]
    values[2, 0, 1] = -3.0
    found = low_rank.measure(made(values))
    assert (found.largest, found.different, found.symmetric) == (5.0, 3.0, False)
    assert found.typical == pytest.approx(np.quantile([3.0, 1.0], 0.99))
    alone = low_rank.measure(made(values[:, :1, :1]))
    assert (alone.different, alone.typical) == (5.0, 5.0)  # no other item


def test_curves_of_zeros_are_zeros():
    blocks, pairs = low_rank.of_pairs(made(np.zeros((3, 2, 2))), symmetric=True)
    found = low_rank.fit(blocks, pairs, 1e-3)
    assert found.error == 0 and found.curves().shape == (3, 3) and not found.curves().any()
