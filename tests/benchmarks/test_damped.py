"""Damped influence against a dense Hessian and a dense solve per checkpoint and damping.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks/test_damped.py``.
"""

import time
import warnings

import numpy as np
import pytest
import torch

import dlnflow as dln

pytestmark = [
    pytest.mark.benchmark,
    # torch.func imports a part of torch that deprecates another on its first use.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
DAMPINGS = np.geomspace(1e-3, 10, 7)
CHECKPOINTS = 100
SAMPLE = 10
"""Checkpoints that the dense side computes; its time is scaled to all of them."""


def _dense(run, trajectory, times, gauss_newton):
    """Hessian by torch.func.hessian, eigenvalues for the scale, one solve per damping."""
    x, y = (torch.tensor(a.copy()) for a in (run.task.x, run.task.y))
    h, n = trajectory.w1.shape[1:]

    def outputs(theta):
        return theta[h * n :].reshape(-1, h) @ (theta[: h * n].reshape(h, n) @ x)

    def losses(theta):
        return 0.5 * ((y - outputs(theta)) ** 2).sum(0)

    values = []
    for t in times:
        theta = np.concatenate([w[t].ravel() for w in (trajectory.w1, trajectory.w2)])
        theta = torch.tensor(theta)
        hessian = torch.func.hessian(lambda p: losses(p).mean())(theta)
        scale = torch.linalg.eigvalsh(hessian).abs().max()
        g = torch.func.jacrev(losses)(theta)
        matrix = hessian
        if gauss_newton:
            j = torch.func.jacrev(outputs)(theta).reshape(-1, len(theta))
            matrix = j.T @ j / run.task.n_items
        unit = torch.eye(len(theta), dtype=theta.dtype)
        rows = [-g @ torch.linalg.solve(matrix + d * scale * unit, g.T) for d in DAMPINGS]
        values.append(torch.stack(rows).numpy() / run.task.n_items)
    return np.stack(values, axis=1)


@pytest.mark.parametrize("estimator", ["damped_hessian", "damped_gauss_newton"])
def test_structure_is_30_times_faster_than_dense_matrices(estimator):
    torch.set_num_threads(1)
    run = dln.Run(dln.semantic_hierarchy(), hidden=50)
    steps = np.unique(np.linspace(0, run.n_steps, CHECKPOINTS).astype(int))

    def ours():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return dln.ESTIMATORS[estimator](run, steps, damping=DAMPINGS).values

    found = ours()
    started = time.perf_counter()
    ours()
    fast = time.perf_counter() - started
    trajectory, gauss_newton = run.train(steps), "gauss" in estimator
    times = np.linspace(0, len(steps) - 1, SAMPLE).astype(int)
    _dense(run, trajectory, times[:1], gauss_newton)
    started = time.perf_counter()
    expected = _dense(run, trajectory, times, gauss_newton)
    slow = (time.perf_counter() - started) * len(steps) / SAMPLE
    scale = np.abs(expected).max(axis=(2, 3), keepdims=True)
    error = (np.abs(found[:, times] - expected) / scale).max()
    print(
        f"\n{estimator}: {fast:.2f} s for {len(steps)} x {len(DAMPINGS)}, dense {slow:.0f} s, "
        f"ratio {slow / fast:.0f}, largest relative difference {error:.1e}"
    )
    assert error <= 1e-8
    assert slow / fast >= 30


def test_proximal_points_and_closed_form_bif_take_seconds():
    run = dln.Run(dln.semantic_hierarchy(), hidden=50)
    steps = np.unique(np.linspace(0, run.n_steps, CHECKPOINTS).astype(int))
    started = time.perf_counter()
    dln.influence.damped_hessian(run, steps, damping=DAMPINGS, at="proximal")
    proximal = time.perf_counter() - started
    started = time.perf_counter()
    dln.influence.laplace_bif(run, steps)
    bif = time.perf_counter() - started
    print(f"\nproximal, {len(steps)} x {len(DAMPINGS)}: {proximal:.2f} s; laplace_bif: {bif:.2f} s")
    assert proximal < 20 and bif < 5
