"""What does not fit the memory is refused with the number that does, and the rest is split."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import dlnflow as dln
from dlnflow.dynamics import torch_memory

N = 700
GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(N, 3)), GENERATOR.normal(size=(N, 2))


def run(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 2)).double()
    return dln.TorchRun(model, (X, Y), **{"learning_rate": 0.1, "n_steps": 3} | options)


def number_that_fits(message):
    return int(re.search(r"about ([\d,]+) fit", message)[1].replace(",", ""))


@pytest.mark.parametrize("memory", [10**5, 3 * 10**5, 8 * 10**5])
def test_the_number_of_items_that_fits_does_fit(monkeypatch, memory):
    monkeypatch.setattr(torch_memory, "of_device", lambda device: memory)
    with pytest.raises(
        ValueError, match=r"`data` has too many items .* 700 need .* `batch`"
    ) as why:
        run()
    fits = number_that_fits(str(why.value))
    assert 1 <= fits < N
    run(batch=fits)
    with pytest.raises(ValueError, match="too many items"):
        run(batch=fits + 1)


def test_a_model_of_which_no_item_fits_is_refused(monkeypatch):
    monkeypatch.setattr(torch_memory, "of_device", lambda device: 1000)
    with pytest.raises(ValueError, match=r"`model` has 302 parameters.*of a single item"):
        run()


def test_nothing_is_refused_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr(torch_memory, "of_device", lambda device: None)
    assert run().problem.n_parameters == 302


def test_the_memory_of_this_machine_is_known():
    assert torch_memory.of_device(torch.device("cpu")) > 2**28


def test_gradients_that_do_not_fit_are_refused_where_they_are_asked_for(monkeypatch):
    big = run(optimizer="adam")
    monkeypatch.setattr(torch_memory, "of_device", lambda device: 2 * 302 * 8 * 40)
    with pytest.raises(ValueError, match=r"gradients of 41 items by 302 .* 40 items fit.*`train`"):
        big.problem.train_gradients(big.problem.initial, np.arange(41))
    with pytest.raises(ValueError, match=r"41 items .* `query`"):
        big.problem.query_gradients(big.problem.initial, np.arange(41))
    assert len(big.problem.train_gradients(big.problem.initial, np.arange(40))[0]) == 40


@pytest.mark.parametrize("options", [{}, {"batch": 8}, {"optimizer": "adam", "batch": 8}])
def test_portions_of_items_change_no_number(monkeypatch, options):
    names = ["item3", "item500"]
    calls = [
        lambda r: dln.influence.tangent(r, [2], train=names),
        lambda r: dln.influence.tracin(r, [2], query=names),
        lambda r: r.losses([1, 3], np.ones((2, N))),
    ]
    whole = [np.asarray(call(run(**options))) for call in calls]
    monkeypatch.setattr(torch_memory, "MAX_NUMBERS", 150 * 20)
    parts = run(**options)
    assert len(parts.problem.portions(parts.data)) > 5
    for call, expected in zip(calls, whole, strict=True):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(call(parts)), expected, rtol=0, atol=1e-13 * scale)


def test_a_loss_that_is_not_finite_is_found_in_every_portion(monkeypatch):
    monkeypatch.setattr(torch_memory, "MAX_NUMBERS", 150 * 20)
    bad = Y.copy()
    bad[-1] = 1e200
    model = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 2)).double()
    with pytest.raises(ValueError, match="finite"):
        dln.TorchRun(model, (X, bad), learning_rate=0.1, n_steps=3)
