"""What the commands say: JSON without NaN, and errors in the words of the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dlnflow.cli import language_models
from dlnflow.lm import induction
from dlnflow.lm.data import corpus
from dlnflow.lm.data.token_classes import classify
from dlnflow.lm.runs.checkpoints import Checkpoints
from tests.lm.test_command import call


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_null_for_what_is_not_finite(capsys):
    answer = {"a": [float("nan"), 1.5, "nan"], "b": {"c": float("inf")}, "d": (None, True, 3)}
    language_models._print(answer, True)
    assert strict(capsys.readouterr().out) == {
        "a": [None, 1.5, "nan"],
        "b": {"c": None},
        "d": [None, True, 3],
    }


def test_one_chain_has_no_error_in_json(tiny, tmp_path):
    options = "--step 12 --draws 4 --set rows=2 --set burn_in=2 --set thin=1 --set chains=1"
    call("sample", tiny[1], "--store", tmp_path, *options.split())
    rows = strict(call("groups", tiny[1], "--store", tmp_path, "--json").stdout)["rows"]
    assert rows


@pytest.fixture
def broken(tiny, tmp_path):
    """The tiny run with a NaN in the attention of its last step."""
    run = shutil.copytree(tiny[1], tmp_path / "run")
    path = run / "step12" / "model.safetensors"
    weights = load_file(path)
    weights["gpt_neox.layers.0.attention.dense.weight"][0, 0] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    return run


def test_induction_of_broken_weights(broken):
    shown = call("induction", broken, "--step", 8, "--step", 12, "--json")
    good, bad = strict(shown.stdout)["rows"]
    assert all(np.isfinite(list(good.values())))
    assert set(bad.values()) == {12, None}
    assert shown.stderr.startswith("warning: losses at steps [12] are not finite")
    ladder = Checkpoints.from_directory(broken, [8, 12])
    probe = induction.repeated_sequences(np.ones(200), period=6)
    with pytest.warns(RuntimeWarning, match=r"steps \[12\]"):
        found = induction.measure(ladder, probe)
    assert found.layer_induction.isnull().values.tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no text"), (b"ab\xff\xfe", "is no text in UTF-8: byte 2 is 0xff")],
)
def test_files_without_text(tiny, tmp_path, content, words):
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    for arguments in (
        ("classes", path, "--tokenizer", tiny[1]),
        ("induction", tiny[1], "--text", path),
    ):
        assert call(*arguments, code=1).stderr.startswith(f"error: {path} {words}")


def test_words_of_the_command_line(tiny, tmp_path):
    run, gone = tiny[1], tmp_path / "gone"
    store = ("--store", tmp_path / "store")
    for arguments, words in (
        (("classes", tmp_path, "--tokenizer", run), "is a folder; name a text file"),
        (("classes", gone, "--tokenizer", run), str(gone)),
        (("induction", run, "--text", gone), "the text (`--text`, or `corpus` of a run) must be"),
        (("induction", run, "--text", ""), "got an empty one"),
        (("induction", gone), "no folder here"),
        (("induction", "owner/model"), "say which steps: `--step`"),
        (("sample", gone, *store), f"there is no folder {gone}; `dlnflow lm train` makes runs"),
        (("sample", "owner/model", *store), "the hub too, give a text: `--text`"),
        (("sample", tmp_path, *store), f"{tmp_path} holds no data"),
        (("sample", run, *store, "--set", "rows=100000"), "100000 rows (`rows`, here `n_rows`)"),
        (("train", gone, "--set", f"corpus={gone}x"), "`corpus` of a run"),
        (("train", __file__), "is a file; name a folder for the run"),
        (("train", gone, "--tokenizer", f"{gone}.json"), "there is no tokenizer"),
    ):
        shown = call(*arguments, code=1).stderr
        assert words in shown and shown.startswith("error: "), shown
        assert "`source`" not in shown and "`out`" not in shown
    assert not gone.exists()


def test_an_interventions_data_are_no_run(tiny, tmp_path):
    run = shutil.copytree(tiny[1], tmp_path / "run")
    (run / "settings.json").unlink()
    shown = call("sample", run, "--store", tmp_path / "store", code=1).stderr
    assert "holds no run (settings.json)" in shown


def test_no_ids_have_no_classes(bpe):
    assert classify([[]], bpe).shape == (1, 0, 6)
    assert corpus.load(__file__).n_characters > 100
