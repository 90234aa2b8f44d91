"""Data value embedding: the tangent with Gauss-Newton in place of the Hessian."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.influence import dvemb, tangent

TASK = dln.semantic_hierarchy(3)


def dense(run, step):
    """Unrolled response from dense Jacobians, for gradient descent."""
    (w1, w2), x, y = run.initial_weights(), run.task.x, run.task.y
    n_items, rate = run.task.n_items, run.learning_rate
    d = np.zeros((n_items, w1.size + w2.size))
    for _ in range(step):
        matrix, single = np.zeros((d.shape[1],) * 2), []
        for i in range(n_items):
            jacobian = np.concatenate(
                [
                    np.einsum("dh,m->dhm", w2, x[:, i]).reshape(len(w2), -1),
                    np.einsum("de,h->deh", np.eye(len(w2)), w1 @ x[:, i]).reshape(len(w2), -1),
                ],
                axis=1,
            )
            matrix += jacobian.T @ jacobian / n_items
            single.append(-jacobian.T @ (y[:, i] - w2 @ w1 @ x[:, i]))
        single = np.stack(single)
        d = d - rate * (d @ matrix + single / n_items)
        flat = np.concatenate([w1.ravel(), w2.ravel()]) - rate * single.mean(axis=0)
        w1, w2 = flat[: w1.size].reshape(w1.shape), flat[w1.size :].reshape(w2.shape)
    error, own = w2 @ w1 @ x - y, []
    for q in range(n_items):
        only = np.zeros_like(error)
        only[:, q] = error[:, q]
        own.append(np.concatenate([(w2.T @ only @ x.T).ravel(), (only @ (w1 @ x).T).ravel()]))
    return np.stack(own) @ d.T


@pytest.mark.parametrize("x", [None, np.random.default_rng(1).normal(size=(3, 4))])
def test_it_is_the_product_of_gauss_newton_steps(x):
    task = TASK if x is None else dln.Task(TASK.y, x)
    run = dln.Run(task, hidden=3, init_std=0.4, learning_rate=0.05, n_steps=30)
    got = dvemb(run, [30])[0].values
    np.testing.assert_allclose(got, dense(run, 30), rtol=1e-9, atol=1e-12)


def test_one_step_is_exact_and_more_are_not():
    run = dln.Run(TASK, hidden=4, init_std=0.3, n_steps=400)
    np.testing.assert_allclose(dvemb(run, [1]), tangent(run, [1]), rtol=1e-12)
    exact = tangent(run, [200])
    assert np.abs(dvemb(run, [200]) - exact).max() > 1e-3 * np.abs(exact).max()


def test_wide_networks_with_large_weights_approach_the_tangent():
    """Lazy training: with weights fixed in scale, outputs become linear in them with the width."""
    errors = []
    for hidden in (100, 400, 1600):
        run = dln.Run(TASK, hidden=hidden, init_std=1.0, n_steps=300)
        exact = tangent(run, [300])
        errors.append(np.abs(dvemb(run, [300]) - exact).max().item() / np.abs(exact).max().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.5 * errors[0]


@pytest.mark.parametrize("optimizer", ["flow", "momentum", "adam"])
def test_other_optimizers_have_their_own_steps(optimizer):
    run = dln.Run(TASK, hidden=4, init_std=0.3, optimizer=optimizer, n_steps=60)
    found = dvemb(run, [1, 60])
    assert np.all(np.isfinite(found.values)) and found.attrs["estimator"] == "dvemb"


def test_displacements_do_not_grow():
    """Without negative curvature a weight change only decays: |d| is bounded by its forcing."""
    run = dln.Run(dln.Task(np.eye(2) * 3.0), hidden=2, init_std=1e-3, n_steps=300)
    exact, approximate = (np.abs(f(run, [100])).max().item() for f in (tangent, dvemb))
    assert approximate < exact
