"""AdamW, clipping and changing learning rates: torch's own steps, and true derivatives of them."""

import numpy as np
import pytest
import torch
from torch import nn

import dlnflow as dln
from tests.dynamics.test_torch_model import GENERATOR, LABELS, X, Y, differences, perceptron
from tests.tolerances import ALGEBRA

CLIP = 0.35
"""Below the norm of most gradients of `tuned`, and above that of some."""
DECAY = [0.3, 0.0, 0.3, 0.0]
LENGTH = 25


def tuned(**changes):
    options = {
        "loss": "cross_entropy",
        "optimizer": "adamw",
        "learning_rate": 0.05,
        "n_steps": LENGTH,
        "batch": 3,
        "options": {"weight_decay": DECAY, "beta2": 0.95},
        "rate_schedule": dln.rates.cosine(20, warmup=5, final=0.1),
        "clip": CLIP,
    }
    return dln.TorchRun(perceptron(), (X, LABELS), **options | changes)


def trained_by_torch(run, make, *, clip=None, schedule=None):
    """Weights after all steps, by an optimizer of torch; and the norms of the gradients."""
    model = perceptron()
    x, y, norms = torch.tensor(X), torch.tensor(LABELS), []
    optimizer = make(list(model.parameters()))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule or (lambda _: 1.0))
    for step in range(run.n_steps):
        items = slice(None) if run.batches is None else run.batches[step]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[items]), y[items]).backward()
        if clip is not None:
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
        scheduler.step()
    return [p.detach().numpy() for p in model.parameters()], np.array(norms)


def adamw(parameters):
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(parameters, DECAY, strict=True)]
    return torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.95))


def test_steps_are_those_of_torch_with_clipping_and_a_schedule():
    run = tuned()
    expected, norms = trained_by_torch(run, adamw, clip=CLIP, schedule=run.rate_schedule)
    assert (norms > CLIP).any() and (norms < CLIP).any()
    for got, w in zip(run.weights([LENGTH])[0].values(), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gd", "momentum", "adam"])
def test_every_rule_takes_a_schedule_and_clipping(name):
    rates = np.linspace(1, 0, LENGTH)
    run = tuned(optimizer=name, options=None, rate_schedule=rates, batch=None)
    make = {
        "gd": lambda p: torch.optim.SGD(p, lr=0.05),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    }[name]
    schedule = {**dict(enumerate(rates)), LENGTH: 0.0}.get
    expected, _ = trained_by_torch(run, make, clip=CLIP, schedule=schedule)
    for got, w in zip(run.weights([LENGTH])[0].values(), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), w, rtol=0, atol=1e-12)
    assert not run.traits.plain and not run.traits.linear


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_the_tangent_passes_through_clipping_and_decay(optimizer):
    run = tuned(optimizer=optimizer, options=None, learning_rate=0.02)
    exact, expected = dln.influence.tangent(run, [10, LENGTH]).values, differences(run, [10, 25])
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    held = tuned(optimizer=optimizer, options=None, learning_rate=0.02, clip=None)
    change = np.abs(exact - dln.influence.tangent(held, [10, LENGTH]).values)
    assert change.max() > 0.02 * np.abs(exact).max()


def test_effects_of_single_steps_and_of_windows_add_up():
    run = tuned()
    exact = dln.influence.tangent(run, [LENGTH])[0]
    limit = 1e-8 * float(np.abs(exact).max())
    total = dln.influence.per_step(run, at=LENGTH).sum("time")
    np.testing.assert_allclose(total, exact, rtol=0, atol=limit)
    windows = dln.influence.windowed(run, [0, 12], window=[12, 13], at="end", first_order=True)
    parts = windows.sel(window=12, time=0) + windows.sel(window=13, time=12)
    np.testing.assert_allclose(parts, exact, rtol=0, atol=limit)


def test_tracin_takes_the_rate_and_the_clipping_of_each_step():
    run = tuned(optimizer="gd", options=None, batch=None, n_steps=6)
    single = dln.influence.tracin(run, [0, 4], cumulative=False)
    for row, step in enumerate([0, 4]):
        weights = run.weights([step] if step else [0])[0]
        gradients = run.problem.item_gradients(list(weights.values()), run.data)
        flat = torch.cat([g.flatten(1) for g in gradients], 1).numpy()
        norm = np.linalg.norm(flat.mean(0))
        factor = 0.05 * run.rate_schedule(step) * min(1, CLIP / (norm + 1e-6)) / len(X)
        np.testing.assert_allclose(single[row], -factor * flat @ flat.T, rtol=0, atol=ALGEBRA)


def test_a_torch_run_of_a_linear_network_has_the_decay_of_the_numpy_run():
    """Every general estimator; the numpy run decays all weights by torch's default."""
    from tests.dynamics.test_torch_model import CALLS, assert_same, both

    assert_same(CALLS, both(3, "adamw", 3))


def test_decay_of_the_numpy_run_is_that_of_torch():
    task = dln.semantic_hierarchy(3)
    weights = [GENERATOR.normal(size=(4, task.n_in)), GENERATOR.normal(size=(task.n_out, 4))]
    run = dln.Run(task, initial=weights, optimizer="adamw", learning_rate=0.03, n_steps=30)
    parts = [torch.tensor(w, requires_grad=True) for w in weights]
    optimizer = torch.optim.AdamW(parts, lr=0.03)
    x, y = torch.tensor(task.x), torch.tensor(task.y)
    for _ in range(30):
        optimizer.zero_grad()
        (0.5 * (y - parts[1] @ parts[0] @ x).square().sum() / task.n_items).backward()
        optimizer.step()
    got = run.train([30]).weights
    for w, expected in zip(got, parts, strict=True):
        np.testing.assert_allclose(w[0], expected.detach().numpy(), rtol=0, atol=1e-12)


def test_factors_of_warm_ups_and_decays():
    line = dln.rates.linear(30, warmup=10, final=0.2)
    steps = [0, 9, 10, 20, 30, 99]
    np.testing.assert_allclose([line(k) for k in steps], [0.1, 1, 1, 0.6, 0.2, 0.2])
    flat = dln.rates.constant(warmup=4)
    np.testing.assert_allclose([flat(k) for k in range(6)], [0.25, 0.5, 0.75, 1, 1, 1])
    with pytest.raises(ValueError, match="beyond `warmup`"):
        dln.rates.cosine(10, warmup=10)
    with pytest.raises(ValueError, match="`warmup`"):
        dln.rates.constant(warmup=-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"weight_decoy": 0.1}}, "Did you mean 'weight_decay'"),
        ({"options": [0.1]}, "dict of fields"),
        ({"optimizer": "gd"}, "takes none"),
        ({"clip": 0.0}, "`clip`"),
        ({"rate_schedule": [1.0, 0.5]}, r"one factor per step, 25; got shape \(2,\)"),
        ({"rate_schedule": lambda step: float("nan")}, "`rate_schedule` must be finite"),
        ({"rate_schedule": lambda step: 0.0}, "above 0"),
        ({"options": {"weight_decay": [0.1, 0.2]}}, "one per parameter, 4"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_training(changes, message):
    with pytest.raises(ValueError, match=message):
        tuned(**changes)
    assert Y.shape == (6, 2)
