"""SOURCE refines to the tangent: exactly with one-step segments, at second order before."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow.influence import source, tangent
from tests.influence.small_runs import small_run


@given(st.integers(0, 99), st.booleans(), st.integers(1, 30))
def test_segments_of_one_step_are_the_tangent(seed, one_hot, last):
    run = small_run(seed=seed, one_hot=one_hot)
    steps = sorted({1, last})
    exact = tangent(run, steps).values
    refined = source(run, steps, segments=last).values
    assert np.abs(refined - exact).max() <= 1e-10 * np.abs(exact).max()


@pytest.mark.parametrize("one_hot", [True, False])
def test_error_falls_with_the_square_of_the_segment_length(one_hot):
    task = dln.semantic_hierarchy(3) if one_hot else small_run().task
    run = dln.Run(task, hidden=20, init_std=0.05, learning_rate=0.05, n_steps=512)
    exact = tangent(run, [512]).values
    errors = [
        np.abs(source(run, [512], segments=n).values - exact).max() for n in (16, 32, 64, 128)
    ]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(slopes - 2) < 0.25), slopes


def test_exponential_filter_keeps_an_error_of_first_order_in_the_step():
    """One-step segments: what is left is the difference of the filters."""
    task, errors = dln.semantic_hierarchy(3), []
    for factor in (1, 2, 4):
        run = dln.Run(task, hidden=4, init_std=0.2, learning_rate=0.4 / factor, n_steps=40 * factor)
        last = run.n_steps
        exact = tangent(run, [last]).values
        got = source(run, [last], segments=last, filter="exponential").values
        errors.append(np.abs(got - exact).max() / np.abs(exact).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(slopes - 1) < 0.2) and errors[-1] > 1e-4


def test_whole_curves_refine_too(paper_run):
    """Also at times inside a segment, which use averages of the whole segment: first order."""
    run = dln.Run(dln.semantic_hierarchy(3), hidden=20, init_std=0.05, n_steps=480)
    steps = np.arange(0, 481, 7)
    exact = tangent(run, steps).values
    errors = [np.abs(source(run, steps, segments=n).values - exact).max() for n in (24, 48, 96)]
    ratios = np.array(errors[:-1]) / errors[1:]
    assert np.all(ratios > 1.7), errors
