"""What a terminal can do to a command: encodings, closed pipes, names, full disks, Ctrl-C."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow import lm
from dlnflow._support import command, terminal
from dlnflow._support.files import atomic_path, disk_is_full
from dlnflow.cli import estimates, main

FAST = ["-e", "tangent", "--run", "n_steps=20", "--points", "3"]
HOSTILE = ["dog\x1b[2J", "cat\u200f", "\U0001f415", "pine\x07\x9b1m"]
SHOWN = [r"dog\x1b[2J", r"cat\u200f", "\U0001f415", r"pine\x07\x9b1m"]


START = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *where):
        return None if name.partition(".")[0] in {absent!r} else super().find_spec(name, *where)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from dlnflow.cli.main import main
main()
"""
"""The command, as if modules were not installed."""


def _command(*arguments, encoding="utf-8", without=()):
    """Run as a process, with an encoding of its streams and without some modules."""
    return subprocess.run(
        [sys.executable, "-c", START.format(absent=without), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8" if encoding.startswith("utf") else "latin-1",
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )


@pytest.fixture
def hostile(tmp_path):
    path = tmp_path / "hostile.csv"
    values = np.random.default_rng(0).standard_normal((len(HOSTILE), 3)).round(3)
    rows = [f"{n},{','.join(map(str, row))}" for n, row in zip(HOSTILE, values, strict=True)]
    path.write_text("name,a,b,c\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
def test_no_encoding_fails_and_names_are_shown_as_they_are_spelled(encoding, hostile):
    longer = [*FAST, "--run", "n_steps=400", "--points", "60"]  # so that there are events
    done = _command("influence", hostile, *longer, encoding=encoding)
    assert done.returncode == 0, done.stderr
    dog = SHOWN[2] if encoding == "utf-8" else r"\U0001f415"
    for name in [*SHOWN[:2], dog, SHOWN[3]]:
        assert name in done.stdout
    assert not any(sign in done.stdout + done.stderr for sign in "\x1b\x07\x9b\u200f")


def test_tokens_are_shown_in_any_encoding(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("one two three. " * 50, encoding="utf-8")
    path = tmp_path / "tokenizer.json"
    lm.tokenizer.train_bpe(lm.corpus.load(text), 300).save(str(path))
    done = _command("lm", "classes", text, "--tokenizer", path, encoding="cp1252")
    assert done.returncode == 0, done.stderr
    assert r"\u0120" in done.stdout  # how byte-level tokens spell a space


def test_errors_show_names_as_they_are_spelled(hostile):
    done = _command("influence", hostile, *FAST, "--train", "dog\x1b[31m")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "\x1b" not in done.stderr and r"dog\x1b[31m" in done.stderr
    done = _command("influence", "no\x1b[31m.csv", *FAST)
    assert done.returncode == 1 and r"no\x1b[31m.csv" in done.stderr and "\x1b" not in done.stderr


def test_letters_are_left_alone():
    words = "Bär \u03b1 \u65e5\u672c \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f415 é"
    assert terminal.visible(words) == words
    assert terminal.visible("a\tb\nc", keep="\n\t") == "a\tb\nc"
    assert terminal.visible("a\tb\ud800") == "a\\tb\\ud800"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["examples"], ["compare", "hierarchy", *FAST, "--json"], ["compare"]]
)
def test_a_closed_pipe_ends_silently(arguments):
    if arguments == ["compare"]:
        arguments = ["compare", "hierarchy", *FAST]
    reader, writer = os.pipe()
    os.close(reader)  # nobody reads
    done = subprocess.run(
        [sys.executable, "-m", "dlnflow", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert done.returncode == terminal.PIPE_CLOSED
    progress = ("tangent (", "leave_one_out (", "windowed (")
    assert [line for line in done.stderr.splitlines() if not line.startswith(progress)] == []


def test_a_shell_that_reads_one_line_sees_no_error():
    line = f"set -o pipefail; {sys.executable} -m dlnflow examples | head -n 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stdout.startswith("animals") and done.stderr == ""
    assert done.returncode in (0, terminal.PIPE_CLOSED)  # head may leave after the last line


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="a device of Linux")
@pytest.mark.parametrize(
    "write",
    [
        lambda file: np.ones(10**6).tofile(file),
        lambda file: file.write(b"x" * 10**6),
        lambda file: torch.save({"a": torch.ones(10**6)}, file),
    ],
    ids=["numpy", "python", "torch"],
)
def test_a_full_disk_is_known_by_what_libraries_say(write, tmp_path):
    target = tmp_path / "result.bin"
    target.write_text("old")
    # Opened here: a library given the path could rename a file over the device.
    with pytest.raises(OSError) as caught, atomic_path(target):
        full = open("/dev/full", "wb", buffering=0)
        try:
            write(full)
        finally:
            full.close()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)
    assert disk_is_full(caught.value.__cause__)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_other_errors_are_no_full_disk():
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert disk_is_full(RuntimeError(said))  # as safetensors says it
    for other in (ValueError("2 requested"), OSError(errno.EACCES, "denied"), RuntimeError("x")):
        assert not disk_is_full(other)


def test_a_full_disk_names_file_disk_and_way_on(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("714818 requested and 74720 written")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    found = CliRunner().invoke(main.app, ["influence", "hierarchy", *FAST, "--out", str(tmp_path)])
    assert found.exit_code == 1
    for part in ("error: the disk is full", str(tmp_path / "influence.nc"), "MB are free"):
        assert part in found.stderr
    assert "on another disk" in found.stderr and not list(tmp_path.iterdir())


def _interrupting(monkeypatch, name):
    def stop(*_, **__):
        raise KeyboardInterrupt

    record = dln.ESTIMATORS[name]
    monkeypatch.setitem(dln.ESTIMATORS, name, replace(record, function=stop))


def test_what_was_finished_before_ctrl_c_is_saved(tmp_path, monkeypatch):
    whole = tmp_path / "influence.nc"
    whole.write_text("of an earlier run")
    arguments = ["influence", "hierarchy", *FAST, "-e", "leave_one_out", "-e", "analytic"]
    _interrupting(monkeypatch, "leave_one_out")
    found = CliRunner().invoke(main.app, [*arguments, "--out", str(tmp_path)])
    assert found.exit_code == 130
    kept = dln.load(tmp_path / "influence_partial.nc")
    run = dln.Run(dln.semantic_hierarchy(), n_steps=20)
    expected = dln.stack(dln.influence.tangent(run, kept.time.values))
    xr.testing.assert_identical(kept, expected)
    assert whole.read_text() == "of an earlier run"
    said = " ".join(found.stderr.split())
    assert "interrupted." in said and str(tmp_path / "influence_partial.nc") in said
    assert "-e leave_one_out -e analytic and another --out" in said
    found = CliRunner().invoke(main.app, arguments)
    assert found.exit_code == 130 and "without --out nothing is saved" in found.stderr


def test_ctrl_c_between_two_estimators_loses_nothing(monkeypatch):
    def stop(text, **_):
        if text.startswith("analytic"):
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", stop)
    run = dln.Run(dln.semantic_hierarchy(), n_steps=20)
    with pytest.raises(estimates.Interrupted) as caught:
        estimates.run_all(run, estimates.Asked(["tangent", "analytic"], 3))
    monkeypatch.undo()
    assert caught.value.curves.estimator.values.tolist() == ["tangent"]
    assert caught.value.left == ["analytic"]


def test_ctrl_c_before_anything_is_finished_leaves_no_file(tmp_path, monkeypatch):
    _interrupting(monkeypatch, "tangent")
    found = CliRunner().invoke(main.app, ["influence", "hierarchy", *FAST, "--out", str(tmp_path)])
    assert found.exit_code == 130 and "no file was written" in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["train", "sample"])
def test_ctrl_c_in_a_command_that_goes_on(verb, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    if verb == "train":
        monkeypatch.setattr(lm.train, "train", stop)
        arguments = ["train", tmp_path / "run"]
    else:
        monkeypatch.setattr(lm.experiment, "plan", lambda *_, **__: stop)
        stop.checkpoints = []
        monkeypatch.setattr(lm.experiment, "sample_part", stop)
        arguments = ["sample", tmp_path / "run", "--store", tmp_path / "store"]
    found = CliRunner().invoke(main.app, ["lm", *map(str, arguments)])
    assert found.exit_code == 130
    assert found.stderr == "interrupted.\n" + main.language_models.GOES_ON + "\n"


def test_a_real_ctrl_c(tmp_path):
    command_line = ["influence", "hierarchy", "-e", "analytic", "-e", "windowed", "--out", tmp_path]
    many = ["--points", "400", "--run", "n_steps=100000", "--run", "learning_rate=0.01"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dlnflow", *map(str, command_line), *many],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    lines = iter(process.stderr.readline, "")
    assert any(line.startswith("windowed (2 of 2)") for line in lines)
    process.send_signal(signal.SIGINT)
    rest, _ = process.stderr.read(), process.stdout.close()
    process.stderr.close()
    assert process.wait() == 130, rest
    assert "interrupted." in rest and "-e windowed" in rest and "Traceback" not in rest
    assert dln.load(tmp_path / "influence_partial.nc").estimator.values.tolist() == ["analytic"]


def test_without_matplotlib_curves_are_saved_and_one_line_says_so(tmp_path):
    arguments = ["influence", "hierarchy", *FAST, "--out", tmp_path]
    done = _command(*arguments, without=["matplotlib"])
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["influence.nc"]
    first, *rest = done.stderr.splitlines()
    assert "matplotlib is not installed" in first and "pip install 'dlnflow[figures]'" in first
    assert rest == ["tangent (1 of 1)"]


def test_without_out_there_are_no_files_and_no_word_on_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = _command("influence", "hierarchy", *FAST, without=["matplotlib"])
    assert done.returncode == 0 and done.stderr == "tangent (1 of 1)\n"
    assert "A value counts above" in done.stdout and "wrote" not in done.stdout
    found = CliRunner().invoke(main.app, ["influence", "hierarchy", *FAST, "--json"])
    assert json.loads(found.stdout)["files"] == [] and not list(tmp_path.iterdir())


def test_curves_are_saved_when_drawing_fails(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("cannot draw")

    monkeypatch.setattr("dlnflow.plots.influence_plots.overview", fail)
    found = CliRunner().invoke(main.app, ["influence", "hierarchy", *FAST, "--out", str(tmp_path)])
    assert found.exit_code == 1 and "error: cannot draw" in found.stderr
    assert f"The curves are saved in {tmp_path / 'influence.nc'}" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["influence.nc"]


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["influence", "table.xlsx"], "openpyxl", "excel"),
        (["selftest"], "torch", "torch"),
        (["lm", "classes", "text.txt", "--tokenizer", "x"], "tokenizers", "lm"),
        (["lm", "figures", "run", "--store", "s", "--out", "o"], "matplotlib", "figures"),
        (["influence", "hierarchy", "-e", "bif"], "torch", "torch"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(arguments, module, extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"name": ["a", "b"], "f": [1, 2]}).to_excel("table.xlsx", index=False)
    done = _command(*arguments, without=[module])
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and f"pip install 'dlnflow[{extra}]'" in errors[0], done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "o").exists()


def test_a_module_that_no_extra_installs_is_a_bug():
    @command.explained
    def broken():
        raise ModuleNotFoundError("No module named 'dlnflow.nothing'", name="dlnflow.nothing")

    with pytest.raises(ModuleNotFoundError):
        broken()
