from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow.analysis import events
from tests.analysis.curves import of_curves, sampled
from tests.analysis.events_by_curve import events_by_curve


def bump(x):
    """Skewed bump, maximum at exactly x = 3."""
    return x**3 * np.exp(-x)


def test_extrema_and_flips_of_a_sine():
    t = np.arange(0, 1001)
    table = events(of_curves(np.sin(2 * np.pi * t / 500), time=t))
    cycle = ["peak", "sign_flip", "trough", "sign_flip"]
    assert table["kind"].tolist() == (cycle * 2)[:-1]  # the last zero is the end of the record
    expected = np.arange(1, len(table) + 1) * 125.0
    np.testing.assert_allclose(table["step"], expected, atol=1e-6)
    np.testing.assert_allclose(table["flow_time"], expected / 100, atol=1e-8)
    np.testing.assert_allclose(table["value"], [1, 0, -1, 0, 1, 0, -1], atol=1e-9)
    assert table["sign"].tolist() == [1, -1, -1, 1, 1, -1, -1]


@pytest.mark.parametrize(("kind", "order"), [("peak", 2), ("sign_flip", 2)])
def test_interpolated_times_converge_at_second_order(kind, order):
    def curve(x):
        return bump(x) if kind == "peak" else np.cos(x) * np.exp(-x / 3)

    truth = 3.0 if kind == "peak" else np.pi / 2

    def worst(spacing):
        errors = []
        for share in np.linspace(0, 1, 23, endpoint=False):  # all positions relative to the grid
            table = events(sampled(curve, spacing, share * spacing, span=6))
            step = table.loc[table["kind"] == kind, "step"].iloc[0]
            errors.append(abs(share * spacing + step * spacing - truth))
        return max(errors)

    slope = np.log2(worst(0.1) / worst(0.05))
    assert abs(slope - order) < 0.15


def test_peak_on_an_uneven_grid_is_exact_for_a_parabola():
    time = np.array([0, 3, 10, 12, 30, 31, 50])
    table = events(of_curves(100 - (time - 17.3) ** 2 / 10, time=time))
    peak = table[table["kind"] == "peak"].iloc[0]
    assert peak["step"] == pytest.approx(17.3, abs=1e-12)
    assert peak["value"] == pytest.approx(100.0, abs=1e-12)


def test_rounding_noise_at_both_ends_is_not_an_event():
    t = np.arange(400)
    noise = 1e-16 * np.random.default_rng(0).standard_normal(400)
    clean = -np.exp(-(((t - 200) / 20.0) ** 2))
    curve = np.where(np.abs(clean) < 1e-12, 0.0, clean) + noise
    assert np.sum(np.diff(np.sign(curve)) != 0) > 50  # raw sign changes
    assert events(of_curves(curve))["kind"].tolist() == ["trough"]


@given(
    st.lists(st.floats(0.02, 50), min_size=1, max_size=6),
    st.floats(1e-6, 1e6),
    st.integers(0, 2**32 - 1),
)
def test_known_bumps_are_counted_and_noise_is_not(heights, scale, seed):
    """Alternating bumps, each above the floor: one extremum each, a flip between neighbours."""
    heights = np.array(heights) / max(heights)
    heights = np.maximum(heights, 0.02)
    t = np.arange(100 * (len(heights) + 1))
    signs = (-1.0) ** np.arange(len(heights))
    centres = 100 * np.arange(1, len(heights) + 1)
    curve = sum(
        s * h * np.exp(-(((t - c) / 12.0) ** 2))
        for s, h, c in zip(signs, heights, centres, strict=True)
    )
    curve = curve + 1e-4 * np.random.default_rng(seed).uniform(-1, 1, len(t))
    table = events(of_curves(scale * curve))
    extrema = table[table["kind"] != "sign_flip"]
    assert extrema["sign"].tolist() == signs.tolist()
    np.testing.assert_allclose(extrema["step"], centres, atol=6)
    assert (table["kind"] == "sign_flip").sum() == len(heights) - 1
    assert np.all(np.diff(table["step"]) > 0)


@given(st.floats(0.1, 10), st.integers(1, 3))
def test_negating_a_curve_swaps_peaks_and_troughs(width, count):
    t = np.linspace(0, 1, 301)
    curve = np.sin(np.pi * (count + 1) * t) * np.exp(-width * t)
    up, down = events(of_curves(curve)), events(of_curves(-curve))
    np.testing.assert_allclose(up["step"], down["step"])
    np.testing.assert_allclose(up["value"], -down["value"])
    swap = {"peak": "trough", "trough": "peak", "sign_flip": "sign_flip"}
    assert up["kind"].map(swap).tolist() == down["kind"].tolist()


def test_floor_decides():
    t = np.arange(301)
    curve = np.exp(-(((t - 100) / 15) ** 2)) - 0.05 * np.exp(-(((t - 200) / 15) ** 2))
    assert len(events(of_curves(curve), floor=0.04)) == 3
    assert events(of_curves(curve), floor=0.06)["kind"].tolist() == ["peak"]
    assert events(of_curves(curve), floor=2.0).empty
    two = of_curves(curve, curve)
    per_pair = xr.DataArray([0.04, 0.06], dims="query", coords={"query": two["query"].values})
    table = events(two, floor=per_pair)
    assert table.groupby("query").size().tolist() == [3, 1]
    assert table["floor"].tolist() == [0.04] * 3 + [0.06]
    assert table.attrs["floor"] == "given by the caller"


def test_small_curves_are_judged_against_all_curves():
    t = np.arange(301)
    curve = np.exp(-(((t - 100) / 15) ** 2))
    table = events(of_curves(curve, 5e-4 * curve, 2e-3 * curve))
    assert table["query"].tolist() == ["query0", "query2"]
    assert table["floor"].tolist() == pytest.approx([0.01, 0.001])
    assert "1%" in table.attrs["floor"]


def test_zero_and_constant_curves_have_no_events():
    assert events(of_curves(np.zeros(9), np.ones(9))).empty
    assert events(of_curves(np.ones(1))).empty


def test_touching_zero_is_not_a_flip():
    t = np.linspace(-1, 1, 101)
    assert "sign_flip" not in events(of_curves(t**2))["kind"].tolist()


def test_leading_dims_and_labels_are_kept():
    t = np.arange(200)
    first = of_curves(np.sin(t / 20.0))
    stacked = dln.stack(first, of_curves(np.cos(t / 20.0), estimator="other"))
    table = events(stacked)
    assert table.columns[:3].tolist() == ["estimator", "train", "query"]
    one = events(first)
    rest = table[table["estimator"] == "made_up"].drop(columns="estimator")
    np.testing.assert_array_equal(rest["step"], one["step"])


@pytest.mark.parametrize("floor", [-1.0, float("nan")])
def test_bad_floor(floor):
    with pytest.raises(ValueError, match="floor"):
        events(of_curves(np.arange(5.0)), floor=floor)


MODULE = import_module("dlnflow.analysis.events")  # the function has the same name
NOISE = 1e-17
"""Far below every floor, and representable beside zero only."""


@st.composite
def awkward_curves(draw):
    """Curves (P, T) of plateaus, ties, noise around zero, constants and values not to be had."""
    length = draw(st.integers(1, 12))
    levels = st.sampled_from([-2.0, -1.0, -0.011, -0.009, -NOISE, 0.0, NOISE, 0.009, 0.011, 1.0])
    values = st.one_of(levels, st.floats(-3, 3, allow_subnormal=False))
    curves = draw(
        st.lists(st.lists(values, min_size=length, max_size=length), min_size=1, max_size=4)
    )
    curves = np.repeat(curves, draw(st.integers(1, 3)), axis=1)  # flat tops of any width
    if draw(st.booleans()):
        curves[draw(st.integers(0, len(curves) - 1)), draw(st.integers(0, length - 1))] = np.nan
    return curves


@given(
    awkward_curves(),
    st.one_of(st.none(), st.sampled_from([0.0, 0.01, 1.0])),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 40, 10**6]),
)
def test_events_are_those_of_one_curve_at_a_time(curves, floor, seed, chunk):
    """Exactly, whatever the curves beside them and however many are taken together."""
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.integers(1, 5, curves.shape[1]))
    found = of_curves(*curves, time=time)
    own = np.abs(found).max("time", skipna=False)
    floors = np.maximum(1e-2 * own, 1e-3 * own.max(skipna=False)) if floor is None else floor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "CHUNK_NUMBERS", chunk)
        table = events(found, floor)
    expected = events_by_curve(found, xr.zeros_like(own) + floors)
    kinds = {"check_dtype": len(expected) > 0, "check_exact": True}
    pd.testing.assert_frame_equal(table, expected, **kinds)


def test_a_long_noisy_curve_has_the_events_of_the_reference():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal((12, 3000)), axis=1)
    found = of_curves(*walk, *np.round(walk))
    table = events(found, 0.5)
    assert (table["kind"].value_counts() > 50).all()
    floors = xr.zeros_like(found.isel(time=0, drop=True)) + 0.5
    pd.testing.assert_frame_equal(table, events_by_curve(found, floors), check_exact=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_curve_that_is_not_finite_has_no_events(value):
    good = np.sin(np.arange(60) / 6)
    bad = np.where(np.arange(60) == 30, value, good)
    table = events(of_curves(bad, good, bad), floor=0.1)
    assert set(table["query"]) == {"query1"}
    pd.testing.assert_frame_equal(
        table.drop(columns="query"), events(of_curves(good), 0.1).drop(columns="query")
    )


@pytest.mark.parametrize(
    ("error", "flips"), [(0.1, [25.0, 75.0]), (0.6, []), (np.nan, [25.0, 75.0])]
)
def test_sampled_flips_are_beyond_two_standard_errors_on_both_sides(error, flips):
    """The cosine dips to -1 between two flips; an error of 0.6 makes that dip uncertain."""
    t = np.arange(101)
    curves = of_curves(np.cos(2 * np.pi * t / 100), time=t)
    size = xr.full_like(curves, 0.1).where(curves > 0, error)
    table = events(curves.assign_coords(standard_error=(size.dims, size.values)))
    assert table.loc[table["kind"] == "sign_flip", "step"].tolist() == pytest.approx(flips)
    assert (table["kind"] == "trough").sum() == 1  # extrema stay


def test_standard_errors_of_every_curve_are_its_own_however_they_are_arranged():
    t = np.arange(101)
    curves = of_curves(*[np.cos(2 * np.pi * t / 100)] * 2, time=t)
    curves = curves.assign_coords(standard_error=(("train", "query"), [[0.6, 0.1]]))
    table = events(curves)
    assert set(table.loc[table["kind"] == "sign_flip", "query"]) == {"query1"}
