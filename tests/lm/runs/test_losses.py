import pytest
import torch

from dlnflow.lm.runs.losses import ROWS, _InOnePass, pieces, token_losses
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


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_one_pass_gives_losses_and_gradients_of_the_logits(kind, keep):
    """In pieces that do not divide the tokens; in bf16 to the rounding of what is kept."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = (torch.randn(n, 16, generator=generator).to(kind) for n in (70, 300))
    targets = torch.randint(0, 300, (70,), generator=generator)
    scale = torch.rand(70, generator=generator).to(kind)
    exact = [x.double().requires_grad_() for x in (hidden, weight)]
    expected = torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, targets, reduction="none")
    (scale.double() * expected).sum().backward()
    ours = [x.requires_grad_() for x in (hidden, weight)]
    losses = _InOnePass.apply(*ours, targets, 32, keep)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[kind]
    assert losses.dtype == torch.promote_types(kind, torch.float32)
    torch.testing.assert_close(losses.double(), expected, rtol=tolerance, atol=tolerance)
    (scale * losses).sum().backward()
    for a, b in zip(ours, exact, strict=True):
        error = (a.grad.double() - b.grad).abs().max() / b.grad.abs().max()
        assert float(error) < tolerance


def test_one_pass_changes_a_model_in_rounding_alone(ids):
    found = []
    for one_pass in (False, True):
        model = build(TINY)
        losses = token_losses(model, ids, one_pass=one_pass)
        losses.mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((losses.detach(), gradient))
    torch.testing.assert_close(*(losses for losses, _ in found), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*(gradient for _, gradient in found), rtol=1e-4, atol=1e-7)


def test_probability_of_an_own_token_may_vanish():
    """Its loss is beyond the logarithm of the smallest float32."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[200.0], [0.0]], requires_grad=True)
    loss = _InOnePass.apply(hidden, weight, torch.tensor([1]), 8, True)
    loss.sum().backward()
    assert float(loss.detach()) == 200.0 and hidden.grad.tolist() == [[200.0]]


def test_pieces_follow_from_the_memory_of_a_gpu(monkeypatch):
    class Gpu:
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu)
    gpu, bf16 = torch.device("cuda"), torch.bfloat16
    at_once, keep = pieces(gpu, 32 * 2048, 50_304, bf16)
    assert keep and 15_000 < at_once < 20_000  # four or five pieces of 32 rows of 2,048 tokens
    assert pieces(gpu, 8 * 32 * 2048, 50_304, bf16) == (at_once, False)
    Gpu.total_memory = 1 << 20
    assert pieces(gpu, 1_000, 50_304, bf16) == (ROWS, False)
    assert pieces(torch.device("cpu"), 1 << 20, 50_304, bf16) == (ROWS, True)


def test_rows_are_taken_as_one_text_without_looking_and_only_here(ids):
    """Others of the process still get several texts in a row told apart."""
    model = build(TINY)
    with torch.no_grad():
        first = token_losses(model, ids)
    packed = torch.arange(32) % 16
    positions, plain = packed.expand(20, -1), ids[:, :-1]
    with torch.no_grad():
        apart = model(plain, position_ids=positions).logits[:, 16:]
        alone = model(plain[:, 16:]).logits
        assert torch.equal(token_losses(model, ids), first)
    torch.testing.assert_close(apart, alone, rtol=1e-4, atol=1e-5)
