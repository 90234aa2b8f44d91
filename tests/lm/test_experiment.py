"""Checkpoints that `train` did not make, with a text that the user brings."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.lm.data.corpus import Corpus
from dlnflow.lm.data.tokenizer import load_tokenizer, split, train_bpe
from dlnflow.lm.experiment import counts, plan_from_text
from dlnflow.lm.runs.checkpoints import Checkpoints, find
from tests.lm.test_command import answer, call

KINDS = ("png", "pdf", "svg")
LETTERS = train_bpe(Corpus("t", ("a",)), 300)
"""Every byte is a token."""


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    """Two checkpoints without the folder's data, a tokenizer beside them."""
    _, folder, _ = tiny
    out = tmp_path_factory.mktemp("model")
    for step in (4, 12):
        shutil.copytree(folder / f"step{step}", out / f"step{step}")
        (out / f"step{step}" / "tokenizer.json").unlink()
    shutil.copy(folder / "tokenizer.json", out)
    return out


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 4), st.integers(1, 12))
def test_the_parts_share_nothing_and_suffice(lengths, rows, length):
    # document k is made of its own letter, so a token tells where it came from
    text = Corpus("t", tuple(chr(ord("a") + k) * n for k, n in enumerate(lengths)))
    n = sum(lengths) + len(lengths)
    if n - max(rows * length, round(0.08 * n)) < length + 2:
        with pytest.raises(ValueError, match="do not fit"):
            split(text, LETTERS, rows=rows, length=length)
        return
    gradient, observed = split(text, LETTERS, rows=rows, length=length)
    assert len(observed.rows(rows, length)) == rows
    assert len(gradient.ids) >= length + 2
    together = np.bincount(np.concatenate([gradient.ids, observed.ids]), minlength=300)
    for k, count in enumerate(lengths):
        assert together[LETTERS.token_to_id(chr(ord("a") + k))] == count
    shared = set(gradient.ids) & set(observed.ids) - {0}
    assert len(shared) <= 1  # the border is inside one document at most


def test_borders_lie_between_documents_where_there_are_enough():
    text = Corpus("t", ("a" * 40,) * 2 + ("b" * 40,) * 20)
    gradient, observed = split(text, LETTERS, rows=2, length=25)
    assert observed.ids[-1] == 0 and len(observed.ids) == 2 * 41
    assert len(gradient.ids) == 20 * 41


def test_a_plan_is_the_same_every_time(model, text_file):
    a, b = (plan_from_text(model, text_file, rows=4, length=20) for _ in range(2))
    assert a.observed.sha256 == b.observed.sha256 and a.gradient.key() == b.gradient.key()
    assert a.observed.ids.shape == (4, 20)
    assert a.checkpoints.steps.tolist() == [4, 12]
    assert a.gradient.repeat_share == 0
    repeats = plan_from_text(model, text_file, observe="repeats", rows=2, steps=[12])
    assert repeats.observed.ids.shape == (2, 32)  # the context
    assert repeats.checkpoints.steps.tolist() == [12]


def test_counts_are_those_of_the_text(model, tiny, text_file):
    found = counts(model, text_file)
    assert found.sum() == counts(tiny[1]).sum() + np.load(tiny[1] / "held_out.npy").size


def test_from_checkpoints_and_a_file_to_figures(model, text_file, tmp_path):
    text = next(text_file.iterdir())  # a single document has to do for both parts
    short = ("--set", "rows=4", "--set", "length=16", "--set", "burn_in=3", "--set", "chains=2")
    store = tmp_path / "text"
    found = answer("sample", model, "--store", store, "--text", text, "--draws", 6, *short)
    assert found["time"] == 2 and found["item"] == 4 * 15
    assert answer("groups", model, "--store", store)["rows"]
    files = answer("figures", model, "--store", store, "--out", tmp_path / "out")["files"]
    names = [f"{n}.{kind}" for n in ("fig05_classes", "fig14_neighbours") for kind in KINDS]
    assert files == [str(tmp_path / "out" / name) for name in names]
    assert all((tmp_path / "out" / name).stat().st_size > 5_000 for name in names)

    store, short = tmp_path / "repeats", ("--set", "rows=2", *short[4:])
    answer(
        "sample",
        model,
        "--store",
        store,
        "--observe",
        "repeats",
        "--text",
        text_file,
        "--draws",
        6,
        *short,
    )
    files = answer("figures", model, "--store", store, "--out", tmp_path / "out")["files"]
    assert files == [str(tmp_path / "out" / f"fig15_induction.{kind}") for kind in KINDS]
    rows = answer("induction", model, "--text", text_file)["rows"]
    assert [r["step"] for r in rows] == [4, 12]


def test_one_checkpoint_and_one_chain_can_be_drawn(model, text_file, tmp_path):
    short = "--step 4 --draws 5 --set burn_in=1 --set chains=1 --set thin=1".split()
    for observe in ("text", "repeats"):
        store = tmp_path / observe
        call(
            "sample",
            model,
            "--store",
            store,
            "--text",
            text_file,
            "--observe",
            observe,
            "--set",
            "rows=2",
            *short,
        )
        call("figures", model, "--store", store, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 9


def test_what_is_missing_is_said(model, text_file, tmp_path):
    store = ("--store", tmp_path / "store")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    (tmp_path / "short.txt").write_text("too short")
    for arguments, words in (
        ((model, *store), "give a text: `--text`"),
        ((model, *store, "--set", "length=9"), "need `--text`"),
        ((model, *store, "--text", tmp_path / "no.txt"), "existing file or folder"),
        ((model, *store, "--text", empty), "holds no text"),
        ((model, *store, "--text", tmp_path / "short.txt"), "do not fit"),
        ((model, *store, "--text", text_file, "--set", "length=400"), "the model's context, 32"),
        ((model, *store, "--text", text_file, "--set", "rows=-1"), "`rows` must be"),
        ((model, *store, "--text", text_file, "--set", "repair=maybe"), "true or false"),
        ((model, *store, "--text", text_file, "--set", "tokenizer=/no/such.json"), "no tokenizer"),
        ((tmp_path / "gone", *store, "--text", text_file), "no folder here"),
        (("owner/model", *store, "--text", text_file), "which steps: `--step`"),
    ):
        result = call("sample", *arguments, code=1)
        assert words in result.stderr, result.stderr
        assert result.stderr.startswith("error: ")
    assert not (tmp_path / "store").exists()


def test_a_folder_without_tokenizer_is_not_given_an_empty_one(tiny, tmp_path):
    _, folder, _ = tiny
    shutil.copytree(folder / "step4", tmp_path / "step4")
    (tmp_path / "step4" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        Checkpoints.from_directory(tmp_path).tokenizer()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path / "step4")
    given = Checkpoints.from_directory(tmp_path).tokenizer(folder)
    assert given.get_vocab_size() <= 300


def test_another_models_tokenizer_is_refused(model, tmp_path):
    LETTERS.add_tokens([f"<{k}>" for k in range(100)]) and LETTERS.save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=r"tokenizer and model disagree: \d+ ids .* 300"):
        plan_from_text(model, "stdlib", tokenizer=tmp_path / "t.json")


def test_find(model, monkeypatch):
    assert find(model).steps.tolist() == [4, 12]
    asked = []
    monkeypatch.setattr(Checkpoints, "from_hub", lambda *a: asked.append(a))
    find("EleutherAI/pythia-14m", [0, 1])
    assert asked == [("EleutherAI/pythia-14m", [0, 1])]
    with pytest.raises(ValueError, match="no OWNER/MODEL"):
        find("a/b/c")


def test_settings_reach_the_store(model, text_file, tmp_path):
    changes = {
        "rows": 2,
        "length": 12,
        "chains": 1,
        "burn_in": 2,
        "thin": 1,
        "n_beta": 7.0,
        "localization": 5.0,
        "step_size": 1e-7,
        "seed": 3,
    }
    options = [part for k, v in changes.items() for part in ("--set", f"{k}={v}")]
    call("sample", model, "--store", tmp_path, "--text", text_file, "--draws", 4, *options)
    key = json.loads((tmp_path / "manifest.json").read_text())["key"]["sampler"]
    for name in ("burn_in", "thin", "n_beta", "localization", "step_size", "seed"):
        assert key[name] == changes[name]
