"""The closed-form Bayesian influence against dense Gaussian formulas and against samples."""

import warnings

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.dynamics.curvature.networks import Networks
from tests.influence.dense import RUNS, STEPS, Dense, relative
from tests.tolerances import ALGEBRA

laplace_bif = dln.influence.laplace_bif


def _quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return laplace_bif(*arguments, **options)


def _covariance(dense, theta, n_beta, localization, order):
    """g^T C g + 1/2 tr (H_i C H_q C) over all parameters."""
    g, h = dense.gradients(theta), dense.item_hessians(theta)
    c = np.linalg.inv(n_beta * h.mean(0) + localization * np.eye(len(theta)))
    bent = h @ c
    return g @ c @ g.T + (order - 1) * 0.5 * np.einsum("iab,qba->iq", bent, bent)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", RUNS)
def test_equals_the_dense_gaussian_at_the_mode(name, order):
    run, n_beta, localization = RUNS[name], 30.0, 20.0
    found = _quiet(run, STEPS, n_beta=n_beta, localization=localization, order=order).values
    dense, trajectory = Dense(run), run.train(STEPS)
    for time in range(len(STEPS)):
        theta, _ = dense.proximal(dense.at(trajectory, time), localization / n_beta)
        covariance = _covariance(dense, theta, n_beta, localization, order)
        expected = -n_beta / run.task.n_items * covariance
        assert relative(found[time], expected) <= 1e-8


def test_equals_sampled_covariance_of_quadratic_losses():
    """Draws from the Gaussian itself, losses expanded to second order at the mode."""
    run, n_beta, localization = RUNS["wide"], 20.0, 60.0
    found = _quiet(run, [60], n_beta=n_beta, localization=localization).values[0]
    dense, rng = Dense(run), np.random.default_rng(0)
    theta, _ = dense.proximal(dense.at(run.train([60]), 0), localization / n_beta)
    g, h = dense.gradients(theta), dense.item_hessians(theta)
    c = np.linalg.inv(n_beta * h.mean(0) + localization * np.eye(len(theta)))
    u = np.linalg.cholesky(c) @ rng.standard_normal((len(theta), 40_000))
    losses = g @ u + 0.5 * np.einsum("ps,ips->is", u, h @ u)
    losses -= losses.mean(1, keepdims=True)
    products = -n_beta / run.task.n_items * losses[:, None] * losses
    z = (products.mean(-1) - found) / (products.std(-1) / np.sqrt(products.shape[-1]))
    assert np.abs(z).max() < 4


def test_first_order_leaves_out_fluctuations_of_fitted_items():
    run = dln.Run(RUNS["wide"].task, hidden=12, init_std=0.2)
    one, two = (
        laplace_bif(run, [run.n_steps], localization=1e4, order=order).values[0] for order in (1, 2)
    )
    assert np.all(np.diag(two) < 2 * np.diag(one))


def test_normalised_is_minus_a_correlation():
    run = RUNS["more items than inputs"]
    options = {"n_beta": 50.0, "localization": 40.0}
    plain, scaled = (_quiet(run, STEPS, normalised=n, **options) for n in (False, True))
    spread = np.sqrt(-np.einsum("tii->ti", plain.values))
    expected = plain.values / (spread[:, :, None] * spread[:, None, :])
    assert relative(scaled.values, expected) <= ALGEBRA
    assert np.allclose(np.einsum("tii->ti", scaled.values), -1.0)
    assert np.abs(scaled).max() <= 1 + ALGEBRA
    assert scaled.attrs["units"] != plain.attrs["units"]
    part = _quiet(run, STEPS, normalised=True, query="item3", train=["item5", "item0"], **options)
    chosen = scaled.sel(query=["item3"], train=["item5", "item0"])
    assert relative(part.values, chosen.values) <= ALGEBRA


def test_losses_that_never_move_correlate_with_nothing():
    """To first order an exactly fitted item has no gradient."""
    from dlnflow.influence.laplace_bif import _correlation

    values = -np.array([[4.0, 0.0], [0.0, 0.0]])
    assert _correlation(values).tolist() == [[-1.0, 0.0], [0.0, 0.0]]


def test_sweeps_become_leading_dims_in_the_order_of_the_contract():
    run = RUNS["wide"]
    betas, pulls = [40.0, 400.0], [30.0, 300.0, 3e3]
    both = _quiet(run, STEPS, n_beta=betas, localization=pulls)
    assert both.dims == ("beta", "localization", "time", "query", "train")
    assert both.smallest_eigenvalue.dims == ("beta", "localization", "time")
    one = _quiet(run, STEPS, n_beta=400.0, localization=300.0)
    chosen = both.sel(beta=400.0, localization=300.0)
    assert relative(chosen.values, one.values) <= ALGEBRA
    assert one.attrs["n_beta"] == 400.0 and one.attrs["localization"] == 300.0
    strength = both.localization / both.beta
    assert bool((both.smallest_eigenvalue + strength > 0).all())
    only = laplace_bif(run, STEPS, n_beta=betas)
    assert only.dims[0] == "beta" and only.localization.dims == ("beta",)
    assert float(only.localization[1] / only.localization[0]) == pytest.approx(10.0)


def test_defaults_hold_every_checkpoint_and_warn_of_nothing(paper_run, tmp_path):
    steps = np.linspace(0, paper_run.n_steps, 9).astype(int)
    found = laplace_bif(paper_run, steps)
    strength = found.attrs["localization"] / found.attrs["n_beta"]
    assert strength == pytest.approx(-2 * float(found.checkpoint_eigenvalue.min()))
    assert dln.load(dln.save(found, tmp_path / "bif.nc")).identical(found)


def test_posterior_that_left_a_saddle_is_reported_once():
    run, n_beta = RUNS["wide"], 1e3
    held = laplace_bif(run, STEPS, n_beta=n_beta)
    between = -n_beta * float(held.checkpoint_eigenvalue[1:].mean())
    with pytest.warns(UserWarning, match=r"of 2 of 3 checkpoints .* larger `localization`") as got:
        laplace_bif(run, STEPS, n_beta=n_beta, localization=[between, 1e5])
    assert len(got) == 1 and got[0].filename == __file__


def test_perfect_checkpoints_set_no_scale():
    from dlnflow.dynamics.curvature.two_layers import TwoLayerCurvature
    from dlnflow.influence.laplace_bif import _sweep

    w1 = np.eye(2)[None]
    fitted = Networks(w1, w1, np.eye(2), np.eye(2), 0, False)
    with pytest.raises(ValueError, match=r"fits the task perfectly.*give `localization`"):
        _sweep(TwoLayerCurvature(fitted), 1e4, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_beta": 0.0}, "`n_beta` must be > 0"),
        ({"n_beta": [1.0, -1.0]}, "`n_beta` must be > 0, got -1"),
        ({"localization": -3.0}, "`localization` must be > 0"),
        ({"localization": []}, "`localization` must be a number or a list"),
        ({"localization": [2.0, 2.0]}, "`localization` must list different numbers"),
        ({"order": 3}, "`order` must be 1 or 2, got 3"),
        ({"order": True}, "`order` must be 1 or 2, got True"),
        ({"train": ["item0", "item0"]}, "none twice"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        laplace_bif(RUNS["wide"], [0], **options)
