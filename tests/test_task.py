"""Tasks: shapes, names, tables, built-in data, and every kind of bad input."""

import numpy as np
import pandas as pd
import pytest

import dlnflow as dln
from tests.tolerances import ALGEBRA


def test_paper_hierarchy_has_the_known_spectrum_and_blocks():
    task = dln.semantic_hierarchy(levels=4, branching=2)
    assert task.y.shape == (15, 8) and task.one_hot and task.whitening == 1.0
    assert np.allclose(task.modes.s**2, [15, 7, 3, 3, 1, 1, 1, 1], rtol=0, atol=1e-13)
    assert [len(block) for block in task.modes.blocks] == [1, 1, 2, 4]
    assert task.items == ("dog", "cat", "sparrow", "penguin", "pine", "oak", "rose", "daisy")


@pytest.mark.parametrize(("levels", "branching"), [(2, 2), (3, 3), (5, 2), (3, 5)])
def test_hierarchies_have_one_block_per_level(levels, branching):
    task = dln.semantic_hierarchy(levels, branching)
    n_items = branching ** (levels - 1)
    sizes = [1] + [branching**d - branching ** (d - 1) for d in range(1, levels)]
    assert task.n_items == n_items and [len(b) for b in task.modes.blocks] == sizes
    # A contrast at depth d is shared by all deeper nodes: s^2 = sum over deeper levels.
    expected = [sum(branching ** (levels - 1 - k) for k in range(d, levels)) for d in range(levels)]
    assert np.allclose(task.modes.distinct**2, expected)


def test_living_things_is_irregular_and_rank_deficient():
    task = dln.living_things()
    assert task.n_items == 19
    assert task.modes.rank == 18  # pine and spruce have the same features
    assert all(len(block) == 1 for block in task.modes.blocks)
    assert np.array_equal(task.y[:, task.indices("pine")], task.y[:, task.indices("spruce")])


def test_whitening_is_recognised_for_orthogonal_inputs_and_frames():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    y = np.random.default_rng(1).standard_normal((3, 8))
    assert dln.Task(y[:, :4], 2 * rotation).whitening == pytest.approx(4.0)
    frame = np.hstack([rotation, rotation[:, ::-1]])
    task = dln.Task(y, frame)
    assert task.whitening == pytest.approx(2.0)
    least_squares = np.linalg.lstsq(frame.T, y.T, rcond=None)[0].T
    modes = task.modes
    assert np.abs(modes.u * modes.s @ modes.v.T - least_squares).max() < ALGEBRA
    assert dln.Task(y, np.random.default_rng(2).standard_normal((4, 8))).whitening is None


def test_arrays_are_copied_and_read_only():
    y = np.eye(3)
    task = dln.Task(y)
    y[:] = 0
    assert task.y[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        task.y[0, 0] = 2


def test_csv_round_trip(tmp_path):
    path = tmp_path / "animals.csv"
    path.write_text("name,size,legs\ndog,1.5,4\n sparrow ,0.1,2\n\nant,1e-3,6\n", encoding="utf-8")
    task = dln.Task.from_csv(path)
    assert task.items == ("dog", "sparrow", "ant") and task.features == ("size", "legs")
    assert task.y.tolist() == [[1.5, 0.1, 1e-3], [4, 2, 6]]


def test_frame_with_names_in_the_index_or_first_column():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [True, False]}, index=["x", "y"])
    task = dln.Task.from_frame(frame)
    assert task.items == ("x", "y") and task.y.tolist() == [[1, 2], [1, 0]]
    named = pd.DataFrame({"thing": ["x", "y"], "a": [1.0, 2.0]})
    assert dln.Task.from_frame(named).items == ("x", "y")


BAD_CSV = {
    "ragged": ("n,a,b\nx,1,2\ny,1\n", "line 3 has 2 cells, the header has 3"),
    "text": ("n,a\nx,1\ny,big\n", "feature 'a' is not numeric; 'y' has 'big'"),
    "gap": ("n,a\nx,1\ny,\n", "no finite value for 'y'"),
    "nan": ("n,a\nx,1\ny,nan\n", "no finite value for 'y'"),
    "infinite": ("n,a\nx,1\ny,inf\n", "no finite value for 'y'"),
    "duplicate item": ("n,a\nx,1\nx,2\n", "repeated: 'x'"),
    "missing item": ("n,a\nx,1\n,2\n", "no name at position 1"),
    "duplicate column": ("n,a,a\nx,1,2\ny,2,3\n", "repeated: a"),
    "constant": ("n,a,b\nx,1,2\ny,2,2\n", "feature 'b' is constant"),
    "zero": ("n,a,b\nx,1,0\ny,2,0\n", "feature 'b' is constant"),
    "one item": ("n,a\nx,1\n", "one item"),
    "no item": ("n,a\n", "found no item"),
    "empty": ("", "found no item"),
    "no feature": ("n\nx\ny\n", "one column"),
    "no header": ("dog,1,0.5\ncat,0,2\npine,3,4\n", "first line looks like data"),
    "underscore": ("n,a\nx,1_000\ny,2\n", "'x' has '1_000'"),
    "other separator": ("n:a\nx:1\ny:2\n", "separated by commas"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv_is_refused_with_the_path_and_the_reason(case, tmp_path):
    text, reason = BAD_CSV[case]
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=reason) as error:
        dln.Task.from_csv(path)
    assert str(path) in str(error.value)


def test_binary_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "bytes.csv"
    path.write_bytes(b"\xff\xfe\x00n,a")
    with pytest.raises(ValueError, match="UTF-8"):
        dln.Task.from_csv(path)
    with pytest.raises(FileNotFoundError):
        dln.Task.from_csv(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"y": [[1.0, np.nan]]}, "row 0, column 1"),
        ({"y": [1.0, 2.0]}, "non-empty matrix"),
        ({"y": [["a", "b"]]}, "numeric matrix"),
        ({"y": [[1.0], [2.0]]}, "one item"),
        ({"y": np.zeros((2, 3))}, "zero everywhere"),
        ({"y": np.eye(2), "x": np.ones((3, 4))}, "one column per item: 2 in `y`, 4 in `x`"),
        ({"y": [[1.0, -1.0]], "x": [[1.0, 1.0]]}, "uncorrelated"),
        ({"y": np.eye(2), "items": ["a", "a"]}, "repeated: 'a'"),
        ({"y": np.eye(2), "items": ["a"]}, "must hold 2 names, got 1"),
        ({"y": np.eye(2), "items": ["a", " "]}, "no name at position 1"),
        ({"y": np.eye(2), "items": "ab"}, "one string"),
        ({"y": np.eye(2), "features": ["f"]}, "`features` must hold 2 names"),
    ],
)
def test_bad_arrays_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        dln.Task(**arguments)


@pytest.mark.parametrize(
    "y",
    [
        np.eye(2) + 1j,
        np.ma.masked_array(np.eye(2), mask=np.eye(2)),
        np.array([["2020-01-01", "2021-01-01"]], dtype="datetime64[D]"),
        [[1, 2], [3]],
    ],
    ids=["complex", "masked", "dates", "ragged"],
)
def test_arrays_that_would_lose_something_are_refused(y):
    with pytest.raises(ValueError, match=r"`y` [^.].*[^.]\.$"):  # one full stop
        dln.Task(y)


@pytest.mark.parametrize(
    "frame",
    [
        {"a": [1.0]},
        pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 3.0]}),
        pd.DataFrame({("a", "b"): [1.0, 2.0]}, index=["x", "y"]),
    ],
    ids=["dict", "no names", "two levels"],
)
def test_frames_without_plain_names_are_refused(frame):
    with pytest.raises(ValueError, match=r"DataFrame|item names"):
        dln.Task.from_frame(frame)


def test_object_columns_of_numbers_are_numbers():
    frame = pd.DataFrame({"a": pd.Series([1, 2], dtype=object).values}, index=["x", "y"])
    assert dln.Task.from_frame(frame).y.tolist() == [[1.0, 2.0]]


def test_many_columns_are_read_in_linear_time(tmp_path):
    path = tmp_path / "wide.csv"
    header = ",".join(f"f{k}" for k in range(20_000))
    rows = [",".join(str((k * i) % 7) for k in range(20_000)) for i in (1, 2, 3)]
    path.write_text("n," + header + "\n" + "\n".join(f"i{i},{r}" for i, r in enumerate(rows)))
    with pytest.raises(ValueError, match="constant"):  # f0 is 0 everywhere
        dln.Task.from_csv(path)


def test_unknown_items_suggest_the_nearest():
    task = dln.semantic_hierarchy()
    with pytest.raises(ValueError, match="Did you mean 'sparrow'"):
        task.indices("sparow")
    with pytest.raises(ValueError, match="Items: dog, cat"):
        task.indices("xyzzy")
    with pytest.raises(ValueError, match="none twice"):
        task.indices(["dog", "dog"])
    assert task.indices(["cat", "dog"]).tolist() == [1, 0]


@pytest.mark.parametrize(("levels", "branching"), [(1, 2), (4, 1), (0, 2), (2.5, 2), (30, 2)])
def test_impossible_hierarchies_are_refused(levels, branching):
    with pytest.raises(ValueError, match=r"levels|branching|items"):
        dln.semantic_hierarchy(levels, branching)


def test_no_item_is_suggested_for_what_is_no_name():
    with pytest.raises(ValueError, match=r"unknown item None\. Items: dog"):
        dln.semantic_hierarchy().indices([None])
