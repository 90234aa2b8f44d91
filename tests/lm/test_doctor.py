"""`lm doctor`: sound folders are called sound, and everything damaged is found and named."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.lm.test_command import call

SHORT = "--step 4 --step 12 --draws 4 --set chains=2 --set rows=2 --set burn_in=2 --set thin=1"


@pytest.fixture(scope="module")
def sampled(tiny, tmp_path_factory):
    """A store of the tiny run."""
    store = tmp_path_factory.mktemp("doctor") / "store"
    call("sample", tiny[1], "--store", store, *SHORT.split())
    return store


@pytest.fixture
def run(tiny, tmp_path):
    return shutil.copytree(tiny[1], tmp_path / "run")


@pytest.fixture
def store(sampled, tmp_path):
    return shutil.copytree(sampled, tmp_path / "store")


def findings(folder, code=0):
    shown = call("doctor", folder, "--json", code=code).stdout
    found = json.loads(shown)
    assert found["healthy"] == (code == 0)
    return {(f["level"], f["subject"]): f["message"] for f in found["findings"]}


def test_sound_folders(run, store):
    before = sorted(p.stat().st_mtime_ns for p in run.rglob("*"))
    assert {level for level, _ in findings(run)} == {"ok"}
    assert {s for _, s in findings(run)} == {
        "settings",
        "data",
        "tokenizer",
        "steps",
        "losses",
        "ladder",
        "model",
    }
    assert sorted(p.stat().st_mtime_ns for p in run.rglob("*")) == before
    assert {level for level, _ in findings(store)} == {"ok"}
    assert "ok\tladder\t6 steps, all different" in call("doctor", run).stdout


def nan(run):
    path = run / "step8" / "model.safetensors"
    weights = load_file(path)
    weights["gpt_neox.layers.0.attention.dense.weight"][3, 3] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})


def swapped(run):
    np.save(run / "training.npy", np.load(run / "training.npy")[::-1].copy())


def half(run):
    raw = (run / "step4" / "model.safetensors").read_bytes()
    (run / "step4" / "model.safetensors").write_bytes(raw[: len(raw) // 2])


def equal(run):
    shutil.rmtree(run / "step8")
    shutil.copytree(run / "step4", run / "step8")


def shortened(run):
    path = run / "tokenizer.json"
    described = json.loads(path.read_text())
    described["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(described))


def one_short(run):
    np.save(run / "losses.npy", np.load(run / "losses.npy")[:8])


def not_finite(run):
    losses = np.load(run / "losses.npy")
    losses[5] = np.inf
    np.save(run / "losses.npy", losses)


@pytest.mark.parametrize(
    ("damage", "subject", "words"),
    [
        (nan, "step8", "not finite"),
        (swapped, "data", "training.npy is damaged or was replaced"),
        (half, "step4", "cannot be read"),
        (equal, "ladder", "identical weights: 4, 8"),
        (shortened, "tokenizer", "prefix spaces"),
        (one_short, "losses", "ends at step 8"),
        (not_finite, "losses", "step 5 is not finite"),
        (lambda r: shutil.rmtree(r / "step4"), "steps", "no checkpoint of steps [4]"),
        (lambda r: (r / "settings.json").write_text("{"), "settings", "is damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_of_a_run_is_named(run, damage, subject, words):
    damage(run)
    assert words in findings(run, code=1)["problem", subject]


def changed(path, at=-9):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "subject", "words"),
    [
        (lambda s: changed(s / "losses/c/1/0/0/0"), "draws", "chain 0 at step 12"),
        (lambda s: changed(s / "checkpoint_loss/c/0/0"), "draws", "step 4"),
        (lambda s: changed(s / "units/4-1-4.state"), "draws", "chain 1 at step 4"),
        (lambda s: (s / "units/4-1-4.state").unlink(), "draws", "chain 1 at step 4"),
        (lambda s: (s / "units/4-1.json").write_text("{"), "manifest", "1 damaged records"),
        (lambda s: (s / "manifest.json").write_text("{"), "manifest", ""),
        (lambda s: (s / "classes.nc").unlink(), "results", "classes.nc"),
    ],
)
def test_damage_of_a_store_is_named(store, damage, subject, words):
    damage(store)
    assert words in findings(store, code=1)["problem", subject]


def test_what_is_unfinished_is_a_note(tiny, run, store):
    (run / ".losses.0123456789ab.npy").write_text("")
    (run / ".step16.partial").mkdir()
    assert "2 of killed processes" in findings(run)["note", "temporary files"]
    (store / "units" / "4-1.json").unlink()
    assert "(4, 1)" in findings(store)["note", "gaps"]
    (store / "traces.nc").unlink()
    assert "not finished" in findings(store)["note", "results"]
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps(settings | {"n_steps": 20}))
    assert "trained to step 12 of 20" in findings(run)["note", "steps"]


def test_temporary_files_of_a_killed_sampler_are_removed_by_the_next(tiny, store):
    names = (
        ".manifest.0123456789ab.json",
        "units/.4-1.0123456789ab.json",
        "losses/c/0/1/0/0.0123456789abcdef0123456789abcdef.partial",
    )
    before = {str(p.relative_to(store)) for p in store.rglob("*")}
    for name in names:
        (store / name).write_text("half")
    assert "3 of killed processes" in findings(store)["note", "temporary files"]
    call("sample", tiny[1], "--store", store, *SHORT.split())
    assert {str(p.relative_to(store)) for p in store.rglob("*")} == before


def test_a_ladder_from_elsewhere(tiny, tmp_path, bpe):
    for step in (4, 12):
        shutil.copytree(tiny[1] / f"step{step}", tmp_path / "m" / f"step{step}")
        (tmp_path / "m" / f"step{step}" / "tokenizer.json").unlink()
    assert "no tokenizer.json" in findings(tmp_path / "m")["note", "tokenizer"]
    bpe.save(str(tmp_path / "m" / "tokenizer.json"))
    said = findings(tmp_path / "m", code=1)["problem", "tokenizer"]
    assert "tokenizer and model disagree" in said


def test_folders_without_anything(tmp_path):
    assert "holds no run, checkpoints step<N>/ or store" in call("doctor", tmp_path, code=1).stderr
    assert "is no folder" in call("doctor", tmp_path / "gone", code=1).stderr


def test_a_damaged_config_of_any_step_is_named(tiny, tmp_path):
    shutil.copytree(tiny[1], tmp_path / "run")
    (tmp_path / "run" / "step2" / "config.json").write_text("{")
    shown = call("doctor", tmp_path / "run", code=1).stdout
    line = next(one for one in shown.splitlines() if one.startswith("problem\tstep2\t"))
    assert "config.json is damaged" in line
