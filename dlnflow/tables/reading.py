"""A file as a frame of cells: text in any usual dialect, or a sheet of an Excel file."""

import warnings
from os import PathLike
from pathlib import Path

import pandas as pd

from dlnflow.tables import decoding, dialect, excel, grid
from dlnflow.tables.options import ReadOptions


def read(
    path: str | PathLike[str], options: ReadOptions | None = None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read a file into a frame of cells, all columns as they stand, and say how it was read.

    Parameters
    ----------
    path : path-like
        A text file or an Excel file (.xlsx); its content decides which.
    options : ReadOptions, optional
        What is not to be recognised.

    Returns
    -------
    pandas.DataFrame
        Text cells are text, cells of Excel have their type; nothing is converted yet.
    tuple of str
        What was recognised and is not the usual (commas, UTF-8).

    Raises
    ------
    ValueError
        If the file is empty, ragged, not text, or one of several readings would have to be
        guessed.
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If an Excel file needs the excel extra.
    """
    options = options or ReadOptions()
    data = Path(path).read_bytes()
    if excel.is_workbook(data):
        _without_effect(options, ("sep", "encoding"), "an Excel file")
        rows, notes = excel.rows_of(data, options.sheet)
        separated = "columns of the sheet"
    else:
        _without_effect(options, ("sheet",), "a text file")
        text, encoding = decoding.decode(data, options.encoding)
        rows, sep = dialect.split(text, options.sep)
        separated = dialect.SEPARATORS.get(sep, repr(sep))
        notes = _text_notes(options, encoding, separated)
    frame, more = grid.frame_of(rows, options.header, separated)
    return frame, (*notes, *more)


def _without_effect(options: ReadOptions, names: tuple[str, ...], kind: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            warnings.warn(f"`{name}` has no effect on {kind}.", stacklevel=2)


def _text_notes(options: ReadOptions, encoding: str, separated: str) -> list[str]:
    notes = []
    if options.encoding is None and encoding != "utf-8":
        notes.append(f"text in {encoding}")
    if options.sep is None and separated != "commas":
        notes.append(f"cells separated by {separated}")
    return notes
