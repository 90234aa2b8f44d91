"""Update rules: traits decide where a rule may be used, and undeclared ones are refused."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.dynamics.optimizers import OPTIMIZERS, Traits
from tests.tolerances import ALGEBRA

TASK = dln.semantic_hierarchy(3)


def lion_run(**options):
    return dln.Run(TASK, hidden=6, init_std=0.3, n_steps=60, optimizer="lion", **options)


def test_lion_takes_the_steps_of_the_paper_that_defines_it():
    run = lion_run(learning_rate=1e-3)
    got = run.train([0, 1, 2, 60])
    weights = [w.copy() for w in run.initial_weights()]
    mean, states = [np.zeros_like(w) for w in weights], {0: [w.copy() for w in weights]}
    for step in range(60):
        error = (weights[1] @ weights[0] - TASK.y) / TASK.n_items
        gradients = [weights[1].T @ error, error @ weights[0].T]
        for k, g in enumerate(gradients):
            weights[k] = weights[k] - 1e-3 * np.sign(0.9 * mean[k] + 0.1 * g)
            mean[k] = 0.99 * mean[k] + 0.01 * g
        states[step + 1] = [w.copy() for w in weights]
    for row, step in enumerate([0, 1, 2, 60]):
        for layer, expected in enumerate(states[step]):
            np.testing.assert_allclose(got.weights[layer][row], expected, rtol=0, atol=1e-12)


def test_lion_is_never_rotated_into_the_reduced_basis():
    wide = dln.Run(TASK, hidden=40, init_std=0.1, n_steps=50, optimizer="lion")
    assert len(wide.problem.weights[0]) == 40
    assert len(dln.Run(TASK, hidden=40, init_std=0.1, n_steps=50).problem.weights[0]) < 40


def test_estimators_of_lion():
    run, steps = lion_run(), [0, 20, 60]
    removed = dln.influence.leave_one_out(run, steps)
    w = np.ones(TASK.n_items)
    w[1] = 0
    full, without = (run.train(steps, weights=v).loss.values for v in (np.ones_like(w), w))
    np.testing.assert_allclose(
        removed.isel(train=1).values, full - without, rtol=0, atol=ALGEBRA * np.abs(full).max()
    )
    # The sign is constant almost everywhere, so that the exact derivative is 0.
    assert not np.any(dln.influence.tangent(run, steps).values)
    windows = dln.influence.windowed(run, [0, 20], window=10, at=60)
    assert np.all(np.isfinite(windows.values)) and np.any(windows.values)
    assert np.any(dln.influence.tracin(run, steps).values)
    assert np.all(np.isfinite(dln.influence.source(run, steps).values))
    for name in ("analytic", "closed_form_loo"):
        with pytest.raises(ValueError, match="lion"):
            dln.ESTIMATORS[name](run, steps)


def test_tracin_of_lion_is_the_step_with_its_size_held_fixed():
    """Over all train items it is - grad l_q . (the step of every single gradient)."""
    run = lion_run(learning_rate=1e-3)
    single = dln.influence.tracin(run, [0], cumulative=False)
    w1, w2 = run.initial_weights()
    error = (w2 @ w1 - TASK.y) / TASK.n_items
    gradients = [w2.T @ error, error @ w1.T]
    residual = w2 @ w1 - TASK.y
    for q in range(TASK.n_items):
        own = np.zeros_like(residual)
        own[:, q] = residual[:, q]
        parts = [w2.T @ own, own @ w1.T]
        # From rest c = 0.1 g, so that g / |c| = 10 sign(g).
        total = sum(np.sum(p * 10 * np.sign(g)) for p, g in zip(parts, gradients, strict=True))
        assert single[0, q].sum().item() == pytest.approx(-1e-3 * total, rel=1e-10)


@dataclass(frozen=True)
class Undeclared:
    """A rule that says nothing of itself: half a step of gradient descent."""

    learning_rate: float
    traits: ClassVar[Traits] = Traits()

    def start(self, weights):
        return {}

    def step(self, weights, gradients, state):
        for w, g in zip(weights, gradients, strict=True):
            w -= 0.5 * self.learning_rate * g


def test_a_rule_that_declares_nothing_is_refused_by_what_needs_a_trait():
    with pytest.raises(ValueError, match="give `learning_rate`"):
        dln.Run(TASK, optimizer=Undeclared, n_steps=20)
    with pytest.raises(ValueError, match="give `n_steps`"):
        dln.Run(TASK, optimizer=Undeclared, learning_rate=0.01)
    run = dln.Run(TASK, hidden=20, optimizer=Undeclared, learning_rate=0.02, n_steps=20)
    assert len(run.problem.weights[0]) == 20 and run.optimizer == "Undeclared"
    assert np.isnan(run.flow_time(5)) and np.isnan(run.stable_learning_rate)
    refusing = {name for name, e in dln.ESTIMATORS.items() if e.refusal(run)}
    assert refusing == {
        "analytic",
        "closed_form_loo",
        "dvemb",
        "per_step",
        "source",
        "tangent",
        "tracin",
    }
    with pytest.raises(ValueError, match="no method `displacement`"):
        dln.influence.tracin(run)
    with pytest.raises(ValueError, match="declares no derivative"):
        dln.influence.windowed(run, [0], first_order=True)
    half = dln.Run(TASK, hidden=20, learning_rate=0.01, n_steps=20)
    np.testing.assert_allclose(
        dln.influence.leave_one_out(run, [20]), dln.influence.leave_one_out(half, [20]), rtol=1e-10
    )


def test_rules_are_found_in_their_folder_and_named_once():
    assert set(OPTIMIZERS) >= {"gd", "flow", "momentum", "adam", "lion"}
    for name, rule in OPTIMIZERS.items():
        assert rule.name == name and isinstance(rule.traits, Traits)
    with pytest.raises(ValueError, match=r"`optimizer`.*lion"):
        dln.Run(TASK, optimizer="lions")
