"""Curvature and noise around a checkpoint, against dense matrices of a tiny model."""

import dataclasses

import numpy as np
import pytest
import torch

from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.sampling import geometry
from dlnflow.lm.sampling.geometry import CURVED, GRADIENTS, MINIBATCHES, NO_CHAIN, measure
from dlnflow.lm.sampling.unit import Sampler
from dlnflow.sampling import KERNELS
from dlnflow.sampling.noise import MINIBATCH
from dlnflow.sampling.power_iteration import power_iteration
from dlnflow.sampling.settings import Settings
from tests.lm.sampling.test_keys import written

SETTINGS = Settings(n_beta=1.0, localization=1.0, step_size=1.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return written(tmp_path_factory.mktemp("written"))


def dense(parts, options, curved=CURVED):
    """Hessian and minibatch gradients of the moving parameters, in double precision by autograd."""
    ladder, gradient, _ = parts
    model = ladder.load(4).double()
    model.set_attn_implementation("eager")
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    center = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(theta, number):
        pieces = theta.split([s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, pieces, shapes, strict=True)}
        ids = torch.from_numpy(gradient.batch(0, 4, NO_CHAIN, MINIBATCH, number)).long()
        logits = torch.func.functional_call(model, named, (ids[:, :-1],)).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    hessian = sum(torch.func.hessian(loss)(center, number) for number in range(curved))
    gradients = torch.stack(
        [torch.func.grad(loss)(center, number) for number in range(2 * MINIBATCHES)]
    )
    square = gradients[:MINIBATCHES].square().mean(0)
    G = KERNELS[options["kernel"]].traits.preconditioner(square, options["kernel_options"])
    return hessian / curved, gradients, G, center, model, gradient


CASES = [
    {"kernel": "rmsprop_sgld", "kernel_options": {"stability": 0.02}},
    {"kernel": "sgld", "kernel_options": {}},
]


@pytest.mark.parametrize("options", CASES, ids=["preconditioned", "plain"])
def test_geometry_is_that_of_dense_matrices(model, options, monkeypatch):
    monkeypatch.setattr(geometry, "CURVED", 1)
    hessian, gradients, G, center, network, gradient = dense(model, options, 1)
    monkeypatch.setattr(geometry, "ITERATIONS", 100)  # converged
    monkeypatch.setattr(geometry, "REACH", 5e-5)  # where the loss is quadratic
    sampler = Sampler(
        dataclasses.replace(SETTINGS, kernel_options=options["kernel_options"]), options["kernel"]
    )
    calls = []
    found = measure(model[0], 4, model[1], sampler, lambda: calls.append(1))
    assert len(calls) == 2 * MINIBATCHES + 2 * 2 * 100
    values, vectors = torch.linalg.eigh(G.sqrt()[:, None] * hessian * G.sqrt())
    assert values[0] < 0 < values[-1]
    assert found.curvature == pytest.approx(float(values[-1]), rel=0.05)
    assert 0.85 * values[0] >= found.negative >= 1.03 * values[0]  # from below in modulus
    d = G.sqrt() * vectors[:, -1]
    assert found.stiffest == pytest.approx(float(d @ hessian @ d / (d @ d)), rel=0.1)
    assert found.lowest < 0
    along = gradients[MINIBATCHES:] @ (G.sqrt() * vectors[:, -1])
    assert found.stiff_noise == pytest.approx(float(along.var()), rel=0.2)
    spread = gradients[:MINIBATCHES] - gradients[:MINIBATCHES].mean(0)
    assert found.noise == pytest.approx(float(spread.square().sum() / (MINIBATCHES - 1)), rel=1e-3)
    assert found.fast == pytest.approx(float(G.max()), rel=1e-4)
    assert (G >= found.slow * (1 - 1e-4)).double().mean() >= 0.98
    assert found.length == pytest.approx(float(center.norm()), rel=1e-6)
    assert (found.tokens, found.n_parameters) == (24, len(center))
    ids = torch.from_numpy(gradient.batch(0, 4, NO_CHAIN, MINIBATCH, 0)).long()
    with torch.no_grad():
        one = float(token_losses(network, ids).mean())
    assert found.loss == pytest.approx(one, abs=0.5)


def test_the_defaults_are_close_and_cost_what_is_said(model):
    hessian, *_ = dense(model, CASES[1])
    calls = []
    found = measure(model[0], 4, model[1], Sampler(SETTINGS, "sgld"), lambda: calls.append(1))
    assert len(calls) == GRADIENTS
    values = torch.linalg.eigvalsh(hessian)
    assert found.curvature == pytest.approx(float(values[-1]), rel=0.15)
    assert found.negative >= values[0]


def test_what_does_not_move_has_no_curvature(model):
    """The part of the matrix that belongs to one component."""
    some = measure(model[0], 4, model[1], Sampler(SETTINGS, "sgld", restrict="layer0.mlp"))
    every = measure(model[0], 4, model[1], Sampler(SETTINGS, "sgld"))
    assert some.n_parameters < every.n_parameters
    assert some.curvature < every.curvature and some.noise < every.noise
    assert some.loss == pytest.approx(every.loss, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 5.0, -20.0])
def test_power_iteration_finds_the_end_of_largest_modulus(shift):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    exact = np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 7.0]) + shift
    matrix = torch.from_numpy(q * exact @ q.T)
    v, image = power_iteration(lambda v: v @ matrix, torch.ones(6, dtype=torch.float64), 300)
    largest = exact[np.argmax(np.abs(exact))]
    assert float(v @ image) == pytest.approx(largest, rel=1e-6)
    assert float(v.norm()) == pytest.approx(1)
    assert float(image.norm()) == pytest.approx(abs(largest), rel=1e-6)
