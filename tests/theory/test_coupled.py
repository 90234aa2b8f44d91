"""The exact response of aligned networks against the tangent of gradient flow."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.influence import analytic, closed_form
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
