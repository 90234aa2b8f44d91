"""Sampled BIF against the covariance identity, the closed form and the contract."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.influence.bif import bif


def test_covariance_identity_of_the_posterior():
    """d E[l_q] / d w_i = BIF: difference two posteriors with common random numbers."""
    run = dln.Run(dln.semantic_hierarchy(3), hidden=4, init_std=0.3)
    step = [run.n_steps // 4]
    from dlnflow import sampling

    options = sampling.suggest(run, n_beta=50.0) | {
        "kernel": "underdamped",
        "chains": 200,
        "draws": 400,
        "dtype": "float64",
    }
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
    found = (
        bif(run, [0, 100], draws=100, query=["cat"], train="dog")
        if "cat" in run.task.items
        else bif(run, [0, 100], draws=100)
    )
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
