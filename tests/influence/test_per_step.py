"""The effect of one step against differences of retraining, and the replay behind it."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.dynamics import replay
from dlnflow.influence import per_step
from tests.influence.small_runs import DISCRETE, small_run
from tests.tolerances import TANGENT_VS_DIFFERENCE


@pytest.mark.parametrize(("optimizer", "depth"), DISCRETE)
def test_one_step_is_the_central_difference(optimizer, depth):
    run, eps = small_run(optimizer, depth), 1e-4
    n_items = run.task.n_items
    exact = per_step(run, [0, 7, 39, 40, 55], at=40).values
    for row, step in enumerate((0, 7, 39)):
        changed = np.concatenate([1 + eps * np.eye(n_items), 1 - eps * np.eye(n_items)])
        schedule = dln.Schedule.window(np.ones(n_items), changed, start=step, stop=step + 1)
        up, down = np.split(run.losses([40], schedule)[:, 0], 2)
        difference = (up - down).T / (2 * eps)
        assert np.abs(exact[row] - difference).max() <= TANGENT_VS_DIFFERENCE * np.abs(exact).max()
    assert np.all(exact[3:] == 0)


def test_end_is_the_last_step():
    run = small_run()
    np.testing.assert_array_equal(per_step(run, [3]).values, per_step(run, [3], at=60).values)


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
@pytest.mark.parametrize("stop", [1, 2, 16, 17, 60])
def test_replay_backward_is_the_run_reversed(optimizer, stop):
    run = small_run(optimizer)
    there = list(replay.forward(run.problem, stop))
    back = list(replay.backward(run.problem, stop))[::-1]
    assert [m.step for m in back] == list(range(stop))
    trained = run.train(np.arange(stop + 1)).weights
    for one, other in zip(there, back, strict=True):
        for layer in range(2):
            np.testing.assert_array_equal(one.after[layer], other.after[layer])
            np.testing.assert_array_equal(one.after[layer], trained[layer][one.step + 1])


def test_bad_input_is_refused():
    run = small_run()
    for at in ("window", 0, 61):
        with pytest.raises(ValueError, match="`at`"):
            per_step(run, [0], at=at)
    with pytest.raises(ValueError, match="gradient flow has none"):
        per_step(small_run("flow"), [0])
    with pytest.raises(dln.DivergenceError):
        per_step(dln.Run(run.task, hidden=5, init_std=0.3, learning_rate=9.0, n_steps=50), [0])


def test_the_allowed_places_of_measurement_are_listed(paper_run):
    with pytest.raises(ValueError, match="`at` must be 'end' or a step >= 1 of the run; got 'x'"):
        per_step(paper_run, [10], at="x")
