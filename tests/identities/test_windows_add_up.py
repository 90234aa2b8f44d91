"""The effects of windows add up: to the tangent at first order, to retraining over the run."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.influence import leave_one_out, per_step, tangent, windowed
from tests.influence.small_runs import DISCRETE, small_run
from tests.tolerances import ALGEBRA

CASES = st.sampled_from(DISCRETE)
ADAM_ROUNDING = 1e-15
"""Adam's first step is nearly the sign of the gradient: its derivative is a small difference."""


@given(CASES, st.lists(st.integers(1, 39), unique=True, max_size=4), st.integers(0, 99))
def test_first_order_effects_of_a_partition_sum_to_the_tangent(case, cuts, seed):
    run = small_run(*case, n_steps=40, seed=seed)
    bounds = [0, *sorted(cuts), 40]
    parts = [
        windowed(run, [a], window=b - a, at="end", first_order=True).values
        for a, b in pairwise(bounds)
    ]
    whole = tangent(run, [40]).values
    # The parts may be larger than their sum, so rounding is relative to them.
    scale = max(np.abs(p).max() for p in parts)
    assert np.abs(sum(parts) - whole).max() <= ALGEBRA * scale + ADAM_ROUNDING


@given(CASES, st.integers(1, 40), st.integers(0, 99))
def test_single_steps_sum_to_the_tangent_at_any_time(case, at, seed):
    run = small_run(*case, n_steps=40, seed=seed)
    single = per_step(run, range(41), at=at).values
    whole = tangent(run, [at]).values[0]
    scale = 40 * np.abs(single).max()
    assert np.abs(single.sum(axis=0) - whole).max() <= ALGEBRA * scale + ADAM_ROUNDING


@given(CASES, st.integers(0, 30), st.integers(1, 10), st.integers(0, 99))
def test_mean_over_a_window_is_the_mean_of_later_measurements(case, start, width, seed):
    run = small_run(*case, n_steps=40, seed=seed)
    inside = windowed(run, [start], window=width, first_order=True).values[0]
    later = [
        per_step(run, range(start, at), at=at).values.sum(axis=0)
        for at in range(start + 1, start + width + 1)
    ]
    expected = np.mean(later, axis=0)
    assert np.abs(inside - expected).max() <= ALGEBRA * 10 * np.abs(expected).max() + ADAM_ROUNDING


@given(CASES, st.sampled_from([0.0, 0.5, 1.5]), st.integers(0, 99))
def test_a_window_over_the_whole_run_is_retraining(case, weight, seed):
    run = small_run(*case, n_steps=40, seed=seed)
    got = windowed(run, [0], window=40, weight=weight, at="end").values
    expected = leave_one_out(run, [40], fraction=1 - weight).values
    assert np.abs(got - expected).max() <= ALGEBRA * 10 * np.abs(expected).max() + ADAM_ROUNDING
