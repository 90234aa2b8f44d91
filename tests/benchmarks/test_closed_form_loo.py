"""Closed-form removal of all items against the plain loop, trained to the same end.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks``.
"""

import time

import numpy as np
import pytest
import torch

import dlnflow as dln
from dlnflow.influence.closed_form_loo import closed_form_loo
from tests.benchmarks.baselines import torch_leave_one_out

pytestmark = pytest.mark.benchmark


def test_all_items_at_200_times_are_60_times_faster_than_a_loop():
    torch.set_num_threads(1)
    run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3)
    steps = np.unique(np.linspace(0, run.n_steps, 200).astype(int))
    predicted = closed_form_loo(run, steps)
    assert predicted.attrs["solution"] == "riccati"
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        closed_form_loo(run, steps)
        seconds.append(time.perf_counter() - started)
    ours = float(np.median(seconds))
    started = time.perf_counter()
    truth = torch_leave_one_out(run, steps)
    loop = time.perf_counter() - started
    error = np.abs(predicted.values - truth).max() / np.abs(truth).max()
    print(
        f"\nclosed_form_loo: {ours:.3f} s, plain torch loop {loop:.2f} s, ratio {loop / ours:.0f}"
    )
    assert error < 0.01
    assert loop / ours >= 60
