"""Verdicts on chains whose mixing is known, and exclusion of chains that diverged."""

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats

from dlnflow.traces import diagnostics, influence, labelled, llc
from tests.traces.samples import autoregressive, traces


def _verdict(z):
    return str(diagnostics.summary(traces(5 + z[None])).verdict[0].values)


def test_verdicts_on_known_chains():
    independent = autoregressive(4, 1000, 3, 0.0)
    assert _verdict(independent) == "mixed"
    assert _verdict(autoregressive(2, 1000, 1, 0.9)) == "short"
    apart = independent.copy()
    apart[0] += 3
    assert _verdict(apart) == "not mixed"
    wider = independent.copy()
    wider[0] *= 4  # same mean: only the products can tell
    assert _verdict(wider) == "not mixed"
    assert _verdict(np.full_like(independent, np.nan)) == "diverged"


@pytest.mark.parametrize("chains", [slice(None), slice(1)])
def test_a_chain_that_never_moves_is_no_sample(chains):
    """MALA with too large a step rejects everything: constant losses, R-hat 1, error 0."""
    losses = autoregressive(4, 1000, 3, 0.0)
    losses[chains] = 0.25
    found = influence(traces(5 + losses[None]))
    assert found.verdict.item() == "not mixed" and found.ess.item() == 1
    assert np.isnan(found.standard_error).all()
    coefficient = llc(traces(5 + losses[None]))
    assert coefficient.verdict.item() == "not mixed" and np.isnan(coefficient.standard_error)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, -0.4])
def test_ess_is_that_of_arviz_and_of_theory(rho):
    z = autoregressive(4, 4000, 5, rho)
    found = diagnostics.effective_size(z)
    reference = array_stats.ess(z, chain_axis=0, draw_axis=1, method="mean")
    np.testing.assert_allclose(found, reference, rtol=1e-9)
    theory = 16000 * (1 - rho) / (1 + rho)
    np.testing.assert_allclose(found, theory, rtol=0.35)


@pytest.mark.parametrize("draws", [4, 5, 6, 7, 8, 9, 11, 30, 101])
@pytest.mark.parametrize("chains", [1, 2, 5])
def test_ess_of_short_chains_is_that_of_arviz(chains, draws):
    """Every way in which the initial sequences can end, the cut at the last lag included."""
    for rho in (-0.9, 0.0, 0.99):
        z = autoregressive(chains, draws, 40, rho, seed=draws) + np.linspace(0, 3, draws)[:, None]
        found = diagnostics.effective_size(z)
        reference = array_stats.ess(z, chain_axis=0, draw_axis=1, method="mean")
        np.testing.assert_allclose(found, reference, rtol=1e-9)


def test_r_hat_is_that_of_arviz_and_scale_free():
    z = autoregressive(4, 200, 3, 0.8)
    reference = array_stats.rhat(z, chain_axis=0, draw_axis=1, method="split")
    np.testing.assert_allclose(diagnostics.split_r_hat(z), reference, rtol=1e-9)
    np.testing.assert_allclose(diagnostics.split_r_hat(1e-9 * z), reference, rtol=1e-6)
    assert diagnostics.split_r_hat(np.full((4, 50, 2), 3.0)).tolist() == [1.0, 1.0]


def test_a_single_chain_is_compared_with_itself():
    z = autoregressive(1, 2000, 2, 0.0)
    assert diagnostics.split_r_hat(z).max() < 1.02
    z[:, 1000:] += 2
    assert diagnostics.split_r_hat(z).min() > 1.2


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e6])
def test_a_diverged_chain_is_left_out_counted_and_named(poison):
    """Peers mark such a chain complete, and the result is NaN or silently mixed."""
    losses = 5 + autoregressive(4, 500, 3, 0.0)[None].repeat(2, 0)
    losses[1, 2, 317:] = poison
    found = diagnostics.summary(traces(losses))
    assert found.n_diverged.values.tolist() == [0, 1]
    assert found.diverged_chains.values.tolist() == ["", "2"]
    assert found.verdict.values.tolist() == ["mixed", "mixed"]
    clean = diagnostics.summary(traces(np.delete(losses, 2, axis=1)))
    assert found.r_hat[1] == clean.r_hat[1] and found.ess[1] == clean.ess[1]


def test_one_survivor_of_several_is_not_enough():
    losses = 5 + autoregressive(3, 500, 2, 0.0)[None]
    losses[0, :2, -1] = np.nan
    found = diagnostics.summary(traces(losses))
    assert found.verdict.item() == "diverged" and found.diverged_chains.item() == "0 1"
    assert found.noise_floor.item() == np.inf


def test_loss_bound_grows_with_temperature_and_checkpoint():
    z = np.ones((1, 2, 10, 2))
    assert diagnostics.loss_bound(traces(z)) == pytest.approx(100 * (1 + 4 / 200))
    assert diagnostics.loss_bound(traces(z, n_beta=1.0)) == pytest.approx(300)
    assert diagnostics.diverged(traces(z * 150), bound=200.0).sum() == 0
    assert diagnostics.diverged(traces(z * 150), bound=148.0).sum() == 2


def test_negative_losses_are_not_divergence():
    """Minus the log of a density may be negative; only the excess counts."""
    z = autoregressive(4, 500, 2, 0.0)[None] - 50
    start = np.full((1, 2), -50.0)
    assert diagnostics.summary(traces(z, checkpoint_loss=start)).verdict.item() == "mixed"
    z[0, 1, 7] += 6000
    assert diagnostics.diverged(traces(z, checkpoint_loss=start)).values.tolist() == [
        [False, True, False, False]
    ]


def test_noise_floor_is_the_correlation_of_noise():
    """Correlations of independent items are about 1/sqrt(ESS), ESS that of the products."""
    z = autoregressive(4, 1000, 8, 0.5)
    d = (z - z.mean(1, keepdims=True)).reshape(-1, 8)
    r = np.corrcoef(d.T)[np.triu_indices(8, 1)]
    floor = float(diagnostics.summary(traces(5 + z[None])).noise_floor[0])
    assert 0.4 < np.sqrt(np.mean(r**2)) / floor < 1.3


def test_labelled_refuses_incomplete_descriptions():
    with pytest.raises(ValueError, match="n_train"):
        labelled(
            np.ones((1, 1, 4, 1)),
            time=[0],
            items=["a"],
            checkpoint_loss=[[1.0]],
            attrs={"n_beta": 1, "localization": 1, "n_parameters": 1},
        )
    with pytest.raises(ValueError, match="different names"):
        traces(np.ones((1, 1, 4, 2))).pipe(
            lambda t: labelled(
                t, time=[0], items=["a", "a"], checkpoint_loss=t.checkpoint_loss, attrs=t.attrs
            )
        )


def test_summary_is_a_dataset_on_the_time_axis():
    found = diagnostics.summary(traces(5 + autoregressive(4, 100, 2, 0.0)[None]))
    assert isinstance(found, xr.Dataset) and set(found.dims) == {"time"}
