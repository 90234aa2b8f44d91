"""Frames as numbers: any index, every fault in one message, and what options do."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlnflow as dln
from tests.tolerances import ALGEBRA

ANIMALS = pd.DataFrame(
    {
        "name": ["dog", "cat", "pine", "cod", "oak"],
        "kind": list("aapap"),
        "x": [1, 0, 0, 1, 0],
        "y": [0, 1, 0, 0, 1],
    }
)
NUMBERS = ANIMALS.drop(columns="kind")


def _fault(frame, **options):
    with pytest.raises(ValueError) as error:
        dln.Task.from_frame(frame, **options)
    return str(error.value)


def test_a_filtered_frame_has_the_items_that_are_left():
    frame = pd.DataFrame(
        {
            "name": ["dog", "cat", "pine", "cod"],
            "d": list("aapa"),
            "x": [1, 1, 0, 1],
            "y": [0, 1, 0, 0],
        }
    )
    left = frame[frame.d == "a"].drop(columns="d")
    task = dln.Task.from_frame(left, drop_constant=True)
    assert task.items == ("dog", "cat", "cod") and task.features == ("y",)


HISTORIES = {
    "filtered": lambda f: f[f.name != "pine"],
    "sorted": lambda f: f.sort_values("name"),
    "sampled": lambda f: f.sample(frac=1, random_state=3),
    "deduplicated": lambda f: pd.concat([f, f.iloc[:2]]).drop_duplicates(),
    "joined": lambda f: pd.concat([f.iloc[:2], f.iloc[2:].reset_index(drop=True)]),
    "sliced": lambda f: f.iloc[1:],
    "reversed": lambda f: f[::-1],
    "objects": lambda f: f.set_axis(pd.Index([7, 3, 9, 1, 0], dtype=object)),
    "selected": lambda f: f.query("x + y > 0"),
}


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("read", [dln.Task.from_frame, dln.Task], ids=["from_frame", "Task"])
def test_the_history_of_an_index_does_not_matter(history, read):
    frame = HISTORIES[history](NUMBERS)
    task, fresh = read(frame), dln.Task.from_frame(frame.reset_index(drop=True))
    assert task.items == tuple(frame["name"]) == fresh.items
    assert task.features == ("x", "y") and np.array_equal(task.y, frame[["x", "y"]].T)


@pytest.mark.parametrize(
    "index",
    [
        pd.Index(["a", "b"]),
        pd.Index([1990, 2000], name="year"),
        pd.CategoricalIndex(["a", "b"]),
        pd.Index(["a", 2], dtype=object),
        pd.date_range("2020-01-01", periods=2),
    ],
)
def test_an_index_that_is_more_than_row_numbers_names_the_items(index):
    task = dln.Task.from_frame(pd.DataFrame({"x": [1, 2], "y": [2, 1]}, index=index))
    assert task.items == tuple(map(str, index))


def test_row_numbers_are_no_names_in_whatever_order():
    frame = pd.DataFrame({"x": [1, 2, 4], "y": [2, 1, 3]})
    for history in (frame, frame[frame.x > 1], frame.sort_values("y")):
        assert "needs item names" in _fault(history)
        assert dln.Task.from_frame(history, label_column="#").items[:2] == ("row1", "row2")
    assert "'name' would do" in _fault(NUMBERS[["x", "name", "y"]])


def test_any_column_can_name_the_items():
    mixed = NUMBERS[["x", "name", "y"]]
    task = dln.Task.from_frame(mixed, label_column="name")
    assert task.items[0] == "dog" and task.features == ("x", "y")
    assert dln.Task.from_frame(mixed.set_index("x"), label_column="name").features == ("y",)
    assert dln.Task.from_frame(NUMBERS.set_index("name"), label_column="name").n_out == 2
    assert "Did you mean 'name'" in _fault(mixed, label_column="nmae")


def test_a_frame_or_series_given_to_task_is_read_as_a_table():
    frame = NUMBERS.set_index("name")
    task = dln.Task(frame)
    assert (task.n_items, task.n_out) == (5, 2) and task.items[2] == "pine"
    series = dln.Task(frame["x"])
    assert series.features == ("x",) and series.y.tolist() == [frame["x"].tolist()]
    assert dln.Task(frame["x"].rename(None)).features == ("feature0",)
    inputs = np.random.default_rng(0).standard_normal((3, 5))
    assert dln.Task(frame, inputs).n_in == 3


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"y": NUMBERS, "items": list("abcde")}, "leave out `items`"),
        ({"y": np.eye(5), "x": NUMBERS}, r"x\.to_numpy\(\)\.T"),
        ({"y": NUMBERS["x"]}, "needs item names"),
        ({"y": ANIMALS}, "'kind' is not numeric"),
    ],
)
def test_frames_that_task_cannot_take_are_refused_with_the_remedy(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        dln.Task(**arguments)


def test_frames_of_other_libraries_are_not_read_as_arrays():
    class Frame:
        def __dataframe__(self):
            """Say that this is a table."""

    with pytest.raises(ValueError, match=r"to_pandas"):
        dln.Task(Frame())


def test_all_constant_columns_are_named_and_can_be_dropped():
    frame = pd.DataFrame({f"c{k}": [k, k] for k in range(9)} | {"d": [0, 1]}, index=["dog", "cat"])
    message = _fault(frame)
    assert all(f"'c{k}' ({k})" in message for k in range(9)) and "--drop-constant" in message
    task = dln.Task.from_frame(frame, drop_constant=True)
    assert task.features == ("d",) and all(f"'c{k}'" in task.notes[0] for k in range(9))
    assert "nothing would be left" in _fault(frame.drop(columns="d"), drop_constant=True)


def test_faults_of_all_kinds_are_in_one_message():
    frame = pd.DataFrame(
        {
            "word": [1, "big", 3],
            "words": ["red", 2, "blue"],
            "gap": [1, np.nan, 3],
            "infinite": [np.inf, 1, 2],
            "huge": [1e200, 1, 2],
            "tiny": [1e-150, 1, 2],
        },
        index=["a", "b", "b"],
    )
    message = _fault(frame)
    for part in (
        "4 faults",
        "repeated: 'b'",
        "'word' ('b' has 'big'), 'words' ('a' has 'red')",
        "feature 'gap' has no finite value for 'b'",
        "feature 'infinite' has no finite value",
        "2 cells are",
        "'huge' ('a' has 1e+200)",
        "'tiny' ('a' has 1e-150)",
    ):
        assert part in message, part
    assert "feature 'word' has no finite" not in message


@pytest.mark.parametrize("fault", ["text", np.nan, 1e200, 1.0])
def test_every_bad_column_is_named_whatever_is_bad(fault):
    frame = pd.DataFrame({f"bad{k}": [fault, 1.0] for k in range(12)} | {"good": [1, 2]})
    message = _fault(frame.set_axis(["a", "b"]))
    assert all(f"'bad{k}'" in message for k in range(12)) and "'good'" not in message


def test_messages_about_very_many_columns_stay_short():
    frame = pd.DataFrame(np.zeros((2, 5000)), index=["a", "b"]).add_prefix("column")
    assert "and 4900 more" in _fault(frame) and len(_fault(frame)) < 5000


def test_repeated_and_missing_names_are_refused():
    twice = pd.DataFrame([[1, 2, 3], [2, 1, 4]], columns=["a", "a", "b"], index=["x", "y"])
    assert "repeated: a" in _fault(twice)
    unnamed = pd.DataFrame({"": [1, 2], "b": [2, 1]}, index=["x", None])
    assert "without a name: 1" in _fault(unnamed) and "no name at position 1" in _fault(unnamed)
    assert "repeated: 1" in _fault(twice.set_axis([1, "1", "b"], axis=1))


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["yes", "no"], [1, 0]),
        (["TRUE", " False"], [1, 0]),
        (["Ja", "nein"], [1, 0]),
        (["wahr", "FALSCH"], [1, 0]),
        (["oui", "non"], [1, 0]),
        (["Y", "n"], [1, 0]),
        ([True, False], [1, 0]),
        (["1", "2.5"], [1, 2.5]),
        (["\u22121", "3e2"], [-1, 300]),
        (["1 234", "12\u202f345\u202f678"], [1234, 12345678]),
        (["1'234", "12’345"], [1234, 12345]),
        ([1, 2.5], [1, 2.5]),
        ([Decimal("0.5"), 2], [0.5, 2]),
        (pd.array([1, 2], dtype="Int64"), [1, 2]),
        (pd.array([True, False], dtype="boolean"), [1, 0]),
        (pd.arrays.SparseArray([0.0, 1.0]), [0, 1]),
        (pd.Categorical([3, 1]), [3, 1]),
    ],
    ids=str,
)
def test_cells_that_are_safely_numbers_are_read(cells, values):
    frame = pd.DataFrame({"a": pd.Series(cells).array, "b": [1, 2]}, index=["x", "y"])
    assert dln.Task.from_frame(frame).y[0].tolist() == values


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["yes", "nein"], "'a' is not numeric; 'x' has 'yes'"),
        (["yes", 0], "'x' has 'yes'"),
        ([True, 2], "'x' has True"),
        (["45%", "3%"], "'x' has '45%'"),
        (["1_000", "2"], "'x' has '1_000'"),
        (["0x10", "2"], "'x' has '0x10'"),
        (["٣", "2"], "'x' has '٣'"),
        (["1 23", "2"], "'x' has '1 23'"),
        (["a", "b"], "--one-hot"),
        ([1j, 2], "not numeric"),
        ([pd.Timestamp("2020"), pd.Timestamp("2021")], "not numeric"),
        ([[1], [2]], "not numeric"),
        (pd.Series([10**400, 1], dtype=object), "no finite value for 'x'"),
        (["1e999", "1"], "no finite value for 'x'"),
        ([None, "yes"], "no finite value for 'x'"),
        (pd.array([None, 2], dtype="Int64"), "no finite value for 'x'"),
        (pd.array([None, True], dtype="boolean"), "no finite value for 'x'"),
        (["N/A", "2"], "no finite value for 'x'"),
    ],
    ids=str,
)
def test_cells_that_are_not_are_refused(cells, reason):
    column = cells if isinstance(cells, pd.Series) else pd.Series(cells)
    frame = pd.DataFrame({"a": column, "b": [1, 2]}).set_axis(["x", "y"])
    assert reason in _fault(frame)


def test_words_for_one_and_zero_are_noted():
    frame = pd.DataFrame({"a": ["yes", "no"], "b": ["no", "yes"]}, index=["x", "y"])
    assert dln.Task.from_frame(frame).notes == ("yes/no read as 1/0 in 'a', 'b'",)


def test_categories_become_indicators():
    task = dln.Task.from_frame(ANIMALS, one_hot=["kind"])
    assert task.features == ("kind=a", "kind=p", "x", "y")
    assert task.y[:2].tolist() == [[1, 1, 0, 1, 0], [0, 0, 1, 0, 1]]
    gap = ANIMALS.assign(kind=["a", None, "p", "a", "p"])
    assert "'kind=p' has no finite value for 'cat'" in _fault(gap, one_hot="kind")
    taken = ANIMALS.rename(columns={"x": "kind=a"})
    assert "has already: 'kind=a'" in _fault(taken, one_hot="kind")


def test_columns_can_be_left_out():
    task = dln.Task.from_frame(ANIMALS, drop=["kind"])
    assert task.features == ("x", "y") and task.notes == ("left out 'kind'",)
    message = _fault(ANIMALS, drop=["knd", "z"])
    assert "'knd', 'z'" in message and "Did you mean 'kind'" in message
    assert "no feature column" in _fault(ANIMALS[["name", "x"]], drop="x")


def test_features_are_centered_and_standardized():
    frame = pd.DataFrame(np.random.default_rng(0).lognormal(0, 3, (6, 3)), index=list("abcdef"))
    raw = dln.Task.from_frame(frame).y
    centered = dln.Task.from_frame(frame, center=True)
    assert np.abs(centered.y - (raw - raw.mean(1, keepdims=True))).max() < ALGEBRA
    scaled = dln.Task.from_frame(frame, standardize=True)
    expected = (raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)
    assert np.abs(scaled.y - expected).max() < ALGEBRA and "standardized" in scaled.notes[0]


def test_standardizing_takes_absurd_units_but_no_rounding_noise():
    frame = pd.DataFrame({"a": [1e200, 2e200, 4e200], "b": [1e-150, 0, 0]}, index=list("xyz"))
    usual = pd.DataFrame({"a": [1, 2, 4], "b": [1, 0, 0]}, index=list("xyz"))
    expected = dln.Task.from_frame(usual, standardize=True)
    task = dln.Task.from_frame(frame, standardize=True)
    assert np.abs(task.y - expected.y).max() < ALGEBRA
    noise = pd.DataFrame({"a": [1, 1 + 2e-16, 1], "b": [1, 0, 0]}, index=list("xyz"))
    assert "'a' differ" in _fault(noise, standardize=True)


def test_sizes_that_differ_much_are_noted():
    task = dln.tables.examples.load("countries")
    assert "'area (1000 km2)'" in task.notes[0] and "--standardize" in task.notes[0]
    assert "1000" not in dln.tables.examples.load("countries", standardize=True).notes[0]


@pytest.mark.parametrize(
    "options",
    [
        {"drop_constant": True},
        {"decimal": ","},
        {"thousands": ","},
        {"center": True, "standardize": True},
    ],
    ids=str,
)
def test_options_without_effect_warn(options):
    name = next(iter(options))
    with pytest.warns(UserWarning, match=f"`{name}` has no effect"):
        dln.Task.from_frame(NUMBERS, **options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"standardise": True}, "Did you mean 'standardize'"),
        ({"sep": ";"}, "an option for files"),
        ({"center": "yes"}, "`center` must be True or False"),
        ({"decimal": ";"}, "`decimal` must be one of"),
        ({"decimal": ",", "thousands": ","}, "both ','"),
        ({"one_hot": 3}, "list of column names"),
        ({"one_hot": ["kind", "kind"]}, "twice"),
        ({"one_hot": "kind", "drop": "kind"}, "both name 'kind'"),
        ({"label_column": True}, "`label_column` must be"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, reason):
    assert re.search(re.escape(reason), _fault(ANIMALS, **options))


@given(st.data())
def test_the_order_of_rows_and_columns_only_reorders_the_task(data):
    rows = data.draw(st.permutations(range(5)))
    columns = data.draw(st.permutations(["x", "y"]))
    task = dln.Task.from_frame(NUMBERS.iloc[rows][["name", *columns]])
    fresh = dln.Task.from_frame(NUMBERS)
    assert task.items == tuple(fresh.items[k] for k in rows) and task.features == tuple(columns)
    order = [fresh.features.index(name) for name in columns]
    assert np.array_equal(task.y, fresh.y[np.ix_(order, rows)])
