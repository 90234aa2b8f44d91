"""Any torch module as a run: equal to the numpy run, true derivatives, and what is refused."""

import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dlnflow as dln
from dlnflow.dynamics.optimizers import OPTIMIZERS, Traits

TASK = dln.semantic_hierarchy(3)
RATES = {"gd": 0.3, "momentum": 0.05, "adam": 0.01, "adamw": 0.01, "lion": 0.01}
STEPS = [0, 7, 20]
LENGTH = 20


def linear_module(weights):
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight.data = torch.tensor(w)
    return nn.Sequential(*layers)


def both(depth, optimizer, batch):
    """The numpy run and the torch run of one deep linear network."""
    sizes = [TASK.n_in, *[4] * (depth - 1), TASK.n_out]
    generator = np.random.default_rng(depth)
    weights = [0.4 * generator.normal(size=(b, a)) for a, b in pairwise(sizes)]
    options = {
        "learning_rate": RATES[optimizer],
        "n_steps": LENGTH,
        "optimizer": optimizer,
        "batch": batch,
        "seed": 3,
    }
    run = dln.Run(TASK, initial=weights, **options)
    module = linear_module(weights)
    return run, dln.TorchRun(module, (TASK.x.T, TASK.y.T), items=TASK.items, **options)


CALLS = {
    "tangent": lambda run: dln.influence.tangent(run, STEPS),
    "leave_one_out": lambda run: dln.influence.leave_one_out(run, STEPS),
    "windowed": lambda run: dln.influence.windowed(run, [0, 5, 10], window=[3, 8]),
    "windowed_later": lambda run: dln.influence.windowed(run, [0, 5], window=6, at="end"),
    "first_order": lambda run: dln.influence.windowed(run, [0, 5, 10], window=6, first_order=True),
    "first_order_later": lambda run: dln.influence.windowed(
        run, [0, 5], window=6, at="end", first_order=True
    ),
    "per_step": dln.influence.per_step,
    "tracin": lambda run: dln.influence.tracin(run, STEPS),
    "tracin_final": lambda run: dln.influence.tracin(run, STEPS, query_at="final"),
    "dvemb": lambda run: dln.influence.dvemb(run, STEPS),
}
TWO_LAYER_CALLS = {
    "source": lambda run: dln.influence.source(run, [13, 20]),
    "damped_hessian": lambda run: dln.influence.damped_hessian(run, [0, 20], damping=[0.5, 2.0]),
    "damped_gauss_newton": lambda run: dln.influence.damped_gauss_newton(
        run, [0, 20], damping=[0.1, 1.0]
    ),
}
SOURCE_CALLS = {
    "source_published": lambda run: dln.influence.source(
        run, [13, 20], filter="exponential", curvature="gauss_newton"
    ),
}


def assert_same(calls, pair):
    for name, call in calls.items():
        expected, got = (call(run) for run in pair)
        assert got.dims == expected.dims, name
        limit = 1e-9 * np.abs(expected.values).max()
        np.testing.assert_allclose(got.values, expected.values, rtol=0, atol=limit, err_msg=name)
        assert got["query"].values.tolist() == expected["query"].values.tolist()


@pytest.mark.filterwarnings("ignore:damped_hessian")
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "lion"])
def test_a_two_layer_linear_module_gives_the_numbers_of_the_numpy_run(optimizer, batch):
    pair = both(2, optimizer, batch)
    assert_same(CALLS | TWO_LAYER_CALLS, pair)
    if optimizer == "gd":
        assert_same(SOURCE_CALLS, pair)
    if batch:
        np.testing.assert_array_equal(pair[0].batches, pair[1].batches)


@pytest.mark.parametrize(("optimizer", "batch"), [("gd", 3), ("momentum", None), ("adam", 3)])
def test_a_three_layer_linear_module_gives_the_numbers_of_the_numpy_run(optimizer, batch):
    assert_same(CALLS, both(3, optimizer, batch))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("optimizer", list(RATES))
@pytest.mark.parametrize("depth", [2, 3])
def test_every_general_estimator_with_every_optimizer(depth, optimizer, batch):
    assert_same(CALLS, both(depth, optimizer, batch))


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(sorted(RATES)), seed=st.integers(0, 10**6), count=st.integers(1, 4))
def test_a_functional_update_is_the_step_in_arrays_and_in_tensors(name, seed, count):
    rule, generator = OPTIMIZERS[name](0.1), np.random.default_rng(seed)
    weights = [generator.normal(size=(2, 3)), generator.normal(size=4)]
    state, kept = rule.start(weights), [w.copy() for w in weights]
    functional = kept, rule.start(kept)
    tensors = [torch.tensor(w) for w in kept]
    tensors = tensors, rule.start(tensors)
    for _ in range(count):
        gradients = [generator.normal(size=w.shape) for w in weights]
        gradients[1][0] = 0.0  # never moves: its second moment stays 0
        functional = rule.update(functional[0], gradients, functional[1])
        moved = rule.update(tensors[0], [torch.tensor(g) for g in gradients], tensors[1])
        tensors = moved
        rule.step(weights, [g.copy() for g in gradients], state)
    for layer, w in enumerate(weights):
        np.testing.assert_allclose(functional[0][layer], w, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(tensors[0][layer].numpy(), w, rtol=1e-13, atol=1e-15)
        if name == "adam":
            np.testing.assert_allclose(
                tensors[1]["square"][layer].numpy(), state["square"][layer], rtol=1e-13
            )


def perceptron(classes=2, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, classes)).to(dtype)


GENERATOR = np.random.default_rng(1)
X, Y = GENERATOR.normal(size=(6, 3)), GENERATOR.normal(size=(6, 2))
LABELS = np.array([0, 1, 1, 0, 1, 0])


def nonlinear_run(loss="mse", optimizer="gd", **options):
    targets = LABELS if loss == "cross_entropy" else Y
    given = {"learning_rate": RATES[optimizer], "n_steps": 15} | options
    return dln.TorchRun(perceptron(), (X, targets), loss=loss, optimizer=optimizer, **given)


def differences(run, steps, size=1e-5):
    """Central differences of retraining in every item weight, shape (T, n_query, N)."""
    n_items = len(run.items)
    changes = size * np.eye(n_items)
    up, down = (run.losses(steps, 1 + sign * changes) for sign in (1, -1))
    return np.moveaxis(up - down, 0, -1) / (2 * size)


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
def test_the_tangent_of_a_perceptron_is_the_limit_of_retraining(optimizer, loss, batch):
    run = nonlinear_run(loss, optimizer, batch=batch)
    exact = dln.influence.tangent(run, [5, 15]).values
    expected = differences(run, [5, 15])
    np.testing.assert_allclose(exact, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
def test_effects_of_single_steps_add_up_to_the_tangent(optimizer):
    run = nonlinear_run("cross_entropy", optimizer, batch=4)
    total = dln.influence.per_step(run, at=15).sum("time")
    exact = dln.influence.tangent(run, [15])[0]
    np.testing.assert_allclose(total, exact, rtol=0, atol=1e-10 * np.abs(exact).max())


class Attention(nn.Module):
    """One layer of attention, a layer norm and a weight that is used twice."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.read = nn.Linear(4, 5, bias=False)
        self.read.weight = self.embed.weight

    def forward(self, tokens):
        h = self.norm(self.embed(tokens))
        mixed = nn.functional.scaled_dot_product_attention(h, h, h, is_causal=True)
        return self.read(h + mixed)


def next_token_loss(output, tokens):
    losses = nn.functional.cross_entropy(output[:, :-1].mT, tokens[:, 1:], reduction="none")
    return losses.mean(1)


def test_attention_with_tied_weights_and_a_loss_of_ones_own():
    torch.manual_seed(1)
    tokens = torch.randint(0, 4, (4, 6))  # token 4 never occurs
    run = dln.TorchRun(
        Attention().double(),
        (tokens, tokens),
        loss=next_token_loss,
        optimizer="adam",
        learning_rate=0.02,
        n_steps=8,
        queries=(["held out"], tokens[:1].flip(1), tokens[:1].flip(1)),
    )
    assert run.problem.n_parameters == 5 * 4 + 8
    exact = dln.influence.tangent(run, [8])
    expected = differences(run, [8])
    assert exact["query"].values.tolist() == ["held out"]
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    total = dln.influence.per_step(run, at=8).sum("time")
    np.testing.assert_allclose(total, exact[0], rtol=0, atol=1e-10 * np.abs(expected).max())


def test_a_convolution_and_frozen_weights():
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2, bias=False)
    ).double()
    model[3].weight.requires_grad_(False)
    before = {name: part.clone() for name, part in model.state_dict().items()}
    x = GENERATOR.normal(size=(4, 1, 3, 3))
    run = dln.TorchRun(model, (x, Y[:4]), learning_rate=0.2, n_steps=10)
    exact, expected = dln.influence.tangent(run, [10]).values, differences(run, [10])
    np.testing.assert_allclose(exact, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert run.problem.n_parameters == 10
    for name, part in model.state_dict().items():
        assert torch.equal(part, before[name])


def test_single_precision_agrees_with_double():
    double = nonlinear_run()
    single = dln.TorchRun(perceptron(dtype=torch.float32), (X, Y), learning_rate=0.3, n_steps=15)
    for name in ("tangent", "leave_one_out", "tracin"):
        exact, got = (dln.ESTIMATORS[name](run, [15]).values for run in (double, single))
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


def test_many_networks_take_turns_with_the_same_numbers(monkeypatch):
    run = nonlinear_run(batch=3)
    calls = [lambda r: dln.influence.tangent(r, [15]), lambda r: r.losses([3, 15], np.eye(6))]
    calls.append(lambda r: dln.influence.windowed(r, [0, 4], window=3))
    calls.append(lambda r: r.curvature([3]).extremes()[1])
    together = [np.asarray(call(run)) for call in calls]
    monkeypatch.setattr("dlnflow.dynamics.torch_memory.MAX_NUMBERS", 1)
    for call, expected in zip(calls, together, strict=True):
        np.testing.assert_allclose(np.asarray(call(run)), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_memory_of_a_network_counts_what_hidden_layers_leave_behind(layers):
    width = 50
    hidden = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.Tanh())]
    model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), *hidden, nn.Linear(width, 2)).double()
    run = dln.TorchRun(model, (X, Y), learning_rate=0.1, n_steps=2)
    # The input, every tanh once (also as the input of what follows), and the loss's difference.
    assert width * layers + 3 <= run.problem.activations <= width * layers + 3 + 4 * 2
    each = run.problem.numbers_per_network()
    assert each >= 4 * len(X) * width * layers + 6 * run.problem.n_parameters
    assert run.problem.numbers_per_network(derivatives=True) == 2 * each
    few = dln.TorchRun(model, (X, Y), learning_rate=0.1, n_steps=2, batch=2)
    assert few.problem.numbers_per_network() < each


def test_curvature_is_that_of_torch():
    run = nonlinear_run("cross_entropy")
    (weights,) = run.weights([4])
    names = list(weights)

    def objective(*parts):
        named = dict(zip(names, parts, strict=True))
        output = torch.func.functional_call(perceptron(), named, (torch.tensor(X),))
        return nn.functional.cross_entropy(output, torch.tensor(LABELS))

    blocks = torch.autograd.functional.hessian(objective, tuple(weights.values()))
    sizes = [w.numel() for w in weights.values()]
    dense = torch.cat(
        [
            torch.cat([b.reshape(n, m) for b, m in zip(row, sizes, strict=True)], 1)
            for row, n in zip(blocks, sizes, strict=True)
        ]
    )
    values = torch.linalg.eigvalsh(dense).numpy()
    smallest, largest = run.curvature([4]).extremes()
    np.testing.assert_allclose([smallest[0], largest[0]], values[[0, -1]], atol=1e-12)


@dataclass(frozen=True)
class SignedRoot:
    """A rule of a user's own: the step is the cube root-like g / (1 + |g|)."""

    learning_rate: float
    traits: ClassVar[Traits] = Traits(differentiable=True)

    def start(self, weights):
        return {"count": 0}

    def update(self, weights, gradients, state):
        pairs = zip(weights, gradients, strict=True)
        moved = [w - self.learning_rate * g / (1 + abs(g)) for w, g in pairs]
        return moved, {"count": state["count"] + 1}

    def displacement(self, state):
        return self.learning_rate


def test_a_rule_of_ones_own_and_bayesian_influence():
    run = dln.TorchRun(perceptron(), (X, Y), optimizer=SignedRoot, learning_rate=0.1, n_steps=10)
    exact, expected = dln.influence.tangent(run, [10]).values, differences(run, [10])
    np.testing.assert_allclose(exact, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    options = {"n_beta": 10.0, "localization": 20.0, "step_size": 1e-3, "draws": 20}
    sampled = dln.influence.bif(run, [10], **options)
    assert sampled.shape == (1, 6, 6) and np.all(np.isfinite(sampled))
    with pytest.raises(ValueError, match="step_size"):
        dln.influence.bif(run, [10], n_beta=10.0, localization=1.0)


@pytest.mark.parametrize("name", ["analytic", "closed_form_loo", "laplace_bif"])
def test_closed_forms_refuse_a_torch_model(name):
    with pytest.raises(ValueError, match="a torch model"):
        dln.ESTIMATORS[name](nonlinear_run(), [5])


def test_what_a_torch_model_has_no_closed_form_for_is_refused(monkeypatch):
    run = nonlinear_run()
    with pytest.raises(ValueError, match="at='checkpoint'"):
        dln.influence.damped_hessian(run, [5], at="proximal")
    monkeypatch.setattr("dlnflow.dynamics.torch_matrices.MAX_PARAMETERS", 10)
    with pytest.raises(ValueError, match=r"32.*filter='discrete'"):
        dln.influence.source(run, [5], filter="exponential")


@pytest.mark.parametrize(("optimizer", "rate"), [("gd", 0.3), ("adam", 1e-3)])
def test_source_of_a_large_model_multiplies_by_some_matrices(optimizer, rate, monkeypatch):
    run = nonlinear_run(batch=3, optimizer=optimizer, learning_rate=rate)
    expected = dln.influence.source(run, [10, 15], segments=3)
    monkeypatch.setattr("dlnflow.dynamics.torch_matrices.MAX_PARAMETERS", 10)
    limit = 1e-12 * np.abs(expected).max()
    found = dln.influence.source(run, [10, 15], segments=3)  # of 5 steps each: all are looked at
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
    monkeypatch.setattr("dlnflow.dynamics.torch_segments.LOOKED_AT", 3)
    fewer = dln.influence.source(run, [15], segments=3)
    change = np.abs(fewer[0] - expected[-1]).max() / np.abs(expected).max()
    assert 1e-6 < change < 1


class InPlace(SignedRoot):
    """A rule that changes the weights it is given."""

    def update(self, weights, gradients, state):
        for w, g in zip(weights, gradients, strict=True):
            w -= self.learning_rate * g
        return weights, state


class Attending(nn.Module):
    """Attention over two positions."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        h = self.layer(torch.stack([x, x**2], 1))
        return nn.functional.scaled_dot_product_attention(h, h, h).mean(1)


def test_a_rule_in_place_is_refused_and_weights_stay():
    model = perceptron()
    before = model[0].weight.clone()
    with pytest.raises(ValueError, match=r"InPlace must be functional.*w - rate"):
        dln.TorchRun(**wrong(model=model, optimizer=InPlace))
    assert torch.equal(model[0].weight, before)


def test_a_run_says_that_attention_is_written_out():
    run = dln.TorchRun(**wrong(model=Attending().double()))
    assert "second derivative" in run.notes[0] and nonlinear_run().notes == ()
    exact, expected = dln.influence.tangent(run, [5]).values, differences(run, [5])
    np.testing.assert_allclose(exact, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_divergence_is_an_error_with_its_step():
    run = nonlinear_run(learning_rate=1e3, n_steps=50)
    for name in ("tangent", "leave_one_out", "tracin", "per_step"):
        with pytest.raises(dln.DivergenceError, match="step"):
            dln.ESTIMATORS[name](run)


def wrong(**changes):
    """Arguments of a run with some of them replaced."""
    return {"model": perceptron(), "data": (X, Y), "learning_rate": 0.1, "n_steps": 5} | changes


def broken_weights():
    model = perceptron()
    model[0].weight.data[0, 0] = float("nan")
    return model


def with_layer(layer):
    return nn.Sequential(*perceptron(), layer).double()


class Counting(nn.Module):
    """Counts its calls in place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x)


class Idle(nn.Module):
    """Has a layer that it does not use."""

    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


class Random(nn.Module):
    """Adds noise of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) + torch.randn(len(x), 2)


class Mixing(nn.Module):
    """Subtracts the mean over the batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x - x.mean(0))


def mean_loss(output, target):
    return ((output - target) ** 2).mean()


def repeated_mean(output, target):
    return ((output - target) ** 2).mean() * torch.ones(len(output))


def detached(output, target):
    return torch.tensor(((output - target) ** 2).sum(1).numpy())


SHARES = np.tile([0.25, 0.75], (6, 1))


class Given(nn.Module):
    """A linear layer and what is done with its output, or with its weights."""

    def __init__(self, change, drifting=False):
        super().__init__()
        self.layer, self.change, self.drifting = nn.Linear(3, 2), change, drifting

    def forward(self, x):
        if self.drifting:
            self.layer.weight.mul_(0.9)
        return self.change(self.layer(x))


def refused(output):
    raise AssertionError


def bounded():
    return nn.Sequential(nn.Embedding(4, 3, max_norm=9.0), nn.Linear(3, 2)).double()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": (X, Y[:5])}, "one target per input"),
        ({"data": (X, Y.T)}, "one target per input"),
        ({"data": (X, Y[:, :1])}, "shape of the outputs"),
        ({"data": X}, "pair"),
        ({"data": (X[:0], Y[:0])}, "one target per input"),
        ({"data": (X, LABELS)}, "cross_entropy"),
        ({"data": (np.full_like(X, np.nan), Y)}, "`x` must be finite"),
        ({"data": (X, [["a", "b"]] * 6)}, "array or a tensor of numbers"),
        ({"loss": "cross_entropy", "data": (X, SHARES)}, None),
        ({"loss": "cross_entropy"}, "probabilities, >= 0 and of sum 1"),
        ({"loss": "cross_entropy", "data": (X, 2 * SHARES)}, "sums from 2 to 2"),
        ({"loss": "cross_entropy", "data": (X, LABELS.astype(float))}, "class labels"),
        ({"loss": "cross_entropy", "data": (X, LABELS + 1)}, "classes 0, ..., 1"),
        ({"loss": "cross_entropy", "data": (X, LABELS.astype(np.int32))}, None),
        ({"loss": "cross_entropy", "data": (X, LABELS.astype(np.uint8))}, None),
        ({"data": ((X * 9).astype(int), Y)}, "Only embeddings take whole numbers"),
        ({"loss": "hinge"}, "`loss`"),
        ({"loss": mean_loss}, "one loss per item"),
        (
            {"loss": lambda o, y: ((o - y) ** 2).sum(1).float()},
            "`loss` gives torch.float32 where weights are torch.float64",
        ),
        ({"model": Given(lambda out: out.float()).double()}, "`model` gives torch.float32"),
        ({"loss": lambda o, y: (o > y).any(1)}, "`loss` gives torch.bool, which has no derivative"),
        ({"model": Given(lambda out: out), "loss": lambda o, y: (o.double() ** 2).sum(1)}, None),
        ({"loss": repeated_mean}, "must not depend on the other items"),
        ({"loss": detached}, "differentiated"),
        ({"loss": lambda o, y: (o - y).detach().sum(1)}, "does not depend on any weight"),
        ({"loss": lambda o, y: torch.ones(len(o), dtype=o.dtype)}, "does not depend on any weight"),
        ({"loss": lambda o, y: o @ y}, "`loss` cannot be evaluated on outputs of shape"),
        ({"model": Given(lambda out: 1 / 0).double()}, "ZeroDivisionError: division by zero"),
        ({"model": Given(refused).double()}, "`model` cannot .* AssertionError"),
        ({"model": Given(lambda out: out[:1].expand(len(out), -1)).double()}, "its place among"),
        ({"model": Given(lambda out: out.cumsum(0)).double()}, "its place among"),
        ({"model": Given(lambda out: out, True).double()}, "it changes 'layer.weight'"),
        ({"model": bounded()}, "max_norm"),
        ({"queries": (["q"], X[:1, :2], Y[:1])}, "evaluated on `queries`"),
        ({"model": with_layer(nn.Dropout(0.5))}, r"Dropout.*model.eval\(\)"),
        ({"model": with_layer(nn.BatchNorm1d(2))}, r"BatchNorm1d.*model.eval\(\)"),
        ({"model": with_layer(nn.BatchNorm1d(2)).eval()}, None),
        ({"model": Counting().double()}, "'calls'"),
        ({"model": Random().double()}, "same at every call"),
        ({"model": Mixing().double()}, "other items"),
        ({"model": Idle().double()}, r"never move: idle.weight.*requires_grad_\(False\)"),
        ({"model": broken_weights()}, "finite weights"),
        ({"model": perceptron().half()}, "float32 or float64"),
        ({"model": perceptron().requires_grad_(False)}, "no parameter"),
        ({"items": ["a", "a", "b", "c", "d", "e"]}, "must all differ"),
        ({"items": ["a"]}, "6 names"),
        ({"queries": (["item0"], X[:1], Y[:1])}, "training item"),
        ({"queries": (["q", "q"], X[:2], Y[:2])}, "must all differ"),
        ({"queries": (X, Y)}, "names, x, y"),
        ({"optimizer": "flow"}, "no steps.*gd"),
        ({"optimizer": "adamx"}, "did you mean|`optimizer`"),
        ({"batch": 7}, "at most 6"),
        ({"batch": 0}, "`batch`"),
        ({"learning_rate": -1.0}, "`learning_rate`"),
        ({"n_steps": 0}, "`n_steps`"),
    ],
)
def test_hostile_input_is_refused_before_training(changes, message):
    if message is None:
        assert dln.TorchRun(**wrong(**changes)).losses([1], np.ones(6)).shape == (1, 6)
        return
    with pytest.raises(ValueError, match=message):
        dln.TorchRun(**wrong(**changes))


def test_what_is_no_module_or_has_wrong_weights_is_refused():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        dln.TorchRun(**wrong(model=np.eye(3)))
    run = nonlinear_run()
    with pytest.raises(ValueError, match="one weight per item"):
        run.losses([5], np.ones((2, 5)))
    with pytest.raises(ValueError, match="must lie in"):
        dln.influence.tangent(run, [16])
    with pytest.raises(TypeError, match="learning_rate"):
        dln.TorchRun(perceptron(), (X, Y), n_steps=4)


def test_the_package_loads_no_torch():
    code = "import sys, dlnflow; assert 'torch' not in sys.modules; dlnflow.TorchRun"
    subprocess.run([sys.executable, "-c", code], check=True)


class LastOutput(nn.Module):
    """A recurrent layer and a linear map of its last output."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(6, 2)

    def forward(self, x):
        return self.out(self.layer(x)[0][:, -1])


class Cells(nn.Module):
    """A gated layer written out as a loop over linear layers."""

    def __init__(self):
        super().__init__()
        self.gates, self.out = nn.Linear(9, 18), nn.Linear(6, 2)

    def forward(self, x):
        hidden = memory = x.new_zeros(len(x), 6)
        for part in x.unbind(1):
            keep, show, new = self.gates(torch.cat([part, hidden], 1)).chunk(3, 1)
            memory = keep.sigmoid() * memory + new.tanh()
            hidden = show.sigmoid() * memory.tanh()
        return self.out(hidden)


class Encoder(nn.Module):
    """A transformer layer of torch, for which eval() chooses a fused kernel."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(3, 6), nn.Linear(6, 2)
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.1, batch_first=True)

    def forward(self, x):
        return self.out(self.layer(self.embed(x)).mean(1))


SEQUENCES = GENERATOR.normal(size=(5, 4, 3)), GENERATOR.normal(size=(5, 2))


@pytest.mark.parametrize("make", [Cells, Encoder])
@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_gates_and_fused_transformer_layers_have_exact_derivatives(make, optimizer):
    torch.manual_seed(0)
    model = make().double().eval()
    run = dln.TorchRun(model, SEQUENCES, optimizer=optimizer, learning_rate=0.05, n_steps=6)
    exact, expected = dln.influence.tangent(run, [6]).values, differences(run, [6])
    np.testing.assert_allclose(exact, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert torch.backends.mha.get_fastpath_enabled()  # as it was before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LastOutput(nn.LSTM(3, 6, batch_first=True)), "a loop over Linear"),
        (LastOutput(nn.GRU(3, 6, batch_first=True)), "for LSTM and GRU"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), "weights without values.*Call it once"),
        (nn.DataParallel(nn.Linear(3, 2)), "Give its `module`"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), r"shape \(5, 4, 3\).*cannot be multiplied"),
    ],
    ids=["lstm", "gru", "lazy", "parallel", "shapes"],
)
def test_models_that_cannot_be_batched_or_called_are_refused_before_training(model, message):
    with pytest.raises(ValueError, match=message):
        dln.TorchRun(model.double(), SEQUENCES, learning_rate=0.1, n_steps=3)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_model_of_one_number_an_item_and_a_compiled_one_are_taken():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    options = {"learning_rate": 0.1, "n_steps": 5}
    one = dln.TorchRun(plain, (X, Y[:, 0]), **options)
    two = dln.TorchRun(plain[0], (X, Y[:, :1]), **options)
    found = [dln.influence.tangent(run, [5]).values for run in (one, two)]
    np.testing.assert_allclose(*found, rtol=1e-12)
    compiled = dln.TorchRun(torch.compile(plain), (X, Y[:, 0]), **options)
    assert list(compiled.problem.weights) == list(one.problem.weights)
