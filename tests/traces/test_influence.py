"""Item influence against exact covariances: sign, scale, error bars; traps of other packages."""

import numpy as np
import pytest

from dlnflow.traces import (
    ess,
    ess_products,
    groups,
    influence,
    llc,
    matrix,
    r_hat,
    r_hat_products,
    summary,
)
from tests.tolerances import ALGEBRA
from tests.traces.samples import correlated, traces


def test_bif_is_minus_beta_covariance_per_chain_then_pooled():
    losses, _ = correlated(3, 50, 0.5)
    losses[1] += 7.0  # offsets between chains do not enter
    found = influence(traces(losses[None], n_beta=600.0))
    expected = -600.0 / 3 * np.mean([np.cov(chain.T) for chain in losses], axis=0)
    np.testing.assert_allclose(found.values[0], expected, rtol=ALGEBRA)
    assert found.dims == ("time", "query", "train") and found.attrs["estimator"] == "bif"


def test_normalised_is_minus_the_pearson_correlation():
    losses, _ = correlated(1, 200, 0.5)
    found = influence(traces(losses[None]), True)
    np.testing.assert_allclose(found.values[0], -np.corrcoef(losses[0].T), rtol=ALGEBRA)
    assert "Pearson" in found.attrs["units"]


def test_losses_that_hardly_move_keep_their_digits():
    losses, _ = correlated(4, 100, 0.0)
    small = 1.0 + 1e-9 * (losses - 5)
    a, b = (influence(traces(z[None]), True).values for z in (losses, small))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_items_that_never_move_have_no_influence():
    losses, _ = correlated(4, 100, 0.0)
    losses[:, :, 1] = 2.0
    found = influence(traces(losses[None]), True)
    assert np.all(found.values[0, 1] == 0) and np.all(np.isfinite(found.standard_error))


def test_query_and_train_are_selections():
    losses, _ = correlated(4, 100, 0.0)
    whole = influence(traces(losses[None]))
    part = influence(traces(losses[None]), query=["i2"], train=["i0", "i2"])
    np.testing.assert_allclose(part, whole.sel(query=["i2"], train=["i0", "i2"]), rtol=ALGEBRA)
    np.testing.assert_allclose(
        part.standard_error, whole.standard_error.sel(query=["i2"], train=["i0", "i2"]), rtol=1e-9
    )
    with pytest.raises(ValueError, match="`train` names 'i3', which was not observed"):
        influence(traces(losses[None]), train=["i3"])


def test_observable_changes_the_query_side():
    losses, _ = correlated(4, 100, 0.0)
    found = influence(traces(losses[None]), observable=lambda z: -2 * z).values
    np.testing.assert_allclose(found, -2 * influence(traces(losses[None])).values, rtol=1e-9)


@pytest.mark.parametrize("normalised", [False, True])
def test_standard_errors_are_the_spread_over_repetitions(normalised):
    repeats = [correlated(4, 400, 0.6, seed)[0] for seed in range(60)]
    found = influence(traces(np.stack(repeats)), normalised)
    spread = found.values.std(0)
    told = found.standard_error.values.mean(0)
    off = ~np.eye(3, dtype=bool) if normalised else np.ones((3, 3), bool)
    np.testing.assert_allclose(told[off], spread[off], rtol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [False, True])
def test_95_percent_intervals_cover(normalised):
    """200 repetitions of autocorrelated Gaussian losses with known covariance."""
    draws = [correlated(4, 1000, 0.8, seed) for seed in range(200)]
    exact = draws[0][1]
    if normalised:
        sd = np.sqrt(np.diag(exact))
        exact = exact / np.outer(sd, sd)
    else:
        exact = exact * 100.0 / 3
    found = influence(traces(np.stack([d[0] for d in draws])), normalised)
    inside = np.abs(found.values + exact) <= 1.96 * found.standard_error.values
    rows, columns = np.tril_indices(3, -1 if normalised else 0)
    coverage = inside[:, rows, columns].mean()
    print(f"\ncoverage {100 * coverage:.1f} %")
    assert 0.90 <= coverage <= 0.98


def test_badly_mixed_chains_are_named_although_their_correlations_are_large():
    """Elsewhere these give the largest correlations, and nothing says that they are noise."""
    slow, _ = correlated(2, 50, 0.98)
    found = influence(traces(slow[None]), True)
    assert found.verdict.item() != "mixed"
    assert found.noise_floor.item() > 0.3


def test_a_diverged_chain_does_not_poison_the_result():
    losses, _ = correlated(4, 300, 0.0)
    broken = losses.copy()
    broken[3, 100:] = np.nan
    found = influence(traces(broken[None]))
    np.testing.assert_allclose(found, influence(traces(losses[None, :3])), rtol=ALGEBRA)
    assert found.diverged_chains.item() == "3"


def test_companions_agree_with_the_coordinates():
    losses, _ = correlated(4, 300, 0.5)
    z = traces(losses[None])
    found = influence(z)
    assert summary(z).verdict.item() == found.verdict.item()
    assert float(found.r_hat.item()) >= float(r_hat(z).max())
    assert float(found.ess.item()) <= float(ess(z).min())
    assert r_hat_products(z).dims == ess_products(z).dims == ("time", "query", "train")
    np.testing.assert_allclose(
        found.standard_error[0, 0, 1],
        np.std(
            (losses - losses.mean(1, keepdims=True))[..., 0]
            * (losses - losses.mean(1, keepdims=True))[..., 1],
            ddof=1,
        )
        / np.sqrt(ess_products(z)[0, 0, 1])
        * 100
        / 3,
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda z: z.values, TypeError, "DataArray"),
        (lambda z: z.isel(time=0), ValueError, "expand_dims"),
        (lambda z: z.assign_attrs(n_beta=1.0).drop_attrs(), ValueError, "n_beta"),
        (lambda z: z.drop_vars("checkpoint_loss"), ValueError, "checkpoint_loss"),
        (lambda z: z.assign_attrs(n_beta=-3.0), ValueError, "`n_beta`"),
        (lambda z: z.assign_attrs(n_beta="a"), ValueError, "`n_beta`"),
        (lambda z: z.assign_attrs(n_train=0), ValueError, "`n_train`"),
        (lambda z: z.isel(draw=slice(0)), ValueError, "0 draws"),
        (lambda z: z.isel(draw=slice(1)), ValueError, "1 draws"),
        (lambda z: z.isel(draw=slice(3)), ValueError, "3 draws"),
    ],
)
def test_bad_traces(change, error, message):
    with pytest.raises(error, match=message):
        influence(change(traces(correlated(2, 10, 0.0)[0][None])))


@pytest.mark.parametrize(
    "function",
    [influence, summary, r_hat, ess_products, groups, matrix, llc],
)
def test_the_order_of_dims_does_not_matter(function):
    losses = np.stack([correlated(3, 60, 0.3, seed)[0] for seed in range(3)])  # T = C = K = 3
    losses[1, 2, 5] = np.nan
    z = traces(losses)
    arguments = (np.eye(3, dtype=bool),) if function is groups else ()
    expected = function(z, *arguments)
    found = function(z.transpose("item", "draw", "chain", "time"), *arguments)
    assert found.identical(expected)


@pytest.mark.parametrize("names", [[], [0], 0, ["i0", 1], "i9"])
def test_bad_names(names):
    z = traces(correlated(2, 10, 0.0)[0][None])
    for function in (influence, matrix):
        with pytest.raises(ValueError, match="`query`"):
            function(z, query=names)
    assert matrix(z, query="i1").sizes["query"] == 1


@pytest.mark.parametrize(
    ("observable", "message"),
    [
        (lambda z: z * np.nan, "`observable` must be finite"),
        (lambda z: z[0], "`observable` must keep the shape"),
        (lambda z: z[..., None], "`observable` must keep the shape"),
        (lambda z: "a", "`observable` must be numeric"),
    ],
)
def test_bad_observables(observable, message):
    with pytest.raises(ValueError, match=message):
        influence(traces(correlated(2, 10, 0.0)[0][None]), observable=observable)


@pytest.mark.parametrize("name", ["normalised", "errors"])
def test_flags_are_true_or_false(name):
    losses, _ = correlated(2, 50, 0.5)
    with pytest.raises(ValueError, match=f"`{name}` must be True or False"):
        influence(traces(losses[None]), **{name: "no"})
