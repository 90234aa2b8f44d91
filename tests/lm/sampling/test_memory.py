"""Stores larger than memory: what is computed from them needs the memory of one checkpoint."""

import tracemalloc
from importlib import import_module

import numpy as np
import pytest
import xarray as xr

from dlnflow.lm.sampling import stored_losses
from dlnflow.lm.sampling.store import Store
from dlnflow.traces import (
    class_sums,
    diverged,
    ess,
    groups,
    influence,
    llc,
    matrix,
    neighbours,
    r_hat,
    summary,
    top_k,
)

CHAINS, DRAWS, ITEMS = 3, 40, 60


def write(folder, n_steps, shape, wild=()):
    """A store of random losses that share a fluctuation."""
    chains, draws, items = shape
    steps = list(range(n_steps))
    contents = {s: {"weights": str(s), "config": "c"} for s in steps}
    files = Store(folder, {"of": "noise"}, contents, (chains, items))
    rng = np.random.default_rng(0)
    for s in steps:
        start = rng.random(items, dtype=np.float32)
        for c in range(chains):
            z = rng.standard_normal((draws, items), np.float32) + start
            z += rng.standard_normal((draws, 1), np.float32)
            files.write(s, c, np.where((s, c) in wild, np.nan, z), start, b"state")
    return steps


def opened(folder, steps, shape):
    chains, draws, items = shape
    attrs = {"n_beta": 50.0, "localization": 1.0, "n_train": items, "n_parameters": 9}
    coords = {
        "item": np.char.add("i", np.arange(items).astype(str)),
        "row": np.arange(items) // 10,
        "position": np.arange(items) % 10,
        "token": np.random.default_rng(1).integers(0, items // 4, items),
    }
    return stored_losses.lazy(folder, steps, coords, attrs | {"chains": chains, "draws": draws})


def classes(items):
    members = np.random.default_rng(2).random((items, 3)) < 0.4
    return xr.DataArray(members, dims=("item", "token_class"), coords={"token_class": list("abc")})


MEASURES = {
    "class_sums": lambda t: groups(class_sums(t, classes(ITEMS)), exclude="token"),
    "groups": lambda t: groups(t, classes(ITEMS)),
    "groups, other ids": lambda t: groups(t, classes(ITEMS), exclude=("row", "token")),
    "covariance, differences": lambda t: groups(
        t, classes(ITEMS), normalised=False, differences=True
    ),
    "neighbours": lambda t: neighbours(t, classes(ITEMS), k=4),
    "top_k": lambda t: top_k(t, 3),
    "matrix": lambda t: matrix(t, query=["i3", "i50"]),
    "influence": lambda t: influence(t, query=["i3"], train=["i4", "i5"]),
    "summary": summary,
    "diverged": diverged,
    "r_hat": r_hat,
    "ess": ess,
    "llc": llc,
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Traces on disk, a chain of the last checkpoint diverged."""
    folder = tmp_path_factory.mktemp("stored")
    shape = CHAINS, DRAWS, ITEMS
    return opened(folder, write(folder, 3, shape, wild={(2, 1)}), shape)


@pytest.mark.parametrize("name", MEASURES)
def test_on_disk_as_in_memory(stored, name, monkeypatch):
    loaded = stored.copy().load()
    expected = MEASURES[name](loaded)
    small = {
        "columns.BLOCK": 7,
        "pair_sums.BLOCK": 7,
        "pairs.ENTRIES": 5 * ITEMS,
        "diagnostics.BLOCK": 11,
    }
    small["pair_sums.BYTES"] = 8 * 15 * 3 * 9  # nine draws
    for where, size in small.items():
        module, constant = where.split(".")
        monkeypatch.setattr(import_module(f"dlnflow.traces.{module}"), constant, size)
    found = MEASURES[name](stored)
    assert "StoredLosses" in repr(stored.variable._data)
    xr.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", MEASURES)
def test_with_dask_behind_them(stored, name):
    expected = MEASURES[name](stored)
    xr.testing.assert_allclose(MEASURES[name](stored.chunk(chain=1, draw=16)), expected)


CALLS = {
    "groups": lambda t, m: groups(t, m, exclude="token"),
    "neighbours": lambda t, m: neighbours(t, m, k=20),
    "r_hat": lambda t, m: r_hat(t),
    "llc": lambda t, m: llc(t),
}


@pytest.mark.parametrize("name", CALLS)
def test_memory_is_that_of_one_checkpoint(large, name):
    """Peak of the arrays: the same for 1 and 5 checkpoints."""
    folder, shape = large
    members, peaks = classes(shape[2]), []
    CALLS[name](opened(folder, [0], shape), members)  # imports and caches
    tracemalloc.start()
    try:
        for n in (1, 5):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            CALLS[name](opened(folder, range(n), shape), members)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert peaks[0] > 4 * np.prod(shape)  # that much is seen: the losses of one checkpoint
    assert peaks[1] < 1.1 * peaks[0]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Five checkpoints of 0.2 MB each."""
    folder, shape = tmp_path_factory.mktemp("large"), (2, 64, 400)
    write(folder, 5, shape)
    return folder, shape
