"""Killed processes, two at once, disks that cannot be written, extras that are missing."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from dlnflow._support.files import atomic_path, leftovers
from dlnflow.lm import experiment
from dlnflow.lm.runs import progression
from dlnflow.lm.runs.folder import half_made, locked
from dlnflow.lm.runs.train import train
from tests.lm.runs.test_folder import options
from tests.lm.test_command import answer, call


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny[1], tmp_path / "run")


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize("point", ["write_atomic", "keep_losses"])
def test_killed_while_the_last_checkpoint_is_written(tiny, tmp_path, monkeypatch, point):
    """Before or after the resume state, the losses end up complete."""
    settings, folder, ladder = tiny

    def killed(*arguments):
        if point == "keep_losses" and arguments[0].step < settings.n_steps:
            return own(*arguments)
        if point == "write_atomic" and not (tmp_path / f"step{settings.n_steps}").exists():
            return own(*arguments)
        raise Killed

    target = progression.Progression if point == "keep_losses" else progression
    own = getattr(target, point)
    monkeypatch.setattr(target, point, killed)
    with pytest.raises(Killed):
        train(settings, tmp_path)
    monkeypatch.undo()
    assert len(np.load(tmp_path / "losses.npy")) < settings.n_steps
    wanted = np.load(folder / "losses.npy")
    found = answer("train", tmp_path, *options(settings))
    assert found["loss"] == wanted[-1]
    np.testing.assert_array_equal(np.load(tmp_path / "losses.npy"), wanted)
    assert train(settings, tmp_path).hashes == ladder.hashes


def test_damaged_losses_are_written_anew(tiny, copy):
    wanted = np.load(copy / "losses.npy")
    (copy / "losses.npy").write_bytes(b"\x93NUMPY")
    assert answer("train", copy, *options(tiny[0]))["loss"] == wanted[-1]
    np.testing.assert_array_equal(np.load(copy / "losses.npy"), wanted)


KILL = """
import os, signal, sys
from pathlib import Path
from dlnflow._support.files import atomic_path
for name in ("losses.npy", "data.json", "resume.pt", "plain"):
    with open(os.devnull):
        path = atomic_path(Path(sys.argv[1]) / name)
        path.__enter__().write_text("half")
        keep = globals().setdefault("keep", []) ; keep.append(path)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_temporary_files_of_a_killed_run_are_removed_by_the_next(tiny, copy):
    found = subprocess.run([sys.executable, "-c", KILL, str(copy)], cwd=os.getcwd())
    assert found.returncode == -signal.SIGKILL
    (copy / ".step16.partial").mkdir()
    (copy / ".step16.partial" / "config.json").write_text("{")
    assert len(leftovers(copy)) == 4 and len(half_made(copy)) == 5
    (copy / ".hidden").write_text("mine")
    (copy / ".notes.v2.md").write_text("mine")
    before = {p.name for p in copy.iterdir()} - {p.name for p in half_made(copy)}
    train(tiny[0], copy)
    assert {p.name for p in copy.iterdir()} == before


def test_names_that_are_temporary(tmp_path):
    for name in ("a.npy", "plain", "two.parts.nc"):
        with atomic_path(tmp_path / name) as path:
            path.write_text("x")
            assert leftovers(tmp_path) == [path]
        assert leftovers(tmp_path) == []


HOLD = """
import sys
from pathlib import Path
from dlnflow.lm.runs.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder):
    """Another process that trains in a folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=os.getcwd()) as other:
        assert other.stdout.readline() == "held\n"
        yield other
        if other.poll() is None:
            other.communicate()


@pytest.mark.parametrize("new", [True, False])
def test_two_trainings_in_one_folder_are_refused(tiny, tmp_path, new):
    settings, folder, ladder = tiny
    out = tmp_path / "run" if new else shutil.copytree(folder, tmp_path / "run")
    with holder(out) as other:
        shown = call("train", out, *options(settings), code=1).stderr
        assert f"is being trained by process {other.pid}. Wait for it" in shown
        assert shown.count("\n") == 1
        found = json.loads(call("doctor", folder, "--json").stdout)
        assert not any(f["subject"] == "lock" for f in found["findings"])
        if not new:
            assert f"process {other.pid} is training here" in call("doctor", out).stdout
    assert train(settings, out).hashes == ladder.hashes
    assert not (out / "lock").exists()


def test_a_lock_does_not_survive_its_process(tiny, tmp_path):
    out = tmp_path / "run"
    with holder(out) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (out / "lock").exists()
    assert train(tiny[0], out).hashes == tiny[2].hashes


def test_a_folder_made_for_a_lock_alone_is_removed(tmp_path):
    with pytest.raises(Killed), locked(tmp_path / "a" / "b"):
        raise Killed
    assert not (tmp_path / "a" / "b").exists()


forbidden: list[str] = []
"""Folders in which nothing may be written; hooks cannot be taken away again."""


def _refuse(event, arguments):
    writes = {
        "open": lambda p, mode, flags: flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT),
        "os.mkdir": lambda *_: True,
        "os.rename": lambda *_: True,
        "os.remove": lambda *_: True,
        "os.rmdir": lambda *_: True,
    }
    if forbidden and event in writes and isinstance(arguments[0], str | os.PathLike):
        place = os.path.abspath(arguments[0])
        if any(place.startswith(f) for f in forbidden) and writes[event](*arguments[:3]):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)


@pytest.fixture
def read_only(monkeypatch):
    """Return a function after which a folder lies on a disk that cannot be written."""
    sys.addaudithook(_refuse)
    access = os.access

    def refuse(folder):
        forbidden.append(str(folder))
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode, **options: (
                access(path, mode, **options)
                and not (mode & os.W_OK and str(path).startswith(str(folder)))
            ),
        )

    yield refuse
    forbidden.clear()


def test_what_only_reads_needs_no_disk_that_can_be_written(tiny, copy, tmp_path, read_only):
    store = copy / "store"
    short = "--step 4 --step 12 --draws 5 --set rows=2 --set burn_in=2 --set thin=1".split()
    call("sample", copy, "--store", store, *short)
    read_only(copy)
    with pytest.raises(OSError, match="Read-only"):
        (copy / "file").write_text("")
    call("groups", copy, "--store", store)
    call("knn", copy, "--store", store, "--k", 5)
    call("figures", copy, "--store", store, "--out", tmp_path / "out")
    call("induction", copy, "--step", 12)
    call("doctor", copy)
    call("doctor", store)
    assert answer("train", copy, *options(tiny[0]))["steps"][-1] == 12
    shown = call("train", copy, *options(tiny[0], n_steps=13), code=1).stderr
    assert shown.startswith("error: ") and "Read-only" in shown


@pytest.mark.parametrize("observe", ["text", "repeats"])
def test_stores_of_the_figures_are_read_by_the_commands(tiny, tmp_path, monkeypatch, observe):
    from concurrent.futures import ThreadPoolExecutor

    from paper_figures import _lm_data
    from paper_figures._data import Scale

    small = dataclasses.replace(
        _lm_data.SIZES[Scale.quick], steps=(4, 12), chains=2, draws={observe: 5}, rows={observe: 2}
    )
    monkeypatch.setitem(_lm_data.SIZES, Scale.quick, small)
    monkeypatch.setattr(_lm_data, "OUT", tmp_path)
    monkeypatch.setattr(_lm_data, "ladder", lambda *_: tiny[2])
    monkeypatch.setattr(_lm_data, "folder", lambda *_: tiny[1])
    monkeypatch.setattr(_lm_data, "pool", lambda: ThreadPoolExecutor(1))
    sampler = experiment.sampler
    monkeypatch.setattr(experiment, "sampler", lambda **k: sampler(**k, burn_in=2, thin=1))
    traces, classes = _lm_data.traces.__wrapped__(Scale.quick, observe)
    store = tmp_path / f"{tiny[1].name}-{observe}"
    found, again = experiment.read(tiny[1], store)
    assert found.identical(traces) and (again == classes).all()
    assert answer("groups", tiny[1], "--store", store)["rows"]


@pytest.mark.parametrize("module", ["torch", "tokenizers", "transformers", "safetensors", "zarr"])
@pytest.mark.parametrize("command", ["train", "classes", "induction", "sample", "groups", "doctor"])
def test_a_missing_extra_is_one_line_before_the_work(tmp_path, monkeypatch, command, module):
    monkeypatch.setitem(sys.modules, module, None)
    out = tmp_path / "out"
    more = {
        "train": [],
        "classes": ["--tokenizer", out],
        "induction": [],
        "doctor": [],
        "sample": ["--store", out / "s"],
        "groups": ["--store", out / "s"],
    }
    shown = call(command, out, *more[command], code=1).stderr
    assert shown == (
        f"error: this needs {module}, not installed here; `pip install 'dlnflow[lm]'` does that.\n"
    )
    assert not out.exists()


def test_the_extras_that_other_commands_need(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from dlnflow.cli.main import app

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    figures = ("figures", tmp_path, "--store", tmp_path, "--out", tmp_path / "out")
    assert "'dlnflow[figures]'" in call(*figures, code=1).stderr
    monkeypatch.setitem(sys.modules, "torch", None)
    found = CliRunner().invoke(app, ["selftest"])
    assert found.exit_code == 1 and "`pip install 'dlnflow[torch]'`" in found.stderr
    assert found.stderr.count("\n") == 1 and not found.stdout


def test_a_device_that_is_not_there_is_known_before_the_text_is_read(tiny):
    shown = call("induction", tiny[1], "--text", "/nowhere", "--device", "cuda:77", code=1).stderr
    assert "`device` 'cuda:77' cannot be used here" in shown
    rows = answer("induction", tiny[1], "--step", 12, "--device", "cpu")["rows"]
    assert rows == answer("induction", tiny[1], "--step", 12)["rows"]
