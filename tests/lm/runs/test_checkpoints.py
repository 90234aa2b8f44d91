import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dlnflow.lm.data import hub as _hub
from dlnflow.lm.runs.checkpoints import Checkpoints, check_vocabulary
from dlnflow.lm.runs.ladder import check_ladder


def test_our_own_run_is_a_ladder(tiny):
    settings, _, ladder = tiny
    assert ladder.steps.tolist() == settings.checkpoint_steps() == [0, 1, 2, 4, 8, 12]
    assert len(set(ladder.hashes)) == len(ladder) == 6
    model = ladder.load(4)
    assert not model.training
    assert model.config.vocab_size == settings.vocab_size
    assert ladder.tokenizer().get_vocab_size() <= settings.vocab_size


def test_loaded_weights_are_those_saved(tiny):
    _, folder, ladder = tiny
    from safetensors.torch import load_file

    stored = load_file(folder / "step8" / "model.safetensors")
    for name, value in ladder.load(8).state_dict().items():
        assert torch.equal(value, stored[name])


def test_some_steps_only(tiny):
    _, folder, ladder = tiny
    some = Checkpoints.from_directory(folder, [1, 8])
    assert some.steps.tolist() == [1, 8]
    assert some.hashes == ladder.select([1, 8]).hashes
    with pytest.raises(ValueError, match=r"\[3\] are not in"):
        Checkpoints.from_directory(folder, [1, 3])
    with pytest.raises(ValueError, match="nearest is 4"):
        ladder.load(5)


def test_any_folders_by_step(tiny):
    _, folder, ladder = tiny
    mapped = Checkpoints.from_directory({20: folder / "step12", 10: folder / "step8"})
    assert mapped.steps.tolist() == [10, 20]
    assert mapped.hashes == ladder.select([8, 12]).hashes


def test_repeated_weights_are_refused_with_the_list(tiny, tmp_path):
    _, folder, _ = tiny
    for step, source in ((10, 8), (20, 12), (30, 12), (40, 8)):
        shutil.copytree(folder / f"step{source}", tmp_path / f"step{step}")
    with pytest.raises(ValueError, match="10, 40; 20, 30"):
        Checkpoints.from_directory(tmp_path)


def test_incomplete_folders_are_refused(tmp_path):
    (tmp_path / "step1").mkdir()
    with pytest.raises(ValueError, match=r"no checkpoint"):
        Checkpoints.from_directory(tmp_path)
    with pytest.raises(ValueError, match="no subfolders"):
        Checkpoints.from_directory(tmp_path / "step1")


@pytest.mark.parametrize("steps", [[], [2, 1], [1, 1], [-1, 2], [0.5]])
def test_bad_steps(steps):
    with pytest.raises(ValueError, match="increasing whole numbers"):
        check_ladder(steps, ["a"] * len(steps))


def test_vocabulary_may_be_padded_but_not_short():
    check_vocabulary(50_277, 50_304)
    with pytest.raises(ValueError, match="disagree"):
        check_vocabulary(50_277, 50_000)


class Hub:
    """Answers like the hub: one weight file per revision, named by its hash."""

    def __init__(self, hashes):
        self.hashes = hashes

    def list_repo_tree(self, name, revision):
        from huggingface_hub.errors import RevisionNotFoundError

        if revision not in self.hashes:
            raise RevisionNotFoundError.__new__(RevisionNotFoundError)
        sha = self.hashes[revision]
        yield SimpleNamespace(path="config.json", lfs=None)
        yield SimpleNamespace(path="model.safetensors", lfs=SimpleNamespace(sha256=sha))
        yield SimpleNamespace(path="pytorch_model.bin", lfs=SimpleNamespace(sha256="p" + sha))


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub

    hashes = {
        "step0": "a",
        "step1": "b",
        "step2": "b",
        "step3": "z",
        "step143000": "z",
        "main": "z",
    }
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(hashes))
    monkeypatch.setattr(_hub, "reach", lambda: None)


def test_hub_ladder(hub):
    ladder = Checkpoints.from_hub("a/b", [0, 1, 143_000])
    assert ladder.places[1] == ("a/b", "step1")
    assert ladder.steps.dtype == np.int64
    with pytest.raises(ValueError, match="1, 2"):
        Checkpoints.from_hub("a/b", [0, 1, 2])
    with pytest.raises(ValueError, match="3, 143000"):
        Checkpoints.from_hub("a/b", [0, 1, 3])
    with pytest.raises(ValueError, match="no revision step7"):
        Checkpoints.from_hub("a/b", [0, 7])


def test_hub_without_network(monkeypatch):
    import huggingface_hub

    class Offline:
        def list_repo_tree(self, *_, **__):
            raise OSError("name resolution failed")

    monkeypatch.setattr(huggingface_hub, "HfApi", Offline)
    monkeypatch.setattr(_hub, "reach", lambda: None)
    with pytest.raises(ConnectionError, match=r"dlnflow lm train.*from_directory"):
        Checkpoints.from_hub("EleutherAI/pythia-14m", [0, 1000])


def test_weights_on_the_hub_without_network(monkeypatch):
    import transformers

    def offline(*_, **__):
        raise OSError("offline")

    for loader in (transformers.AutoConfig, transformers.AutoModelForCausalLM):
        monkeypatch.setattr(loader, "from_pretrained", offline)
    ladder = Checkpoints(np.array([5]), (("a/b", "step5"),), ("h",))
    with pytest.raises(ConnectionError, match="from_directory"):
        ladder.load(5)


def test_real_pythia_configuration_in_a_local_folder(neox, tmp_path):
    """Random weights, the architecture and tokenizer of Pythia at a small width."""
    import dataclasses

    from safetensors.torch import save_file

    from dlnflow.lm.runs.model import CONFIGURATIONS, build

    settings = dataclasses.replace(CONFIGURATIONS["pythia-14m"], width=16, layers=1)
    for step in (0, 1):
        model = build(dataclasses.replace(settings, seed=step))
        folder = tmp_path / f"step{step}"
        model.config.save_pretrained(folder)
        weights = model.state_dict()
        weights["embed_out.weight"] = weights.pop("lm_head.weight")  # its name on the hub
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        neox.save(str(folder / "tokenizer.json"))
    ladder = Checkpoints.from_directory(tmp_path)
    loaded = ladder.load(1)
    assert loaded.config.vocab_size == 50_304
    assert torch.equal(loaded.get_output_embeddings().weight, model.get_output_embeddings().weight)
    assert ladder.tokenizer().get_vocab_size() == 50_277
