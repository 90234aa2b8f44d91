import pytest
import torch

from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import build
from tests.lm.conftest import TINY


def plain(model, ids):
    logits = model(ids[:, :-1]).logits.double()
    return -logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


@pytest.fixture
def ids():
    return torch.randint(0, 300, (20, 33), generator=torch.Generator().manual_seed(1))


def test_losses_and_gradients_are_those_of_the_logits(ids):
    model = build(TINY)
    weights = torch.rand(20, 32, generator=torch.Generator().manual_seed(2))
    (weights * plain(model, ids)).sum().backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    losses = token_losses(model, ids)
    torch.testing.assert_close(
        losses.detach(), plain(model, ids).detach().float(), rtol=1e-5, atol=1e-5
    )
    (weights * losses).sum().backward()
    for name, p in model.named_parameters():
        scale = float(expected[name].abs().max()) + 1e-6
        torch.testing.assert_close(p.grad, expected[name], rtol=0, atol=2e-5 * scale)


def test_without_gradients_nothing_is_kept(ids):
    model = build(TINY)
    with torch.inference_mode():
        torch.testing.assert_close(token_losses(model, ids), plain(model, ids).float())


def test_frozen_output_layer(ids):
    model = build(TINY)
    model.get_output_embeddings().weight.requires_grad_(False)
    token_losses(model, ids).sum().backward()
    assert model.get_output_embeddings().weight.grad is None
    assert model.get_input_embeddings().weight.grad is not None


def test_bf16_is_close(ids):
    model = build(TINY)
    with torch.no_grad():
        difference = token_losses(model, ids, bf16=True) - token_losses(model, ids)
    assert 0 < float(difference.abs().max()) < 0.1


def test_a_model_that_rescales_its_logits_uses_them(ids):
    model = build(TINY)
    model.config.logit_scale = 1.0
    with torch.no_grad():
        torch.testing.assert_close(token_losses(model, ids), plain(model, ids).float())
