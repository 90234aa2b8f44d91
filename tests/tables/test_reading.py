"""Files as frames: every usual dialect reads back equal, hostile files are refused."""

import csv
import io
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow.tables.numbers import Format, recognise

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
ROWS = [["name", "a", "b"], ["dog", "1.5", "2"], ["cat", "0.25", "-3"]]


def _write(folder, content, encoding="utf-8", name="table.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def _task(folder, content, written_in="utf-8", /, **options):
    return dln.Task.from_csv(_write(folder, content, written_in), **options)


def _text(rows, sep=",", end="\n"):
    out = io.StringIO()
    csv.writer(out, delimiter=sep, lineterminator=end).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"], ids=repr)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
def test_separators_encodings_and_line_ends_are_recognised(sep, encoding, end, tmp_path):
    task = _task(tmp_path, _text(ROWS, sep, end), encoding)
    assert task.items == ("dog", "cat") and task.features == ("a", "b")
    assert task.y.tolist() == [[1.5, 0.25], [2, -3]]
    assert ("cells separated by" in " ".join(task.notes)) == (sep != ",")
    assert ("text in" in " ".join(task.notes)) == ("utf-8" not in encoding)


NAMES = st.text(
    st.characters(exclude_categories=["C", "Z"], exclude_characters='"'), min_size=1, max_size=6
).filter(lambda name: name.casefold() not in {"", "sep="})


@st.composite
def _written(draw):
    """A table, and the same in a random dialect."""
    n_items, n_features = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    items = draw(st.lists(NAMES, min_size=n_items, max_size=n_items, unique=True))
    # A first letter keeps the header from being one of numbers.
    features = [f"f{k} {draw(NAMES)}" for k in range(n_features)]
    floats = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-40)
    column = st.lists(floats, min_size=n_items, max_size=n_items).filter(lambda c: len(set(c)) > 1)
    y = np.array([draw(column) for _ in features])
    decimal, sep = draw(
        st.sampled_from([(".", ","), (".", ";"), (".", "\t"), (",", ";"), (",", "\t"), (".", "|")])
    )
    rows = [["item", *features]]
    rows += [
        [i, *(repr(float(v)).replace(".", decimal) for v in row)]
        for i, row in zip(items, y.T, strict=True)
    ]
    rows += draw(st.sampled_from([[], [[""] * (n_features + 1)]]))
    if draw(st.booleans()):
        rows = [[*row, ""] for row in rows]
    return items, features, y, rows, sep, decimal


@given(_written(), st.sampled_from(ENCODINGS), st.sampled_from(["\n", "\r\n"]))
def test_a_table_written_in_any_dialect_is_read_back_equal(
    tmp_path_factory, written, encoding, end
):
    items, features, y, rows, sep, decimal = written
    folder = tmp_path_factory.mktemp("dialect")
    # Without a mark, names of other scripts leave few of the nulls that tell UTF-16.
    told = {"encoding": encoding} if encoding.endswith("e") else {}
    task = _task(folder, _text(rows, sep, end), encoding, sep=sep, decimal=decimal, **told)
    assert task.items == tuple(items) and task.features == tuple(features)
    assert np.array_equal(task.y, y)


@given(_written(), st.sampled_from(ENCODINGS))
def test_what_is_recognised_is_right_or_refused(tmp_path_factory, written, encoding):
    """No dialect is read as another one without a word."""
    items, _, y, rows, sep, _ = written
    folder = tmp_path_factory.mktemp("dialect")
    try:
        task = _task(folder, _text(rows, sep), encoding)
    except ValueError as error:
        assert re.search(r"`(sep|decimal|thousands|encoding)", str(error)), error
    else:
        assert task.items == tuple(items) and np.array_equal(task.y, y)


@pytest.mark.parametrize(
    ("cells", "values", "note"),
    [
        (["1,5", "0,25"], [1.5, 0.25], "decimal comma"),
        (["1.234,5", "0,5"], [1234.5, 0.5], "set apart by '.'"),
        (["1,234.5", "0.5"], [1234.5, 0.5], "set apart by ','"),
        (["1,234,567", "12"], [1234567, 12], "set apart by ','"),
        (["1 234,5", "0,5"], [1234.5, 0.5], "decimal comma"),
        (["1.234", "2.345"], [1.234, 2.345], None),
        (["0,250", "0,500"], [0.25, 0.5], "decimal comma"),
        (["12,345", "1,5"], [12.345, 1.5], "decimal comma"),
    ],
    ids=str,
)
def test_number_formats_are_recognised(cells, values, note, tmp_path):
    task = _task(tmp_path, _text([["n", "a"], *(["xy"[k], c] for k, c in enumerate(cells))], ";"))
    assert task.y[0].tolist() == values
    assert (note is None) == (len(task.notes) == 1) and (note or "") in " ".join(task.notes)


def test_numbers_with_two_readings_are_refused_until_told(tmp_path):
    text = 'country,area\nA,"1,234"\nB,"12,345"\n'
    with pytest.raises(ValueError, match="may be") as error:
        _task(tmp_path, text)
    assert "--decimal ," in str(error.value) and "--thousands ," in str(error.value)
    assert _task(tmp_path, text, thousands=",").y.tolist() == [[1234, 12345]]
    assert _task(tmp_path, text, decimal=",").y.tolist() == [[1.234, 12.345]]
    mixed = "n;a\nx;1,5\ny;2.5\n"
    with pytest.raises(ValueError, match="'a' is not numeric; 'x' has '1,5'"):
        _task(tmp_path, mixed)


@given(st.lists(st.floats(-1e12, 1e12).map(lambda x: round(x, 2)), min_size=1, max_size=6))
@example([1234.5])
def test_grouped_numbers_are_read_as_written_or_refused(values):
    for decimal, thousands in ((".", ","), (",", ".")):
        swap = str.maketrans({",": thousands, ".": decimal})
        cells = [f"{value:,.2f}".translate(swap) for value in values]
        form = recognise(cells, None, None)
        assert [form.number(cell) for cell in cells] == values
    assert recognise(["1", "2"], None, None) == Format(".", None)


def test_separators_that_would_both_do_are_refused_until_told(tmp_path):
    text = "n;a,b\nx;1,5\ny;2,5\n"
    with pytest.raises(ValueError, match=r"by commas and by semicolons.*--sep"):
        _task(tmp_path, text)
    assert _task(tmp_path, text, sep=";").y.tolist() == [[1.5, 2.5]]
    assert _task(tmp_path, text.replace(";2,5", ";3,6"), sep=",").items == ("x;1", "y;3")


def test_a_comma_in_a_name_is_no_separator(tmp_path):
    task = _task(tmp_path, "name;size, mm;w\ndog;1,5;2\ncat;2,5;1\n")
    assert task.features == ("size, mm", "w") and task.y[0].tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("sep=;\nname;a;b\ndog;1.5;2\ncat;0.25;-3\n", {}),
        ("name a b\ndog 1.5 2\ncat 0.25 -3\n", {"sep": "space"}),
        ("name:a:b\ndog:1.5:2\ncat:0.25:-3\n", {"sep": ":"}),
        ("name\ta\tb\ndog\t1.5\t2\ncat\t0.25\t-3\n", {"sep": "tab"}),
        ('"a","b"\n"dog",1.5,2\n"cat",0.25,-3\n', {}),  # as R writes it
        ("name,a,b,,\ndog,1.5,2,,\ncat,0.25,-3,,\n,,,,\n\n", {}),
        ("name,a,,b\ndog,1.5,,2\ncat,0.25,,-3\n", {}),
        (",a,b\ndog,1.5,2\ncat,0.25,-3\n", {}),
        ("\n\nname,a,b\n\ndog,1.5,2\ncat,0.25,-3\n", {}),
        ("name,a,b\ndog,1.5,2\n\ufeffcat,0.25,-3\n", {}),
        ("id,name,a,b\n7,dog,1.5,2\n8,cat,0.25,-3\n", {"label_column": "name", "drop": "id"}),
    ],
)
def test_odd_layouts_that_are_clear_are_read(text, options, tmp_path):
    task = _task(tmp_path, text, **options)
    assert task.items == ("dog", "cat") and task.features == ("a", "b")
    assert task.y.tolist() == [[1.5, 0.25], [2, -3]]


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("country,1990,2000,2010\nA,1,2,3\nB,2,3,1\n", ("1990", "2000", "2010")),
        (",0,1\nA,1,2\nB,2,3\n", ("0", "1")),
        ("0,1,2\nA,1,2\nB,2,3\n", ("1", "2")),
        ("name,1,2\nA,1,2\nB,2,3\n", ("1", "2")),
    ],
)
def test_headers_of_numbers_are_read_where_they_are_clear(text, features, tmp_path):
    assert _task(tmp_path, text).features == features


def test_other_headers_of_numbers_name_the_option(tmp_path):
    text = "dog,1,0.5\ncat,0,2\npine,3,4\n"
    with pytest.raises(ValueError, match=r"looks like data.*--header.*--no-header"):
        _task(tmp_path, text)
    assert _task(tmp_path, text, header=True).features == ("1", "0.5")
    without = _task(tmp_path, text, header=False)
    assert without.items[0] == "dog" and without.features == ("feature0", "feature1")
    with pytest.raises(ValueError, match="looks like data"):
        _task(tmp_path, "A,1990,2000\nB,1991,2001\nC,1995,2010\n")


def test_labels_stay_as_they_are_written(tmp_path):
    task = _task(tmp_path, "code,a,b\n007,1,2\n1e3,2,1\nNA,3,0\n")
    assert task.items == ("007", "1e3", "NA")


def test_old_encodings_are_read_where_all_agree_and_refused_elsewhere(tmp_path):
    german = "name,größe,b\nköter,1,2\nbär,2,1\n"
    task = _task(tmp_path, german, "cp1252")
    assert task.items == ("köter", "bär") and task.notes == ("text in cp1252",)
    for text, encoding in (
        ("name,a,b\ncrème,1,2\nchat,2,1\n", "cp1252"),
        ("name,a,b\nkůň,1,2\nkočka,2,1\n", "cp1250"),
        ("имя,а,б\nпёс,1,2\nкот,2,1\n", "cp1251"),
        ("名前,a,b\n犬,1,2\n猫,2,1\n", "shift_jis"),
        ("όνομα,a,b\nσκύλος,1,2\nγάτα,2,1\n", "iso8859_7"),
    ):
        with pytest.raises(ValueError, match=r"line \d.*`encoding` \(--encoding\)"):
            _task(tmp_path, text, encoding)
        read = _task(tmp_path, text, encoding, encoding=encoding)
        assert read.items[0] == text.split("\n")[1].split(",")[0]


HOSTILE = {
    "empty": (b"", "found no item"),
    "blank": (b"\n \n,,\n", "found no item"),
    "header only": (b"name,a,b\n", "found no item"),
    "one column": (b"name\ndog\ncat\n", "one column"),
    "one row": (b"name,a\ndog,1\n", "one item"),
    "ragged": (b"n,a,b\nx,1,2\ny,1\nz,1,2,3\nw,0\n", "line 3 has 2 cells, line 4 has 4.*line 5"),
    "nulls": (b"\0\1\2\3abc\n", "binary"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0", "picture"),
    "old excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"save it as \.xlsx"),
    "gzip": (b"\x1f\x8b\x08\0", "gzip"),
    "zip": (b"PK\x03\x04nothing", "zip archive"),
    "broken utf-16": (b"\xff\xfen\0,\0a", "utf-16"),
    "broken utf-32": (b"\xff\xfe\0\0n", "utf-32"),
    "open quote": (b'name,a\ndog,"1\ncat,2\n', "quotes in pairs"),
    "joined": (b"name,a\ndog,1\nname,a\ncat,2\n", "line 3 is the header again"),
    "no name": (b"name,a,,b\ndog,1,2,3\ncat,2,1,1\n", "column 3 has no name"),
    "huge cell": (b"name,a\n" + b"x" * 200_000 + b",1\ncat,2\n", "field larger"),
    "huge header": (b"n" + b",f" * 100_000 + b"\nx" + b",1" * 100_000 + b"\n", "repeated: f"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_with_path_and_reason(case, tmp_path):
    content, reason = HOSTILE[case]
    path = _write(tmp_path, content)
    with pytest.raises(ValueError, match=reason) as error:
        dln.Task.from_csv(path)
    assert str(error.value).startswith(str(path))


@given(st.binary(max_size=60))
@example(b"\xff\xfe\x00n,a")
@example(b"\xfe\xff\x00,\x00\n")
def test_no_bytes_end_in_another_error(tmp_path_factory, content):
    path = _write(tmp_path_factory.mktemp("bytes"), content)
    try:
        dln.Task.from_csv(path)
    except ValueError as error:
        assert str(path) in str(error)


@given(st.text(st.sampled_from('na1.,;\t|"\n\r -'), max_size=40))
def test_no_text_ends_in_another_error(tmp_path_factory, content):
    path = _write(tmp_path_factory.mktemp("text"), content)
    try:
        dln.Task.from_csv(path)
    except ValueError as error:
        assert str(path) in str(error)


def test_folders_and_missing_files_keep_their_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        dln.Task.from_csv(tmp_path / "none.csv")
    with pytest.raises(OSError):
        dln.Task.from_csv(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sepp": ";"}, "Did you mean 'sep'"),
        ({"sep": ";;"}, "`sep` must be one character"),
        ({"sep": '"'}, "`sep` must be one character"),
        ({"encoding": "utf8x"}, "`encoding` 'utf8x' is not known"),
        ({"encoding": "base64"}, "is not known"),
        ({"encoding": "ascii"}, "not text in ascii"),
        ({"encoding": "utf-16"}, "no line break when read as utf-16"),
        ({"sheet": True}, "`sheet` must be"),
        ({"header": "no"}, "`header` must be"),
    ],
    ids=str,
)
def test_impossible_reading_options_are_refused(options, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        _task(tmp_path, "näme,a,b\ndog,1,2\ncat,2,1\n", **options)


def test_a_sheet_of_a_text_file_has_no_effect_and_warns(tmp_path):
    with pytest.warns(UserWarning, match="`sheet` has no effect on a text file"):
        _task(tmp_path, _text(ROWS), sheet="one")
