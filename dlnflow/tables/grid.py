"""Rows of cells as a frame: one header, rows of its length, names that are names."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from dlnflow.tables.numbers import looks_numeric
from dlnflow.tables.options import flag

Row = tuple[int, list[Any]]
"""Line number and cells."""
YEARS = range(1500, 2200)
SHOWN = 8
"""Ragged lines that a message lists."""


def frame_of(
    rows: list[Row], header: bool | None, separated: str
) -> tuple[pd.DataFrame, list[str]]:
    """Return the table and notes on what was left out of it.

    Parameters
    ----------
    rows : list of (line number, cells)
        Without blank rows.
    header : bool or None
        Whether the first row names the columns; None: unless it looks like data.
    separated : str
        What separates the cells, for messages.

    Returns
    -------
    pandas.DataFrame
        The columns in order, the first one as text.
    list of str

    Raises
    ------
    ValueError
        If there is no item, one column only, a ragged row, or a header that cannot be one.
    """
    if len(rows) < (1 if header is False else 2):
        raise ValueError("expected a header line and at least two items, found no item.")
    if header is False:
        width = max(len(cells) for _, cells in rows)
        rows = [(0, ["name", *(f"feature{k}" for k in range(width - 1))]), *rows]
    ragged = irregular(rows)
    if len(rows[0][1]) < 2 and not ragged:
        raise ValueError(
            f"expected item names in the first column and features in the others, separated by "
            f"{separated}; the header has one column: {str(rows[0][1][0])[:80]!r}. "
            f"Another separator is named with {flag('sep')}."
        )
    if ragged:
        raise ValueError(_ragged_message(ragged, len(_width(rows[0][1])), separated))
    names, body, notes = _fitted(rows)
    if header is None:
        _check_header(names, body)
    repeats = [number for number, cells in body if cells == names]
    if repeats:
        raise ValueError(
            f"{_lines(repeats)} the header again, as in joined files; remove such lines."
        )
    _check_unnamed(names)
    table = np.empty((len(body), len(names)), dtype=object)
    for row, (_, cells) in zip(table, body, strict=True):
        row[:] = cells
    table[:, 0] = ["" if pd.isna(c) else str(c) for c in table[:, 0]]  # names, also if numbers
    return pd.DataFrame(table, columns=names, dtype=object), notes


def irregular(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Return line number and length of the rows that the header does not fit."""
    width = len(_width(rows[0][1]))
    full = len(rows[0][1])
    if _row_names_without_heading(rows):
        return []
    found = []
    for number, cells in rows[1:]:
        length = len(cells) if len(cells) < width else len(_width(cells, width))
        if length < width or length > full:
            found.append((number, length))
    return found


def _width(cells: list[Any], least: int = 0) -> list[Any]:
    """Cut empty cells off the end, but not below `least`."""
    end = len(cells)
    while end > least and _empty(cells[end - 1]):
        end -= 1
    return cells[:end]


def _empty(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and cell != cell)


def _row_names_without_heading(rows: Sequence[Row]) -> bool:
    """Whether every row has one cell more than the header, the first one text: R writes so."""
    width = len(rows[0][1])
    return (
        width > 0
        and all(len(cells) == width + 1 for _, cells in rows[1:])
        and not any(looks_numeric(cells[0]) for _, cells in rows[1:])
        and not all(_empty(cells[-1]) for _, cells in rows[1:])
    )


def _ragged_message(ragged: list[tuple[int, int]], width: int, separated: str) -> str:
    shown = [f"line {number} has {length} cells" for number, length in ragged[:SHOWN]]
    if len(ragged) > SHOWN:
        shown.append(f"and {len(ragged) - SHOWN} more lines differ")
    return (
        f"{', '.join(shown)}, the header has {width} (separated by {separated}). Expected as many "
        f"in each: quote cells that hold the separator, or name another {flag('sep')}."
    )


def _fitted(rows: list[Row]) -> tuple[list[str], list[Row], list[str]]:
    """Cut or fill rows to one length and leave out columns without a name or a value."""
    names, notes = ["" if _empty(cell) else str(cell).strip() for cell in rows[0][1]], []
    if _row_names_without_heading(rows):
        names = ["", *names]
        notes.append("the header has one cell less than the rows: the first names the items")
    width = len(names)
    body = [(number, (cells + [""] * width)[:width]) for number, cells in rows[1:]]
    empty = [
        k for k in range(1, width) if not names[k] and all(_empty(cells[k]) for _, cells in body)
    ]
    if empty:
        kept = [k for k in range(width) if k not in set(empty)]
        names = [names[k] for k in kept]
        body = [(number, [cells[k] for k in kept]) for number, cells in body]
    return names, body, notes


def _check_unnamed(names: list[str]) -> None:
    unnamed = [k + 1 for k, name in enumerate(names) if not name and k > 0]
    if unnamed:
        kind = "column" if len(unnamed) == 1 else "columns"
        raise ValueError(f"{kind} {', '.join(map(str, unnamed))} has no name in the header.")


def _lines(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"line {numbers[0]} is"
    return f"lines {', '.join(map(str, numbers[:SHOWN]))}{', ...' if numbers[SHOWN:] else ''} are"


def _check_header(names: list[str], body: list[Row]) -> None:
    """Refuse a header of numbers, unless they are years or positions, as pandas numbers columns."""
    if len(names) < 2 or not all(looks_numeric(name) and name for name in names[1:]):
        return
    if _counted(names) or _years(names[1:], body):
        return
    raise ValueError(
        f"the first line looks like data ({', '.join(names[:4])}, ...); expected a header with "
        "the names of the features. If it is one: `header=True` (--header); if there is none: "
        "`header=False` (--no-header)."
    )


def _counted(names: list[str]) -> bool:
    """Whether the columns are 0, 1, 2, ... in all, or after a heading that is no item name."""
    heading, rest = names[0], names[1:]
    if names == [str(k) for k in range(len(names))]:
        return True
    counted = rest in ([str(k) for k in range(len(rest))], [str(k + 1) for k in range(len(rest))])
    return counted and heading.casefold() in ("", "name", "item", "items", "id", "index", "label")


def _years(names: list[str], body: list[Row]) -> bool:
    """Whether the names are increasing years and the cells below are not."""
    if not all(name.isdecimal() and int(name) in YEARS for name in names):
        return False
    rising = all(a < b for a, b in pairwise(names))
    cells = [str(cell) for _, row in body for cell in row[1:]]
    return rising and not all(cell.isdecimal() and int(cell) in YEARS for cell in cells)
