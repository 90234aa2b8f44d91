"""Excel files."""

import sys

import numpy as np
import pandas as pd
import pytest

import dlnflow as dln

FRAME = pd.DataFrame({"name": ["dog", "cat"], "2000": [1.5, 2], "tame": [True, False]})


@pytest.fixture
def book(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "book.xlsx"
    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        FRAME.to_excel(writer, sheet_name="animals", index=False)
        pd.DataFrame({2000: [1, "1,5"], "b": [None, 3]}, index=["x", "NA"]).to_excel(
            writer, sheet_name="more", startrow=2
        )
    return path


def test_the_first_sheet_is_read_as_the_frame_that_was_written(book):
    task = dln.Task.from_csv(book)
    assert task.items == ("dog", "cat") and task.features == ("2000", "tame")
    assert task.y.tolist() == [[1.5, 2], [1, 0]]
    assert task.notes == ("sheet 'animals', the first of 2; see `sheet` (--sheet)",)


@pytest.mark.parametrize("sheet", ["more", 2, "2"])
def test_another_sheet_is_read_by_name_or_number(book, sheet):
    with pytest.raises(ValueError, match="'b' has no finite value for 'x'"):
        dln.Task.from_csv(book, sheet=sheet)
    task = dln.Task.from_csv(book, sheet=sheet, drop=["b"])
    assert task.items == ("x", "NA") and task.y.tolist() == [[1, 1.5]]


def test_the_content_and_not_the_name_tells_the_format(book, tmp_path):
    renamed = book.rename(tmp_path / "book.csv")
    assert dln.Task.from_csv(renamed).items == ("dog", "cat")
    text = tmp_path / "text.xlsx"
    text.write_text("name,a\nx,1\ny,2\n", encoding="utf-8")
    assert dln.Task.from_csv(text).items == ("x", "y")


def test_wrong_sheets_options_and_damaged_files_are_refused(book):
    with pytest.raises(ValueError, match="Did you mean 'animals'"):
        dln.Task.from_csv(book, sheet="animal")
    with pytest.warns(UserWarning, match="`sep` has no effect on an Excel file"):
        dln.Task.from_csv(book, sep=";")
    content = book.read_bytes()
    book.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="zip archive"):
        dln.Task.from_csv(book)


def test_a_flipped_byte_is_an_explained_error_or_changes_nothing(book):
    content, refused = book.read_bytes(), 0
    expected = dln.Task.from_csv(book)
    for place in range(40, len(content), len(content) // 30):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        book.write_bytes(damaged)
        try:
            task = dln.Task.from_csv(book)
        except ValueError as error:
            assert str(book) in str(error)
            refused += 1
        else:
            assert np.array_equal(task.y, expected.y) and task.items == expected.items
    assert refused > 5


def test_years_name_items_and_text_can_be_numbers(tmp_path):
    pytest.importorskip("openpyxl")
    path = tmp_path / "years.xlsx"
    values = np.array([[1, 2], [3, 1]])
    frame = pd.DataFrame(values, index=[2000, 2001], columns=[0, 1]).astype(str)
    frame.to_excel(path, index_label="year")
    task = dln.Task.from_csv(path, header=True)
    assert task.items == ("2000", "2001") and np.array_equal(task.y, values.T)


def test_a_missing_extra_is_named(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dlnflow\[excel\]'"):
        dln.Task.from_csv(book)
