"""Heads, layers and MLPs by name: what a head's entries do, in three architectures."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from dlnflow import lm
from dlnflow.lm.named_components import moving, size
from dlnflow.lm.sampling.token_traces import sample_traces

COMMON = {"vocab_size": 30, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0}
MODELS = {
    "gpt_neox": transformers.GPTNeoXConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=20, **COMMON
    ),
    "gpt2": transformers.GPT2Config(
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=12,
        attn_pdrop=0.0,
        vocab_size=30,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "llama": transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=20,
        **COMMON,
    ),
}


def built(kind):
    torch.manual_seed(0)
    with torch.random.fork_rng():
        model = transformers.AutoModelForCausalLM.from_config(MODELS[kind]).eval()
    with torch.no_grad():
        for p in model.parameters():  # biases and norms too
            p.add_(0.3 * torch.randn(p.shape))
    model.set_attn_implementation("eager")
    return model


IDS = torch.arange(10)[None] * 7 % 30


def attention(model):
    """Attention weights of all heads of layer 1 (head, query, key), and what the layer gives."""
    with torch.no_grad():
        out = model(IDS, output_attentions=True)
    return out.attentions[1][0], out.logits


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("head", [0, 2, 3])
def test_query_and_key_of_a_head_move_its_attention_alone(kind, head):
    model = built(kind)
    before, _ = attention(model)
    found = lm.components(model)[f"layer1.head{head}"]
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in found.items():
            own[name][torch.as_tensor(mask)] += 0.5
    after, _ = attention(model)
    changed = {h for h in range(4) if not torch.equal(after[h], before[h])}
    # heads of one group share their keys and values
    group = {head, head ^ 1} if kind == "llama" else {head}
    assert changed == group


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_head_whose_output_is_taken_away_does_nothing(kind):
    """The columns of the output projection are those of the head: all else of it is then idle."""
    model = built(kind)
    found = lm.components(model)["layer1.head2"]
    own = dict(model.named_parameters())
    (output,) = [n for n in found if n.split(".")[-2] in ("dense", "c_proj", "o_proj")]
    with torch.no_grad():
        own[output][torch.as_tensor(found[output])] = 0
    _, silent = attention(model)
    others = [m for n, c in lm.components(model).items() if n in ("layer1.head3",) for m in [c]]
    shared = others[0] if kind == "llama" else {}
    with torch.no_grad():
        for name, mask in found.items():
            if name != output:
                alone = mask & ~shared.get(name, np.zeros_like(mask))
                own[name][torch.as_tensor(alone)] += 0.5
    np.testing.assert_allclose(attention(model)[1], silent, atol=1e-6)


@pytest.mark.parametrize("kind", list(MODELS))
def test_layers_and_ends_are_all_there_is(kind):
    model = built(kind)
    found = lm.components(model)
    ends = {"embedding", "final_norm"} | ({"unembedding"} if kind != "gpt2" else set())
    parts = ["layer0", "layer1", *ends]
    assert set(parts) <= set(found)
    total = sum(p.numel() for p in model.parameters())
    assert sum(mask.sum() for name in parts for mask in found[name].values()) == total
    for layer in ("layer0", "layer1"):
        pieces = [found[f"{layer}.{p}"] for p in ("attention", "mlp", "norms")]
        count = sum(mask.sum() for piece in pieces for mask in piece.values())
        assert count == sum(mask.sum() for mask in found[layer].values())
        heads = [found[f"{layer}.head{h}"] for h in range(4)]
        assert set().union(*heads) <= set(found[f"{layer}.attention"])
    assert size(model, ("layer0", "layer1", *ends)) == total == size(model, ())
    assert moving(model, tuple(parts))[1] is None


def test_models_of_unknown_layout_have_layers_but_no_heads():
    config = transformers.BloomConfig(
        vocab_size=30, hidden_size=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    found = lm.components(transformers.AutoModelForCausalLM.from_config(config))
    assert "layer0.mlp" in found and not any("head" in name for name in found)
    with pytest.raises(ValueError, match=r"'layer0\.head0' is none of"):
        moving(transformers.AutoModelForCausalLM.from_config(config), "layer0.head0")


def test_only_a_head_moves_while_a_run_is_sampled(tiny):
    """The step of a restricted chain is that of its entries alone, and says so."""
    from dlnflow.lm.data.batches import GradientData, Observed
    from dlnflow.lm.runs.train import load_data
    from dlnflow.lm.sampling.unit import Sampler
    from dlnflow.sampling.settings import Settings

    _, folder, ladder = tiny
    data = load_data(folder)
    gradient = GradientData(data.training.ids, rows=2, length=16)
    observed = Observed(data.held_out.rows(3, 9, seed=1))
    settings = Settings(1e3, 1e3, 1e-4, chains=2, draws=4)
    sampler = Sampler(settings, kernel="sgld", restrict="layer0.head1")
    whole = dataclasses.replace(sampler, restrict=())
    found, free = (
        sample_traces(ladder.select([12]), gradient, observed, s) for s in (sampler, whole)
    )
    model = ladder.load(12)
    assert found.attrs["n_parameters"] == size(model, "layer0.head1") < size(model, ())
    assert found.attrs["restrict"] == "layer0.head1" and "restrict" not in free.attrs
    moved, moved_free = (np.abs(t - t.checkpoint_loss).mean() for t in (found, free))
    assert 0 < moved < moved_free
    mask = lm.components(model)["layer0.head1"]
    same = sample_traces(
        ladder.select([12]), gradient, observed, dataclasses.replace(sampler, restrict=mask)
    )
    np.testing.assert_array_equal(found.values, same.values)
    with pytest.raises(ValueError, match="give one of the two"):
        dataclasses.replace(sampler, parameters=("*dense*",))


@pytest.mark.parametrize("wrong", [None, "model", torch.nn.Linear(2, 2)])
def test_only_language_models_have_components(wrong):
    with pytest.raises(TypeError, match=r"`model` must be a transformers.PreTrainedModel, got"):
        lm.components(wrong)
