"""Class influence and the item x item matrix: time and memory against what they must do."""

import time
import tracemalloc

import numpy as np
import pytest

from dlnflow.traces import groups, matrix
from tests.traces.samples import make

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def traces():
    """8,192 tokens of 64 sequences, 4 chains of 100 draws."""
    values = np.random.default_rng(0).standard_normal((1, 4, 100, 8192), dtype=np.float32)
    return make(values, np.repeat(np.arange(64), 128))


def least_time(call, repeats=5):
    times = []
    for _ in range(repeats):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


def peak(call):
    tracemalloc.start()
    call()
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return used


def test_groups(traces):
    classes = np.random.default_rng(1).random((8192, 6)) < 0.3
    seconds = least_time(lambda: groups(traces, classes))
    memory = peak(lambda: groups(traces, classes)) / traces.nbytes
    print(f"groups: {seconds:.3f} CPU s, {memory:.2f} x the traces")
    assert seconds < 0.1
    assert memory < 1


def test_matrix(traces):
    z = traces.values[0].reshape(400, -1).astype(float)
    product = least_time(lambda: z.T @ z, 3)
    seconds = least_time(lambda: matrix(traces), 3)
    memory = peak(lambda: matrix(traces)) / (8 * 8192**2)
    print(f"matrix: {seconds / product:.2f} x one product, {memory:.2f} x the result")
    assert seconds < 1.5 * product
    assert memory < 1.2
