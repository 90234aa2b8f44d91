import sys

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import dlnflow as dln
from dlnflow import result
from dlnflow.analysis import compare, summary
from tests.analysis.curves import of_curves

T = np.arange(201)


def bump(centre, width=20.0, height=1.0):
    return height * np.exp(-(((T - centre) / width) ** 2))


def pair(*curves, reference=None):
    made = of_curves(*curves, estimator="made_up")
    return dln.stack(made, of_curves(*reference, estimator="leave_one_out"))


@given(st.integers(0, 2**32 - 1), st.integers(3, 40))
def test_matches_scipy_pair_by_pair(seed, length):
    generator = np.random.default_rng(seed)
    k, r = generator.standard_normal((2, length, 3, 2))
    grid = (np.arange(length), list("abc"), list("xy"))
    stacked = dln.stack(
        *(
            result.influence(v, *grid, estimator=name, flow_time=np.arange(length))
            for name, v in [("mine", k), ("leave_one_out", r)]
        )
    )
    table = compare(stacked)
    assert len(table) == 6
    for row in table.itertuples():
        a = k[:, "abc".index(row.query), "xy".index(row.train)]
        b = r[:, "abc".index(row.query), "xy".index(row.train)]
        assert row.pearson == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)
        assert row.spearman == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
        assert row.relative_l2 == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_offsets_are_later_minus_reference_in_steps_and_flow_time():
    curve = bump(60) - bump(130)
    shifted = bump(70) - bump(137)
    row = compare(pair(shifted, reference=[curve])).iloc[0]
    assert row["peak_offset"] == pytest.approx(10, abs=0.01)
    assert row["trough_offset"] == pytest.approx(7, abs=0.01)
    assert row["peak_offset_flow"] == pytest.approx(0.1, abs=1e-4)
    assert row["flips"] == row["reference_flips"] == 1
    assert row["flip_agreement"] and 0.9 < row["sign_agreement"] < 1


@given(st.floats(1e-3, 1e3), st.floats(-5, 5))
def test_correlations_ignore_scale_and_shift(scale, shift):
    curve = bump(60) - 0.5 * bump(130)
    row = compare(pair(scale * curve + shift, reference=[curve])).iloc[0]
    assert row["pearson"] == pytest.approx(1, abs=1e-9)
    if abs(shift) < 1e-3 * scale:  # a large shift merges ranks by rounding
        assert row["spearman"] == pytest.approx(1, abs=1e-6)


def test_equal_and_opposite_curves():
    curve = bump(60) - bump(130)
    table = compare(pair(curve, -curve, reference=[curve, curve]))
    assert table["pearson"].tolist() == pytest.approx([1, -1])
    assert table["relative_l2"].tolist() == pytest.approx([0, 2])
    assert table["sign_agreement"].tolist() == [1, 0]
    assert table["flip_agreement"].tolist() == [True, False]
    assert table["peak_offset"].tolist() == pytest.approx([0, 70], abs=0.01)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_curves_give_nan_without_warning(value):
    flat = np.full(len(T), value)
    table = compare(pair(flat, bump(9), reference=[bump(60), flat]))
    assert table[["pearson", "spearman", "peak_offset", "trough_offset"]].isna().all().all()
    assert table["relative_l2"].isna().tolist() == [False, value == 0]


def test_edge_of_the_record_is_not_a_peak():
    rising = T / 200.0
    table = compare(pair(rising, reference=[bump(60)]))
    assert table["peak_offset"].isna().all()
    assert table["trough_offset"].isna().all()


def test_many_curves_are_handled_in_parts(monkeypatch):
    curves = [bump(40 + k) for k in range(30)]
    stacked = pair(*curves, reference=curves[::-1])
    whole = compare(stacked)
    monkeypatch.setattr(sys.modules[compare.__module__], "CHUNK", 7)
    assert compare(stacked).equals(whole)


def test_reference_as_an_array_keeps_sweep_dims():
    truth = of_curves(bump(60))
    sweep = result.influence(
        np.stack([bump(60), bump(70)])[:, :, None, None],
        T,
        ["query0"],
        ["dog"],
        estimator="damped",
        flow_time=T / 100,
        leading={"damping": [0.1, 1.0]},
    )
    table = compare(sweep, truth)
    assert table["damping"].tolist() == [0.1, 1.0]
    assert table["peak_offset"].tolist() == pytest.approx([0, 10], abs=0.01)
    assert compare(truth, truth)["pearson"].tolist() == pytest.approx([1])


def test_refusals():
    truth = of_curves(bump(60), estimator="tangent")
    with pytest.raises(ValueError, match="no dim 'estimator'"):
        compare(truth)
    stacked = dln.stack(truth, of_curves(bump(60), estimator="leave_one_out"))
    with pytest.raises(ValueError, match="Did you mean 'leave_one_out'"):
        compare(stacked, reference="leave_one_ot")
    with pytest.raises(ValueError, match="same grid"):
        compare(truth, truth.isel(time=slice(5)))
    with pytest.raises(ValueError, match="dims"):
        compare(truth, stacked)
    with pytest.raises(TypeError):
        compare(np.zeros(3))
    with pytest.raises(ValueError, match="pair of different items"):
        summary(compare(stacked.assign_coords(query=["dog"])))


def test_summary_leaves_out_self_pairs():
    curves = np.stack([bump(60), bump(80)], axis=1)[:, :, None]
    wrong = np.stack([-bump(60), bump(80)], axis=1)[:, :, None]
    grid = (T, ["dog", "cat"], ["dog"])
    stacked = dln.stack(
        *(
            result.influence(v, *grid, estimator=name, flow_time=T / 100)
            for name, v in [("mine", wrong), ("leave_one_out", curves)]
        )
    )
    short = summary(compare(stacked))
    assert short.index.tolist() == ["mine"]
    assert short.loc["mine", "pairs"] == 1
    assert short.loc["mine", "pearson_min"] == pytest.approx(1)
    assert short.shape == (1, 9)


def test_reduces_under_exact_join_only():
    with xr.set_options(arithmetic_join="inner"):  # a careless user setting changes nothing
        assert compare(pair(bump(60), reference=[bump(60)]))["pearson"][0] == pytest.approx(1)
