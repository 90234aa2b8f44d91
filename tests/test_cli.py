"""The command: outputs, JSON, exit codes, and nothing half-written."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import dlnflow as dln
from dlnflow import cli

FAST = ["--run", "n_steps=400", "--run", "learning_rate=0.08", "--points", "60"]


def _command(*arguments):
    """Run in a process of its own: exit codes and streams are what a shell sees."""
    return subprocess.run(
        [sys.executable, "-m", "dlnflow", *map(str, arguments)], capture_output=True, text=True
    )


def _table(path, n_items=6, n_features=4):
    values = np.random.default_rng(0).standard_normal((n_items, n_features)).round(3)
    rows = ["name," + ",".join(f"f{k}" for k in range(n_features))]
    rows += [f"item{i}," + ",".join(map(str, row)) for i, row in enumerate(values)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_influence_writes_curves_and_figures_and_prints_events(tmp_path):
    data, out = _table(tmp_path / "data.csv"), tmp_path / "out"
    done = _command("influence", data, "--out", out, "--train", "item1", *FAST)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in out.iterdir()) == [
        "influence.nc",
        "influence.pdf",
        "influence.png",
    ]
    curves = dln.load(out / "influence.nc")
    assert curves.dims == ("estimator", "time", "query", "train")
    assert curves.estimator.values.tolist() == cli.DEFAULT_ESTIMATORS
    assert curves.train.values.tolist() == ["item1"] and curves.sizes["query"] == 6
    assert "A value counts above" in done.stdout and "flips" in done.stdout
    run = dln.Run(dln.Task.from_csv(data), n_steps=400, learning_rate=0.08)
    expected = dln.influence.tangent(run, curves.time.values, train="item1")
    assert np.array_equal(curves.sel(estimator="tangent").values, expected.values)


def test_json_is_one_object_and_nothing_else(tmp_path):
    done = _command("influence", "hierarchy", "--out", tmp_path, "--train", "dog", "--json", *FAST)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["items"][0] == "dog" and content["run"]["n_steps"] == 400
    assert {e["kind"] for e in content["events"]} <= {"peak", "trough", "sign_flip"}
    assert len(content["files"]) == 3


def test_compare_prints_agreement_with_retraining():
    done = _command("compare", "hierarchy", "-e", "tangent", *FAST)
    assert done.returncode == 0, done.stderr
    assert "Agreement with leave_one_out" in done.stdout and "tangent" in done.stdout
    assert "…" not in done.stdout  # fits 80 columns
    content = json.loads(_command("compare", "hierarchy", "-e", "tangent", "--json", *FAST).stdout)
    assert content["summary"][0]["pairs"] == 56 and len(content["pairs"]) == 64


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["influence", "none.csv", "--out", "o"], 1, "none.csv"),
        (["influence", "hierarchy"], 2, "--out"),
        (["influence", "hierarchy", "--out", "o", "--train", "dgo"], 1, "Did you mean 'dog'"),
        (["influence", "hierarchy", "--out", "o", "-e", "tangnt"], 2, "Did you mean 'tangent'"),
        (["compare", "hierarchy", "--reference", "nothing"], 2, "unknown estimator"),
        (["compare", "hierarchy", "-e", "leave_one_out"], 2, "other than the reference"),
        (["compare", "hierarchy", "--run", "hiden=3"], 2, "NAME=VALUE"),
        (["compare", "hierarchy", "--run", "hidden=x"], 2, "hidden=x"),
        (["compare", "hierarchy", "--run", "hidden=0"], 1, "`hidden`"),
        (["compare", "hierarchy", "--run", "learning_rate=30"], 1, "diverged at step"),
        (["compare", "hierarchy", "--points", "1"], 2, "points"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_failures_have_their_exit_code_and_reason(arguments, code, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == code
    assert reason in " ".join(result.output.replace("│", " ").split())
    assert not list((tmp_path / "o").glob("*"))


def test_help_names_the_commands():
    done = _command("--help")
    assert done.returncode == 0 and "influence" in done.stdout and "compare" in done.stdout


def test_names_are_shown_letter_by_letter(tmp_path):
    """Neither markup of the terminal nor formulas of the plots are read into item names."""
    path = tmp_path / "names.csv"
    names = ["[/red]", "[bold]", ":dog:", r"$\\foo$", "_hidden"]
    values = np.random.default_rng(1).standard_normal((5, 3)).round(3)
    rows = [f"{name},{','.join(map(str, row))}" for name, row in zip(names, values, strict=True)]
    path.write_text("n,a,b,c\n" + "\n".join(rows) + "\n", encoding="utf-8")
    done = _command("influence", path, "-e", "tangent", "--out", tmp_path / "o[x]", *FAST)
    assert done.returncode == 0, done.stderr
    assert "[/red]" in done.stdout and ":dog:" in done.stdout and "o[x]" in done.stdout
    assert len(list((tmp_path / "o[x]").iterdir())) == 3


def test_an_output_folder_that_is_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").write_text("x")
    done = _command("influence", "hierarchy", "--out", tmp_path / "out", "--run", "hidden=20000")
    assert done.returncode == 1 and "out" in done.stderr
