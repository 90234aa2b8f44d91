"""Gradient dot products against gradients by finite differences, per optimizer and depth."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.influence import tangent, tracin
from tests.influence.small_runs import DISCRETE, small_run
from tests.tolerances import ALGEBRA

STEPS = [0, 1, 2, 11, 60]


def _full_run(run):
    """Parameters, and per-item gradients by complex steps, at every step of textbook training."""
    flat = np.concatenate([w.ravel() for w in run.initial_weights()])
    m, v, vectors, metrics = np.zeros(flat.size), np.zeros(flat.size), [], []
    for k in range(run.n_steps + 1):
        shifted = flat + 1e-30j * np.eye(flat.size)
        gradients = np.array([_imaginary_losses(run, row) for row in shifted]).T * 1e30
        g = gradients.mean(axis=0)
        if run.optimizer == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            root = np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8
            metric, move = run.learning_rate / (1 - 0.9 ** (k + 1)) / root, m
        elif run.optimizer == "momentum":
            m = 0.9 * m + g
            metric, move = np.full(flat.size, 10 * run.learning_rate), m / 10
        else:
            metric, move = np.full(flat.size, run.learning_rate), g
        vectors.append(gradients)
        metrics.append(metric)
        flat = flat - metric * move
    return np.array(vectors), np.array(metrics)


def _imaginary_losses(run, flat):
    sizes = [run.task.n_in, *[run.hidden] * (run.depth - 1), run.task.n_out]
    w, at = run.task.x.astype(complex), 0
    for rows, columns in zip(sizes[1:], sizes[:-1], strict=True):
        w = flat[at : at + rows * columns].reshape(rows, columns) @ w
        at += rows * columns
    return (0.5 * np.sum((run.task.y - w) ** 2, axis=0)).imag


@pytest.mark.parametrize(("optimizer", "depth"), DISCRETE)
@pytest.mark.parametrize("one_hot", [True, False])
def test_every_form_is_the_sum_of_dot_products(optimizer, depth, one_hot):
    run = small_run(optimizer, depth, one_hot=one_hot)
    gradients, metrics = _full_run(run)
    single = -np.einsum("kqp,kp,kip->kqi", gradients, metrics, gradients) / 4
    moved = np.cumsum(metrics[:, None] * gradients, axis=0) / 4
    final = np.stack([-gradients[t] @ (moved[t - 1].T if t else 0 * moved[0].T) for t in STEPS])
    summed = np.stack([single[:t].sum(axis=0) for t in STEPS])
    for options, expected in [
        ({}, summed),
        ({"cumulative": False}, single[STEPS]),
        ({"query_at": "final"}, final),
    ]:
        got = tracin(run, STEPS, **options).values
        assert np.abs(got - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize(("optimizer", "depth"), [("gd", 2), ("gd", 3)])
def test_nothing_has_been_propagated_after_one_step(optimizer, depth):
    run = small_run(optimizer, depth)
    exact, local = tangent(run, [1]).values, tracin(run, [1], query_at="final").values
    assert np.abs(exact - local).max() <= ALGEBRA * np.abs(exact).max()


def test_flow_is_the_limit_of_descent():
    task = dln.semantic_hierarchy(3)
    base = {"hidden": 20, "init_std": 0.05}
    flow = dln.Run(task, optimizer="flow", learning_rate=0.1, n_steps=100, **base)
    truth = tracin(flow, [100]).values
    errors = []
    for factor in (1, 2, 4):
        run = dln.Run(task, learning_rate=0.1 / factor, n_steps=100 * factor, **base)
        errors.append(np.abs(tracin(run, [run.n_steps]).values - truth).max())
    assert np.all(np.abs(np.log2(np.array(errors[:-1]) / errors[1:]) - 1) < 0.15)
    single = tracin(flow, [0, 1, 100], cumulative=False).values
    assert np.abs(single[0] - tracin(run, [0], cumulative=False).values[0] * 4).max() <= 1e-15
    assert np.all(tracin(flow, [0]).values == 0)
    # Two points leave Simpson's rule nothing but the trapezoid.
    np.testing.assert_allclose(tracin(flow, [1]).values[0], single[:2].mean(axis=0), rtol=1e-9)


def test_a_query_always_helps_itself(paper_run):
    curves = tracin(paper_run, [10, 500, 3000]).values
    assert np.all(curves[:, np.arange(8), np.arange(8)] < 0)


def test_subsets_are_slices(paper_run):
    for options in ({}, {"query_at": "final"}):
        whole = tracin(paper_run, [100, 900], **options)
        part = tracin(paper_run, [100, 900], query=["pine", "cat"], train="rose", **options)
        chosen = whole.sel(query=["pine", "cat"], train=["rose"])
        np.testing.assert_allclose(part.values, chosen.values, rtol=1e-11)


def test_bad_input_is_refused():
    run = small_run()
    with pytest.raises(ValueError, match="`query_at` must be one of each, final"):
        tracin(run, [1], query_at="last")
    with pytest.raises(ValueError, match="`query_at='final'` needs a sum"):
        tracin(run, [1], query_at="final", cumulative=False)
    with pytest.raises(ValueError, match="`query_at='final'` needs a sum"):
        tracin(small_run("flow"), [1], query_at="final")


def test_a_flag_is_true_or_false(paper_run):
    with pytest.raises(ValueError, match="`cumulative` must be True or False, got 'no'"):
        tracin(paper_run, [10], cumulative="no")
    with pytest.raises(ValueError, match="`normalised` must be True or False, got 'x'"):
        dln.influence.laplace_bif(paper_run, [10], normalised="x")
