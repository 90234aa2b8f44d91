"""Any torch model: agreement with the toy program, fall-backs, restrictions, bad input."""

import numpy as np
import pytest
import torch
from torch import nn

import dlnflow as dln
from dlnflow import sampling
from dlnflow.sampling import Settings, linear_run, torch_module


class Linear(nn.Module):
    """The two-layer linear network as a module."""

    def __init__(self, w1, w2):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(w1))
        self.b = nn.Parameter(torch.tensor(w2))

    def forward(self, x):
        return x @ self.a.T @ self.b.T


def squared(call, batch):
    x, y = batch
    return 0.5 * (call(x) - y).square().sum(-1)


@pytest.fixture
def setup():
    rng = np.random.default_rng(0)
    task = dln.Task(rng.standard_normal((3, 4)), rng.standard_normal((2, 4)))
    w1, w2 = rng.standard_normal((5, 2)), rng.standard_normal((3, 5))
    return task, Linear(w1, w2).eval(), (torch.tensor(task.x.T), torch.tensor(task.y.T))


SETTINGS = Settings(50.0, 5.0, 1e-4, chains=3, draws=30, burn_in=5, seed=2, dtype="float64")


@pytest.mark.filterwarnings("ignore:`step_size`")  # the bias is the same on both sides
def test_model_chains_have_the_law_of_the_toy_program(setup):
    """Another order of parameters takes other noise, so compare means with their errors."""
    task, net, data = setup
    settings = Settings(50.0, 5.0, 4e-3, chains=64, draws=300, burn_in=200, dtype="float64")
    found = torch_module.sample(net, squared, data, settings=settings)
    w1, w2 = (p.detach().numpy()[None] for p in (net.a, net.b))
    other = linear_run.sample(w1, w2, task, time=[0], kernel="sgld", settings=settings)
    np.testing.assert_allclose(found.checkpoint_loss, other.checkpoint_loss, rtol=1e-12)
    a, b = (z.mean("draw").values[0] for z in (found, other))  # (chains, items)
    z = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0) + b.var(0)) / 63)
    assert np.abs(z).max() < 3.5
    assert found.attrs["vectorised"] == 1 and found.attrs["n_parameters"] == 25


@pytest.mark.parametrize("batch_size", [None, 2])
def test_vectorised_and_sequential_chains_are_the_same(setup, batch_size):
    _, net, data = setup
    options = {"settings": SETTINGS, "batch_size": batch_size}
    a = torch_module.sample(net, squared, data, vectorise=True, **options)
    b = torch_module.sample(net, squared, data, vectorise=False, **options)
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_models_that_vmap_refuses_run_one_by_one(setup):
    _, net, data = setup

    def stubborn(call, batch):
        losses = squared(call, batch)
        assert float(losses.detach().sum()) >= 0  # .item() is data-dependent: vmap refuses
        return losses

    a = torch_module.sample(net, stubborn, data, settings=SETTINGS)
    assert a.attrs["vectorised"] == 0
    np.testing.assert_allclose(
        a, torch_module.sample(net, squared, data, settings=SETTINGS), rtol=1e-9
    )


def test_the_model_is_left_as_it_was(setup):
    _, net, data = setup
    before = {k: v.clone() for k, v in net.state_dict().items()}
    torch_module.sample(net, squared, data, settings=SETTINGS, kernel="underdamped")
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_observed_items_and_their_names(setup):
    _, net, data = setup
    whole = torch_module.sample(net, squared, data, settings=SETTINGS)
    part = torch_module.sample(net, squared, data, [3, 1], settings=SETTINGS, items=["d", "b"])
    np.testing.assert_allclose(part.values, whole.values[..., [3, 1]], rtol=1e-12)
    assert part["item"].values.tolist() == ["d", "b"]
    new = tuple(t[:2] + 1 for t in data)
    unseen = torch_module.sample(net, squared, data, new, settings=SETTINGS, observe_at_once=1)
    assert unseen.sizes["item"] == 2 and unseen.attrs["n_train"] == 4


def test_observed_loss_may_be_finer_than_an_item(setup):
    _, net, data = setup

    def per_output(call, batch):
        return 0.5 * (call(batch[0]) - batch[1]).square()  # (n, 3)

    fine = torch_module.sample(net, squared, data, settings=SETTINGS, observed_loss=per_output)
    whole = torch_module.sample(net, squared, data, settings=SETTINGS)
    summed = fine.values.reshape(1, 3, 30, 4, 3).sum(-1)
    np.testing.assert_allclose(summed, whole, rtol=1e-9)


def test_only_named_parameters_move(setup):
    _, net, data = setup
    found = torch_module.sample(net, squared, data, settings=SETTINGS, parameters=["b"])
    assert found.attrs["n_parameters"] == 15
    with pytest.raises(ValueError, match="pattern 'c' matches none of a, b"):
        torch_module.sample(net, squared, data, settings=SETTINGS, parameters=["c"])


def test_checkpoints_have_their_own_streams(setup):
    _, net, data = setup
    states = {10: net.state_dict(), 20: {k: 0.5 * v for k, v in net.state_dict().items()}}
    both = torch_module.sample(net, squared, data, settings=SETTINGS, checkpoints=states)
    alone = torch_module.sample(net, squared, data, settings=SETTINGS, checkpoints={20: states[20]})
    np.testing.assert_array_equal(both.sel(time=[20]).values, alone.values)
    with pytest.raises(ValueError, match="lacks the parameter 'b'"):
        torch_module.sample(net, squared, data, settings=SETTINGS, checkpoints={1: {"a": net.a}})


def test_minibatches_sample_the_same_posterior(setup):
    """Small steps: the gradient noise of b of N items adds little to the variance."""
    _, net, data = setup
    settings = Settings(20.0, 5.0, 4e-4, chains=16, draws=200, burn_in=400)
    a, b = (
        torch_module.sample(net, squared, data, settings=settings, batch_size=size).mean().item()
        for size in (None, 2)
    )
    assert abs(a - b) < 0.15 * a


class Noisy(nn.Sequential):
    """A network with dropout."""

    def __init__(self):
        super().__init__(nn.Linear(2, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))


def test_dropout_in_training_mode_is_refused(setup):
    """Elsewhere losses are observed with dropout on, and its noise enters the covariance."""
    data = tuple(t.float() for t in setup[2])
    net = Noisy()
    with pytest.raises(ValueError, match=r"Call model.eval"):
        torch_module.sample(net, squared, data, settings=SETTINGS)
    net.eval()
    net[1].train()
    with pytest.raises(ValueError, match=r"training mode \(1\)"):
        torch_module.sample(net, squared, data, settings=SETTINGS)
    found = torch_module.sample(
        net.eval(), squared, data, settings=Settings(10.0, 5.0, 1e-4, chains=2, draws=5)
    )
    first = found.values[0, :, 0] - found.checkpoint_loss.values
    assert np.abs(first).max() < 0.5  # a step from the checkpoint, not a fresh dropout mask


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "`batch_size`"),
        ({"batch_size": 9}, "`batch_size`"),
        ({"batch_size": 2, "kernel": "mala"}, "full batch"),
        ({"observed": [4]}, "item 4 is not in the data"),
        ({"observed": [-1]}, "item -1 is not in the data"),
        ({"observed": []}, "`observed`"),
        ({"observed": (torch.ones(2, 2),)}, "`observed` must have 2"),
        ({"items": ["a"]}, "1 names for 4"),
        ({"items": ["a", "b", "a", "c"]}, "different names"),
        ({"observed": [0, 0, 1]}, "different items"),
        ({"observed": [True, False]}, "`observed` must be a tuple"),
        ({"observed": ["a"]}, "`observed` must be a tuple"),
        ({"batch_size": 2.5}, "`batch_size`"),
        ({"observe_at_once": 0}, "`observe_at_once`"),
        ({"parameters": []}, "`parameters` is empty"),
        ({"device": "cuda"}, "`device` is not an option"),
        ({"vectorize": True}, "Did you mean 'vectorise'"),
        ({"checkpoints": {}}, "`checkpoints` must map"),
        ({"checkpoints": [{}]}, "`checkpoints` must map"),
        ({"checkpoints": {-1: {}}}, "`checkpoints` must be a whole number"),
        ({"checkpoints": {"a": {}}}, "`checkpoints` must be a whole number"),
        ({"checkpoints": {1.2: {}, 1.7: {}}}, "`checkpoints` must be a whole number"),
        ({"checkpoints": {1: {"a": torch.ones(2), "b": torch.ones(2)}}}, "'a' .* has shape"),
        ({"data": torch.ones(3)}, "`data` must be a tuple"),
        ({"data": (torch.ones(3, 2), torch.ones(2, 3))}, "one length"),
    ],
)
def test_bad_input(setup, change, message):
    _, net, data = setup
    arguments = {"data": data, "settings": SETTINGS} | change
    with pytest.raises(ValueError, match=message):
        torch_module.sample(net, squared, **arguments)


@pytest.mark.parametrize(
    "change", [{"model": squared}, {"settings": {"n_beta": 1.0}}, {"observed_loss": 3}]
)
def test_bad_types(setup, change):
    _, net, data = setup
    arguments = {"model": net, "settings": SETTINGS} | change
    with pytest.raises(TypeError, match=next(iter(change))):
        torch_module.sample(arguments.pop("model"), squared, data, **arguments)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda call, batch: squared(call, batch).mean(), "one loss per item"),
        (lambda call, batch: squared(call, batch)[:3], "one loss per item"),
        (lambda call, batch: squared(call, batch).detach(), "do not depend on"),
        (lambda call, batch: (squared(call, batch) > 0).long(), "floating-point"),
        (lambda call, batch: 1.0, "floating-point tensor of losses, got float"),
        (lambda call, batch: squared(lambda x: nn.functional.dropout(call(x)), batch), "dropout"),
    ],
)
def test_losses_that_give_no_posterior_are_refused(setup, loss, message):
    """A mean looks like one item, a detached loss samples the prior; both chains mix."""
    _, net, data = setup
    with pytest.raises(ValueError, match=f"`batch_loss`.*{message}|losses of `batch_loss`"):
        torch_module.sample(net, loss, data, settings=SETTINGS)
    if message not in ("do not depend on",):  # what is only observed needs no gradient
        with pytest.raises(ValueError, match=f"`observed_loss`.*{message}"):
            torch_module.sample(net, squared, data, settings=SETTINGS, observed_loss=loss)


def test_frozen_parameters_stay(setup):
    _, net, data = setup
    net.a.requires_grad_(False)
    found = torch_module.sample(net, squared, data, settings=SETTINGS)
    assert found.attrs["n_parameters"] == 15
    with pytest.raises(ValueError, match="pattern 'a' matches none of b"):
        torch_module.sample(net, squared, data, settings=SETTINGS, parameters=["a"])


def test_default_names_are_positions_in_the_data(setup):
    _, net, data = setup
    found = torch_module.sample(net, squared, data, [3, 1], settings=SETTINGS)
    assert found["item"].values.tolist() == ["3", "1"]
    fine = torch_module.sample(
        net,
        squared,
        data,
        [3, 1],
        settings=SETTINGS,
        observed_loss=lambda call, batch: (call(batch[0]) - batch[1]).square(),
    )
    assert fine["item"].values.tolist() == ["3.0", "3.1", "3.2", "1.0", "1.1", "1.2"]


def test_checkpoints_may_come_in_any_order(setup):
    _, net, data = setup
    states = {20: net.state_dict(), 10: {k: 0.5 * v for k, v in net.state_dict().items()}}
    found = torch_module.sample(net, squared, data, settings=SETTINGS, checkpoints=states)
    assert found.time.values.tolist() == [10, 20]
    alone = torch_module.sample(net, squared, data, settings=SETTINGS, checkpoints={10: states[10]})
    np.testing.assert_array_equal(found.sel(time=[10]), alone)


def test_checkpoints_that_are_not_finite_are_refused(setup):
    _, net, data = setup
    broken = {k: v * torch.nan for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match="checkpoint 3 are not finite"):
        torch_module.sample(net, squared, data, settings=SETTINGS, checkpoints={3: broken})


def test_acceptance_and_relative_step_are_reported(setup):
    _, net, data = setup
    states = {3: net.state_dict(), 5: net.state_dict()}
    options = {"settings": SETTINGS, "checkpoints": states}
    rates = torch_module.sample(net, squared, data, kernel="mala", **options).acceptance
    assert rates.dims == ("time", "chain") and ((0 < rates) & (rates <= 1)).all()
    whole = torch_module.sample(net, squared, data, **options)
    assert whole.relative_step.shape == (2, 3) and (whole.relative_step > 0).all()
    part = torch_module.sample(net, squared, data, batch_size=2, **options)
    assert "relative_step" not in part.coords  # gradients are noisy


def test_one_name_for_everything():
    assert sampling.sample is torch_module.sample
