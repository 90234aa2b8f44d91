"""Any torch model: exact derivatives and batched retraining against a plain torch loop.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks``. All costs are CPU seconds of
one thread, in units of one training run by a plain loop with torch.optim in the same process. What
is measured includes everything that happens once per run.
"""

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import dlnflow as dln

pytestmark = pytest.mark.benchmark

N_STEPS, RATE = 1000, 0.05


@dataclass(frozen=True)
class Size:
    """A perceptron with 32 inputs, `hidden` tanh units and 16 outputs, on so many items."""

    hidden: int
    items: int

    def model(self):
        torch.manual_seed(0)
        hidden = torch.nn.Linear(32, self.hidden), torch.nn.Tanh()
        return torch.nn.Sequential(*hidden, torch.nn.Linear(self.hidden, 16)).double()

    def data(self):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(self.items, 32, generator=generator, dtype=torch.float64)
        return x, torch.tanh(x[:, :16] * x[:, 16:])

    def run(self):
        return dln.TorchRun(self.model(), self.data(), learning_rate=RATE, n_steps=N_STEPS)


LARGE = Size(256, 256)
SMALL = [Size(32, 64), Size(64, 64)]


def plain_loop(size, weights):
    """Train with item weights as one would write it; return the losses of all items at the end."""
    model, (x, y) = size.model(), size.data()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(N_STEPS):
        optimizer.zero_grad()
        losses = 0.5 * (y - model(x)).square().sum(dim=1)
        (weights * losses).mean().backward()
        optimizer.step()
    with torch.no_grad():
        return 0.5 * (y - model(x)).square().sum(dim=1).numpy()


def arithmetic(size):
    """What no loop can leave out, without anything around it: products of matrices and tanh."""
    model, (x, y) = size.model(), size.data()
    first, second = model[0].weight.detach(), model[2].weight.detach()
    for _ in range(N_STEPS):
        hidden = torch.tanh(x @ first.T)
        error = hidden @ second.T - y
        error.T @ hidden
        torch.ops.aten.tanh_backward(error @ second, hidden).T @ x


def cpu(work, repeats=3):
    """Least CPU seconds of several calls, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        found = work()
        seconds.append(time.process_time() - started)
    return min(seconds), found


def ones(size):
    return torch.ones(size.items, dtype=torch.float64)


def in_runs(size, work, repeats=3):
    """CPU time in units of the plain loop, measured before and after; and what the work gave."""
    torch.set_num_threads(1)
    before = cpu(lambda: plain_loop(size, ones(size)))[0]
    seconds, found = cpu(work, repeats)
    after = cpu(lambda: plain_loop(size, ones(size)))[0]
    return seconds / min(before, after), found


def test_the_run_is_the_plain_loop():
    ours = LARGE.run().losses([N_STEPS], np.ones((1, LARGE.items)))[0, 0]
    np.testing.assert_allclose(ours, plain_loop(LARGE, ones(LARGE)), rtol=1e-10)


@pytest.mark.parametrize("size", [SMALL[1], LARGE], ids=str)
@pytest.mark.parametrize("directions", [1, 2, 4, 16, 64])
def test_tangents_cost_at_most_two_and_a_half_runs_each(directions, size):
    matrix = np.eye(size.items)[:directions]
    runs, _ = in_runs(size, lambda: size.run().tangents([N_STEPS], matrix), 4 - (directions > 9))
    print(f"\n{size}, {directions} tangents: {runs:.1f} runs, {runs / directions:.2f} each")
    assert runs <= 2.5 * directions + 1


@pytest.mark.parametrize("size", [*SMALL, Size(64, 256), Size(128, 256), LARGE], ids=str)
@pytest.mark.parametrize("removals", [8, 64])
def test_retraining_in_one_batch_costs_half_of_plain_loops_where_calls_dominate(removals, size):
    """Elsewhere the arithmetic of a network, which all need, is more than half of a plain loop."""
    weights = 1 - np.eye(size.items)[:removals]
    runs, losses = in_runs(size, lambda: size.run().losses([N_STEPS], weights))
    expected = plain_loop(size, torch.as_tensor(weights[3]))
    np.testing.assert_allclose(losses[3, 0], expected, rtol=1e-9)
    least, _ = in_runs(size, lambda: arithmetic(size))
    print(f"\n{size}, {removals}: {runs / removals:.2f} of a plain loop, arithmetic {least:.2f}")
    assert runs <= (0.5 if size in SMALL else 1.3) * removals


def test_the_adjoint_of_one_query_costs_at_most_eight_runs():
    runs, steps = in_runs(LARGE, lambda: list(LARGE.run().adjoint(N_STEPS, np.array([5]))))
    assert len(steps) == N_STEPS
    print(f"\nadjoint: {runs:.1f} runs")
    assert runs <= 8
