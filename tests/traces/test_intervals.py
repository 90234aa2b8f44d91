"""Do 95 % intervals hold the exact value in 95 % of repeated samples of known covariance?"""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlnflow.traces import groups, influence, interval
from dlnflow.traces.groups import welch_satterthwaite
from dlnflow.traces.intervals import TWO_SIGMA, t_quantile
from tests.traces.samples import autoregressive, correlated, make, traces

MIX = np.array([[1, 0, 0, 0], [0.5, 0.8, 0, 0], [-0.4, 0.3, 0.8, 0], [0, 0, 0, 1]])
CAUSES = MIX @ MIX.T / np.sqrt(np.outer((MIX**2).sum(1), (MIX**2).sum(1)))
"""Correlations of what moves the losses of four classes."""
SHARE = 0.6
"""Loading of a loss on the cause of its class; the rest is noise of variance 1."""


def series(repeats, chains, draws, items, rho, seed):
    """AR(1) with variance 1, shape (repeats, chains, draws, items)."""
    flat = autoregressive(repeats * chains, draws, items, rho, seed)
    return flat.reshape(repeats, chains, draws, items)


def class_coverage(chains, *, rows, spread, normalised, repeats, seed=0, draws=150):
    """How often the intervals of class influence hold their expectation over chains and rows.

    loss = SHARE a_row cause(class) + noise, with a_row = 1 -+ spread by coin toss; one item of
    every class in a row, so that pairs of different rows have the expectation below. `rows` = 0:
    six fixed items of every class that do not say their row.
    """
    n_rows = rows or 6
    rng = np.random.default_rng(seed)
    cause = (
        series(repeats, chains, draws, 4, 0.3, seed) @ (MIX / np.sqrt((MIX**2).sum(1))[:, None]).T
    )
    scale = SHARE * (1 + spread * rng.choice([-1, 1], (repeats, 1, 1, n_rows, 1)))
    losses = (scale * cause[:, :, :, None]).reshape(repeats, chains, draws, -1)
    losses += series(repeats, chains, draws, 4 * n_rows, 0.3, seed + 1)
    row = np.repeat(np.arange(n_rows), 4)
    z = make(losses, row if rows else None)
    found = groups(
        z, np.tile(np.eye(4), (n_rows, 1)), normalised=normalised, exclude="row" if rows else "item"
    )
    loads = SHARE * np.array([1 - spread, 1 + spread])
    mean = np.mean(loads / np.sqrt(loads**2 + 1)) if normalised else np.mean(loads)
    exact = -(mean**2) * CAUSES * (1 if normalised else 30.0 / 10)
    return inside(found, exact)


def inside(found, exact, offset=0):
    """Share of the entries on and below a diagonal whose interval holds the exact value."""
    ends = interval(found)
    held = ((ends.lower <= exact) & (exact <= ends.upper)).values
    share = held[:, *np.tril_indices(held.shape[1], offset)].mean()
    print(f"\ncoverage {100 * share:.1f} %")
    return share


CASES = [(0, 0.0), (12, 0.0), (12, 0.15), (24, 0.5)]
"""Rows, and how much they differ: none, noise alone, both, rows above all."""


@pytest.mark.parametrize(("rows", "spread"), CASES)
@pytest.mark.parametrize("chains", [4, 8, 16])
def test_intervals_of_classes_cover(chains, rows, spread):
    options = {"normalised": True, "repeats": 120, "draws": 80}
    assert 0.93 <= class_coverage(chains, rows=rows, spread=spread, **options) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize(("rows", "spread"), CASES)
@pytest.mark.parametrize("chains", [2, 4, 8, 16])
def test_intervals_of_classes_cover_in_many_repeats(chains, rows, spread, normalised):
    """Two chains have one degree of freedom: less is asked of them."""
    shares = [
        class_coverage(
            chains, rows=rows, spread=spread, normalised=normalised, repeats=200, seed=10 * k
        )
        for k in range(3)
    ]
    low, high = (0.90, 0.98) if chains == 2 else (0.93, 0.97)
    assert low <= np.mean(shares) <= high


def item_coverage(chains, normalised, *, repeats, draws, rho):
    losses = correlated(repeats * chains, draws, rho)[0].reshape(repeats, chains, draws, 3)
    exact = correlated(1, 4, 0.0)[1]
    if normalised:
        sd = np.sqrt(np.diag(exact))
        exact = exact / np.outer(sd, sd)
    found = influence(traces(losses), normalised)
    return inside(found, -exact * (1 if normalised else 100.0 / 3), -1 if normalised else 0)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("chains", [2, 4, 8, 16])
def test_intervals_of_items_cover(chains, normalised):
    share = item_coverage(chains, normalised, repeats=200, draws=300, rho=0.3)
    assert 0.93 <= share <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("normalised", "draws", "rho"),
    [
        (False, 1000, 0.0),
        (False, 1000, 0.5),
        (True, 300, 0.5),
        (True, 1000, 0.8),
    ],
)
@pytest.mark.parametrize("chains", [2, 4, 8, 16])
def test_intervals_of_items_cover_in_many_repeats(chains, normalised, draws, rho):
    share = item_coverage(chains, normalised, repeats=1000, draws=draws, rho=rho)
    assert 0.93 <= share <= 0.97


def test_a_covariance_lacks_what_centring_a_chain_takes():
    """tau / draws of a covariance, tau = (1 + rho) / (1 - rho): no error bar holds that."""
    draws, rho = 100, 0.8
    losses = correlated(4000, draws, rho)[0][None]
    found, exact = influence(traces(losses), errors=False), correlated(1, 4, 0.0)[1]
    k = np.arange(1, draws)
    mean = (1 + 2 * np.sum((1 - k / draws) * rho**k)) / draws  # variance of a chain's mean
    expected = draws / (draws - 1) * (1 - mean)
    np.testing.assert_allclose(found[0] / (-exact * 100 / 3), expected, atol=0.02)
    assert 1 - expected == pytest.approx((9 - 1) / draws, rel=0.1)


@given(st.floats(0.5, 200), st.floats(0.01, 0.99))
def test_quantiles_are_those_of_students_t(dof, level):
    assert t_quantile(dof, level) == pytest.approx(stats.t.ppf((1 + level) / 2, dof), rel=1e-6)


def test_without_degrees_of_freedom_the_law_is_normal():
    assert t_quantile(np.inf, TWO_SIGMA) == pytest.approx(2)
    assert t_quantile(np.nan) == t_quantile(np.inf) == pytest.approx(1.959964)
    values = xr.DataArray(
        [1.0, 2.0], dims="time", coords={"standard_error": ("time", [1.0, np.nan])}
    )
    found = interval(values)
    np.testing.assert_allclose(found.lower, [1 - 1.959964, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found.upper, [1 + 1.959964, np.nan], rtol=1e-6)


def test_degrees_of_freedom():
    """Of chains alone, chains - 1; of equal parts, the sum; never below the smaller one."""
    one = np.array(1.0)
    assert welch_satterthwaite([(one, 3), (0 * one, 11)]) == 3
    assert welch_satterthwaite([(one, 3), (one, 3)]) == 6
    assert 3 <= welch_satterthwaite([(one, 3), (2 * one, 11)]) <= 14
    assert np.isnan(welch_satterthwaite([(np.array(np.nan), 0), (0 * one, 11)]))
    losses = series(1, 5, 60, 12, 0.3, 0)
    classes = np.tile(np.eye(4), (3, 1))
    assert np.all(groups(make(losses), classes).dof == 4)
    assert groups(make(losses[:, :1]), classes).dof.isnull().all()
    rows = groups(make(losses, np.repeat([0, 1, 2], 4)), classes, exclude="row")
    apart = rows.standard_error**2 - rows.chain_error**2
    assert np.all(apart >= -1e-15) and np.all(apart <= rows.row_error**2)
    assert np.all(rows.dof >= 2 - 1e-9) and np.all(rows.dof <= 6)


def test_chains_enter_with_their_own_correlation():
    """A correlation near 1 has a small error, which the spread of covariances would not show."""
    shared = series(1, 64, 200, 1, 0.0, 0)
    z = make(10 * shared + series(1, 64, 200, 6, 0.0, 1))
    found = groups(z, np.ones((6, 1)))
    exact = (1 - (100 / 101) ** 2) / np.sqrt(64 * 200)
    assert found.standard_error.item() == pytest.approx(exact, rel=0.6)
    single = [groups(z.isel(chain=[c]), np.ones((6, 1))).item() for c in range(64)]
    assert found.chain_error.item() == pytest.approx(np.std(single, ddof=1) / 8)


@pytest.mark.parametrize("level", [0, 1, 1.5, "a", np.nan])
def test_bad_levels(level):
    found = groups(make(series(1, 2, 20, 4, 0.0, 0)), np.ones((4, 1)))
    with pytest.raises(ValueError, match="`level`"):
        interval(found, level)


def test_what_has_no_errors_has_no_interval():
    found = influence(traces(correlated(2, 20, 0.0)[0][None]), errors=False)
    with pytest.raises(ValueError, match="errors=True"):
        interval(found)
    with pytest.raises(TypeError, match="DataArray"):
        interval(found.values)
