"""BIF against exact covariances: sign, scale, error bars, coverage; and traps of other packages."""

import subprocess
import sys

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.influence.bif import bif
from dlnflow.sampling import llc
from tests.tolerances import ALGEBRA
from tests.traces.test_diagnostics import autoregressive, traces


def _correlated(chains, draws, rho, seed=0, items=3):
    """AR(1) losses with a known covariance between items."""
    mix = np.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [-0.3, 0.2, 0.5]])[:items, :items]
    z = autoregressive(chains, draws, items, rho, seed)
    return 5 + z @ mix.T, mix @ mix.T


def test_bif_is_minus_beta_covariance_per_chain_then_pooled():
    losses, _ = _correlated(3, 50, 0.5)
    losses[1] += 7.0  # offsets between chains do not enter
    found = bif.from_traces(traces(losses[None], n_beta=600.0))
    expected = -600.0 / 3 * np.mean([np.cov(chain.T) for chain in losses], axis=0)
    np.testing.assert_allclose(found.values[0], expected, rtol=ALGEBRA)
    assert found.dims == ("time", "query", "train") and found.attrs["estimator"] == "bif"


def test_normalised_is_minus_the_pearson_correlation():
    losses, _ = _correlated(1, 200, 0.5)
    found = bif.from_traces(traces(losses[None]), True)
    np.testing.assert_allclose(found.values[0], -np.corrcoef(losses[0].T), rtol=ALGEBRA)
    assert "Pearson" in found.attrs["units"]


def test_losses_that_hardly_move_keep_their_digits():
    losses, _ = _correlated(4, 100, 0.0)
    small = 1.0 + 1e-9 * (losses - 5)
    a, b = (bif.from_traces(traces(z[None]), True).values for z in (losses, small))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_items_that_never_move_have_no_influence():
    losses, _ = _correlated(4, 100, 0.0)
    losses[:, :, 1] = 2.0
    found = bif.from_traces(traces(losses[None]), True)
    assert np.all(found.values[0, 1] == 0) and np.all(np.isfinite(found.standard_error))


def test_query_and_train_are_selections():
    losses, _ = _correlated(4, 100, 0.0)
    whole = bif.from_traces(traces(losses[None]))
    part = bif.from_traces(traces(losses[None]), query=["i2"], train=["i0", "i2"])
    np.testing.assert_allclose(part, whole.sel(query=["i2"], train=["i0", "i2"]), rtol=ALGEBRA)
    np.testing.assert_allclose(
        part.standard_error, whole.standard_error.sel(query=["i2"], train=["i0", "i2"]), rtol=1e-9
    )
    with pytest.raises(ValueError, match="`train` names 'i3', which was not observed"):
        bif.from_traces(traces(losses[None]), train=["i3"])


def test_observable_changes_the_query_side():
    losses, _ = _correlated(4, 100, 0.0)
    found = bif.from_traces(traces(losses[None]), observable=lambda z: -2 * z).values
    np.testing.assert_allclose(found, -2 * bif.from_traces(traces(losses[None])).values, rtol=1e-9)


@pytest.mark.parametrize("normalised", [False, True])
def test_standard_errors_are_the_spread_over_repetitions(normalised):
    repeats = [_correlated(4, 400, 0.6, seed)[0] for seed in range(60)]
    found = bif.from_traces(traces(np.stack(repeats)), normalised)
    spread = found.values.std(0)
    told = found.standard_error.values.mean(0)
    off = ~np.eye(3, dtype=bool) if normalised else np.ones((3, 3), bool)
    np.testing.assert_allclose(told[off], spread[off], rtol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [False, True])
def test_95_percent_intervals_cover(normalised):
    """200 repetitions of autocorrelated Gaussian losses with known covariance."""
    draws = [_correlated(4, 1000, 0.8, seed) for seed in range(200)]
    exact = draws[0][1]
    if normalised:
        sd = np.sqrt(np.diag(exact))
        exact = exact / np.outer(sd, sd)
    else:
        exact = exact * 100.0 / 3
    found = bif.from_traces(traces(np.stack([d[0] for d in draws])), normalised)
    inside = np.abs(found.values + exact) <= 1.96 * found.standard_error.values
    rows, columns = np.tril_indices(3, -1 if normalised else 0)
    coverage = inside[:, rows, columns].mean()
    print(f"\ncoverage {100 * coverage:.1f} %")
    assert 0.90 <= coverage <= 0.98


def test_badly_mixed_chains_are_named_although_their_correlations_are_large():
    """Elsewhere these give the largest correlations, and nothing says that they are noise."""
    slow, _ = _correlated(2, 50, 0.98)
    found = bif.from_traces(traces(slow[None]), True)
    assert found.verdict.item() != "mixed"
    assert found.noise_floor.item() > 0.3


def test_a_diverged_chain_does_not_poison_the_result():
    losses, _ = _correlated(4, 300, 0.0)
    broken = losses.copy()
    broken[3, 100:] = np.nan
    found = bif.from_traces(traces(broken[None]))
    np.testing.assert_allclose(found, bif.from_traces(traces(losses[None, :3])), rtol=ALGEBRA)
    assert found.diverged_chains.item() == "3"


def test_companions_agree_with_the_coordinates():
    losses, _ = _correlated(4, 300, 0.5)
    z = traces(losses[None])
    found = bif.from_traces(z)
    np.testing.assert_array_equal(bif.standard_error(z), found.standard_error)
    assert bif.verdict(z).verdict.item() == found.verdict.item()
    assert float(found.r_hat.item()) >= float(bif.rhat(z).max())
    assert float(found.ess.item()) <= float(bif.ess(z).min())
    assert bif.rhat_products(z).dims == bif.ess_products(z).dims == ("time", "query", "train")
    np.testing.assert_allclose(
        found.standard_error[0, 0, 1],
        np.std((losses - losses.mean(1, keepdims=True))[..., 0]
               * (losses - losses.mean(1, keepdims=True))[..., 1], ddof=1)
        / np.sqrt(bif.ess_products(z)[0, 0, 1]) * 100 / 3,
        rtol=1e-6,
    )  # fmt: skip


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
        bif.from_traces(change(traces(_correlated(2, 10, 0.0)[0][None])))


@pytest.mark.parametrize(
    "function",
    [bif.from_traces, bif.verdict, bif.rhat, bif.ess_products, bif.groups, bif.matrix, llc],
)
def test_the_order_of_dims_does_not_matter(function):
    losses = np.stack([_correlated(3, 60, 0.3, seed)[0] for seed in range(3)])  # T = C = K = 3
    losses[1, 2, 5] = np.nan
    z = traces(losses)
    arguments = (np.eye(3, dtype=bool),) if function is bif.groups else ()
    expected = function(z, *arguments)
    found = function(z.transpose("item", "draw", "chain", "time"), *arguments)
    assert found.identical(expected)


@pytest.mark.parametrize("names", [[], [0], 0, ["i0", 1], "i9"])
def test_bad_names(names):
    z = traces(_correlated(2, 10, 0.0)[0][None])
    for function in (bif.from_traces, bif.matrix):
        with pytest.raises(ValueError, match="`query`"):
            function(z, query=names)
    assert bif.matrix(z, query="i1").sizes["query"] == 1


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
        bif.from_traces(traces(_correlated(2, 10, 0.0)[0][None]), observable=observable)


def test_covariance_identity_of_the_posterior():
    """d E[l_q] / d w_i = BIF: difference two posteriors with common random numbers."""
    run = dln.Run(dln.semantic_hierarchy(3), hidden=4, init_std=0.3)
    step = [run.n_steps // 4]
    from dlnflow import sampling

    options = sampling.suggest(run, n_beta=50.0) | {
        "kernel": "underdamped", "chains": 200, "draws": 400, "dtype": "float64",
    }  # fmt: skip
    inf = bif(run, step, **options)
    eps = 0.05

    def mean(sign):
        w = [1 + sign * eps, 1, 1, 1]
        z = sampling.trace_run(run, step, weights=w, **options)
        return z.mean(("chain", "draw")).values[0]

    difference = (mean(1) - mean(-1)) / (2 * eps)
    error = inf.standard_error.values[0, :, 0]
    assert np.all(np.abs(difference - inf.values[0, :, 0]) < 4 * error + 0.02 * np.abs(difference))
    assert inf.values[0, 0, 0] < 0


def test_bif_has_the_contract_of_every_estimator(tmp_path):
    run = dln.Run(dln.semantic_hierarchy(3), hidden=8, init_std=0.05)
    found = bif(run, [0, 100], draws=100, query=["cat"], train="dog") if "cat" in run.task.items \
        else bif(run, [0, 100], draws=100)  # fmt: skip
    dln.check(found)
    loo = dln.influence.leave_one_out(
        run, [0, 100], query=found["query"].values.tolist(), train=found["train"].values.tolist()
    )
    both = dln.stack(found, loo)
    assert both.sizes["estimator"] == 2
    again = dln.load(dln.save(found, tmp_path / "bif.nc"))
    np.testing.assert_array_equal(again, found)
    assert again.verdict.values.tolist() == found.verdict.values.tolist()
    np.testing.assert_allclose(found.flow_time, run.flow_time([0, 100]))


def test_errors_can_be_left_out():
    run = dln.Run(dln.semantic_hierarchy(3), hidden=8, init_std=0.05)
    found, quick = (bif(run, [0, 100], draws=100, errors=e) for e in (True, False))
    np.testing.assert_array_equal(found.values, quick.values)
    np.testing.assert_array_equal(found.verdict, quick.verdict)
    assert "standard_error" in found.coords and "standard_error" not in quick.coords


def test_reading_traces_needs_no_torch():
    code = (
        "import sys, dlnflow.influence.bif, dlnflow.traces.diagnostics; "
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize("normalised", [False, True])
def test_sampled_bif_is_the_closed_form_where_the_posterior_is_gaussian(normalised):
    """n_beta = 1e6: within 3 standard errors for at least 95 % of the entries."""
    run = dln.Run(dln.semantic_hierarchy(3), hidden=6, init_std=0.1)
    steps = np.linspace(0, run.n_steps, 5).astype(int)
    from dlnflow import sampling

    options = sampling.suggest(run, steps, n_beta=1e6)
    found = bif(
        run, steps, normalised=normalised, chains=16, draws=2000, dtype="float64", **options
    )
    exact = dln.influence.laplace_bif(
        run, steps, normalised=normalised, n_beta=1e6, localization=options["localization"]
    )
    assert set(found.verdict.values) == {"mixed"}
    error = found.standard_error.values
    known = error > 1e-12  # the correlation of an item with itself is 1 without error
    z = ((found.values - exact.values) / np.where(known, error, 1.0))[known]
    assert np.mean(np.abs(z) <= 3) >= 0.95
    print(f"\nwithin 3 standard errors: {100 * np.mean(np.abs(z) <= 3):.1f} %")


@pytest.mark.parametrize("name", ["normalised", "errors"])
def test_flags_are_true_or_false(name):
    losses, _ = _correlated(2, 50, 0.5)
    with pytest.raises(ValueError, match=f"`{name}` must be True or False"):
        bif.from_traces(traces(losses[None]), **{name: "no"})
