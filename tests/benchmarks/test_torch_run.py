"""Any torch model: exact derivatives and batched retraining against a plain torch loop.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks``. All costs are CPU seconds of
one thread, in units of one training run by a plain loop with torch.optim in the same process.
"""

import time

import numpy as np
import pytest
import torch

import dlnflow as dln

pytestmark = pytest.mark.benchmark

N_ITEMS, N_STEPS, RATE = 256, 100, 0.05


def _model():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(32, 256), torch.nn.Tanh(), torch.nn.Linear(256, 16)]
    return torch.nn.Sequential(*layers).double()


def _data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N_ITEMS, 32, generator=generator, dtype=torch.float64)
    return x, torch.tanh(x[:, :16] * x[:, 16:])


def _plain_loop(weights):
    """Train with item weights as one would write it; return the losses of all items at the end."""
    model, (x, y) = _model(), _data()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        losses = 0.5 * (y - model(x)).square().sum(dim=1)
        (weights * losses).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return 0.5 * (y - model(x)).square().sum(dim=1).numpy()


def _cpu(work, repeats=3):
    """Least CPU seconds of several calls, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        found = work()
        seconds.append(time.process_time() - started)
    return min(seconds), found


@pytest.fixture(scope="module")
def run():
    torch.set_num_threads(1)
    return dln.TorchRun(_model(), _data(), learning_rate=RATE, n_steps=N_STEPS)


@pytest.fixture(scope="module")
def one_run(run):
    seconds, losses = _cpu(lambda: _plain_loop(torch.ones(N_ITEMS, dtype=torch.float64)))
    ours = run.losses([N_STEPS], np.ones((1, N_ITEMS)))[0, 0]
    np.testing.assert_allclose(ours, losses, rtol=1e-10)
    return seconds


@pytest.mark.parametrize("directions", [16, 64])
def test_tangents_cost_at_most_two_and_a_half_runs_each(run, one_run, directions):
    matrix = np.eye(N_ITEMS)[:directions]
    seconds, _ = _cpu(lambda: run.tangents([N_STEPS], matrix))
    each = seconds / one_run / directions
    print(f"\n{directions} tangents: {seconds / one_run:.1f} runs, {each:.2f} each")
    assert seconds / one_run <= 2.5 * directions + 1


@pytest.mark.parametrize("removals", [8, 64])
def test_retraining_in_one_batch_costs_about_a_plain_loop(run, one_run, removals):
    """Small networks gain from one batch; one of this size is bound by memory (measured.md)."""
    weights = 1 - np.eye(N_ITEMS)[:removals]
    seconds, losses = _cpu(lambda: run.losses([N_STEPS], weights))
    expected = _plain_loop(torch.as_tensor(weights[3]))
    np.testing.assert_allclose(losses[3, 0], expected, rtol=1e-9)
    print(f"\n{removals} removals: {seconds / one_run / removals:.2f} of a plain loop")
    assert seconds / one_run <= 2 * removals


def test_the_adjoint_of_one_query_costs_at_most_eight_runs(run, one_run):
    seconds, steps = _cpu(lambda: list(run.adjoint(N_STEPS, np.array([5]))))
    assert len(steps) == N_STEPS
    print(f"\nadjoint: {seconds / one_run:.1f} runs")
    assert seconds / one_run <= 8
