"""What a store of text says about learning coefficients, against means by hand and known laws."""

from functools import partial

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from dlnflow.lm import experiment
from dlnflow.traces import class_sums, groups, interval
from paper_figures import (
    class_matrix,
    component_responses,
    repeat_curves,
    token_coefficients,
    token_maps,
)
from paper_figures._records import ends
from paper_figures.token_coefficients import ALL, measure
from tests.traces import samples

N_BETA, START = 50.0, 0.7
CURVATURES = np.array([0.5, 0.5, 0.5, 2.0, 2.0, 2.0])
"""Of one quadratic loss for each token; h / (n_beta h) of them is the mean excess."""


@pytest.fixture(scope="module")
def sampled():
    """Tokens with losses h u^2 / 2 of own weights: n_beta (E[l] - l(0)) is 1/2 whatever h is."""
    rng = np.random.default_rng(0)
    u = rng.standard_normal((2, 8, 200, 6)) / np.sqrt(N_BETA * CURVATURES)
    losses = START + 0.5 * CURVATURES * u**2
    losses[1, ..., 3:] = START - 0.5 * CURVATURES[3:] * u[1, ..., 3:] ** 2  # a maximum
    array = samples.traces(
        losses, N_BETA, np.full((2, 6), START), step_size=0.1, burn_in=10, thin=2
    )
    array = array.assign_coords(
        time=[100, 200], row=("item", np.arange(6) // 2), token=("item", [0, 1, 0, 2, 3, 2])
    )
    members = np.arange(6)[:, None] // 3 == np.arange(2)
    return array, xr.DataArray(
        members, dims=("item", "token_class"), coords={"token_class": ["minimum", "other"]}
    )


def test_a_regular_direction_has_a_half_and_a_maximum_less_than_nothing(sampled):
    found = measure(*sampled)
    for name, step, truth in (
        (ALL, 0, 0.5),
        ("minimum", 0, 0.5),
        ("other", 0, 0.5),
        ("minimum", 1, 0.5),
        ("other", 1, -0.5),
    ):
        value, error, _ = found["coefficient"][name][step]
        assert abs(value - truth) < 4 * error < 0.3, (name, step)
    value, error, _ = found["coefficient"][ALL][1]
    assert abs(value) < 4 * error  # rows of both classes differ
    np.testing.assert_allclose(found["loss"][ALL] + found["loss"]["other"], START, rtol=1e-5)


def test_the_mean_of_all_tokens_is_that_of_the_classes(sampled):
    found = measure(*sampled)["coefficient"]
    parts = np.mean([np.array(found[name])[:, 0] for name in ("minimum", "other")], axis=0)
    np.testing.assert_allclose(np.array(found[ALL])[:, 0], parts, rtol=1e-3, atol=1e-4)


def test_influence_is_that_of_a_class_on_itself_without_pairs_of_one_id(sampled):
    found = measure(*sampled)["influence"]["minimum"]
    direct = groups(*sampled, exclude="token").sel(query="minimum", train="minimum")
    value, low, high = ends(found)
    np.testing.assert_allclose(value, direct, rtol=1e-4)
    between = interval(direct)
    np.testing.assert_allclose(low, between.lower, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(high, between.upper, rtol=1e-3, atol=1e-5)


def test_ends_are_those_of_student_s_law():
    value, low, high = ends([[2.0, 0.5, 7.0], [1.0, 0.1, 1e9]])
    np.testing.assert_allclose(value, [2, 1])
    half = 0.5 * stats.t.ppf(0.975, 7), 0.1 * stats.norm.ppf(0.975)
    np.testing.assert_allclose(high - value, half, rtol=1e-6)
    np.testing.assert_allclose(value - low, half, rtol=1e-6)


def test_class_sums_hold_no_tokens(sampled):
    """They ended in an AttributeError after the coefficients had been computed."""
    with pytest.raises(ValueError, match=r"`traces` are class sums.* Keep the losses of tokens"):
        measure(class_sums(*sampled), sampled[1])


@pytest.mark.parametrize(
    "main",
    [
        component_responses.main,
        repeat_curves.main,
        partial(class_matrix.written, class_matrix.measure),
    ],
)
def test_a_folder_for_the_numbers_is_refused_before_the_work(tmp_path, main):
    with pytest.raises(ValueError, match="is a folder; give the name of a file"):
        main(tmp_path / "nothing", tmp_path / "nothing", tmp_path)


@pytest.mark.parametrize("script", [class_matrix, token_coefficients, token_maps])
def test_a_store_of_repeats_is_refused_before_it_is_measured(monkeypatch, sampled, script):
    """Maps of one were written, and failed when they were drawn."""
    traces, classes = sampled
    repeats = classes.assign_coords(token_class=["repeated", "other"])
    monkeypatch.setattr(experiment, "read", lambda *_: (traces, repeats))
    with pytest.raises(ValueError, match=r"`store` .* repeated sequences.* observe=text"):
        class_matrix.written(script.measure, "run", "store", "out.json")
