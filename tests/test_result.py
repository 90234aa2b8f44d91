"""The labelled contract: construction, refusal of mismatches, storage."""

import os

import numpy as np
import pytest

import dlnflow as dln
from dlnflow import result


def _example(estimator="tangent", time=(0, 5, 10), query=("a", "b"), train=("a", "b"), **options):
    values = np.arange(len(time) * len(query) * len(train), dtype=float)
    values = values.reshape(len(time), len(query), len(train))
    return result.influence(
        values, time, query, train, estimator=estimator, flow_time=np.asarray(time) / 10, **options
    )


def test_every_result_has_the_contract():
    array = _example(attrs={"a0": 0.1})
    assert array.name == "influence" and array.dims == ("time", "query", "train")
    assert array.time.dtype == np.int64 and array.attrs["a0"] == 0.1
    assert "negative = the train item helps" in array.attrs["sign"]
    assert dln.check(array) is array


def test_stack_adds_a_labelled_leading_dim():
    both = dln.stack(_example("tangent"), _example("leave_one_out"))
    assert both.dims == ("estimator", "time", "query", "train")
    assert both.sel(estimator="tangent").shape == (3, 2, 2)
    assert both.attrs["sign"] == result.SIGN


def test_stack_drops_coordinates_of_single_estimators():
    first = _example("tangent").assign_coords(smallest_eigenvalue=("time", [1.0, 2.0, 3.0]))
    both = dln.stack(first, _example("leave_one_out"))
    assert set(both.coords) == {"estimator", "time", "flow_time", "query", "train"}


def test_stack_keeps_what_says_how_far_a_sampled_result_is_right():
    sampled = _example("bif")
    verdict = ["mixed", "not mixed", "diverged"]
    sampled = sampled.assign_coords(
        standard_error=(sampled.dims, np.ones(sampled.shape)), verdict=("time", verdict)
    )
    for both in (dln.stack(sampled, _example()), dln.stack(_example(), sampled)):
        assert both.sel(estimator="bif").verdict.values.tolist() == verdict
        assert set(both.sel(estimator="tangent").verdict.values) == {""}
        assert np.all(both.sel(estimator="bif").standard_error == 1)
        assert np.all(np.isnan(both.sel(estimator="tangent").standard_error))


@pytest.mark.parametrize(
    "other",
    [{"time": (0, 5, 11)}, {"query": ("b", "a")}, {"train": ("a", "c")}, {"time": (0, 5)}],
    ids=str,
)
def test_stack_refuses_unequal_grids(other):
    with pytest.raises(ValueError, match="differ in `" + next(iter(other))):
        dln.stack(_example("tangent"), _example("leave_one_out", **other))


def test_stack_refuses_signs_names_and_sweeps():
    flipped = _example("leave_one_out").assign_attrs(sign="positive = helps")
    with pytest.raises(ValueError, match="sign"):
        dln.stack(_example(), flipped)
    with pytest.raises(ValueError, match="must differ"):
        dln.stack(_example(), _example())
    swept = result.influence(
        np.zeros((2, 1, 1, 1)),
        [0],
        ["a"],
        ["b"],
        estimator="x",
        flow_time=[0.0],
        leading={"damping": [0.1, 0.2]},
    )
    with pytest.raises(ValueError, match="still has the dim damping"):
        dln.stack(swept)
    with pytest.raises(ValueError, match="at least one"):
        dln.stack()


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (lambda a: a.values, TypeError, "DataArray"),
        (lambda a: a.rename("other"), ValueError, "named 'influence'"),
        (lambda a: a.transpose("query", "time", "train"), ValueError, "last dims"),
        (lambda a: a.drop_vars("flow_time"), ValueError, "flow_time"),
        (lambda a: a.isel(time=[1, 0, 2]), ValueError, "increasing"),
        (lambda a: a.assign_coords(query=["a", "a"]), ValueError, "`query` must all differ"),
        (lambda a: a.expand_dims("method").assign_coords(method=["x"]), ValueError, "method"),
    ],
)
def test_check_refuses_what_is_not_a_result(spoil, error, reason):
    with pytest.raises(error, match=reason):
        dln.check(spoil(_example()))


def test_save_and_load_give_the_same_array(tmp_path):
    both = dln.stack(_example("tangent"), _example("leave_one_out"))
    path = dln.save(both, tmp_path / "new" / "influence.nc")
    back = dln.load(path)
    assert back.identical(both)
    assert back.time.dtype == np.int64
    unicode_items = _example(query=("naïve", "犬"))
    assert dln.load(dln.save(unicode_items, path)).identical(unicode_items)


def test_a_failed_save_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = dln.save(_example(), tmp_path / "influence.nc")
    before = path.read_bytes()
    unsavable = _example(attrs={"x": object()})
    with pytest.raises(TypeError):
        dln.save(unsavable, path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["influence.nc"]


def test_load_refuses_other_files(tmp_path):
    path = tmp_path / "text.nc"
    path.write_text("not netcdf", encoding="utf-8")
    with pytest.raises(ValueError, match="not a netCDF file"):
        dln.load(path)
    with pytest.raises(FileNotFoundError):
        dln.load(tmp_path / "none.nc")


def test_nothing_is_left_behind_where_the_file_cannot_be_replaced(tmp_path):
    (tmp_path / "influence.nc").mkdir()
    with pytest.raises(OSError, match="influence"):
        dln.save(_example(), tmp_path / "influence.nc")
    assert os.listdir(tmp_path) == ["influence.nc"]
