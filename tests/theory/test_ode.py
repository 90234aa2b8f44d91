"""What integrators say when they give up: one kind of error, and nothing about learning rates."""

from types import SimpleNamespace

import numpy as np
import pytest

import dlnflow as dln
from dlnflow import flow
from dlnflow.theory import ode, runge_kutta


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_solution_that_leaves_the_range_of_floats_is_an_error():
    """dz/dt = z^2 from 1 is 1 / (1 - t)."""

    def solve(stop):
        return ode.solve("z", lambda _, z: z**2, np.ones(1), [0.5, stop], rtol=1e-10, atol=1e-12)

    assert solve(0.9)[0] == pytest.approx([2, 10], rel=1e-8)
    with pytest.raises(FloatingPointError, match="z could not be integrated: Required step size"):
        solve(2.0)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("gradient flow", lambda run: run.train([100])),
        ("the coupled response", lambda run: dln.influence.analytic(run, [100], response="exact")),
        ("the Gram flow", lambda run: dln.influence.closed_form_loo(run, [100], solution="gram")),
        ("the Gram flow", lambda _: flow.gram([[1.0]], [[1.0]], [[1.0]], [[1.0]], 1.0)),
    ],
)
def test_every_integrator_names_itself_and_the_reason(what, call, monkeypatch):
    run = dln.Run(dln.semantic_hierarchy(3), n_steps=200, optimizer="flow")
    failed = SimpleNamespace(success=False, message="out of patience")
    monkeypatch.setattr(ode, "solve_ivp", lambda *_, **__: failed)
    with pytest.raises(FloatingPointError, match=f"^{what} could not .*: out of patience$"):
        call(run)


def test_the_solver_of_the_reduced_flow_names_itself_and_the_reason(monkeypatch):
    run = dln.Run(dln.semantic_hierarchy(3), n_steps=200, optimizer="flow")
    monkeypatch.setattr(runge_kutta.Solver, "_error", lambda *_: float("nan"))
    with pytest.raises(FloatingPointError, match=r"^gradient flow could not .*: step too small"):
        dln.influence.tangent(run, [100])
