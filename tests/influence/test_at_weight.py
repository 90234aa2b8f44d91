"""Influence at another weight of the train item: at 0 the item is not trained on."""

import numpy as np
import pytest
import torch
from torch import nn

import dlnflow as dln
from dlnflow.influence import bif, leave_one_out, tangent
from tests.influence.small_runs import small_run

WEIGHTS = [0.0, 0.3, 1.5]


def torch_run(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    return dln.TorchRun(model, (x, y), learning_rate=0.1, n_steps=30, **options)


RUNS = {
    "descent": lambda: small_run(),
    "adam": lambda: small_run(optimizer="adam", n_steps=40),
    "flow": lambda: small_run(optimizer="flow"),
    "minibatches": lambda: dln.Run(small_run().task, learning_rate=0.1, n_steps=60, batch=2),
    "torch": lambda: torch_run(),
    "torch, momentum, minibatches": lambda: torch_run(optimizer="momentum", batch=3),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_tangent_is_the_slope_of_retraining_at_that_weight(name, weight):
    run = RUNS[name]()
    steps = [run.n_steps // 2, run.n_steps]
    train = [run.items[1], run.items[3]]
    got = tangent(run, steps, at_weight=weight, train=train)

    step = 1e-4
    points = np.array([0.0, 1, 2, 3, 4]) * step  # one-sided, since weights are not negative
    weights = np.ones((len(points) * 2, len(run.items)))
    weights[:5, 1] = weights[5:, 3] = weight + points
    losses = run.losses(steps, weights).reshape(2, 5, len(steps), -1)
    slope = np.tensordot(losses, [-25, 48, -36, 16, -3], axes=(1, 0)) / (12 * step)
    np.testing.assert_allclose(
        got.values, np.moveaxis(slope, 0, -1), rtol=1e-5, atol=1e-6 * np.abs(slope).max()
    )


def test_weight_one_is_the_default():
    run = small_run()
    for estimator in (tangent, leave_one_out):
        np.testing.assert_array_equal(estimator(run), estimator(run, at_weight=1))


def test_introducing_an_item_undoes_its_removal():
    run = small_run()
    np.testing.assert_allclose(
        leave_one_out(run, at_weight=0), leave_one_out(run, fraction=1.0), rtol=1e-12
    )


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_small_changes_of_weight_become_the_tangent(weight):
    run = small_run()
    exact = tangent(run, at_weight=weight)
    size = float(np.abs(exact).max())
    errors = [
        float(np.abs(leave_one_out(run, at_weight=weight, fraction=-f) - exact).max())
        for f in (1e-2, 1e-3)
    ]
    assert errors[1] < 0.02 * size
    assert 6 < errors[0] / errors[1] < 15  # of first order in the fraction


@pytest.mark.parametrize(("run", "draws"), [(small_run, 1500), (torch_run, 250)])
def test_bif_at_a_weight_is_the_change_of_expected_losses(run, draws):
    run = run()
    item, step, weight, change = 1, run.n_steps, 0.5, 0.2
    options = {"n_beta": 30.0, "localization": 20.0, "step_size": 0.0015, "kernel": "sgld"}
    options |= {"chains": 16, "draws": draws, "burn_in": 200, "thin": 3}
    weights = np.ones(len(run.items))
    weights[item] = weight
    means, errors = [], []
    for k, sign in enumerate((-1, 1)):
        posterior = weights.copy()
        posterior[item] += sign * change
        losses = run.traces(
            [step], weights=posterior, trained_weights=weights, seed=k + 1, **options
        ).isel(time=0)
        chain = losses.mean("draw")
        means.append(chain.mean("chain").values)
        errors.append(chain.std("chain", ddof=1).values / np.sqrt(chain.sizes["chain"]))
    slope = (means[1] - means[0]) / (2 * change)  # its third derivative is within the errors
    got = bif(run, [step], train=run.items[item], at_weight=weight, **options)
    got = got.isel(time=0, train=0)
    error = np.hypot(np.hypot(*errors) / (2 * change), got.standard_error)
    assert np.all(np.abs(slope - got) < 4 * error)
    assert float(np.abs(got / error).max()) > 4  # the test can tell 0 from the answer
    assert got.attrs["at_weight"] == weight


def test_bif_at_a_weight_is_that_of_the_weighted_posterior():
    run = small_run()
    options = {"chains": 2, "draws": 50, "burn_in": 20, "n_beta": 30.0, "localization": 5.0}
    both = bif(run, [5, 10], train=run.items[:2], at_weight=0.5, **options)
    for k in range(2):
        weights = np.ones(len(run.items))
        weights[k] = 0.5
        losses = run.traces([5, 10], weights=weights, trained_weights=weights, **options)
        one = dln.traces.influence(losses, train=[run.items[k]])
        np.testing.assert_array_equal(both.values[..., [k]], one.values)
        assert np.all(both.r_hat.values >= one.r_hat.values)


@pytest.mark.parametrize(
    ("estimator", "options", "words"),
    [
        (tangent, {"at_weight": -0.1}, "at_weight.*>= 0"),
        (bif, {"at_weight": np.nan}, "at_weight"),
        (leave_one_out, {"at_weight": 0.5, "fraction": 0.6}, "at most 0.5"),
        (leave_one_out, {"at_weight": 0.0, "fraction": 0.5}, "at most 0"),
        (tangent, {"at_weight": "1"}, "at_weight"),
    ],
)
def test_wrong_weights_are_refused(estimator, options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        estimator(small_run(), **options)
