"""Folders that hold damaged, incomplete or hostile checkpoints and tokenizers."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dlnflow.lm.data.tokenizer import load_tokenizer
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.pretrained import UNBOUNDED, context_length
from tests.lm.test_command import call

HARMLESS = "open({path!r}, 'w').close()\n"


@pytest.fixture
def copy(tiny, tmp_path):
    """A folder with step12 of the tiny run."""
    shutil.copytree(tiny[1] / "step12", tmp_path / "run" / "step12")
    return tmp_path / "run"


def configure(folder, **changes):
    path = folder / "step12" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, change):
    path = folder / "step12" / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_code_beside_a_checkpoint_is_not_run(copy, text_file, tmp_path):
    """Even if the user would answer yes."""
    ran = tmp_path / "ran"
    configure(
        copy,
        model_type="zzz",
        auto_map={"AutoConfig": "cfg.C", "AutoTokenizer": "cfg.C", "AutoModelForCausalLM": "cfg.C"},
    )
    (copy / "step12" / "cfg.py").write_text(HARMLESS.format(path=str(ran)))
    command = [
        sys.executable,
        "-m",
        "dlnflow",
        "lm",
        "induction",
        str(copy),
        "--text",
        str(text_file),
    ]
    found = subprocess.run(command, input="y\ny\ny\n", capture_output=True, text=True)
    assert not ran.exists()
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr.startswith("error: config.json of") and "never run" in found.stderr
    assert "trust_remote_code" not in found.stderr and "[y/N]" not in found.stderr
    with pytest.raises(ValueError, match="never run"):
        Checkpoints.from_directory(copy).load(12)


def test_code_of_a_tokenizer_is_not_run(copy, tmp_path, monkeypatch):
    ran, folder = tmp_path / "ran", copy / "step12"
    configure(copy, model_type="zzz", auto_map={"AutoTokenizer": ["cfg.C", None]})
    (folder / "cfg.py").write_text(HARMLESS.format(path=str(ran)))
    (folder / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["cfg.C", null]}}'
    )
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ValueError, match=r"Put a tokenizer\.json there"):
        load_tokenizer(folder)
    assert not ran.exists()


def test_attention_code_of_the_hub_is_not_fetched(copy):
    configure(copy, attn_implementation="kernels-community/flash-attn")
    with pytest.raises(ValueError, match="attention code of the hub"):
        Checkpoints.from_directory(copy).load(12)


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_pickles_are_not_run(copy):
    folder = copy / "step12"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"weights of .*step12 cannot be read"):
        Checkpoints.from_directory(copy).load(12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("lm_head.weight"), r"lack 1 tensors \(lm_head.weight\)"),
        (
            lambda w: w.update({"gpt_neox.layers.1.attention.dense.bias": torch.zeros(16)}),
            r"have, beyond those of its config.json, 1 tensors",
        ),
        (lambda w: w.update({"lm_head.weight": torch.zeros(3, 3)}), "step12"),
    ],
)
def test_tensors_that_lack_or_do_not_belong(copy, change, words):
    rewrite(copy, change)
    with pytest.raises(ValueError, match=words):
        Checkpoints.from_directory(copy).load(12)


def test_buffers_of_older_versions_do_not_count(copy):
    rewrite(copy, lambda w: w.update({"gpt_neox.layers.0.attention.bias": torch.zeros(4)}))
    assert Checkpoints.from_directory(copy).load(12)


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"hidden_size": 64}])
def test_a_configuration_of_another_model(copy, changes):
    configure(copy, **changes)
    with pytest.raises(ValueError, match="step12"):
        Checkpoints.from_directory(copy).load(12)


def test_tied_weights_are_complete(tmp_path):
    from transformers import BloomConfig, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=1, n_embd=4, n_positions=8, vocab_size=11)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "step1")
    ladder = Checkpoints.from_directory(tmp_path)
    assert ladder.load(1).num_parameters()
    assert ladder.context() == 8
    assert context_length(BloomConfig()) == UNBOUNDED


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("size", [0, 20, 400])
def test_damaged_files_end_in_one_line(copy, text_file, name, size):
    path = copy / "step12" / name
    path.write_bytes(path.read_bytes()[:size])
    for command in ("induction",), ("sample", "--store", copy / "store", "--draws", 4):
        shown = call(command[0], copy, "--text", text_file, *command[1:], code=1).stderr
        assert shown.startswith("error: ") and "step12" in shown and "Copy this" in shown
        assert "network" not in shown


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"version": "1.0", "model": 5}'])
def test_damaged_tokenizers_end_in_one_line(copy, text_file, content):
    path = copy / "step12" / "tokenizer.json"
    path.write_text(content)
    for arguments in (
        ("classes", __file__, "--tokenizer", path),
        ("induction", copy, "--text", text_file),
        ("train", copy, "--tokenizer", path),
    ):
        shown = call(*arguments, code=1).stderr
        assert shown.startswith(f"error: {path} is no tokenizer.json, or damaged (")


def test_models_without_a_bound_on_positions(bpe, text_file, tmp_path):
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=320, hidden_size=8, n_layer=1, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path / "run" / "step1")
    bpe.save(str(tmp_path / "run" / "tokenizer.json"))
    options = "--draws 4 --set rows=2 --set chains=1 --set burn_in=1 --set thin=1".split()
    call("sample", tmp_path / "run", "--store", tmp_path / "s", "--text", text_file, *options)
    call("induction", tmp_path / "run", "--text", text_file)


def test_the_final_weights_under_an_earlier_step(tiny, tmp_path):
    for step, source in ((0, 0), (1000, 4), (2000, 12), (143_000, 12)):
        shutil.copytree(tiny[1] / f"step{source}", tmp_path / f"step{step}")
    with pytest.raises(ValueError, match="identical weights: 2000, 143000"):
        Checkpoints.from_directory(tmp_path, [0, 1000, 2000])
    assert len(Checkpoints.from_directory(tmp_path, [0, 1000])) == 2
    (tmp_path / "step143000" / "config.json").unlink()  # not finished, so it says nothing
    assert len(Checkpoints.from_directory(tmp_path, [0, 1000, 2000])) == 3
    shutil.copytree(tmp_path / "step0", tmp_path / "step01000")
    with pytest.raises(ValueError, match="step 1000 twice"):
        Checkpoints.from_directory(tmp_path)


def test_steps_are_shown_as_numbers(tiny):
    ladder = tiny[2]
    with pytest.raises(ValueError, match=r"got \[8, 4\]"):
        ladder.select([ladder.steps[4], ladder.steps[3]])


def test_a_folder_that_went_away(copy):
    ladder = Checkpoints.from_directory(copy)
    shutil.rmtree(copy)
    with pytest.raises(ValueError, match=f"{Path(copy).name}/step12 cannot be read"):
        ladder.load(12)
