"""Sweeps and ensembles in a folder that several processes fill: once each, the same end."""

import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.analysis import WorkFolder
from dlnflow.sampling import sweep

TASK = dln.semantic_hierarchy(3)
STEPS = [50, 150, 300]
GRID = {"localization": [1e3, 1e4, 1e5, 1e6], "n_beta": [1e3, 1e4]}
SHORT = {"draws": 20, "burn_in": 5, "chains": 2, "references": ["tangent"]}
SEEDS = {"hidden": 6, "n_steps": 400, "learning_rate": 0.5, "steps": [100, 400]}


@pytest.fixture(scope="module")
def run():
    return dln.Run(TASK, hidden=6, init_std=0.05)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    return sweep(run, STEPS, GRID, tmp_path_factory.mktemp("whole"), **SHORT)


@pytest.fixture(scope="module")
def curves():
    return dln.ensemble(TASK, 4, ["tangent", "tracin"], **SEEDS)


def names(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_parts_of_a_sweep_at_once_compute_every_setting_once(run, whole, tmp_path, monkeypatch):
    module = sys.modules["dlnflow.analysis.sweep"]
    scored, own = [], module._score

    def score(*arguments):
        scored.append(arguments[-1].name)
        time.sleep(0.02)
        own(*arguments)

    monkeypatch.setattr(module, "_score", score)
    with ThreadPoolExecutor(6) as pool:
        parts = [(k, 4) for k in (1, 2, 3, 4)] + [(1, 1), (1, 1)]
        tables = [
            pool.submit(sweep, run, STEPS, GRID, tmp_path, part=part, **SHORT) for part in parts
        ]
        assert all(one.result().equals(whole) for one in tables[4:])
        assert 2 <= min(len(one.result()) for one in tables)
    assert sorted(scored) == sorted(p.name for p in tmp_path.glob("*.json")) and len(scored) == 8
    assert len(names(tmp_path)) == 9  # and the lock that they share


def test_parts_of_an_ensemble_one_after_another(curves, tmp_path):
    ask = {"estimator": ["tangent", "tracin"], **SEEDS}
    with pytest.warns(UserWarning, match=r"2 of 4 seeds are complete in .*, not 1, 3; these"):
        some = dln.ensemble(TASK, 4, executor=WorkFolder(tmp_path, part=(1, 2)), **ask)
    assert some.seed.values.tolist() == [0, 2] and some.equals(curves.sel(seed=[0, 2]))
    again = dln.ensemble(TASK, 4, executor=WorkFolder(tmp_path, part=(2, 2)), **ask)
    assert again.identical(curves)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.nc")}
    assert len(written) == 8
    more = dln.ensemble(TASK, 5, executor=WorkFolder(tmp_path), **ask)
    assert more.sel(seed=range(4)).equals(curves)
    assert written.items() <= {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.nc")}.items()


def test_what_curves_depend_on_names_their_files(tmp_path):
    """Another seed, setting, step, item or task is never answered by the same file."""
    ask = {"seeds": 1, "estimator": "tracin", "executor": WorkFolder(tmp_path), **SEEDS}
    other = dln.Task(TASK.y * 2, items=TASK.items)
    changes = [
        {},
        {"seeds": [3]},
        {"hidden": 7},
        {"steps": [100, 300]},
        {"train": TASK.items[:2]},
        {"init_std": 0.02},
        {"optimizer": "momentum"},
    ]
    for k, change in enumerate(changes, start=1):
        dln.ensemble(TASK, **ask | change)
        assert len(list(tmp_path.glob("*.nc"))) == k
    dln.ensemble(other, **ask)
    assert len(list(tmp_path.glob("*.nc"))) == len(changes) + 1


def test_damaged_and_diverged_curves(curves, tmp_path):
    ask = {"estimator": ["tangent", "tracin"], "executor": WorkFolder(tmp_path), **SEEDS}
    dln.ensemble(TASK, 4, **ask)
    for path in sorted(tmp_path.glob("*.nc"))[::3]:
        path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    assert dln.ensemble(TASK, 4, **ask).identical(curves)
    wild = ask | {"learning_rate": 1e3}
    for _ in range(2):  # the second time from files
        with pytest.raises(dln.DivergenceError, match="4 of 4 runs diverge"):
            dln.ensemble(TASK, 4, **wild)
    assert len(list(tmp_path.glob("*.json"))) == 8


def test_folders_and_parts_that_cannot_be(run, tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in ({"part": (3, 2)}, {"part": (0, 2)}, {"workers": 0}):
        with pytest.raises(ValueError, match=r"`part` must be k of n|workers"):
            WorkFolder(tmp_path, **arguments)
        with pytest.raises(ValueError, match=r"`part` must be k of n|workers"):
            sweep(run, STEPS, GRID, tmp_path, **arguments, **SHORT)
    with pytest.raises(ValueError, match="is a file"):
        WorkFolder(tmp_path / "file")
    with pytest.raises(ValueError, match="cannot be written"):
        WorkFolder(tmp_path / "file" / "below").fill([], "nothing")
    with pytest.raises(ValueError, match=r"0 of 1 seeds are complete .* the other parts"):
        dln.ensemble(TASK, 1, "tracin", executor=WorkFolder(tmp_path, part=(2, 2)), **SEEDS)


@pytest.mark.slow
def test_workers_and_kills(run, whole, curves, tmp_path):
    """Processes of a sweep are killed at random; files are whole, and a later call ends alike."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dlnflow.sampling", "torch", __name__])
    rng = np.random.default_rng()
    options = dict(SHORT)
    for _ in range(20):
        arguments = (run, STEPS, GRID, tmp_path)
        parts = [(1, 2), (2, 2), (1, 1)]
        processes = [
            context.Process(target=sweep, args=arguments, kwargs=options | {"part": part})
            for part in parts
        ]
        for process in processes:
            process.start()
        time.sleep(rng.exponential(0.5))
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    assert sweep(run, STEPS, GRID, tmp_path, workers=2, **SHORT).equals(whole)
    assert len(names(tmp_path)) == 8 + 1 + 1  # rows, the lock, and the reference
    shared = WorkFolder(tmp_path / "seeds", workers=2)
    found = dln.ensemble(TASK, 4, ["tangent", "tracin"], executor=shared, **SEEDS)
    assert found.identical(curves)
