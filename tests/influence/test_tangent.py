"""The exact tangent against differences of retraining, and what it must add up to."""

import numpy as np
import pytest

import dlnflow as dln
from tests.tolerances import ALGEBRA, TANGENT_VS_DIFFERENCE

CASES = [
    (optimizer, depth, one_hot)
    for optimizer in ("gd", "momentum", "adam", "flow")
    for depth in (2, 3)
    for one_hot in (True, False)
]


def _run(optimizer, depth, one_hot):
    rng = np.random.default_rng(5)
    x = None if one_hot else rng.standard_normal((3, 4))
    task = dln.Task(rng.standard_normal((5, 4)), x)
    return dln.Run(
        task,
        hidden=11,
        init_std=0.3,
        learning_rate=0.05,
        n_steps=80,
        optimizer=optimizer,
        depth=depth,
    )


@pytest.mark.parametrize(("optimizer", "depth", "one_hot"), CASES)
def test_tangent_is_the_central_difference_of_retraining(optimizer, depth, one_hot):
    run = _run(optimizer, depth, one_hot)
    steps = [0, 1, 10, 40, 80]
    exact = dln.influence.tangent(run, steps).values
    # Early Adam steps are nearly signs of gradients: the loss bends within 1e-4 of the weight.
    eps = 1e-6 if optimizer == "adam" else 1e-4
    weights = np.concatenate([1 + eps * np.eye(4), 1 - eps * np.eye(4)])
    up, down = np.split(run.losses(steps, weights), 2)
    difference = np.moveaxis((up - down) / (2 * eps), 0, -1)
    assert np.abs(exact - difference).max() <= TANGENT_VS_DIFFERENCE * np.abs(difference).max()


def test_width_changes_nothing_but_the_draw(paper_run):
    """The reduced network gives the tangent of the full one: compare with differences."""
    run = dln.Run(paper_run.task, hidden=300, init_std=1e-2, n_steps=900)
    exact = dln.influence.tangent(run, [300, 900], train="dog").values[..., 0]
    eps = 1e-4
    weights = np.ones((2, 8))
    weights[:, 0] += [eps, -eps]
    up, down = run.losses([300, 900], weights)
    assert (
        np.abs(exact - (up - down) / (2 * eps)).max() <= TANGENT_VS_DIFFERENCE * np.abs(exact).max()
    )


def test_flow_tangent_is_the_limit_of_descent():
    """Error first order in the step."""
    task = dln.semantic_hierarchy(3)
    base = {"hidden": 20, "init_std": 0.05}
    flow = dln.Run(task, optimizer="flow", learning_rate=0.1, n_steps=100, **base)
    truth = dln.influence.tangent(flow, [100]).values
    errors = []
    for factor in (1, 2, 4):
        run = dln.Run(task, learning_rate=0.1 / factor, n_steps=100 * factor, **base)
        errors.append(np.abs(dln.influence.tangent(run, [run.n_steps]).values - truth).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(slopes - 1) < 0.15)


def test_subsets_are_slices(paper_run):
    steps = [500, 1500]
    whole = dln.influence.tangent(paper_run, steps)
    part = dln.influence.tangent(paper_run, steps, query=["pine", "cat"], train=["cat"])
    chosen = whole.sel(query=["pine", "cat"], train=["cat"])
    assert np.abs(part.values - chosen.values).max() <= ALGEBRA * np.abs(whole.values).max()
    assert part["query"].values.tolist() == ["pine", "cat"]


def test_symmetry_of_the_hierarchy_at_aligned_start():
    """Items of another branch have one curve: any two plants, seen from dog, to O(init)."""
    run = dln.Run(dln.semantic_hierarchy(), hidden=2000, init_std=1e-5)
    steps = np.linspace(1, run.n_steps, 50).astype(int)
    curves = dln.influence.tangent(run, steps, train="dog", query=["pine", "rose"]).values[..., 0]
    assert np.corrcoef(curves.T)[0, 1] > 0.99
