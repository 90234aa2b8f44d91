"""All pairs in a store: the values of the estimator, whatever ends the process on the way."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from zarr.storage import LocalStore

import dlnflow as dln
from dlnflow._support import chunked
from dlnflow.analysis import all_pairs
from tests.influence.small_runs import small_run

STEPS = [0, 50, 120, 300, 500, 700, 900]


def _run(n_items=30, n_out=6):
    y = np.random.default_rng(0).standard_normal((n_out, n_items))
    return dln.Run(dln.Task(y), hidden=12, init_std=1e-2, n_steps=1000)


def _whitened():
    """More items than inputs: targets that no linear map makes."""
    rng = np.random.default_rng(1)
    x = 2 * np.linalg.qr(rng.standard_normal((6, 3)))[0].T
    return dln.Run(dln.Task(rng.standard_normal((4, 6)), x), hidden=9, n_steps=1000)


def _bytes(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("block", [None, 1, 3])
@pytest.mark.parametrize("run", [_run(), _whitened()], ids=["one-hot", "whitened"])
def test_it_is_the_estimator_itself(run, block, tmp_path):
    stored = all_pairs(run, tmp_path / "a.zarr", steps=STEPS, block=block)
    whole = dln.influence.analytic(run, STEPS)
    for curves in (stored, dln.load(tmp_path / "a.zarr")):
        xr.testing.assert_allclose(curves, whole, rtol=1e-12, atol=1e-12 * np.abs(whole).max())
        assert curves.attrs == whole.attrs and curves.dims == whole.dims
        for name in whole.coords:
            xr.testing.assert_identical(curves[name].variable, whole[name].variable)
    dln.save(stored, tmp_path / "a.nc")
    xr.testing.assert_identical(dln.load(tmp_path / "a.nc"), stored.load())


@pytest.mark.parametrize("response", ["correlation", "exact"])
def test_options_of_the_estimator_are_handed_on(response, tmp_path):
    options = {"a0": 0.01, "response": response, "train": ["item3", "item1"], "query": ["item7"]}
    stored = all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2, **options)
    whole = dln.influence.analytic(_run(), STEPS, **options)
    np.testing.assert_allclose(stored, whole, rtol=1e-9, atol=1e-11 * np.abs(whole).max())
    assert stored.attrs == whole.attrs and stored.dims == whole.dims


def test_names_of_any_kind_survive(tmp_path):
    items = ["dog", "bär", "\U0001f415", "a,b\n"]
    task = dln.Task(np.random.default_rng(0).standard_normal((3, 4)), items=items)
    stored = all_pairs(dln.Run(task), tmp_path / "a", steps=[100], query=items[::-1])
    assert stored["query"].values.tolist() == items[::-1]
    assert stored["train"].values.tolist() == items


def test_a_selection_reads_its_chunks_alone(tmp_path, monkeypatch):
    all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2)
    read = []
    get = LocalStore.get

    async def counted(self, key, *rest, **options):
        read.append(key)
        return await get(self, key, *rest, **options)

    monkeypatch.setattr(LocalStore, "get", counted)
    curves = dln.load(tmp_path / "a")
    assert not [key for key in read if key.startswith("influence/c/")]
    curves.sel(time=300, query="item3").load()
    chunks = {key for key in read if key.startswith("influence/c/")}
    assert {key.split("/")[2] for key in chunks} == {"1"}


def test_a_store_that_was_killed_goes_on_to_the_last_bit(tmp_path):
    code = f"""
import os, signal
from dlnflow._support import chunked
from tests.analysis.test_all_pairs import STEPS, _run, all_pairs
whole = chunked.write
def write(path, first, values):
    files = whole(path, first, values if first < 4 else values[:1])
    if first == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return files
chunked.write = write
all_pairs(_run(), {str(tmp_path / "a")!r}, steps=STEPS, block=2)
"""
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(ValueError, match="not complete: 4 of 7 times are written"):
        dln.load(tmp_path / "a")
    left = tmp_path / "a" / ".zarr.0123456789ab.json"  # of a kill while the record is replaced
    left.write_text("{")
    first = os.stat(tmp_path / "a/influence/c/0/0/0").st_mtime_ns
    all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2)
    assert os.stat(tmp_path / "a/influence/c/0/0/0").st_mtime_ns == first and not left.exists()
    all_pairs(_run(), tmp_path / "b", steps=STEPS, block=2)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of files that are not part of a zarr group
        xr.open_zarr(tmp_path / "a", consolidated=False, chunks=None)


def test_ctrl_c_keeps_complete_blocks_and_says_so(tmp_path, monkeypatch):
    calls = []

    def stop(path, first, values):
        calls.append(first)
        if first:
            raise KeyboardInterrupt
        return write(path, first, values)

    write = chunked.write
    monkeypatch.setattr(chunked, "write", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2)
    assert "2 of 7 times are complete" in caught.value.__notes__[0]
    assert not (tmp_path / "a/influence/c/1").exists()
    monkeypatch.setattr(chunked, "write", write)
    all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2)
    assert calls == [0, 2]


def test_a_disk_that_fills_up_keeps_complete_blocks(tmp_path, monkeypatch):
    """Chunks are written through zarr's store, which meets the full disk in the second block."""
    module = sys.modules["dlnflow.analysis.all_pairs"]
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 2 * 15 * 15)
    put, room = LocalStore.set, 4 + 2  # chunks of the first block and two of the second

    async def full(self, key, value, *rest):
        nonlocal room
        if "c/" in key and str(self.root).endswith("influence"):
            room -= 1
            if room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        await put(self, key, value, *rest)

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(OSError) as caught:
        all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "a")
    assert "2 of 7 times are complete" in caught.value.__notes__[0]
    assert [p.name for p in (tmp_path / "a/influence/c").iterdir()] == ["0"]
    monkeypatch.setattr(LocalStore, "set", put)
    all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2)
    all_pairs(_run(), tmp_path / "b", steps=STEPS, block=2)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")


def test_a_disk_that_is_full_at_once_leaves_nothing(tmp_path, monkeypatch):
    async def full(self, key, value, *rest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(OSError) as caught:
        all_pairs(_run(), tmp_path / "a", steps=STEPS)
    assert caught.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=8 * 900 * len(STEPS) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"GB are free on the disk of .*fewer `steps`"):
        all_pairs(_run(), tmp_path / "new" / "a", steps=STEPS)
    assert not list(tmp_path.iterdir())


def test_what_else_stands_at_the_path_is_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    import zarr

    zarr.open_group(tmp_path / "foreign", mode="w", zarr_format=3)
    before = _bytes(tmp_path)
    with pytest.raises(ValueError, match="is a file; give the folder"):
        all_pairs(_run(), tmp_path / "file", steps=STEPS)
    for name in ("folder", "foreign"):
        with pytest.raises(ValueError, match=r"not a store of influence.*Nothing was changed"):
            all_pairs(_run(), tmp_path / name, steps=STEPS)
        with pytest.raises(ValueError, match="not a store of influence"):
            dln.load(tmp_path / name)
    assert _bytes(tmp_path) == before
    assert all_pairs(_run(), tmp_path / "empty", steps=STEPS).shape == (7, 30, 30)


def test_a_store_of_something_else_is_refused_and_what_differs_is_named(tmp_path):
    run, path = _run(), tmp_path / "a"
    all_pairs(run, path, steps=STEPS)
    before = _bytes(path)
    other = dln.Run(run.task, hidden=12, init_std=1e-2, n_steps=1000, seed=1)
    for changed, differs in (
        (lambda: all_pairs(run, path, steps=STEPS[1:]), "`block`|the steps"),
        (lambda: all_pairs(run, path, steps=STEPS, a0=0.1), "the estimator"),
        (lambda: all_pairs(run, path, steps=STEPS, train="item1"), "the items"),
        (lambda: all_pairs(other, path, steps=STEPS), "the run, the initial weights"),
        (lambda: all_pairs(run, path, steps=STEPS, block=2), "`block`"),
        (lambda: all_pairs(_run(n_out=7), path, steps=STEPS), "the data, the run, the"),
    ):
        with pytest.raises(ValueError, match=f"differs in.*{differs}.*another path, or delete"):
            changed()
    assert _bytes(path) == before


def test_a_store_that_another_process_writes_is_refused(tmp_path):
    all_pairs(_run(), tmp_path / "a", steps=STEPS)
    with open(tmp_path / "a/influence/zarr.json", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="being written by another process"):
            all_pairs(_run(), tmp_path / "a", steps=STEPS)


def test_damage_is_noticed(tmp_path):
    all_pairs(_run(), tmp_path / "a", steps=STEPS, block=2)
    chunk = tmp_path / "a/influence/c/1/0/0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    curves = dln.load(tmp_path / "a")
    with pytest.raises(ValueError, match="checksum"):
        curves.sel(time=300).load()
    chunk.unlink()
    with pytest.raises(ValueError, match="is damaged: 1 of 4 chunks are missing"):
        dln.load(tmp_path / "a")
    for name in ("influence", "query"):
        shutil.rmtree(tmp_path / "a")
        all_pairs(_run(), tmp_path / "a", steps=STEPS)
        about = tmp_path / "a" / name / "zarr.json"
        content = json.loads(about.read_text())
        content["attributes"]["sign"] = "positive = helps"
        about.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="labels or attributes differ"):
            dln.load(tmp_path / "a")


def test_without_zarr_one_line_names_the_extra(tmp_path, monkeypatch):
    all_pairs(_run(), tmp_path / "a", steps=STEPS)
    monkeypatch.setitem(sys.modules, "zarr", None)
    for call in (
        lambda: all_pairs(_run(), tmp_path / "b", steps=STEPS),
        lambda: dln.load(tmp_path / "a"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'dlnflow\[store\]'"):
            call()
    assert not (tmp_path / "b").exists()


def test_what_a_store_cannot_hold_is_refused_before_it_is_made(tmp_path):
    run, path = small_run("gd", one_hot=True), tmp_path / "a"
    for name in {*dln.ESTIMATORS} - {"analytic"}:
        with pytest.raises(ValueError, match=r"needs all steps at once.*as analytic can"):
            all_pairs(run, path, name)
    with pytest.raises(ValueError, match=r"`estimator` must be one of.*Did you mean 'analytic'"):
        all_pairs(run, path, "analytics")
    with pytest.raises(ValueError, match="`block` must be a whole number"):
        all_pairs(run, path, block=0)
    with pytest.raises(ValueError, match="unknown item 'nobody'"):
        all_pairs(run, path, train=["nobody"])
    module = dln.TorchRun(
        torch.nn.Linear(3, 2), (torch.eye(3), torch.ones(3, 2)), learning_rate=0.1, n_steps=5
    )
    with pytest.raises(ValueError, match="a closed form of deep linear networks"):
        all_pairs(module, path)
    assert not list(tmp_path.iterdir())
