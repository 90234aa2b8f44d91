"""Products of single gradients without the gradients: equal to them, also where layers refuse."""

import numpy as np
import pytest
import torch
from torch import nn

import dlnflow as dln
from dlnflow.dynamics import torch_products
from dlnflow.dynamics.torch_steps import numbers, take
from dlnflow.dynamics.torch_sweeps import forward

N_ITEMS = 5


class Tied(nn.Module):
    """One weight as two layers, and a layer of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Beside(nn.Module):
    """A weight that is used outside of its layer too, which no hook sees."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(x))) + (x @ self.inner.weight)[:, :2]


class Positions(nn.Module):
    """Layers that see two positions per item, then a layer norm and one that sees the item."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.last = nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.norm(torch.tanh(self.inner(torch.stack([x, x**2], 1))).mean(1)))


def frozen():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
    model[0].weight.requires_grad_(False)
    return model


MODELS = {
    "perceptron": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)),
    "frozen": frozen,
    "tied": Tied,
    "twice": Twice,
    "beside": Beside,
    "positions": Positions,
    "single": lambda: nn.Linear(3, 2),
}
SHORT = {
    "perceptron": 2,
    "frozen": 2,
    "tied": 2,
    "twice": 2,
    "beside": 0,
    "positions": 2,
    "single": 1,
}
"""Layers that are asked, of `tied` one for its bias; some fall back when they are seen."""


def run_of(name, optimizer="gd", loss="mse"):
    torch.manual_seed(0)
    generator = np.random.default_rng(2)
    y = generator.normal(size=(N_ITEMS, 2)) if loss == "mse" else np.array([0, 1, 1, 0, 1])
    queries = ["new0", "new1"], generator.normal(size=(2, 3)), y[:2]
    return dln.TorchRun(
        MODELS[name]().double(),
        (generator.normal(size=(N_ITEMS, 3)), y),
        loss=loss,
        optimizer=optimizer,
        learning_rate=0.05,
        n_steps=4,
        queries=queries,
        batch=3,
    )


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_gradients(name, loss):
    run = run_of(name, loss=loss)
    problem, query, train = run.problem, np.array([1, 0]), np.array([4, 0, 2])
    for moment in forward(problem, 3):
        ours = problem.item_gradients(moment.weights, take(problem.queried, query))
        theirs = moment.displacements(train)
        expected = sum(a.flatten(1) @ b.flatten(1).T for a, b in zip(ours, theirs, strict=True))
        found = moment.kernel(query, train)
        limit = 1e-12 * np.abs(numbers(expected)).max() + 1e-18
        np.testing.assert_allclose(found, numbers(expected), rtol=0, atol=limit)
    assert len(vars(problem)["products"]._layers) == SHORT[name]


def test_gradients_of_linear_layers_are_not_formed(monkeypatch):
    problem = run_of("perceptron").problem
    (moment,) = forward(problem, 1)
    expected = moment.kernel(np.arange(2), np.arange(N_ITEMS))
    monkeypatch.setattr(torch_products.Products, "_gradients", None)
    np.testing.assert_array_equal(moment.kernel(np.arange(2), np.arange(N_ITEMS)), expected)


def test_hooks_are_gone_afterwards():
    run = run_of("perceptron")
    dln.influence.tracin(run, [4])
    assert not any(module._forward_hooks for module in run.model.modules())
