"""All windows of all items in one pass, against a plain loop that retrains each of them.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks``.
"""

import time

import numpy as np
import pytest
import torch

import dlnflow as dln
from tests.benchmarks.baselines import torch_windowed
from tests.tolerances import ALGEBRA

pytestmark = pytest.mark.benchmark

WIDTH = 100
"""Steps of a window."""


def _cpu_seconds(function):
    """CPU time, which other processes on the machine hardly change, and the result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def test_all_windows_are_much_faster_than_a_loop():
    torch.set_num_threads(1)
    run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3)
    starts = np.linspace(0, run.n_steps - WIDTH, 40).astype(int)

    def ours():
        return dln.influence.windowed(run, starts, window=WIDTH)

    ours()
    seconds = float(np.median([_cpu_seconds(ours)[0] for _ in range(5)]))
    loop, expected = _cpu_seconds(lambda: torch_windowed(run, starts, WIDTH))
    values = ours().values
    assert np.abs(values - expected).max() <= ALGEBRA * np.abs(expected).max()
    print(f"\nwindowed: {seconds:.3f} s, plain torch loop {loop:.2f} s, ratio {loop / seconds:.1f}")
    assert loop / seconds >= 30
