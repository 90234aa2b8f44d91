"""Identities of exact derivatives over a list of models, by graphs of operations and without."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

import dlnflow as dln
from dlnflow.dynamics import torch_graphs
from tests.dynamics.test_torch_model import GENERATOR, differences

LENGTH = 12


class TiedAutoencoder(nn.Module):
    """One weight that goes there and back, with biases."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(4, 3))
        self.hidden, self.out = nn.Parameter(torch.randn(4)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return torch.tanh(x @ self.weight.T + self.hidden) @ self.weight + self.out


class Reader(nn.Module):
    """Attention with two heads, a layer norm and biases; a class read off the last position."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
        self.read = nn.Linear(4, 5)

    def forward(self, tokens):
        h = self.embed(tokens)
        n = self.norm(h)
        return self.read((h + self.mix(n, n, n, need_weights=False)[0])[:, -1])


def perceptron():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))


def convolution():
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)
    )


X, IMAGES = GENERATOR.normal(size=(6, 3)), GENERATOR.normal(size=(6, 1, 3, 3))
CLASSES = np.array([0, 1, 2, 0, 2, 1])
TOKENS = GENERATOR.integers(0, 5, size=(6, 4))
CASES = {
    "perceptron": (perceptron, (X, CLASSES), {"loss": "cross_entropy", "batch": 4}),
    "tied weights": (TiedAutoencoder, (X, X), {"optimizer": "momentum", "learning_rate": 0.05}),
    "convolution": (convolution, (IMAGES, X), {}),
    "attention": (
        Reader,
        (TOKENS[:, :-1], TOKENS[:, -1]),
        {
            "loss": "cross_entropy",
            "optimizer": "adamw",
            "clip": 1.0,
            "rate_schedule": dln.rates.cosine(LENGTH, warmup=3),
        },
    ),
}


def run_of(case, **changes):
    build, data, options = CASES[case]
    torch.manual_seed(3)
    options = {"learning_rate": 0.02, "n_steps": LENGTH} | options | changes
    return dln.TorchRun(build().double(), data, **options)


@pytest.fixture(params=list(CASES))
def case(request):
    return request.param


@pytest.fixture
def early(monkeypatch):
    """Operations are known from the sixth call on."""
    monkeypatch.setattr(torch_graphs, "CALLS", 5)


def test_exact_derivatives_agree_with_retraining_and_with_each_other(case, early):
    run = run_of(case)
    exact = dln.influence.tangent(run, [LENGTH])[0].values
    size = float(np.abs(exact).max())
    assert size > 1e-3
    # where Adam begins, third derivatives are large (docs/measured.md)
    expected = differences(run, [LENGTH], size=3e-6)[0]
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-6 * size)
    steps = dln.influence.per_step(run, at=LENGTH).sum("time")
    np.testing.assert_allclose(steps, exact, rtol=0, atol=1e-8 * size)
    windows = dln.influence.windowed(run, [0, 5], window=[5, 7], at="end", first_order=True)
    parts = windows.sel(window=5, time=0) + windows.sel(window=7, time=5)
    np.testing.assert_allclose(parts, exact, rtol=0, atol=1e-8 * size)
    quick = run.problem.quick
    for graph in (quick.step, quick.steps, quick.step_tangent["hessian"], quick.step_adjoint):
        assert graph.followed


def test_graphs_of_operations_give_the_same_numbers(early, monkeypatch):
    case, weights = "perceptron", np.random.default_rng(5).uniform(size=(3, 6))
    calls = {
        "losses": lambda run: run.losses([4, LENGTH], weights),
        "tangent": lambda run: dln.influence.tangent(run, [4, LENGTH]),
        "dvemb": lambda run: dln.influence.dvemb(run, [LENGTH]),
        "per_step": lambda run: dln.influence.per_step(run, at=LENGTH),
        "windowed": lambda run: dln.influence.windowed(run, [0, 2], window=4),
        "tracin": lambda run: dln.influence.tracin(run, [LENGTH]),
    }
    found = [np.asarray(call(run_of(case))) for call in calls.values()]
    monkeypatch.setattr(torch_graphs, "CALLS", 10**9)
    for (name, call), got in zip(calls.items(), found, strict=True):
        plain = np.asarray(call(run_of(case)))
        np.testing.assert_allclose(
            got, plain, rtol=0, atol=1e-12 * np.abs(plain).max(), err_msg=name
        )


class Counted(nn.Module):
    """Reads a number off every item, so that operations depend on it."""

    def __init__(self, read):
        super().__init__()
        self.layer, self.read = nn.Linear(3, 3), read

    def forward(self, x):
        factors = [2.0 if self.read(one) > 0 else 1.0 for one in x[:, 0]]
        return self.layer(x) * x.new_tensor(factors)[:, None]


READS = {
    "comparison": lambda number: number,
    "item": lambda number: number.item(),
    "list": lambda number: number.tolist(),
}


@pytest.mark.parametrize("read", list(READS))
def test_operations_that_depend_on_numbers_are_not_fixed(read, early):
    """Each item decides for itself; a list of operations would keep the first decision."""
    run = dln.TorchRun(
        Counted(READS[read]).double(),
        (X, X),
        loss=lambda output, target: 0.5 * (output.detach() * 0 + output - target).square().sum(1),
        learning_rate=0.1,
        n_steps=LENGTH,
        batch=1,
    )
    signs = X[run.batches[:LENGTH, 0], 0] > 0
    assert signs.any() and not signs.all()
    got, expected = run.weights([LENGTH])[0], dict(run.model.named_parameters())
    weight, bias = (part.numpy().copy() for part in expected.values())
    for (item,) in run.batches[:LENGTH]:
        factor = 2.0 if X[item, 0] > 0 else 1.0
        error = factor * (weight @ X[item] + bias) - X[item]
        weight -= 0.1 * factor * np.outer(error, X[item])
        bias -= 0.1 * factor * error
    assert not run.problem.quick.step.followed
    np.testing.assert_allclose(got["layer.weight"], weight, rtol=1e-12)
    np.testing.assert_allclose(got["layer.bias"], bias, rtol=1e-12)


def test_the_adjoint_holds_at_most_three_roots_of_the_steps_in_memory():
    """Counted: tensors in memory of the shape that only the one weight has."""
    length, shape = 64, (7, 11)
    x, y = GENERATOR.normal(size=(4, 11)), GENERATOR.normal(size=(4, 7))
    model = nn.Linear(11, 7, bias=False).double()
    run = dln.TorchRun(model, (x, y), learning_rate=0.05, n_steps=length)
    most = 0
    for step, _ in run.adjoint(length, np.array([0])):
        if step % 8 == 7:  # a stretch is complete
            tensors = (a for a in gc.get_objects() if type(a) is torch.Tensor)
            most = max(most, len({a.data_ptr() for a in tensors if a.shape == shape}))
    assert np.sqrt(length) < most <= 3 * np.sqrt(length)
