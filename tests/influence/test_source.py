"""SOURCE against dense Hessians by automatic differentiation and matrix functions of scipy."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import linalg
from torch.func import jacrev

import dlnflow as dln
from dlnflow.influence import source
from tests.influence.small_runs import small_run

STEPS = [0, 1, 3, 11, 18]


def _losses(run):
    x, y = torch.tensor(run.task.x), torch.tensor(run.task.y)
    sizes = (run.hidden, run.task.n_in), (run.task.n_out, run.hidden)

    def losses(flat):
        w1, w2 = (
            part.reshape(size)
            for part, size in zip(flat.split([a * b for a, b in sizes]), sizes, strict=True)
        )
        return 0.5 * ((y - w2 @ w1 @ x) ** 2).sum(0), w2 @ w1 @ x

    return losses


def _dense_source(run, bounds, filter, curvature):
    """The recursion of the docstring with dense matrices over all parameters."""
    losses, eta, n_items = _losses(run), run.learning_rate, run.task.n_items
    flat = torch.tensor(np.concatenate([w.ravel() for w in run.initial_weights()]))
    path, gradients, hessians = [flat], [], []
    for _ in range(bounds[-1]):
        gradients.append(jacrev(lambda p: losses(p)[0])(path[-1]).numpy())
        if curvature == "hessian":
            h = jacrev(jacrev(lambda p: losses(p)[0].mean()))(path[-1]).numpy()
        else:
            j = jacrev(lambda p: losses(p)[1])(path[-1]).numpy()
            j = j.reshape(-1, j.shape[-1])
            h = j.T @ j / n_items
        hessians.append(h)
        path.append(path[-1] - eta * torch.tensor(gradients[-1].mean(axis=0)))
    d, values = np.zeros((len(flat), n_items)), {0: np.zeros((n_items, n_items))}
    for first, last in pairwise(bounds):
        h = np.mean(hessians[first:last], axis=0)
        g = np.mean(gradients[first:last], axis=0).T / n_items
        for step in [t for t in STEPS if first < t < last] + [last]:
            k = step - first
            if filter == "discrete":
                f = np.linalg.matrix_power(np.eye(len(h)) - eta * h, k)
                gain = sum(np.linalg.matrix_power(np.eye(len(h)) - eta * h, j) for j in range(k))
                gain = eta * gain
            else:
                # int_0^{eta k} exp(-t H) dt is a block of an exponential: H may be singular.
                zero = np.zeros_like(h)
                whole = linalg.expm(eta * k * np.block([[-h, np.eye(len(h))], [zero, zero]]))
                f, gain = whole[: len(h), : len(h)], whole[: len(h), len(h) :]
            moved = f @ d - gain @ g
            query = jacrev(lambda p: losses(p)[0])(path[step]).numpy()
            values[step] = query @ moved
        d = moved
    return np.stack([values[t] for t in STEPS])


@pytest.mark.parametrize("one_hot", [True, False])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("filter", ["discrete", "exponential"])
def test_equals_the_dense_computation(one_hot, curvature, filter):
    task = small_run(one_hot=one_hot).task
    run = dln.Run(task, hidden=10, init_std=0.3, learning_rate=0.4, n_steps=18)
    expected = _dense_source(run, [0, 6, 12, 18], filter, curvature)
    got = source(run, STEPS, segments=3, filter=filter, curvature=curvature).values
    assert np.abs(got - expected).max() <= 1e-10 * np.abs(expected).max()


def _dense_source_of_adam(run, bounds):
    """The discrete filter with Adam's step per unit of gradient in place of the rate."""
    losses, n_items, (b1, b2) = _losses(run), run.task.n_items, (0.9, 0.999)
    theta = torch.tensor(np.concatenate([w.ravel() for w in run.initial_weights()]))
    mean, square = torch.zeros_like(theta), torch.zeros_like(theta)
    matrices, moved, rates = [], [], []
    for step in range(1, bounds[-1] + 1):
        gradients = jacrev(lambda p: losses(p)[0])(theta)
        matrices.append(jacrev(jacrev(lambda p: losses(p)[0].mean()))(theta).numpy())
        g = gradients.mean(0)
        mean, square = b1 * mean + (1 - b1) * g, b2 * square + (1 - b2) * g * g
        rate = run.learning_rate / (1 - b1**step) / ((square / (1 - b2**step)).sqrt() + 1e-8)
        rates.append(rate.numpy())
        moved.append((rate * gradients / n_items).numpy().T)
        theta = theta - rate * mean
    d = np.zeros((len(theta), n_items))
    for first, last in pairwise(bounds):
        chosen = slice(first, last)
        h, p, g = (np.mean(part[chosen], axis=0) for part in (matrices, rates, moved))
        for _ in range(first, last):
            d = d - p[:, None] * (h @ d) - g
    return jacrev(lambda p: losses(p)[0])(theta).numpy() @ d


def test_adam_has_its_step_per_unit_of_gradient_in_place_of_the_rate():
    task = small_run().task
    run = dln.Run(task, hidden=6, init_std=0.3, optimizer="adam", learning_rate=0.02, n_steps=18)
    expected = _dense_source_of_adam(run, [0, 6, 12, 18])
    got = source(run, [18], segments=3).values[0]
    assert np.abs(got - expected).max() <= 1e-10 * np.abs(expected).max()


def test_segments_differ_by_at_most_one_step():
    run = dln.Run(small_run().task, hidden=4, init_std=0.3, learning_rate=0.4, n_steps=18)
    expected = _dense_source(run, [0, 4, 9, 13, 18], "discrete", "hessian")
    got = source(run, STEPS, segments=4).values
    assert np.abs(got - expected).max() <= 1e-10 * np.abs(expected).max()


def test_long_segments_are_averaged_in_parts():
    """More steps than are held at once give the same averages."""
    run = dln.Run(dln.semantic_hierarchy(3), init_std=0.05, n_steps=600)
    from dlnflow.dynamics import segment

    whole = source(run, [600], segments=1).values
    held, segment.CHUNK = segment.CHUNK, 7
    try:
        parts = source(run, [600], segments=1).values
    finally:
        segment.CHUNK = held
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


def test_subsets_are_slices():
    run = small_run()
    names = list(run.task.items)
    for filter in ("discrete", "exponential"):
        options = {"segments": 1, "filter": filter}
        whole = source(run, [30, 40], **options)
        part = source(run, [30, 40], query=names[2::-2], train=names[1], **options)
        chosen = whole.sel(query=names[2::-2], train=names[1:2])
        assert np.abs(part.values - chosen.values).max() <= 1e-10 * np.abs(whole.values).max()


def test_bad_input_is_refused():
    run = small_run()
    for segments in (0, -1, 1.5):
        with pytest.raises(ValueError, match="`segments`"):
            source(run, [30], segments=segments)
    with pytest.raises(ValueError, match="at most the last of `steps`, 30"):
        source(run, [10, 30], segments=31)
    with pytest.raises(ValueError, match="`filter` must be one of discrete, exponential"):
        source(run, [30], filter="exp")
    with pytest.raises(ValueError, match="`curvature` must be one of hessian, gauss_newton"):
        source(run, [30], curvature="fisher")
    with pytest.raises(ValueError, match="gradient flow has none"):
        source(small_run("flow"), [30])
    with pytest.raises(ValueError, match=r"optimizer \"gd\".*filter='discrete'"):
        source(small_run("adam"), [30], filter="exponential")
    with pytest.raises(ValueError, match=r"`source` uses.*two layers.*depth 3"):
        source(small_run(depth=3), [30])
    rng = np.random.default_rng(0)
    wide = dln.Run(dln.Task(rng.standard_normal((80, 80))), hidden=200, n_steps=5)
    with pytest.raises(ValueError, match="use a narrower network"):
        source(wide, [5])


@pytest.mark.parametrize("last", [0, 1, 2, 3, 20])
def test_there_are_three_segments_or_as_many_as_steps(last):
    run = small_run()
    found = source(run, [last])
    assert found.attrs["segments"] == min(3, last)
    if last:
        np.testing.assert_array_equal(found, source(run, [last], segments=min(3, last)))
    else:
        assert not found.any()
