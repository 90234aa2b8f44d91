"""Losses are the cross-entropy of the model's own logits, for every architecture that builds."""

import numpy as np
import pytest
import torch

from dlnflow.lm.runs import losses
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.losses import is_direct, token_losses

COMMON = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
GPT = {
    "vocab_size": 61,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
ARCHITECTURES = {
    "gpt_neox": COMMON | {"partial_rotary_factor": 0.25},
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "codegen": GPT | {"rotary_dim": 4, "n_head": 4},
    "gpt_bigcode": GPT,
    "gpt_neo": COMMON | {"num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
    "llama": COMMON,
    "mistral": COMMON,
    "mixtral": COMMON | {"num_local_experts": 2},
    "qwen2": COMMON,
    "qwen3": COMMON,
    "gemma": COMMON,
    "gemma2": COMMON | {"final_logit_softcapping": 1.0, "attn_logit_softcapping": 5.0},
    "gemma3_text": COMMON | {"final_logit_softcapping": None},
    "cohere": COMMON | {"logit_scale": 0.0625},
    "cohere2": COMMON | {"logit_scale": 0.25},
    "granite": COMMON | {"logits_scaling": 8.0},
    "granitemoe": COMMON | {"logits_scaling": 8.0, "num_local_experts": 2},
    "olmo": COMMON,
    "olmo2": COMMON,
    "phi": COMMON,
    "phi3": COMMON,
    "opt": COMMON | {"ffn_dim": 32, "word_embed_proj_dim": 8},
    "bloom": {"vocab_size": 61, "hidden_size": 16, "n_layer": 1, "n_head": 2},
    "falcon": {k: v for k, v in COMMON.items() if k != "head_dim"},
    "stablelm": COMMON,
    "mpt": {"vocab_size": 61, "d_model": 16, "n_heads": 2, "n_layers": 1, "max_seq_len": 32},
    "starcoder2": COMMON,
    "nemotron": COMMON,
    "glm": COMMON,
    "persimmon": COMMON,
    "biogpt": COMMON,
    "xglm": COMMON | {"d_model": 16, "ffn_dim": 32, "num_layers": 1, "attention_heads": 2},
    "smollm3": COMMON,
    "helium": COMMON,
    "mamba": {"vocab_size": 61, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1},
    "recurrent_gemma": COMMON | {"logits_soft_cap": 1.0, "lru_width": 16, "num_hidden_layers": 3},
    "falcon_h1": COMMON
    | {
        "lm_head_multiplier": 0.5,
        "mamba_d_ssm": 16,
        "mamba_n_heads": 2,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_chunk_size": 8,
    },
    "xlstm": COMMON
    | {"output_logit_soft_cap": 1.0, "num_heads": 2, "chunk_size": 4, "weight_mode": "single"},
    "nanochat": COMMON | {"final_logit_softcapping": 1.0},
    "ernie4_5": COMMON,
    "arcee": COMMON,
    "bitnet": COMMON,
    "seed_oss": COMMON,
    "exaone4": COMMON,
    "hunyuan_v1_dense": COMMON,
    "bert": COMMON | {"is_decoder": True},
}
"""Name of a model -> the settings that make it tiny."""
UNLIKE = {
    "recurrent_gemma",
    "falcon_h1",
    "xlstm",
    "nanochat",
    "gemma2",
    "cohere",
    "cohere2",
    "granite",
    "granitemoe",
    "phi",
    "gptj",
    "codegen",
    "bert",
}
"""Models that do more to their logits than a product, or have a bias there."""
FEATURES = {
    "gemma2": "final_logit_softcapping",
    "cohere": "logit_scale",
    "granite": "logits_scaling",
}


def build(name, **changes):
    """Return a tiny model with weights large enough that every feature of it shows."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **ARCHITECTURES[name] | changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def wanted(model, ids):
    """From the logits, by the definition."""
    with torch.no_grad():
        log_p = model(ids, use_cache=False).logits.double().log_softmax(-1)
    return -log_p[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].float()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def ids():
    return torch.randint(2, 61, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_losses_are_those_of_the_logits(name, ids, tmp_path):
    built = build(name)
    built.save_pretrained(tmp_path / "step3")
    model = Checkpoints.from_directory(tmp_path).load(3)
    with torch.no_grad():
        found = token_losses(model, ids)
    close(found, wanted(model, ids))
    assert not (is_direct(model) and name in UNLIKE)
    found = token_losses(model, ids).sum()
    found.backward()
    assert np.isfinite(found.item())


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama", "qwen2", "olmo2", "mistral"])
def test_models_with_a_plain_output_layer_need_no_logits(name):
    assert is_direct(build(name))


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_found_where_it_changes_nothing_yet(name, ids):
    """At the start logits are so small that a soft cap cannot be seen in losses."""
    model = build(name)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1e-6)
    assert not is_direct(model)
    with torch.no_grad():
        token_losses(model, ids)
        model.get_output_embeddings().weight.mul_(1e7)
        torch.testing.assert_close(
            token_losses(model, ids), wanted(model, ids), rtol=1e-4, atol=1e-4
        )


def test_padded_vocabularies(ids):
    """Ids that no tokenizer gives share the probability, as in the model's own loss."""
    model = build("gpt_neox", vocab_size=128)
    with torch.no_grad():
        torch.testing.assert_close(
            token_losses(model, ids), wanted(model, ids), rtol=1e-4, atol=1e-4
        )


def test_a_model_is_tried_once(ids, monkeypatch):
    model, tried = build("gpt_neox"), []
    own = losses._tried
    monkeypatch.setattr(losses, "_tried", lambda *a: tried.append(1) or own(*a))
    with torch.no_grad():
        for _ in range(3):
            token_losses(model, ids)
    assert len(tried) == 1


def test_a_model_that_sees_what_comes_later_is_refused(tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    BertLMHeadModel(BertConfig(**COMMON, is_decoder=False)).save_pretrained(tmp_path / "step1")
    with pytest.raises(ValueError, match="change with tokens that come later"):
        Checkpoints.from_directory(tmp_path).load(1)


def test_losses_that_are_not_the_logits_are_refused(ids, monkeypatch):
    """Whatever the reason, the two ways are compared on a few tokens."""
    own = losses._from_hidden
    monkeypatch.setattr(losses, "_from_hidden", lambda *a: own(*a) * 1.01)
    with pytest.raises(ValueError, match="are not those of its logits"):
        token_losses(build("gpt_neox"), ids)
