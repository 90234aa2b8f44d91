"""The posterior of one layer: against dense Gaussians, draws, and the sampler."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow import sampling
from dlnflow.theory.one_layer import layer_posterior
from tests.tolerances import ALGEBRA


def network(seed=0):
    rng = np.random.default_rng(seed)
    layers = [rng.standard_normal(s) for s in ((4, 3), (3, 4), (5, 3))]
    return layers, rng.standard_normal((3, 6)), rng.standard_normal((5, 6)), rng.uniform(0.3, 2, 6)


def dense(layers, layer, x, y, n_beta, gamma, w):
    """The same from the (P, P) precision of the flattened layer."""
    below = np.linalg.multi_dot([*layers[: layer - 1][::-1], x]) if layer > 1 else x
    above = np.eye(layers[layer - 1].shape[0])
    for matrix in layers[layer:]:
        above = matrix @ above
    residual = y - above @ layers[layer - 1] @ below
    j = np.stack([np.kron(above, column[None]) for column in below.T])  # (N, d, P), row-major
    n = x.shape[1]
    hessians = np.einsum("ndp,ndq->npq", j, j)
    precision = n_beta / n * np.einsum("n,npq->pq", w, hessians) + gamma * np.eye(j.shape[2])
    force = n_beta / n * np.einsum("n,ndp,dn->p", w, j, residual)
    inverse = np.linalg.inv(precision)
    at_mean = residual - np.einsum("ndp,p->dn", j, inverse @ force)
    g = -np.einsum("ndp,dn->np", j, at_mean)
    trace = np.einsum("npq,qr,mrs,sp->nm", hessians, inverse, hessians, inverse, optimize=True)
    mean = 0.5 * (at_mean**2).sum(0) + 0.5 * np.einsum("npq,qp->n", hessians, inverse)
    return mean, g @ inverse @ g.T + 0.5 * trace


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_closed_form_is_that_of_the_dense_gaussian(layer, weighted):
    layers, x, y, w = network()
    weights = w if weighted else None
    found = layer_posterior(layers, layer, x, y, n_beta=30.0, localization=2.0, weights=weights)
    mean, covariance = dense(layers, layer, x, y, 30.0, 2.0, w if weighted else np.ones(6))
    np.testing.assert_allclose(found.mean, mean, rtol=1e4 * ALGEBRA)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e4 * ALGEBRA, atol=1e-12)
    product = layers[2] @ layers[1] @ layers[0] @ x
    np.testing.assert_allclose(found.checkpoint_loss, 0.5 * ((y - product) ** 2).sum(0))


def test_strong_localization_gives_the_gradient_kernel_of_the_layer():
    layers, x, y, _ = network(1)
    found = layer_posterior(layers, 2, x, y, n_beta=1.0, localization=1e9)
    residual = y - layers[2] @ layers[1] @ layers[0] @ x
    back, below = layers[2].T @ residual, layers[0] @ x
    kernel = (back.T @ back) * (below.T @ below)
    np.testing.assert_allclose(1e9 * found.covariance, kernel, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [1, 2])
def test_sampled_covariances_of_one_layer_are_within_3_standard_errors(layer):
    run = dln.Run(dln.semantic_hierarchy(), hidden=12, init_std=1e-2)
    steps = [run.n_steps // 8, run.n_steps // 4, run.n_steps // 2, run.n_steps]
    options = sampling.suggest(run) | {"chains": 16, "draws": 400}
    found = dln.influence.bif(run, steps, restrict=f"layer{layer}", **options)
    assert set(found.verdict.values) == {"mixed"}
    trained = run.train(steps)
    z = []
    for t in range(len(steps)):
        exact = layer_posterior(
            (trained.w1[t], trained.w2[t]),
            layer,
            run.task.x,
            run.task.y,
            n_beta=options["n_beta"],
            localization=options["localization"],
        )
        scale = -options["n_beta"] / run.task.n_items
        z.append((found.values[t] - scale * exact.covariance) / found.standard_error.values[t])
    assert np.mean(np.abs(z) <= 3) >= 0.95


@pytest.mark.parametrize("layer", [0, 4])
def test_a_layer_that_is_not_there_is_refused(layer):
    layers, x, y, _ = network()
    with pytest.raises(ValueError, match=r"`layer` must lie in \[1, 3\]"):
        layer_posterior(layers, layer, x, y, n_beta=1.0, localization=1.0)
