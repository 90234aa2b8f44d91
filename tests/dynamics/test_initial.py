"""Given initial weights: constructors, and closed forms met by a user's own start."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import dlnflow as dln
from dlnflow import initial
from tests.tolerances import ALGEBRA

TASK = dln.semantic_hierarchy(3)


def test_gaussian_weights_are_those_a_run_draws():
    weights = initial.gaussian(TASK, 9, 0.02, seed=3)
    run = dln.Run(TASK, hidden=9, init_std=0.02, seed=3)
    for given_, drawn in zip(weights, run.initial_weights(), strict=True):
        np.testing.assert_array_equal(given_, drawn)
    same = dln.Run(TASK, initial=weights, learning_rate=run.learning_rate, n_steps=run.n_steps)
    np.testing.assert_array_equal(
        dln.influence.tangent(same, [100]), dln.influence.tangent(run, [100])
    )
    first, second = initial.gaussian(TASK, 2000, [0.1, 0.3], seed=0)
    assert first.std() == pytest.approx(0.1, rel=0.05)
    assert second.std() == pytest.approx(0.3, rel=0.05)


@given(
    imbalance=st.floats(-2, 2),
    strength=st.floats(1e-4, 1),
    seed=st.integers(0, 99),
    hidden=st.integers(4, 9),
)
def test_aligned_layers_have_the_strength_and_imbalance_asked_for(
    imbalance, strength, seed, hidden
):
    w1, w2 = initial.aligned(TASK, hidden, strength, imbalance=imbalance, seed=seed)
    modes = TASK.modes
    np.testing.assert_allclose(modes.u.T @ w2 @ w1 @ modes.v, strength * np.eye(4), atol=1e-12)
    sizes = np.linalg.norm(w2.T @ modes.u, axis=0) ** 2 - np.linalg.norm(w1 @ modes.v, axis=0) ** 2
    np.testing.assert_allclose(sizes, imbalance, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_aligned_starts_follow_the_mode_equation(depth):
    weights = initial.aligned(TASK, 5, 1e-2, depth=depth)
    run = dln.Run(TASK, initial=weights, optimizer="flow", learning_rate=0.2, n_steps=400)
    steps = [0, 100, 200, 400]
    expected = [
        [dln.saxe.mode_strength(t, s, 1e-2, depth=depth) for s in TASK.modes.s]
        for t in run.flow_time(steps)
    ]
    np.testing.assert_allclose(run.train(steps).mode_strengths, expected, rtol=1e-7)


def test_balanced_starts_stay_balanced_and_meet_the_closed_form():
    w1, w2 = initial.balanced(TASK, 6, 0.05, seed=1)
    np.testing.assert_allclose(w2.T @ w2, w1 @ w1.T, atol=ALGEBRA)
    run = dln.Run(TASK, initial=[w1, w2], optimizer="flow", learning_rate=0.2, n_steps=300)
    steps = np.array([0, 50, 150, 300])
    exact = dln.flow.balanced(w1, w2, TASK.y, run.flow_time(steps))
    np.testing.assert_allclose(run.train(steps).w, exact, rtol=0, atol=1e-8)
    retrained = dln.influence.leave_one_out(run, steps)
    gram = dln.influence.closed_form_loo(run, steps, solution="gram")
    np.testing.assert_allclose(gram, retrained, rtol=0, atol=1e-7)
    # Without an item the start is no longer balanced, which the Riccati form takes it to be.
    riccati = dln.influence.closed_form_loo(run, steps, solution="riccati")
    np.testing.assert_allclose(riccati, retrained, rtol=0, atol=1e-2)


def test_unbalanced_starts_meet_the_closed_form_of_one_mode():
    w1, w2 = initial.aligned(TASK, 5, 0.01, imbalance=0.3)
    run = dln.Run(TASK, initial=[w1, w2], optimizer="flow", learning_rate=0.2, n_steps=300)
    steps = [0, 60, 150, 300]
    a1 = np.linalg.norm(w1 @ TASK.modes.v, axis=0)
    a2 = np.linalg.norm(w2.T @ TASK.modes.u, axis=0)
    for mode, s in enumerate(TASK.modes.s):
        exact = np.prod(
            dln.flow.unbalanced_mode(run.flow_time(steps), s, a1[mode], a2[mode]), axis=0
        )
        got = run.train(steps).mode_strengths[:, mode]
        np.testing.assert_allclose(got, exact, rtol=1e-7)


def test_given_weights_describe_the_network():
    run = dln.Run(TASK, initial=initial.aligned(TASK, 5, 1e-3))
    assert (run.hidden, run.depth) == (5, 2) and "initial=..." in repr(run)
    assert run.train([run.n_steps]).loss.max() < 1e-2  # the default length follows the start
    (w1, w2) = initial.gaussian(TASK, 5, 0.1)
    w1[0, 0] = 7.0
    assert dln.Run(TASK, initial=[w1, w2]).initial_weights()[0][0, 0] == 7.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"initial": [np.ones((3, 4))]}, "at least two matrices"),
        ({"initial": np.ones((2, 4, 4))}, "a list"),
        ({"initial": [np.ones((3, 5)), np.ones((7, 3))]}, r"`initial\[0\]` must have 4 columns"),
        ({"initial": [np.ones((3, 4)), np.ones((7, 2))]}, r"`initial\[1\]` must have 3 columns"),
        ({"initial": [np.ones((3, 4)), np.ones((6, 3))]}, "7 rows"),
        ({"initial": [np.full((3, 4), np.nan), np.ones((7, 3))]}, r"`initial\[0\]`"),
        ({"initial": [np.ones((3, 4)), np.ones((7, 3))], "hidden": 5}, "leave `hidden` out"),
        ({"initial": [np.ones((3, 4)), np.ones((7, 3))], "init_std": 0.1}, "`init_std`"),
        ({"initial": [np.ones((3, 4)), np.ones((7, 3))], "depth": 3}, "leave `depth` out"),
    ],
)
def test_weights_that_do_not_fit_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        dln.Run(TASK, **options)


def test_constructors_refuse_what_they_cannot_build():
    for call, match in (
        (lambda: initial.gaussian(TASK, 5, [0.1, 0.2, 0.3]), "`std`"),
        (lambda: initial.aligned(TASK, 3, 0.1), "`hidden`"),
        (lambda: initial.aligned(TASK, 5, [0.1, 0.2]), "`strength`"),
        (lambda: initial.aligned(TASK, 5, 0.1, imbalance=1.0, depth=3), "`imbalance`"),
        (lambda: initial.balanced(TASK, 5, -1.0), "`std`"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
