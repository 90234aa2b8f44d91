"""Ratios within one run: all ablations against a plain loop, and the cost of width.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks``.
"""

import time

import numpy as np
import pytest
import torch

import dlnflow as dln
from tests.benchmarks.baselines import torch_leave_one_out

pytestmark = pytest.mark.benchmark


def _seconds(function, repeats=5):
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def test_all_removals_are_20_times_faster_than_a_loop():
    torch.set_num_threads(1)
    run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3)
    steps = np.unique(np.linspace(0, run.n_steps, 200).astype(int))
    ours = _seconds(lambda: dln.influence.leave_one_out(run, steps))
    started = time.perf_counter()
    expected = torch_leave_one_out(run, steps)
    loop = time.perf_counter() - started
    values = dln.influence.leave_one_out(run, steps).values
    assert np.abs(values - expected).max() < 1e-10
    print(f"\nleave_one_out: {ours:.3f} s, plain torch loop {loop:.2f} s, ratio {loop / ours:.1f}")
    assert loop / ours >= 20


@pytest.mark.parametrize("estimator", ["leave_one_out", "tangent"])
def test_width_5000_costs_what_width_50_costs(estimator):
    task = dln.semantic_hierarchy()
    steps = np.linspace(0, 1700, 200).astype(int)

    def work(hidden):
        run = dln.Run(task, hidden=hidden, n_steps=1700)
        return dln.ESTIMATORS[estimator](run, steps)

    # In turn, so that a change of the machine's speed meets both: the median of ratios.
    pairs = [(_seconds(lambda: work(50), 1), _seconds(lambda: work(5000), 1)) for _ in range(9)]
    ratio = float(np.median([wide / narrow for narrow, wide in pairs]))
    print(f"\n{estimator}: width 5000 against 50, {ratio:.2f} times the time")
    assert ratio <= 1.5
