"""A run's folder: what continues it, what is refused, and what a failed start leaves behind."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from dlnflow.lm.intervene import Window, intervene
from dlnflow.lm.runs.model import RunSettings
from dlnflow.lm.runs.train import load_data, prepare, train
from tests.lm.test_command import answer, call


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny run that may be damaged."""
    return shutil.copytree(tiny[1], tmp_path / "run")


@pytest.fixture
def other_text(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    for k in range(20):
        (folder / f"{k}.txt").write_text(f"quite another text, number {k * k} of {k}\n" * 30)
    return str(folder)


def options(settings, **changes):
    named = dataclasses.asdict(settings) | changes
    return [part for k, v in named.items() for part in ("--set", f"{k}={v}")]


def test_other_data_do_not_continue_a_run(tiny, tmp_path):
    settings, folder, ladder = tiny
    data = load_data(folder)
    other = dataclasses.replace(data, training=data.held_out)
    train(dataclasses.replace(settings, n_steps=4), tmp_path, data=data)
    with pytest.raises(ValueError, match=r"made with other data \(another training\)"):
        train(settings, tmp_path, data=other)
    assert train(settings, tmp_path, data=data).hashes == ladder.hashes


def test_other_data_do_not_continue_a_run_of_an_earlier_version(tiny, copy):
    data = load_data(copy)
    (copy / "inputs.json").unlink()
    with pytest.raises(ValueError, match="another training"):
        train(tiny[0], copy, data=dataclasses.replace(data, training=data.held_out))
    assert train(tiny[0], copy).hashes == tiny[2].hashes


def weighed(start, stop, factor=2.0):
    def weigh(step, rows):
        return np.full(len(rows), factor if start <= step < stop else 1.0, np.float32)

    return weigh


@pytest.mark.parametrize("later", [None, weighed(5, 6, 3.0), weighed(4, 6)])
def test_other_weights_do_not_continue_a_run(tiny, tmp_path, later):
    settings, folder, _ = tiny
    data = load_data(folder)
    train(dataclasses.replace(settings, n_steps=8), tmp_path, data=data, weigh=weighed(5, 6))
    with pytest.raises(ValueError, match="other weights than the run"):
        train(settings, tmp_path, data=data, weigh=later)
    train(settings, tmp_path, data=data, weigh=weighed(5, 6))


def test_weights_cannot_be_added_to_a_run_after_the_fact(tiny, copy):
    with pytest.raises(ValueError, match="rows of step 3 other weights"):
        train(tiny[0], copy, weigh=weighed(3, 4))
    later = dataclasses.replace(tiny[0], n_steps=13)
    train(later, copy, weigh=weighed(12, 13))  # what was done stays as it is


def test_another_corpus_in_the_folder_of_an_intervention(tiny, other_text, tmp_path):
    settings, out = dataclasses.replace(tiny[0], n_steps=2), tmp_path / "out"
    intervene(settings, out, {"early": Window(1, 2)}, seeds=[0])
    changed = dataclasses.replace(settings, corpus=other_text)
    with pytest.raises(ValueError, match="holds the data of corpus"):
        intervene(changed, out, {"early": Window(1, 2)}, seeds=[1])
    mine = prepare(changed, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"other data \(another training and tokenizer\)"):
        intervene(changed, out, {"early": Window(1, 2)}, seeds=[1], data=mine)


@pytest.mark.parametrize("name", ["training", "held_out"])
def test_replaced_ids_are_noticed(copy, name):
    np.save(copy / f"{name}.npy", np.load(copy / f"{name}.npy")[::-1].copy())
    with pytest.raises(ValueError, match=rf"{name}\.npy is damaged or was replaced"):
        load_data(copy)


def test_a_replaced_tokenizer_is_noticed(copy, bpe):
    bpe.save(str(copy / "tokenizer.json"))
    with pytest.raises(ValueError, match="not the one that the data were made with"):
        load_data(copy)


def test_another_tokenizer_for_a_run(tiny, copy, bpe, tmp_path):
    bpe.save(str(tmp_path / "t.json"))
    shown = call("train", copy, *options(tiny[0]), "--tokenizer", tmp_path / "t.json", code=1)
    assert "prepared with another tokenizer" in shown.stderr
    found = answer("train", copy, *options(tiny[0]), "--tokenizer", copy)
    assert found["loss"] == np.load(copy / "losses.npy")[-1]


@pytest.mark.parametrize(
    "name",
    [
        "data.json",
        "settings.json",
        "held_out.npy",
        "training.npy",
        "tokenizer.json",
        "resume.pt",
        "inputs.json",
    ],
)
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"a', b"cut"])
def test_damaged_files_of_a_run(tiny, copy, name, content):
    path = copy / name
    path.write_bytes(
        path.read_bytes()[: path.stat().st_size // 2] if content == b"cut" else content
    )
    commands = [("train", copy, *options(tiny[0], n_steps=16))]
    if name not in ("resume.pt", "inputs.json"):
        commands.append(("sample", copy, "--store", copy / "store", "--draws", 4))
    if (name, content) == ("settings.json", b"{}"):
        commands.pop()  # the defaults: another run, not a damaged one
    for command in commands:
        shown = call(*command, code=1).stderr
        assert shown.startswith("error: ") and (name in shown or b"{}" in content), shown
        assert shown.count("\n") == 1


def test_data_bring_their_tokenizer(tiny, tmp_path, bpe):
    with pytest.raises(ValueError, match="give `data` or `tokenizer`"):
        train(tiny[0], tmp_path, data=load_data(tiny[1]), tokenizer=bpe)


def test_no_rows_are_not_the_default(tiny, tmp_path):
    options = ("--store", tmp_path, "--draws", 4, "--set", "rows=0")
    assert "`rows` must be a whole number >= 1" in call("sample", tiny[1], *options, code=1).stderr


def test_a_run_goes_on_without_its_resume_state(tiny, copy):
    (copy / "resume.pt").unlink()
    longer = dataclasses.replace(tiny[0], n_steps=13)
    assert train(longer, copy).hashes[:-1] == tiny[2].hashes


@pytest.mark.parametrize(
    "wrong", [{"corpus": "nope"}, {"vocab_size": 5000}, {"vocab_size": 7}, {"context": 500_000}]
)
def test_a_failed_start_does_not_claim_the_folder(tiny, tmp_path, wrong):
    out = tmp_path / "out"
    shown = call("train", out, *options(tiny[0], **wrong), code=1).stderr
    assert shown.startswith("error: ") and shown.count("\n") == 1
    call("train", out, *options(tiny[0]), "--device", "cuda:77", code=1)
    assert answer("train", out, *options(tiny[0], n_steps=1))["steps"] == [0, 1]


def test_a_vocabulary_that_the_text_does_not_fill(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"yields only (\d+) ids. Use `vocab_size=\1`"):
        prepare(dataclasses.replace(tiny[0], vocab_size=5000), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (n, 0)
            for n in (
                "layers",
                "width",
                "heads",
                "context",
                "rows",
                "accumulate",
                "every",
                "vocab_size",
                "horizon",
                "documents",
                "segment_min",
                "segment_max",
                "learning_rate",
            )
        ),
        *((n, -1) for n in ("n_steps", "warmup", "seed", "rows", "final_lr")),
        *((n, float("nan")) for n in ("final_lr", "learning_rate", "repeat_share")),
        ("corpus", ""),
        ("rows", 1.5),
        ("width", True),
        ("seed", 2**63),
        ("seed", 10**400),
    ],
)
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        RunSettings(**{name: value})


def test_settings_at_their_bounds(tiny, tmp_path):
    smallest = dataclasses.replace(
        tiny[0],
        n_steps=0,
        warmup=0,
        final_lr=0.0,
        context=1,
        rows=1,
        heads=1,
        width=4,
        segment_min=1,
        segment_max=1,
        every=1,
    )
    assert answer("train", tmp_path, *options(smallest)) == {
        "folder": str(tmp_path),
        "steps": [0],
        "loss": None,
    }
    assert json.loads((tmp_path / "settings.json").read_text())["context"] == 1
    train(dataclasses.replace(smallest, n_steps=1), tmp_path)
