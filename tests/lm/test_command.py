"""The commands, from a text to k-NN recall, on the tiny run."""

import json

import pytest
from typer.testing import CliRunner

from dlnflow.cli.language_models import app
from tests.lm.conftest import FIXED


def call(*arguments, code=0):
    """Run a command; settings of `sample` that are neither given nor `auto` are `FIXED`."""
    words = [str(a) for a in arguments if a != "auto"]
    if words[0] == "sample" and "auto" not in arguments:
        given = {word.split("=")[0] for word in words}
        left_out = [f"{k}={v}" for k, v in FIXED.items() if k not in given]
        words += [part for change in left_out for part in ("--set", change)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    return result


def answer(*arguments):
    return json.loads(call(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    changes = {
        "corpus": text_file,
        "vocab_size": 300,
        "layers": 1,
        "width": 16,
        "context": 32,
        "rows": 2,
        "n_steps": 2,
        "every": 2,
        "warmup": 2,
    }
    options = [part for k, v in changes.items() for part in ("--set", f"{k}={v}")]
    found = answer("train", out, "--configuration", "fast", *options)
    assert found["steps"] == [0, 1, 2]
    assert answer("train", out, "--configuration", "fast", *options)["steps"] == [0, 1, 2]
    return out


def test_from_a_run_to_recall(run, tmp_path):
    store = tmp_path / "store"
    options = (
        "--store",
        store,
        "--step",
        0,
        "--step",
        2,
        "--set",
        "rows=6",
        "--set",
        "chains=2",
        "--set",
        "burn_in=4",
        "--set",
        "thin=1",
    )
    assert answer("sample", run, *options, "--draws", 4)["draw"] == 4
    assert answer("sample", run, *options, "--draws", 6)["draw"] == 6
    rows = answer("groups", run, "--store", store)["rows"]
    assert {r["step"] for r in rows} == {0, 2}
    assert {"query", "train", "influence", "standard_error", "verdict"} <= set(rows[0])
    assert all(r["low"] < r["influence"] < r["high"] and r["dof"] >= 1 - 1e-9 for r in rows)
    recall = answer("knn", run, "--store", store, "--k", 5)["rows"]
    assert all(0 <= r["recall"] <= 1 for r in recall)
    assert "word_part" in call("groups", run, "--store", store).stdout


def test_classes_of_a_text(run, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("foo(x)\n\n")
    rows = answer("classes", text, "--tokenizer", run)["tokens"]
    assert rows[-1]["classes"] == ["formatting"]
    assert "left_delimiter" in call("classes", text, "--tokenizer", run).stdout


def test_a_given_tokenizer_is_used(run, text_file, tmp_path):
    changes = ("corpus", text_file), ("vocab_size", 400), ("width", 16), ("n_steps", 1)
    options = [part for k, v in changes for part in ("--set", f"{k}={v}")]
    answer("train", tmp_path / "other", "--tokenizer", run, *options)
    written = (tmp_path / "other" / "tokenizer.json").read_text()
    assert written == (run / "tokenizer.json").read_text()


def test_induction(run):
    rows = answer("induction", run, "--step", 2)["rows"]
    assert [r["step"] for r in rows] == [2]
    assert 0 < rows[0]["best_head"] < 1


def test_induction_probes_within_the_context(run, monkeypatch):
    """The tiny model takes 32 inputs; 48 would test positions that it was not trained at."""
    seen = []
    monkeypatch.setattr("dlnflow.lm.induction.measure", lambda _, ids, **__: seen.append(ids.shape))
    CliRunner().invoke(app, ["induction", str(run), "--step", "2"])
    assert seen == [(32, 32)]


def test_errors_are_one_line(run, tmp_path):
    for arguments, words in (
        (("train", tmp_path, "--configuration", "fats"), "Did you mean 'fast'"),
        (("train", tmp_path, "--set", "width=a"), "`--set` 'width=a'"),
        (("train", tmp_path, "--set", "speed=1"), "NAME one of"),
        (("groups", run, "--store", tmp_path), "no finished sample"),
        (("sample", tmp_path, "--store", tmp_path / "s"), "no data"),
    ):
        result = call(*arguments, code=1)
        assert words in result.stderr
        assert result.stderr.startswith("error: ")
