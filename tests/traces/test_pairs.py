"""The matrix of single items and its largest entries."""

import itertools

import numpy as np
import pytest

from dlnflow.traces import influence, matrix, top_k
from tests.traces.samples import random_traces


@pytest.mark.parametrize("normalised", [True, False])
def test_matrix_is_that_of_influence(normalised):
    traces = random_traces()
    expected = influence(traces, normalised, errors=False)
    np.testing.assert_allclose(matrix(traces, normalised=normalised), expected, rtol=1e-9)
    some = matrix(traces, normalised=normalised, query=["i7", "i2"])
    np.testing.assert_allclose(some, expected.sel(query=["i7", "i2"]), rtol=1e-9)


def test_top_k_is_the_sorted_matrix():
    traces = random_traces()
    full, found = matrix(traces), top_k(traces, 4)
    for t, q in itertools.product(range(2), range(9)):
        others = [k for k in range(9) if k != q]
        order = sorted(others, key=lambda k: full.values[t, q, k])[:4]
        assert found.train.values[t, q].tolist() == [f"i{k}" for k in order]
        np.testing.assert_allclose(found.influence.values[t, q], full.values[t, q, order])
    with pytest.raises(ValueError, match="`k` must be below"):
        top_k(traces, 9)
    with pytest.raises(ValueError, match="'i99', which was not observed"):
        top_k(traces, 2, query=["i99"])
