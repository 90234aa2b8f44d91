"""What the pages of the documentation say is what their scripts compute."""

import numpy as np
import pytest

from tests.numbers import estimators, sampling, why_peaks
from tests.numbers.pages import differences, table

pytestmark = pytest.mark.slow
AGREEMENT = ["pearson", "pearson_min", "relative_l2", "peak_offset", "trough_offset"]
SENSITIVE = {"bif": 0.1, "damped_hessian": 0.02}
"""Sampled, or at poles: what the rounding of a library may move, as a share."""
SCORED_AT = (1.5, 3, 5, 8)
WHY = "why_peaks_differ.md"


@pytest.mark.parametrize(("reference", "columns"), [("leave_one_out", 10), ("windowed", 7)])
def test_agreement_with_retraining(reference, columns):
    found = estimators.agreement(reference)
    header = ("estimator", "Pearson", "minimum", "relative L2", "peak", "trough", "flips", "CPU s")
    shown = table("estimators.md", *header[: 8 if columns == 10 else 7], columns=columns)
    assert set(found.index) <= set(shown)
    wrong = {}
    for name, row in found.iterrows():
        values = [*row[AGREEMENT], 100 * row["flip_agreement"]]
        if bad := differences(shown[name][:6], values, relative=SENSITIVE.get(name, 0.0)):
            wrong[name] = bad
    assert wrong == {}


def test_scores():
    found, shown = estimators.scores(), table("estimators.md", "estimator", "lds")
    times = [int(np.argmin(abs(found.flow_time.values - t))) for t in SCORED_AT]
    for k, name in enumerate(found.estimator.values):
        one = found.isel(estimator=k)
        values = [float(one[column].mean()) for column in ("lds", "lds_others")]
        for t in times:
            values += [float(one.lds_others[t]), float(one.lds_others_error[t])]
        assert differences(shown[name], values, relative=SENSITIVE.get(name, 0.0)) == [], name


def test_the_offset_grows_with_the_share_that_is_removed():
    shown = table(WHY, "removed share of dog")
    for words, share in why_peaks.SHARES.items():
        assert differences(shown[words], why_peaks.removed(share)) == []


def test_what_the_closed_form_drops():
    shown = table(WHY, "dog on")
    for query in why_peaks.QUERIES:
        assert differences(shown[query], why_peaks.closed_form(query)) == []


def test_what_forgets_the_past():
    present, past, summed = table(WHY, "quantity").values()
    columns = ("peak_offset_flow", "pearson")
    assert differences(present, why_peaks.local("dot product, local", *columns)) == []
    assert differences(past, why_peaks.local("displacement", *columns)) == []
    assert differences(summed, why_peaks.local("dot product, summed", "pearson")) == []


@pytest.mark.parametrize("size", ["1e-2", "1e-3", "1e-4", "1e-5"])
def test_plants_have_one_curve(size):
    closed, *shown = table(WHY, "init_std (hidden 50)")[size]
    for cell, name in zip(shown, ("tangent", "leave_one_out"), strict=True):
        assert differences([cell], why_peaks.plants(name, float(size))) == []
    correlation, deviation = why_peaks.plants("analytic", float(size))
    assert closed == "1.000, 1e-15" and correlation > 0.9995 and deviation < 5e-15


def test_plants_have_one_curve_in_a_wide_network():
    shown = table(WHY, "init_std (hidden 50)")["1e-4, hidden 4000"]
    assert differences(shown, why_peaks.plants("tangent", 1e-4, hidden=4000)) == []


@pytest.mark.parametrize("query", why_peaks.QUERIES)
def test_steps_cancel_only_where_the_sum_is_small(query):
    shown = table(WHY, "measured at flow time")
    times = [float(cell) for cell in shown.head]
    assert differences(shown[query], [why_peaks.left_over(query, t) for t in times]) == []


@pytest.mark.parametrize("query", why_peaks.QUERIES)
def test_tracin_cancels(query):
    shown = table(WHY, "", "negative")
    assert differences(shown[query], why_peaks.tracin_parts(query)) == []


@pytest.mark.parametrize("ratio", sampling.HELD)
def test_localization_decides_what_bif_predicts(ratio):
    shown = {row.split()[0]: cells for row, cells in table("sampling.md", "ratio").items()}
    values = sampling.localization(ratio)
    assert differences(shown[f"{ratio:g}"][:-1], values[:-1], units=3) == []
    assert differences(shown[f"{ratio:g}"][-1:], values[-1:], relative=0.1) == []
