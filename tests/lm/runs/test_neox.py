"""What is written out by hand against the model of transformers, and its autograd."""

import dataclasses

import numpy as np
import pytest
import torch

from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs import neox
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import build
from dlnflow.lm.sampling.evaluator import LanguageModelEvaluator
from tests.lm.conftest import TINY

SHAPES = {
    "one block": {},
    "three blocks, four heads": {"layers": 3, "width": 24, "heads": 4, "context": 128},
    "one head, all of it rotary": {"heads": 1, "width": 8},
}


def model_of(shape, kind=torch.float64):
    """A model whose every parameter matters: layer norms and biases are drawn, too."""
    model = build(dataclasses.replace(TINY, **SHAPES[shape]))
    if shape.startswith("one head"):
        model.config.rope_parameters["partial_rotary_factor"] = 1.0
        model = type(model)(model.config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    model.set_attn_implementation("sdpa")  # plain attention takes exponentials in float32
    return model.to(kind)


def tokens(rows, length, vocabulary=300):
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, vocabulary, (rows, length), generator=generator)


def autograd(model, ids, **options):
    """Mean loss and gradients by the modules themselves."""
    model.zero_grad(set_to_none=True)
    loss = token_losses(model, ids, **options).mean()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def by_hand(model, ids, bf16=False):
    for p in model.parameters():
        p.grad = torch.full_like(p, float("nan"))
    with torch.no_grad():
        loss = neox.NeoX(model).mean_loss(ids, bf16)
    return loss, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [2, 33])
def test_losses_and_gradients_are_those_of_the_modules(shape, length):
    model, ids = model_of(shape), tokens(5, length)
    assert neox.written_out(model)
    with torch.no_grad():
        expected = token_losses(model, ids)
        torch.testing.assert_close(neox.NeoX(model).losses(ids), expected, rtol=1e-12, atol=1e-12)
    (loss, found), (wanted, gradients) = by_hand(model, ids), autograd(model, ids)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-11 * scale + 1e-15)


def test_queries_and_tokens_are_cut_where_nothing_divides(monkeypatch):
    monkeypatch.setattr(neox, "QUERIES", 20)
    monkeypatch.setattr(neox, "TOKENS", 50)
    model, ids = model_of("three blocks, four heads"), tokens(3, 100, vocabulary=7)
    (loss, found), (wanted, gradients) = by_hand(model, ids), autograd(model, ids)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("bf16", [False, True])
def test_rounding_is_that_of_the_modules(bf16):
    """In float32 and bf16 both are equally far from double precision."""
    shape, ids = "three blocks, four heads", tokens(8, 65)
    exact = autograd(model_of(shape), ids)[1]
    model = model_of(shape, torch.float32)
    ways = by_hand(model, ids, bf16)[1], autograd(model, ids, bf16=bf16, one_pass=True)[1]

    def error(way):
        square = sum(float((way[k].double() - g).square().sum()) for k, g in exact.items())
        return (square / sum(float(g.square().sum()) for g in exact.values())) ** 0.5

    mine, theirs = map(error, ways)
    assert mine < 1.5 * theirs < (0.1 if bf16 else 1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"use_parallel_residual": False},
        {"hidden_act": "relu"},
        {"attention_bias": False},
        {"tie_word_embeddings": True},
    ],
)
def test_other_models_go_through_their_modules(change):
    config = model_of("one block").config
    for name, value in change.items():
        setattr(config, name, value)
    model = type(build(TINY))(config).eval()
    assert not neox.written_out(model)
    ids, zeros = tokens(2, 9), np.zeros(50, np.int32)
    evaluator = LanguageModelEvaluator(
        model, GradientData(zeros, 2, 8), Observed(ids.numpy()), (0, 0, 0)
    )
    with torch.no_grad():
        expected = token_losses(model, ids).flatten()
    torch.testing.assert_close(evaluator.observe(evaluator.center)[0], expected)
    assert evaluator(evaluator.center).gradient.isfinite().all()


def biased_head(model):
    model.set_output_embeddings(torch.nn.Linear(*model.lm_head.weight.T.shape, dtype=torch.float64))


def shared_by_layers(model):
    first, second = model.gpt_neox.layers
    second.mlp.dense_h_to_4h.weight = first.mlp.dense_h_to_4h.weight


def subclass(model):
    linear = model.gpt_neox.layers[0].mlp.dense_h_to_4h
    linear.__class__ = type("Adapted", (torch.nn.Linear,), {})


def parametrized(model):
    linear = model.gpt_neox.layers[0].mlp.dense_h_to_4h
    torch.nn.utils.parametrize.register_parametrization(linear, "weight", torch.nn.Tanh())


def replaced_forward(model):
    layer = model.gpt_neox.layers[0]
    layer.forward = lambda *arguments, **options: (
        2 * type(layer).forward(layer, *arguments, **options)
    )


CHANGES = {
    "biased head": biased_head,
    "weights shared by layers": shared_by_layers,
    "subclass of a module": subclass,
    "parametrized": parametrized,
    "replaced forward": replaced_forward,
    "other activation": lambda m: setattr(m.gpt_neox.layers[0].mlp, "act", torch.nn.ReLU()),
    "one sequential block": lambda m: setattr(m.gpt_neox.layers[1], "use_parallel_residual", False),
    "scale of attention": lambda m: setattr(m.gpt_neox.layers[1].attention, "scaling", 2.0),
    "scale of rotation": lambda m: setattr(m.gpt_neox.rotary_emb, "attention_scaling", 2.0),
    "rounding of a norm": lambda m: setattr(m.gpt_neox.layers[0].input_layernorm, "eps", 0.5),
    "more parameters": lambda m: m.register_parameter(
        "more", torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    ),
    "attention of one's own": lambda m: setattr(m.config, "_attn_implementation", "own"),
    "no order": lambda m: setattr(m.config, "is_causal", False),
    "no block": lambda m: setattr(m.gpt_neox, "layers", torch.nn.ModuleList()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_models_that_were_changed_go_through_their_modules(change):
    """Their configuration does not tell, and what is written out would be wrong in silence."""
    model = build(dataclasses.replace(TINY, layers=2)).double()
    assert neox.written_out(model)
    CHANGES[change](model)
    assert not neox.written_out(model)


@pytest.mark.parametrize(
    "change",
    [
        {"layer_norm_eps": 0.1, "intermediate_size": 7, "hidden_dropout": 0.5},
        {"max_position_embeddings": 4, "pad_token_id": 3, "attention_dropout": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}},
        {
            # three coordinates of four, which takes two frequencies
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 9.0,
                "partial_rotary_factor": 0.8,
            },
            "hidden_size": 8,
        },
    ],
    ids=lambda change: next(iter(change)),
)
def test_options_that_are_written_out(change):
    config = build(TINY).config
    torch.manual_seed(0)
    model = type(build(TINY))(type(config)(**config.to_dict() | change)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    model.set_attn_implementation("sdpa")
    model, ids = model.double(), tokens(3, 20, vocabulary=model.config.vocab_size)
    assert neox.written_out(model)
    (loss, found), (wanted, gradients) = by_hand(model, ids), autograd(model, ids)
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-11 * scale + 1e-15)


def test_half_precision_goes_through_the_modules_and_hooks_do_not():
    """Transformers leaves hooks behind when attention is asked for; a chain must not see them."""
    model = build(TINY)
    model(tokens(1, 5), output_attentions=True)
    model.gpt_neox.layers[0].register_forward_hook(lambda *_: None)
    assert neox.written_out(model)
    assert not neox.written_out(model.bfloat16())


def test_some_parameters_and_long_rows_go_through_the_modules(monkeypatch):
    """The same numbers, whichever way they are computed."""
    model, ids = build(TINY), tokens(3, 17)
    data = GradientData(tokens(1, 400)[0].numpy().astype(np.int32), 4, 16)

    def evaluated(**options):
        one = LanguageModelEvaluator(model, data, Observed(ids.numpy()), (0, 0, 0), **options)
        one.step = 3
        return one, one(one.center).gradient.clone()

    whole, gradient = evaluated()
    names = [n for n, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    pieces = dict(zip(names, gradient[0].split(sizes), strict=True))
    part = evaluated(parameters=["*layers.0.mlp*"])[1]
    wanted = torch.cat([pieces[n] for n in names if "layers.0.mlp" in n])
    torch.testing.assert_close(part[0], wanted, rtol=1e-4, atol=1e-7)
    losses = whole.observe(whole.center)
    monkeypatch.setattr("dlnflow.lm.sampling.evaluator.SHORT", 8)
    long, gradient_long = evaluated()
    torch.testing.assert_close(gradient_long, gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(long.observe(long.center), losses, rtol=1e-5, atol=1e-5)
