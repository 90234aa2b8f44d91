"""A person's table against following every item, input and hidden unit one step at a time.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks``.
"""

import time

import numpy as np
import pytest

import dlnflow as dln
from tests.benchmarks import growth
from tests.dynamics import slow_reference

pytestmark = pytest.mark.benchmark


def _cpu(work):
    started = time.process_time()
    found = work()
    return found, time.process_time() - started


@pytest.mark.parametrize(("n_items", "n_features", "least"), [(1000, 50, 2), (3000, 50, 2)])
def test_descent_on_a_table_costs_less_than_the_slow_reference(n_items, n_features, least):
    task = growth.table(n_items, n_features)
    run = dln.Run(task, hidden=max(16, 2 * task.modes.rank), n_steps=40)
    steps, directions = np.array([0, 20, 40]), np.eye(n_items)[:10]
    ours, fast = _cpu(lambda: run.tangents(steps, directions))
    wanted, slow = _cpu(lambda: slow_reference.tangents(run, steps, directions))
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    print(f"\ntangents, {n_items} x {n_features}: {fast:.2f} s, {slow:.2f} s, {slow / fast:.1f}")
    assert slow / fast >= least


def test_flow_costs_less_than_the_steps_that_it_stands_for():
    task = growth.table(50, 84)
    flow = dln.Run(task, optimizer="flow", hidden=100)
    descent = dln.Run(task, hidden=100, learning_rate=flow.learning_rate, n_steps=flow.n_steps)
    steps, train = flow.grid(200), list(flow.items[:1])
    ours, fast = _cpu(lambda: dln.influence.tangent(flow, steps, train=train))
    wanted, slow = _cpu(lambda: dln.influence.tangent(descent, steps, train=train))
    norms = [np.linalg.norm(values, axis=0) for values in (ours - wanted, wanted)]
    print(
        f"\nflow {fast:.2f} s, {flow.n_steps} steps {slow:.2f} s, {slow / fast:.1f}; relative L2 "
        f"{np.median(norms[0] / norms[1]):.4f}"
    )
    assert slow / fast >= 3
    assert np.median(norms[0] / norms[1]) < 0.05


def test_a_run_of_many_items_is_described_at_once():
    task = growth.table(5000, 50)
    _, described = _cpu(lambda: dln.Run(task, optimizer="flow", hidden=100))
    _, decomposed = _cpu(lambda: np.linalg.svd(task.y, full_matrices=False))
    print(f"\nRun of 5,000 x 50: {described:.3f} s, one SVD of the table {decomposed:.3f} s")
    assert described < 1 + 20 * decomposed
