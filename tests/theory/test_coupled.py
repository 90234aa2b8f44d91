"""The exact response of aligned networks against the tangent of gradient flow."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.influence import analytic, closed_form
from dlnflow.theory import coupled
from tests.influence.test_analytic import aligned_weights, assert_close, frame


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("kind", ["degenerate", "null space", "white frame"])
def test_exact_response_is_the_tangent_of_an_aligned_start(kind, depth, monkeypatch):
    """Gradient flow of the very weights, through every transition; the paper's form is another."""
    rng, a0 = np.random.default_rng(3), 1e-2
    x = frame(rng, 4, 6, scale=2.5) if kind == "white frame" else None
    values = rng.standard_normal((3, 5 if x is None else 4))
    task = dln.Task(values if x is None else values @ x, x)
    if kind == "degenerate":
        task = dln.semantic_hierarchy(levels=3)
    run = dln.Run(task, hidden=9, depth=depth, optimizer="flow", n_steps=3000)
    # Cached when the run was described; nothing else has looked at the weights yet.
    monkeypatch.setitem(run.__dict__, "_initial", aligned_weights(task, depth, 9, a0))
    steps = np.linspace(0, run.n_steps, 8).astype(int)
    truth = dln.influence.tangent(run, steps).values
    found = analytic(run, steps, a0=a0, response="exact")
    assert_close(found.values, truth, 1e-9)
    assert found.attrs["response"] == "exact"
    paper = analytic(run, steps, a0=a0).values
    assert np.abs(paper - truth).max() > 1e-3 * np.abs(truth).max()


def test_exact_response_by_the_low_rank_route_and_for_a_subset(monkeypatch):
    task = dln.Task(np.random.default_rng(1).standard_normal((8, 10)))
    run = dln.Run(task, hidden=10, n_steps=500)
    whole = analytic(run, [0, 200, 500], a0=1e-2, response="exact").values
    part = analytic(run, [200], a0=1e-2, response="exact", query="item3", train=["item1"])
    assert part.values.item() == pytest.approx(whole[1, 3, 1], abs=1e-9 * np.abs(whole).max())
    assert np.all(analytic(run, [0], a0=1e-2, response="exact").values == 0)
    monkeypatch.setattr(closed_form, "FEW_PAIRS", 0)
    monkeypatch.setattr(closed_form, "MANY_PAIRS", 0)
    assert_close(analytic(run, [0, 200, 500], a0=1e-2, response="exact").values, whole, 1e-9)


def test_exact_response_refuses_targets_that_inputs_cannot_make():
    rng = np.random.default_rng(0)
    run = dln.Run(dln.Task(rng.standard_normal((3, 6)), frame(rng, 3, 6)), hidden=5, n_steps=10)
    with pytest.raises(ValueError, match="response='correlation'"):
        analytic(run, [5], response="exact")
    with pytest.raises(ValueError, match="`response`"):
        analytic(run, [5], response="exakt")


@pytest.mark.parametrize("at", [0.5, 2.5, 4.0, 8.0])
@pytest.mark.parametrize("a0", [2.5e-5, 1e-2])
def test_the_kernel_adds_up_to_the_response(at, a0):
    """Gauss-Legendre over all times against the integrated equations."""
    s = np.sqrt([15.0, 7.0, 3.0, 1.0])
    nodes, weights = np.polynomial.legendre.leggauss(300)
    found = coupled.kernel(s, at * (nodes + 1) / 2, at, a0)
    whole = np.einsum("tab,t->ab", found, weights) * at / 2
    exact = coupled.coefficients(s, np.array([0.0, at]), a0, 2, False)[-1]
    assert_close(whole, exact, 1e-9)


def test_the_kernel_is_the_effect_of_one_step_of_an_aligned_run(monkeypatch):
    """Per step of gradient descent, whose steps are small, at every step of a short window."""
    task, a0 = dln.semantic_hierarchy(levels=3), 1e-2
    run = dln.Run(task, hidden=9, n_steps=4000, learning_rate=0.002)
    monkeypatch.setitem(run.__dict__, "_initial", aligned_weights(task, 2, 9, a0))
    steps = np.array([300, 900, 1500])
    truth = dln.influence.per_step(run, steps, at=2000).values
    unit = float(run.flow_time([1])[0])
    modes = task.modes
    found = coupled.kernel(modes.distinct, (steps + 0.5) * unit, 2000 * unit, a0)
    shared = modes.projectors()
    effect = -np.einsum("tab,aqi,bqi->tqi", found, shared, shared) * unit
    assert_close(effect, truth, 0.02)


def test_a_kernel_outside_of_its_times_is_refused():
    with pytest.raises(ValueError, match="`times` must lie between 0 and `at` = 1"):
        coupled.kernel(np.ones(1), [2.0], 1.0, 1e-2)
    with pytest.raises(ValueError, match="`a0` = 2 must be below"):
        coupled.kernel(np.ones(1), [0.5], 1.0, 2.0)
    for wrong, name in (((1.0, 0.0), "a0"), ((np.nan, 0.1), "at")):
        with pytest.raises(ValueError, match=f"`{name}` must be a finite number > 0"):
            coupled.kernel([1.0, 2.0], [0.5], *wrong)


@pytest.mark.parametrize("at", [200.0, 1000.0])
def test_the_kernel_is_there_when_the_gaps_are_below_all_floats(at):
    """All but a single mode have converged then, and nothing that was learned is left to change."""
    s = np.sqrt([15.0, 7.0, 3.0, 1.0])
    found = coupled.kernel(s, np.array([0.0, 1.0, at / 2, at]), at, 1e-3)
    assert np.isfinite(found).all() and abs(found).max() < 1e-100
    slow = coupled.kernel(1e-3 * s, np.array([0.0, at / 2]), at, 1e-6)
    scaled = coupled.kernel(s, 1e-3 * np.array([0.0, at / 2]), 1e-3 * at, 1e-3)
    assert_close(slow, 1e-9 * scaled, 1e-9)  # s -> c s, t -> t / c: a, g -> c a, c g
