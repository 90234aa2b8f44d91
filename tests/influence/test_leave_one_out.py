"""Removal by retraining: against separate trainings of a masked task, and its limits."""

import numpy as np
import pytest

import dlnflow as dln
from tests.tolerances import ALGEBRA


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "flow"])
def test_removal_is_training_with_input_and_output_masked(optimizer):
    """Mask the item's columns of x and y in a task of its own, train that, compare losses."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((3, 5)), rng.standard_normal((4, 5))
    options = {
        "hidden": 9,
        "init_std": 0.2,
        "learning_rate": 0.05,
        "n_steps": 60,
        "optimizer": optimizer,
    }
    run = dln.Run(dln.Task(y, x), **options)
    steps = [0, 20, 60]
    removed = dln.influence.leave_one_out(run, steps).values
    full = run.train(steps).w
    for i in range(5):
        mask = np.arange(5) != i
        without = dln.Run(dln.Task(y * mask, x * mask), **options).train(steps).w
        loss_full, loss_without = (0.5 * np.sum((y - w @ x) ** 2, axis=1) for w in (full, without))
        expected = loss_full - loss_without
        tolerance = ALGEBRA if optimizer != "flow" else 1e-9
        assert np.abs(removed[:, :, i] - expected).max() <= tolerance * np.abs(removed).max()


def test_partial_removal_tends_to_the_tangent_at_first_order(paper_run):
    steps = np.linspace(100, paper_run.n_steps, 30).astype(int)
    truth = dln.influence.tangent(paper_run, steps).values
    errors = [
        np.abs(dln.influence.leave_one_out(paper_run, steps, fraction=f).values - truth).max()
        for f in (0.02, 0.01, 0.005)
    ]
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(slopes - 1) < 0.1)
    # Both signs of the change bracket the derivative: the mean is right to second order.
    both = [dln.influence.leave_one_out(paper_run, steps, fraction=f).values for f in (0.01, -0.01)]
    assert np.abs(np.mean(both, axis=0) - truth).max() < 0.05 * errors[1]


def test_paper_signs_and_flips(paper_run):
    """dog helps cat first, harms it later; the sign flips for sibling, cousin and far items."""
    steps = np.unique(np.linspace(0, paper_run.n_steps, 200).astype(int))
    loo = dln.influence.leave_one_out(paper_run, steps, train="dog").sel(train="dog")
    for query in ("cat", "sparrow", "pine"):
        curve = loo.sel(query=query).values
        assert curve.max() > 0.01 and curve.min() < -0.01
    assert loo.sel(query="dog").values[-1] == pytest.approx(
        -2.0, rel=0.05
    )  # never learned: |y|^2/2


def test_the_removed_item_keeps_its_initial_loss():
    run = dln.Run(dln.semantic_hierarchy(3), init_std=1e-4)
    loo = dln.influence.leave_one_out(run, [run.n_steps])
    for item in run.task.items:
        assert float(loo.sel(query=item, train=item)[0]) == pytest.approx(-1.5, abs=1e-3)


@pytest.mark.parametrize("fraction", [0, 1e-9, 1.5, np.nan, np.inf, [0.5]])
def test_bad_fractions_are_refused(paper_run, fraction):
    with pytest.raises(ValueError, match="`fraction`"):
        dln.influence.leave_one_out(paper_run, [10], fraction=fraction)


def test_unknown_items_are_refused_with_a_suggestion(paper_run):
    with pytest.raises(ValueError, match="Did you mean 'dog'"):
        dln.influence.leave_one_out(paper_run, [10], train="dgo")
    with pytest.raises(TypeError, match=r"dlnflow\.Run"):
        dln.influence.leave_one_out(paper_run.task, [10])
