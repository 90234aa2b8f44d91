"""Cost of the closed form in units of one dense N x N matrix product, and its memory.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks``.
"""

import time
import tracemalloc

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.influence import analytic
from tests.tolerances import CLOSED_FORM

pytestmark = pytest.mark.benchmark

N_ITEMS = 1024


def _generic(seed=0):
    """Gaussian features with singular values spread over a decade, all distinct."""
    rng = np.random.default_rng(seed)
    scales = np.geomspace(1, 0.1, N_ITEMS)
    return dln.Task(rng.standard_normal((N_ITEMS, N_ITEMS)) * scales[:, None])


def _run(task):
    run = dln.Run(task, hidden=N_ITEMS, init_std=1e-3, n_steps=1_000_000, learning_rate=1e-2)
    assert run.task.modes.rank == N_ITEMS  # decomposed once, before the clock starts,
    run.initial_weights(copy=False)  # and drawn once
    return run


def _steps(run, count):
    """Times from before the first transition until half of the modes are learned."""
    s, per_step = run.task.modes.s, float(run.flow_time(1))
    first = 0.5 * dln.saxe.half_time(s[0], 1e-3)
    last = 1.5 * dln.saxe.half_time(s[N_ITEMS // 2], 1e-3)
    return np.unique(
        np.clip(np.linspace(first, last, count) / per_step, 0, run.n_steps).astype(int)
    )


def _seconds(function, repeats):
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _products(run, steps, **options):
    """Time per time point in units of a product, medians of interleaved measurements."""
    a, b = np.random.default_rng(1).standard_normal((2, N_ITEMS, N_ITEMS))
    a @ b
    ours, product = [], []
    for _ in range(5):
        product.append(_seconds(lambda: a @ b, 3))
        ours.append(_seconds(lambda: analytic(run, steps, **options), 1))
    return np.median(ours) / len(steps) / np.median(product)


def _task(name):
    return _generic() if name == "generic" else dln.semantic_hierarchy(levels=11)


@pytest.mark.parametrize(("name", "bound"), [("generic", 64), ("hierarchy", 6)])
def test_cost_in_products(name, bound):
    run = _run(_task(name))
    assert run.task.n_items == N_ITEMS
    assert len(run.task.modes.blocks) == (N_ITEMS if name == "generic" else 11)
    steps = _steps(run, 8)
    many = _products(run, steps)
    one, given = (_products(run, steps[3:4], **options) for options in ({}, {"a0": 1e-3}))
    print(
        f"\n{name}: {many:.2f} products per time for 8 times, {one:.2f} for one, "
        f"{given:.2f} with a0 given"
    )
    assert max(many, one, given) <= bound


@pytest.mark.parametrize("name", ["generic", "hierarchy"])
@pytest.mark.parametrize("count", [1, 8])
def test_peak_memory_is_at_most_3_results(name, count):
    """Beside the run's own initial weights."""
    run = _run(_task(name))
    steps = _steps(run, 8)[3:4] if count == 1 else _steps(run, 8)
    tracemalloc.start()
    result = analytic(run, steps)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"\n{name}, {len(steps)} time(s): peak {peak / result.nbytes:.2f} results")
    assert peak <= 3 * result.nbytes


def test_subsets_cost_less():
    run = _run(_generic())
    steps = _steps(run, 4)
    names = run.task.items[:16]
    whole = analytic(run, steps)
    part = analytic(run, steps, query=names, train=names)
    assert np.abs(part.values - whole.values[:, :16, :16]).max() <= (
        CLOSED_FORM * np.abs(whole.values).max()
    )
    ratio = _seconds(lambda: analytic(run, steps, query=names, train=names), 3) / _seconds(
        lambda: analytic(run, steps), 3
    )
    print(f"\n16 x 16 of 1024 x 1024 pairs: {ratio:.3f} of the time")
    assert ratio < 0.8
