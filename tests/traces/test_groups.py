"""Class means against loops over pairs of items."""

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.traces import groups, influence, matrix, neighbours, top_k
from tests.tolerances import ALGEBRA
from tests.traces.samples import (
    EXCLUDED,
    NAMES,
    different,
    make,
    random_classes,
    random_traces,
    with_ids,
)


def pair_mean(full, members, g, h, kept):
    """Mean of full[k, l] over k in class g and l in class h by a loop over pairs."""
    k, l = np.flatnonzero(members[:, g]), np.flatnonzero(members[:, h])
    pairs = [(i, j) for i, j in itertools.product(k, l) if kept[i, j]]
    return np.mean([full[p] for p in pairs]) if pairs else np.nan, len(pairs)


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(EXCLUDED), st.booleans())
def test_groups_from_sums_are_those_of_the_matrix(seed, normalised, exclude, differences):
    traces, classes = with_ids(random_traces(seed), seed), random_classes(seed)
    found = groups(traces, classes, normalised=normalised, exclude=exclude, differences=differences)
    used = make(np.diff(traces, axis=2), traces.row) if differences else traces
    full = influence(used, normalised, errors=False)
    kept = different(traces, exclude)
    for t, g, h in itertools.product(range(2), range(3), range(3)):
        mean, n = pair_mean(full.values[t], classes.values, g, h, kept)
        assert found.values[t, g, h] == pytest.approx(mean, rel=1e-9, abs=ALGEBRA, nan_ok=True)
        assert found.pairs.values[g, h] == n


@given(st.integers(0, 10**6))
def test_order_of_tokens_and_chains_changes_nothing(seed):
    traces, classes = random_traces(seed), random_classes(seed)
    rng = np.random.default_rng(seed)
    items, chains = rng.permutation(9), rng.permutation(3)
    moved = groups(traces.isel(item=items, chain=chains), classes.isel(item=items))
    expected = groups(traces, classes)
    for name in ("standard_error", "chain_error", "row_error"):
        np.testing.assert_allclose(moved[name], expected[name], atol=1e-12)
    np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_blocks_do_not_matter(monkeypatch):
    traces, classes = random_traces(), random_classes()
    whole, full, best = groups(traces, classes), matrix(traces), top_k(traces, 3)
    monkeypatch.setattr("dlnflow.traces.columns.BLOCK", 4)
    monkeypatch.setattr("dlnflow.traces.pairs.BLOCK", 4)
    np.testing.assert_allclose(groups(traces, classes), whole, atol=1e-13)
    np.testing.assert_allclose(matrix(traces), full, atol=1e-13)
    assert (top_k(traces, 3).train == best.train).all()


def test_chain_error_is_the_spread_of_chains():
    traces, classes = random_traces(), random_classes()
    found = groups(traces, classes, normalised=False)
    single = [groups(traces.isel(chain=[c]), classes, normalised=False).values for c in range(3)]
    expected = np.std(single, axis=0, ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found.chain_error, expected, rtol=1e-9)


@pytest.mark.parametrize("exclude", EXCLUDED)
def test_row_error_is_a_jackknife(exclude):
    traces = with_ids(random_traces(shape=(2, 3, 12, 18)), 0)
    traces = traces.assign_coords(row=("item", np.arange(18) // 6))
    members = (
        np.random.default_rng(0).random((18, 3)) < np.where(np.arange(18) % 6 < 3, 1, 0.3)[:, None]
    )
    classes = xr.DataArray(members, dims=("item", "token_class"), coords={"token_class": NAMES})
    found = groups(traces, classes, exclude=exclude)
    keep = [np.flatnonzero(traces.row.values != r) for r in range(3)]
    without = [
        groups(traces.isel(item=i), classes.isel(item=i), exclude=exclude).values for i in keep
    ]
    deviation = without - np.mean(without, axis=0)
    expected = np.sqrt(2 / 3 * np.sum(deviation**2, axis=0))
    np.testing.assert_allclose(found.row_error, expected, rtol=1e-9, atol=1e-13)


def test_error_shrinks_with_chains_and_covers_the_truth():
    """Independent items: the mean correlation is 0 within its error, which falls as 1/sqrt."""
    rng = np.random.default_rng(3)
    classes = np.repeat([[1, 0], [0, 1]], 20, axis=0)
    errors = []
    for n_chains in (8, 32):
        traces = make(rng.standard_normal((1, n_chains, 200, 40)))
        found = groups(traces, classes)
        assert (abs(found.values) < 5 * found.standard_error.values).all()
        errors.append(float(found.standard_error.mean()))
    assert 0.3 < errors[1] / errors[0] < 0.8


def test_shared_fluctuation_has_its_known_correlation():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((1, 4, 3000, 1))
    traces = make(shared + rng.standard_normal((1, 4, 3000, 10)))
    found = groups(traces, np.ones((10, 1)))
    assert float(found.squeeze()) == pytest.approx(-0.5, abs=0.02)
    assert found.verdict.item() == "mixed"


def test_unknown_or_impossible_exclusions_are_refused():
    traces, classes = random_traces(), random_classes()
    with pytest.raises(ValueError, match="`exclude`"):
        groups(traces, classes, exclude="column")
    with pytest.raises(ValueError, match="vocabulary ids"):
        groups(traces, classes, exclude=("row", "token"))


def test_differences_remove_a_slow_drift():
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 20, 400)[:, None]
    traces = make((drift + rng.standard_normal((4, 400, 10)))[None])
    assert float(groups(traces, np.ones((10, 1))).squeeze()) < -0.9
    fast = groups(traces, np.ones((10, 1)), differences=True)
    assert abs(float(fast.squeeze())) < 0.02
    assert groups(traces, np.ones((10, 1))).verdict.item() == "not mixed"


def test_classes_of_sequences_drop_position_zero():
    traces = random_traces(shape=(1, 2, 8, 6))
    members = np.zeros((2, 4, 1), bool)
    members[:, 0] = True  # position 0 has no loss
    members[1, 2:] = True
    dims = ("sequence", "position", "token_class")
    classes = xr.DataArray(members, dims=dims, coords={"token_class": ["x"]})
    flat = np.array([0, 0, 0, 0, 1, 1])[:, None]
    np.testing.assert_allclose(groups(traces, classes), groups(traces, flat))


def test_diverged_chains_are_left_out():
    traces = random_traces()
    traces.values[0, 1, 5:] = np.nan
    traces.values[1, 1:] = np.nan
    found = groups(traces, random_classes())
    expected = groups(traces.isel(chain=[0, 2], time=[0]), random_classes())
    np.testing.assert_allclose(found.values[0], expected.values[0])
    assert found.verdict.values[1] == "diverged"
    assert np.isnan(found.values[1]).all()


def test_items_that_never_move_are_uncorrelated():
    traces = random_traces()
    traces.values[..., 4] = 2.0
    assert np.isfinite(groups(traces, random_classes())).all()
    assert (matrix(traces).isel(query=4) == 0).all()


def test_bad_groups():
    traces, classes = random_traces(), random_classes()
    with pytest.raises(ValueError, match="`classes` b have no tokens"):
        groups(traces, classes.where(classes.token_class != "b", False))
    with pytest.raises(ValueError, match="each of the 9 items"):
        groups(traces, classes.isel(item=slice(5)))
    with pytest.raises(ValueError, match="needs at least 4"):
        groups(traces.isel(draw=slice(3)), classes)
    with pytest.raises(ValueError, match="`exclude`"):
        groups(traces, classes, exclude="rows")


@pytest.mark.parametrize("normalised", [True, False])
def test_results_of_traces_say_what_they_are(normalised):
    """Units of the form, the traces' own objective and hashes; not the squared loss."""
    traces, classes = random_traces(), random_classes()
    traces.attrs |= {"units": "nats", "observed_sha256": "abc"}
    found = [
        f(traces, *arguments, normalised=normalised)
        for f, *arguments in ((influence,), (matrix,), (groups, classes), (top_k, 2))
    ]
    for one in found:
        assert ("Pearson" in one.attrs["units"]) == normalised
        assert one.attrs["objective"] == "(1/N) sum_i w_i l_i"
        assert one.attrs["loss_units"] == "nats" and one.attrs["observed_sha256"] == "abc"
    assert neighbours(traces, classes, k=2).attrs["observed_sha256"] == "abc"
