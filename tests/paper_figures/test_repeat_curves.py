"""The lag of influence behind the induction score, and what a store of repeats gives."""

import numpy as np
import pytest
import xarray as xr

from dlnflow.traces import groups
from paper_figures.repeat_curves import crossing, crossings, measure
from tests.traces import samples

STEPS = np.array([0, 100, 200, 300, 400])


def test_a_crossing_is_that_of_the_straight_line_between_checkpoints():
    assert crossing(STEPS, [0, 0, 0, -1, -1], share=0.5) == 250
    assert crossing(STEPS, [2, 2, 3, 6, 6]) == 200
    assert crossing(STEPS, [0, 0, 0, -1, -1], share=0.1) == 210


def test_crossings_spread_as_the_errors_say():
    """A line through 0 at slope 1: an error of the middle shifts its crossing by as much."""
    steps, errors = np.array([0.0, 10.0, 20.0]), np.array([0.0, 0.5, 0.0])
    found = crossings(steps, steps, errors, share=0.5)
    # below 10 the segment to the right is crossed, from 10 on that to the left
    noise = 0.5 * np.random.default_rng(1).standard_normal(20_000)
    middle = 10 + noise
    left, right = 10 * 10 / middle, 10 + 10 * (10 - middle) / (20 - middle)
    expected = np.where(middle >= 10, left, right)
    for q in (0.025, 0.5, 0.975):
        assert np.quantile(found, q) == pytest.approx(np.quantile(expected, q), abs=0.02)


def test_a_store_gives_the_influence_of_groups_and_a_lag():
    """Losses of second halves share a factor from step 300 on; the score rises 100 steps before."""
    rng = np.random.default_rng(2)
    repeated = np.tile(np.arange(7) >= 4, 12)
    strength = np.array([0, 0, 0, 1, 1.0])[:, None, None, None]
    factor, noise = rng.standard_normal((5, 6, 150, 1)), rng.standard_normal((5, 6, 150, 84))
    losses = strength * factor * repeated + noise
    traces = samples.traces(losses, n_beta=10.0, step_size=0.1, burn_in=10, thin=2)
    token = np.tile([0, 1, 2, 3, 0, 1, 2], 12) + 4 * np.repeat(np.arange(12), 7)
    traces = traces.assign_coords(
        time=STEPS, row=("item", np.repeat(np.arange(12), 7)), token=("item", token)
    )
    classes = xr.DataArray(
        np.column_stack([repeated, ~repeated]),
        dims=("item", "token_class"),
        coords={"token_class": ["repeated", "other"]},
    )
    score = xr.DataArray([[0.0], [0], [1], [1], [1]], {"time": STEPS}, ("time", "layer"))
    found = measure(traces, classes, xr.Dataset({"layer_induction": score}))
    own = groups(traces, classes, exclude=("row", "token")).sel(query="repeated", train="repeated")
    rows = found["influence"]["other sequences and ids"]["repeated, repeated"]
    np.testing.assert_allclose([row[0] for row in rows], own, rtol=1e-4, atol=1e-6)
    assert own[-1] == pytest.approx(-0.5, abs=0.05)
    assert found["lag"][0] == pytest.approx(100, abs=5)
    assert found["lag"][1] < 100 < found["lag"][2]
