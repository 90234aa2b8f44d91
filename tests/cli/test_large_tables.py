"""All pairs of a table that is too large for a list of curves: a store and a summary."""

import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow._support import chunked
from dlnflow.analysis import most_influential
from dlnflow.cli import large_tables, main
from tests.cli.test_commands import _table

FAST = ["--run", "n_steps=400", "--points", "20"]


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(large_tables, "MAX_NUMBERS", 10 * 20 * 20)


@pytest.fixture
def data(tmp_path):
    return _table(tmp_path / "data.csv", n_items=20)


def _command(*arguments):
    return CliRunner().invoke(main.app, ["influence", *map(str, arguments)])


def _words(text):
    return " ".join(text.replace("│", " ").split())


@pytest.mark.usefixtures("small_limit")
def test_all_pairs_go_to_a_store_and_are_summed_up(data, tmp_path):
    out = tmp_path / "out"
    done = _command(data, "--out", out, *FAST)
    assert done.exit_code == 0, done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["influence.zarr", "most_influential.csv"]
    run = dln.Run(dln.Task.from_csv(data), hidden=16, n_steps=400, optimizer="flow")
    whole = dln.influence.analytic(run, run.grid(20))
    stored = dln.load(out / "influence.zarr")
    np.testing.assert_allclose(stored, whole, rtol=1e-9, atol=1e-12 * np.abs(whole).max())
    table = most_influential(run, whole)
    pd.testing.assert_frame_equal(
        pd.read_csv(out / "most_influential.csv")[["list", "rank", "train", "query", "step"]],
        table[["list", "rank", "train", "query", "step"]],
        check_dtype=False,
    )
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80 and "…" not in done.stdout
    titles = [line for line in done.stdout.splitlines() if line.startswith(("Who ", "Pairs "))]
    assert len(titles) == 6 and "the same items, to the same amount" in titles[2]
    first = table[table["list"] == "pair harms"].iloc[0]
    assert f"{first['train']} - {first['query']}" in done.stdout
    assert f"{first['value']:+.3g} @ {first['step']}" in done.stdout
    again = _command(data, "--out", out, *FAST, "--json")
    content = json.loads(again.stdout)
    assert content["files"] == [str(out / "influence.zarr"), str(out / "most_influential.csv")]
    assert [row["list"] for row in content["most_influential"]] == table["list"].tolist()
    assert content["most_influential"][0]["value"] == pytest.approx(table["value"].iloc[0])


@pytest.mark.usefixtures("small_limit")
def test_without_out_it_says_what_to_add(data, tmp_path):
    done = _command(data, *FAST)
    assert done.exit_code == 2 and not done.stdout
    said = _words(done.stderr)
    for part in ("--out", "--train or --query", "FOLDER/influence.zarr", "numbers per estimator"):
        assert part in said
    for given, flag in ((["-e", "tangent"], "--estimator"), (["--seeds", "2"], "--seeds")):
        done = _command(data, *FAST, *given, "--out", tmp_path / "out")
        assert done.exit_code == 2 and not (tmp_path / "out").exists()
        assert f"Leave {flag} out, or name some items" in _words(done.stderr)


@pytest.mark.usefixtures("small_limit")
def test_a_few_items_of_a_large_table_are_listed_as_ever(data, tmp_path):
    done = _command(data, *FAST, "-e", "analytic", "--train", "item3", "--out", tmp_path / "out")
    assert done.exit_code == 0 and "A value counts above" in done.stdout
    assert (tmp_path / "out" / "influence.nc").exists()
    every = [f"--train=item{k}" for k in range(20)]
    done = _command(data, *FAST, "--query", "item99", *every)
    assert done.exit_code == 1 and "unknown item 'item99'" in done.stderr


@pytest.mark.usefixtures("small_limit")
def test_another_run_in_the_folder_is_refused_and_left_alone(data, tmp_path):
    out = tmp_path / "out"
    assert _command(data, "--out", out, *FAST).exit_code == 0
    done = _command(data, "--out", out, *FAST, "--run", "seed=1")
    assert done.exit_code == 1 and "differs in the run, the initial weights" in done.stderr
    run = dln.Run(dln.Task.from_csv(data), hidden=16, n_steps=400, optimizer="flow")
    assert np.array_equal(dln.load(out / "influence.zarr").time, run.grid(20))


@pytest.mark.usefixtures("small_limit")
def test_a_full_disk_and_a_missing_library_are_named(data, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    done = _command(data, "--out", tmp_path / "out", *FAST)
    assert done.exit_code == 1 and "are free on the disk of" in done.stderr
    monkeypatch.undo()
    monkeypatch.setattr(large_tables, "MAX_NUMBERS", 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(chunked, "write", full)
    done = _command(data, "--out", tmp_path / "out", *FAST)
    assert done.exit_code == 1 and "error: the disk is full" in done.stderr
    assert f"{tmp_path / 'out' / 'influence.zarr'} could not be written" in done.stderr
    assert re.search(r"0 of \d\d times are complete", done.stderr)
    monkeypatch.setitem(sys.modules, "zarr", None)
    done = _command(data, "--out", tmp_path / "other", *FAST)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 1 and len(errors) == 1
    assert "pip install 'dlnflow[store]'" in errors[0]
