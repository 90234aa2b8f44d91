"""From folders with Pythia-14m's own configuration and tokenizer to figure 5."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dlnflow.lm import experiment
from dlnflow.lm.data.token_classes import CLASSES
from dlnflow.lm.experiment import plan_from_text
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.plots import influence_plots
from dlnflow.traces import groups
from paper_figures import fig05_classes
from tests.lm.conftest import FIXED

CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.24.0",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
"""config.json of EleutherAI/pythia-14m."""
TEXT = "def unbelievableness(zarathustrian):\n    return 3 * (zarathustrian ** 2)  # [1]\n\n"


def as_on_the_hub(folder, step, tokenizer):
    """Write random weights under the names and in the precision of the hub's files."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, GPTNeoXForCausalLM

    place = folder / f"step{step}"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(step)
    model = GPTNeoXForCausalLM(AutoConfig.from_pretrained(place))
    names = {name: name.replace("lm_head", "embed_out") for name in model.state_dict()}
    weights = {names[k]: v.half().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(place / "tokenizer.json"))
    return weights


@pytest.mark.slow
def test_from_folders_to_figure_5(neox, tmp_path):
    weights = [as_on_the_hub(tmp_path / "model", step, neox) for step in (0, 1000)]
    assert sum(w.numel() for w in weights[1].values()) == 14_067_712
    (tmp_path / "text").mkdir()
    for k in range(6):
        # no row of one document occurs in another
        own = "".join(TEXT.replace("3", str(997 * k + 101 * j)) for j in range(8))
        (tmp_path / "text" / f"{k}.txt").write_text(own + f"Chapter {k} of {k * k}.\n" * 3)
    ladder = Checkpoints.from_directory(tmp_path / "model")
    model = ladder.load(1000)
    assert model.config.rope_parameters["partial_rotary_factor"] == 0.25
    loaded = model.get_output_embeddings().weight
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, weights[1]["embed_out.weight"].float())

    plan = plan_from_text(ladder, tmp_path / "text", rows=3, length=48)
    assert set(plan.classes.token_class.values) == set(CLASSES)
    sampler = experiment.sampler(chains=2, draws=4, burn_in=2, thin=1, **FIXED)
    plan = replace(plan, gradient=replace(plan.gradient, rows=1))
    traces = experiment.sample(plan, sampler, tmp_path / "store")
    assert traces.sizes == {"time": 2, "chain": 2, "draw": 4, "item": 3 * 47}
    # ln 50304 = 10.8: nothing is learned
    np.testing.assert_allclose(traces.checkpoint_loss.mean("item"), 10.8, atol=0.4)
    traces, classes = experiment.read(tmp_path / "model", tmp_path / "store")
    found = groups(traces, classes)
    assert np.isfinite(found).all()
    figure, claims = fig05_classes.show(found, traces)
    assert np.isfinite(list(claims.values())).all()
    influence_plots.save_figure(figure, tmp_path / "figure")
