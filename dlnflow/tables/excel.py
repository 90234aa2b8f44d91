"""Sheets of Excel files as rows of cells, through pandas and openpyxl."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd

from dlnflow import checks
from dlnflow.tables.grid import Row
from dlnflow.tables.options import flag


def is_workbook(data: bytes) -> bool:
    """Whether the bytes are an Excel file (.xlsx, .xlsm), whatever their name says."""
    if not data.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def rows_of(data: bytes, sheet: str | int | None) -> tuple[list[Row], list[str]]:
    """Return the rows of a sheet that are not blank, and notes.

    Parameters
    ----------
    data : bytes
        Content of the file.
    sheet : str, int or None
        Name or number counted from 1; None: the first.

    Returns
    -------
    list of (row number, cells)
    list of str

    Raises
    ------
    ModuleNotFoundError
        If openpyxl is not installed.
    ValueError
        If the file is damaged or has no such sheet.
    """
    try:
        import openpyxl  # noqa: F401  (asked for first: pandas names no extra of this package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "reading Excel files needs openpyxl: pip install 'dlnflow[excel]', or save the sheet "
            "as CSV.",
            name="openpyxl",
        ) from error
    with _damage_named():
        book = pd.ExcelFile(io.BytesIO(data), engine="openpyxl")
    with book:
        name = _sheet(book.sheet_names, sheet)
        with _damage_named():
            cells = pd.read_excel(
                book, sheet_name=name, header=None, dtype=object, keep_default_na=False
            )
    rows = [
        (number, [_cell(cell) for cell in row])
        for number, row in enumerate(cells.itertuples(index=False), start=1)
    ]
    rows = [(number, row) for number, row in rows if any(cell != "" for cell in row)]
    notes = []
    if sheet is None and len(book.sheet_names) > 1:
        notes.append(f"sheet {name!r}, the first of {len(book.sheet_names)}; see {flag('sheet')}")
    return rows, notes


@contextmanager
def _damage_named() -> Iterator[None]:
    """Say of any failure that the file is damaged: archives and XML fail in many ways."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"a damaged Excel file, {kind}: {error}. Save it anew.") from error


def _sheet(names: list[str], wanted: str | int | None) -> str:
    if wanted is None:
        return names[0]
    if wanted in names:
        return str(wanted)
    if str(wanted).isdecimal() and 1 <= int(wanted) <= len(names):
        return names[int(wanted) - 1]
    raise ValueError(
        f"`sheet` {wanted!r} is not in the file; it has {', '.join(map(repr, names))}."
        + checks.did_you_mean(str(wanted), names)
    )


def _cell(cell: object) -> object:
    """Strip text, and turn what is missing into an empty cell."""
    if isinstance(cell, str):
        return cell.strip()
    return "" if cell is None or cell is pd.NaT or cell != cell else cell
