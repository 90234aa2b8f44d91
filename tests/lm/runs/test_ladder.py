"""Ladders are compared by the values of their tensors: no copy hides behind how it is stored."""

import json
import pickle
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dlnflow.lm.data import hub
from dlnflow.lm.runs import checkpoints
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.ladder import check_tensors
from tests.lm.runs.test_pretrained import Evil
from tests.lm.test_command import call

EMBEDDING = "gpt_neox.embed_in.weight"


def write(folder, weights, names=("model.safetensors",)):
    """Write weights into files, round robin, and the index of sharded ones."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    shards = [dict(list(weights.items())[k :: len(names)]) for k in range(len(names))]
    for name, part in zip(names, shards, strict=True):
        save_file({k: v.contiguous() for k, v in part.items()}, folder / name)
    if len(names) > 1:
        where = {k: name for name, part in zip(names, shards, strict=True) for k in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def sharded(folder, weights):
    write(folder, weights, [f"model-0000{k}-of-00003.safetensors" for k in (1, 2, 3)])


def pickled(folder, weights):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    torch.save(weights, folder / "pytorch_model.bin")


def zeros_changed(weights):
    """The same values: zeros with the other sign."""
    return {k: torch.where(v == 0, -v, v) for k, v in weights.items()}


STORED = {
    "sharded": sharded,
    "pickled": pickled,
    "in double": lambda f, w: write(f, {k: v.double() for k, v in w.items()}),
    "in half": lambda f, w: write(f, {k: v.half() for k, v in w.items()}),
    "in bfloat16": lambda f, w: write(f, {k: v.bfloat16() for k, v in w.items()}),
    "in another order": lambda f, w: write(f, dict(reversed(w.items()))),
    "with other signs of zeros": lambda f, w: write(f, zeros_changed(w)),
    "under other names": lambda f, w: write(f, {f"model.{k}": v for k, v in w.items()}),
    "with metadata": lambda f, w: (
        write(f, w),
        save_file(w, f / "model.safetensors", metadata={"step": "9"}),
    ),
}


@pytest.fixture
def weights(tiny):
    return load_file(tiny[1] / "step8" / "model.safetensors")


@pytest.mark.parametrize("kind", STORED)
def test_a_copy_is_found_however_it_is_stored(tiny, weights, tmp_path, kind):
    weights["gpt_neox.final_layer_norm.bias"][:5] = 0.0
    write(tmp_path / "step8", weights)
    STORED[kind](tmp_path / "step100", weights)
    shutil.copytree(tiny[1] / "step12", tmp_path / "step12")
    with pytest.raises(ValueError, match="identical weights: 8, 100"):
        Checkpoints.from_directory(tmp_path)
    with pytest.raises(ValueError, match="identical weights: 8, 100"):
        Checkpoints.from_directory(tmp_path, [8, 12])  # against the last step
    assert len(Checkpoints.from_directory({8: tmp_path / "step8", 12: tmp_path / "step12"})) == 2


@pytest.mark.parametrize("kind", STORED)
def test_different_steps_are_taken_however_they_are_stored(tiny, weights, tmp_path, kind):
    STORED[kind](tmp_path / "step8", weights)
    for step in (0, 1, 12):
        shutil.copytree(tiny[1] / f"step{step}", tmp_path / f"step{step}")
    assert Checkpoints.from_directory(tmp_path).steps.tolist() == [0, 1, 8, 12]


def test_shards_of_another_step_are_named(tiny, tmp_path):
    for step in (4, 8):
        sharded(tmp_path / f"step{step}", load_file(tiny[1] / f"step{step}" / "model.safetensors"))
    files = tmp_path.glob("step4/*.safetensors")
    moved = next(f for f in files if EMBEDDING in load_file(f))
    shutil.copy(moved, tmp_path / "step8")
    with pytest.raises(ValueError) as caught:
        Checkpoints.from_directory(tmp_path)
    said = str(caught.value)
    assert "`steps` 4 and 8 share" in said and EMBEDDING in said
    assert str(tmp_path / "step8" / moved.name) in said


def test_shared_tensors_are_found_by_value_and_may_be_frozen(tiny, weights, tmp_path):
    other = load_file(tiny[1] / "step12" / "model.safetensors")
    other[EMBEDDING] = weights[EMBEDDING].double()
    write(tmp_path / "step8", weights)
    write(tmp_path / "step12", other)
    with pytest.raises(ValueError, match=rf"8 and 12 share 1 large tensors \({EMBEDDING}\)"):
        Checkpoints.from_directory(tmp_path)
    assert len(Checkpoints.from_directory(tmp_path, frozen=["*embed_in*"])) == 2
    shown = call("induction", tmp_path, "--text", __file__, code=1).stderr
    assert shown.startswith("error: `steps` 8 and 12 share") and shown.count("\n") == 1


def test_files_that_the_index_does_not_name_do_not_count(tiny, weights, tmp_path):
    sharded(tmp_path / "step8", weights)
    shutil.copytree(tiny[1] / "step12", tmp_path / "step12")
    shutil.copy(tiny[1] / "step12" / "model.safetensors", tmp_path / "step8" / "old.safetensors")
    assert len(Checkpoints.from_directory(tmp_path)) == 2


SMALL = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SMALL
@given(st.data())
def test_equal_steps_are_exactly_those_found(tmp_path_factory, data):
    """Steps drawn from few weights, each stored in its own way; large and small tensors."""
    folder = tmp_path_factory.mktemp("ladder")
    chosen = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=4))
    for step, which in enumerate(chosen):
        generator = torch.Generator().manual_seed(which)
        values = torch.randint(-9, 10, (70, 80), generator=generator).float()  # exact in 16 bits
        values[0, 0] = float("nan") if which == 3 else 0.0
        small = torch.full((3,), float(which)) if which else torch.zeros(3)
        way = data.draw(st.sampled_from(sorted(STORED)))
        STORED[way](
            folder / f"step{step}", {"large": values, "small": small, "ones": torch.ones(100, 100)}
        )
    groups = [[s for s, w in enumerate(chosen) if w == which] for which in range(4)]
    wanted = "; ".join(", ".join(map(str, g)) for g in sorted(g for g in groups if len(g) > 1))
    paths = {step: folder / f"step{step}" for step in range(len(chosen))}
    if wanted:
        with pytest.raises(ValueError, match=f"identical weights: {wanted}\\. At most"):
            check_tensors(paths)
    else:
        check_tensors(paths)


def test_weights_from_the_hub_are_compared_once_they_are_here(tiny, tmp_path, monkeypatch):
    """The hub lists other hashes, since the copy is stored in another precision."""
    weights = load_file(tiny[1] / "step8" / "model.safetensors")
    for step, kind in ((8, torch.float32), (12, torch.float64)):
        shutil.copytree(tiny[1] / "step8", tmp_path / f"step{step}")
        path = tmp_path / f"step{step}" / "model.safetensors"
        save_file({k: v.to(kind) for k, v in weights.items()}, path, metadata={"format": "pt"})
    here = set()

    def fetched(name, revision):
        here.add(revision)
        return checkpoints_read(str(tmp_path / revision), None)

    checkpoints_read = checkpoints.read_model
    monkeypatch.setattr(checkpoints, "read_model", fetched)
    monkeypatch.setattr(
        hub, "cached", lambda name, revision: tmp_path / revision if revision in here else None
    )
    places = tuple(("a/b", f"step{s}") for s in (8, 12))
    ladder = Checkpoints(torch.tensor([8, 12]).numpy(), places, ("one", "other"))
    assert ladder.load(8)
    with pytest.raises(ValueError, match="identical weights: 8, 12"):
        ladder.load(12)


def test_what_was_downloaded_is_looked_up_in_the_cache(monkeypatch, tmp_path):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda *a, **k: asked.append((a, k)) or str(tmp_path / "config.json"),
    )
    assert hub.cached("a/b", "step8") == tmp_path
    assert asked == [(("a/b", "config.json"), {"revision": "step8"})]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    assert hub.cached("a/b", "step8") is None


@pytest.mark.parametrize("steps", [(12,), (12, 20)])
def test_a_pickle_that_is_refused_is_not_advised(tiny, tmp_path, steps):
    """Torch's own message tells how to run it after all."""
    for step in steps:
        shutil.copytree(tiny[1] / "step12", tmp_path / f"step{step}")
    folder = tmp_path / f"step{steps[-1]}"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    shown = call("induction", tmp_path, "--text", __file__, code=1).stderr
    assert "more than tensors and is never run; take safetensors" in shown
    assert "weights_only" not in shown and "trust" not in shown and "two options" not in shown
    assert shown.count("\n") == 1


def test_a_pickled_resume_state_is_refused_without_advice(tiny, tmp_path):
    run = shutil.copytree(tiny[1], tmp_path / "run")
    (run / "resume.pt").write_bytes(pickle.dumps(Evil()))
    from dlnflow.lm.runs.train import train

    with pytest.raises(ValueError, match="more than tensors and is never run") as caught:
        train(tiny[0], run)
    assert "weights_only" not in str(caught.value)
