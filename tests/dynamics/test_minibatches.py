"""Minibatch gradient descent in a recorded order: every replaying estimator follows it."""

import numpy as np
import pytest

import dlnflow as dln
from tests.tolerances import ALGEBRA

TASK = dln.semantic_hierarchy(3, branching=2)
INPUTS = np.random.default_rng(0).normal(size=(3, 4))
OPTIMIZERS = ("gd", "momentum", "adam")


def run_of(optimizer="gd", task=TASK, batch=2, **options):
    options = {"hidden": 5, "init_std": 0.3, "learning_rate": 0.02, "n_steps": 41} | options
    return dln.Run(task, optimizer=optimizer, batch=batch, **options)


def plain(run, weights):
    """Train step by step from the recorded order, for gradient descent."""
    (w1, w2), x, y = run.initial_weights(), run.task.x, run.task.y
    for items in run.batches[: run.n_steps]:
        error = np.zeros_like(y)
        error[:, items] = (w2 @ w1 @ x - y)[:, items] * weights[items] / len(items)
        w1, w2 = (
            w1 - run.learning_rate * w2.T @ error @ x.T,
            w2 - run.learning_rate * error @ (w1 @ x).T,
        )
    return 0.5 * np.sum((y - w2 @ w1 @ x) ** 2, axis=0)


def test_the_order_is_recorded_and_passes_over_all_items():
    run = dln.Run(dln.Task(np.random.default_rng(0).normal(size=(3, 7))), batch=3, n_steps=20)
    assert run.batches.shape == (21, 3)
    for first in range(0, 20, 2):  # two batches of three make a pass; one item sits out
        assert len(set(run.batches[first : first + 2].ravel())) == 6
    other = dln.Run(run.task, batch=3, n_steps=20, seed=1)
    assert np.any(run.batches != other.batches)
    longer = dln.Run(run.task, batch=3, n_steps=40)
    np.testing.assert_array_equal(longer.batches[:21], run.batches)


@pytest.mark.parametrize("task", [TASK, dln.Task(TASK.y[:4], INPUTS)], ids=["one-hot", "inputs"])
def test_training_follows_the_order(task):
    run = run_of(task=task)
    for weights in (np.ones(4), np.array([1.0, 0.0, 2.0, 1.0])):
        got = run.losses([run.n_steps], weights[None])[0, 0]
        np.testing.assert_allclose(got, plain(run, weights), rtol=1e-10)


def test_a_batch_of_all_items_is_the_full_batch():
    whole, full = run_of(batch=4), run_of(batch=None)
    for name in ("tangent", "leave_one_out", "tracin", "source", "per_step"):
        got, expected = (dln.ESTIMATORS[name](run, [10, 41]).values for run in (whole, full))
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_tangent_is_the_derivative_of_retraining(optimizer):
    run = run_of(optimizer)
    exact = dln.influence.tangent(run, [7, 41])
    errors = []
    for fraction in (1e-3, 5e-4):
        finite = dln.influence.leave_one_out(run, [7, 41], fraction=fraction)
        errors.append(np.abs(finite - exact).max().item())
    assert errors[0] < 1e-2 * np.abs(exact).max()
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)  # of first order in the fraction


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_and_windows_add_up_to_the_tangent(optimizer):
    run = run_of(optimizer)
    whole = dln.influence.tangent(run, [run.n_steps])[0].values
    steps = dln.influence.per_step(run, range(run.n_steps))
    np.testing.assert_allclose(steps.sum("time"), whole, rtol=0, atol=1e-10 * np.abs(whole).max())
    # An item outside the minibatch of a step has no effect there.
    absent = np.ones((run.n_steps, 4), dtype=bool)
    absent[np.arange(run.n_steps)[:, None], run.batches[: run.n_steps]] = False
    assert not np.any(np.moveaxis(steps.values, 1, 2)[absent])
    window = dln.influence.windowed(
        run, [0, 20], window=[20, 21], at=run.n_steps, first_order=True
    ).sel(window=20)
    later = steps.isel(time=slice(20, 40)).sum("time")
    np.testing.assert_allclose(window[1], later, atol=1e-10 * np.abs(whole).max())


def test_windows_by_branching_are_retrainings():
    run = run_of()
    got = dln.influence.windowed(run, [8], window=9, at=41, train="item0")
    outside = np.ones(4)
    inside = outside - np.eye(4)[0]
    schedule = dln.Schedule.window(outside, inside, start=8, stop=17)
    expected = run.train([41]).loss[0] - run.train([41], schedule).loss[0]
    np.testing.assert_allclose(got[0, :, 0], expected, rtol=1e-9, atol=ALGEBRA)


def test_source_of_single_steps_is_the_tangent():
    run = run_of()
    exact = dln.influence.tangent(run, [20, 41])
    got = dln.influence.source(run, [20, 41], segments=41)
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-11 * np.abs(exact).max().item())


def test_tracin_is_the_first_order_of_a_small_step():
    """With a vanishing step nothing propagates, and TracIn with the final query is the tangent."""
    errors = []
    for rate in (1e-4, 5e-5):
        run = run_of(learning_rate=rate)
        exact = dln.influence.tangent(run, [41])
        got = dln.influence.tracin(run, [41], query_at="final")
        errors.append((np.abs(got - exact).max() / np.abs(exact).max()).item())
    assert errors[0] < 0.01 and errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_closed_forms_refuse_minibatches_and_flow_has_none():
    run = run_of()
    for name in ("analytic", "closed_form_loo"):
        with pytest.raises(ValueError, match="minibatches of 2"):
            dln.ESTIMATORS[name](run, [10])
    with pytest.raises(ValueError, match="no minibatches"):
        run_of("flow")
    for batch in (0, 5, 1.5, True):
        with pytest.raises(ValueError, match="`batch`"):
            run_of(batch=batch)
