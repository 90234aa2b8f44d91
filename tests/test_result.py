"""The labelled contract: construction, refusal of mismatches, storage."""

import os

import numpy as np
import pytest
import xarray as xr

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


def _with_flow_time(array, times):
    units = array.flow_time.attrs
    return array.assign_coords(flow_time=("time", np.array(times), units))


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
        (lambda a: a.assign_attrs(units="bananas"), ValueError, "units"),
        (lambda a: a.assign_coords(time=[-5, 0, 5]), ValueError, "none negative"),
        (lambda a: _with_flow_time(a, [np.nan] * 3), ValueError, "NaN everywhere, though"),
        (lambda a: _with_flow_time(a, [0.0, np.nan, 1.0]), ValueError, "strictly increasing"),
        (lambda a: _with_flow_time(a, [-1.0, 0.0, 1.0]), ValueError, ">= 0"),
        (lambda a: _with_flow_time(a, [0.0, 2.0, 1.0]), ValueError, "strictly increasing"),
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


def test_optimizers_without_a_flow_time_say_so_and_are_kept(tmp_path):
    none = result.influence(
        np.ones((2, 1, 1)), [0, 1], ["a"], ["b"], estimator="x", flow_time=[np.nan, np.nan]
    )
    assert none.flow_time.attrs["units"] == result.NO_FLOW
    assert dln.load(dln.save(none, tmp_path / "adam.nc")).identical(none)


def _rich(generator):
    """A result with a sweep, text, numbers and lists among its attributes and coordinates."""
    values = generator.normal(size=(2, 5, 3, 3))
    values[0, 0, 0, 0], values[1, 1, 1, 1] = np.nan, -0.0
    attrs = {"window": 50, "weight": 0.25, "damping": [0.1, 0.2], "about": "naïve", "exact": True}
    array = result.influence(
        values,
        [0, 3, 10, 40, 200],
        ["a", "naïve", "犬"],
        ["a", "b", "long name"],
        estimator="bif",
        flow_time=[0.0, 0.3, 1.0, 4.0, 20.0],
        leading={"seed": [3, 7]},
        attrs=attrs,
    )
    verdict = (("seed", "time"), [["mixed", "", "not mixed", "diverged", "mixed"]] * 2)
    return array.assign_coords(
        verdict=verdict, standard_error=(array.dims, np.abs(values)), localization=2.5
    )


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def stored(tmp_path, rng):
    return dln.save(_rich(rng), tmp_path / "influence.nc")


def _same_or_refused(path, content, truth):
    """Whether damaged bytes are refused; what is loaded in spite of them must be the truth."""
    path.write_bytes(content)
    try:
        found = dln.load(path)
    except ValueError as error:
        assert str(path) in str(error) and "dln" in str(error)
        return True
    assert found.identical(truth) and found.values.tobytes() == truth.values.tobytes()
    return False


def test_every_flipped_bit_is_refused_or_harmless(stored, rng):
    truth, content = dln.load(stored), stored.read_bytes()
    refused = 0
    for bit in rng.choice(8 * len(content), 100, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        refused += _same_or_refused(stored, bytes(damaged), truth)
    assert refused > 80  # the rest falls on padding and names of encodings


def test_every_truncated_or_overwritten_file_is_refused_or_harmless(stored, rng):
    truth, content = dln.load(stored), stored.read_bytes()
    for cut in rng.choice(len(content) - 4, 30, replace=False):  # the last bytes may be padding
        assert _same_or_refused(stored, content[:cut], truth)
    for start in rng.choice(len(content) - 32, 30, replace=False):
        noise = rng.bytes(int(rng.integers(8, 32)))
        damaged = content[:start] + noise + content[start + len(noise) :]
        _same_or_refused(stored, damaged, truth)


def test_every_bit_of_the_header_is_refused_or_harmless(tmp_path):
    path = dln.save(_example(), tmp_path / "influence.nc")
    truth, content = dln.load(path), path.read_bytes()
    for byte in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[byte] ^= 1 << (byte % 8)
        _same_or_refused(path, bytes(damaged), truth)


def test_values_labels_and_attributes_all_count_for_the_checksum(rng):
    array = _rich(rng)
    other = array.copy(deep=True)
    other.values[0, 2, 0, 0] = np.nextafter(other.values[0, 2, 0, 0], 9)
    others = [
        other,
        array.assign_coords(train=["a", "c", "long name"]),
        array.assign_coords(seed=[3, 8]),
        array.assign_coords(localization=2.0),
        array.assign_attrs(window=51),
        array.assign_attrs(about="naive"),
        array.drop_vars("verdict"),
        array.rename(localization="damping"),
    ]
    sums = {result.checksum(one) for one in [array, *others]}
    assert len(sums) == len(others) + 1


def test_rich_results_come_back_as_they_were(tmp_path, rng):
    array = _rich(rng)
    back = dln.load(dln.save(array, tmp_path / "influence.nc"))
    xr.testing.assert_equal(back, array)
    assert result.checksum(back) == result.checksum(array)
    assert back.time.attrs == array.time.attrs and back.flow_time.attrs == array.flow_time.attrs


def test_files_of_earlier_versions_load_with_a_warning(tmp_path):
    path = tmp_path / "influence.nc"
    array = _example()
    array.to_netcdf(path, engine="scipy")
    with pytest.warns(UserWarning, match="no checksum"):
        assert dln.load(path).identical(array)
    array.rename("other").to_netcdf(path, engine="scipy")
    with pytest.warns(UserWarning, match="checksum"), pytest.raises(ValueError, match="named"):
        dln.load(path)


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


def test_nothing_is_left_behind_where_the_file_cannot_be_replaced(tmp_path, monkeypatch):
    """As on Windows, while another program has it open."""

    def busy(*_):
        raise PermissionError("in use")

    path = dln.save(_example(), tmp_path / "influence.nc")
    monkeypatch.setattr(type(path), "replace", busy)
    with pytest.raises(OSError, match="in use"):
        dln.save(_example(), path)
    assert os.listdir(tmp_path) == ["influence.nc"]
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"influence\.nc is a folder; give the name of a file"):
        dln.save(_example(), path)
    assert os.listdir(tmp_path) == ["influence.nc"]
