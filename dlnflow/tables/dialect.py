"""Text as rows of cells: the separator is taken only where a single one makes a table."""

import csv
import io
import re
from itertools import islice

from dlnflow.tables.grid import Row, irregular
from dlnflow.tables.numbers import looks_numeric
from dlnflow.tables.options import flag

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""Recognised separators and what they are called."""
EXCEL_LINE = re.compile(r"\A\s*\"?sep=(.)\"?[^\S\r\n]*(?:\r\n|\r|\n)", re.IGNORECASE)
"""The first line that tells Excel the separator."""


def split(text: str, sep: str | None) -> tuple[list[Row], str]:
    """Split a text at line breaks and separators.

    Returns
    -------
    list of (line number, cells)
        The rows that are not blank.
    str
        The separator.

    Raises
    ------
    ValueError
        If a quote is left open, or several separators would do.
    """
    skipped, told = 0, EXCEL_LINE.match(text)
    if told:
        text, skipped = text[told.end() :], 1
        sep = sep or told[1]
    if sep is not None:
        return _rows(text, sep, skipped), sep
    first = next((line for line in io.StringIO(text) if line.strip()), "")
    readings, failure = {}, None
    for candidate in [s for s in SEPARATORS if s in first]:
        try:
            readings[candidate] = _rows(text, candidate, skipped)
        except ValueError as error:
            failure = error
    readings = {candidate: rows for candidate, rows in readings.items() if rows}
    if not readings:
        if failure:
            raise failure
        return _rows(text, ",", skipped), ","
    chosen = _choice(readings)
    return readings[chosen], chosen


def _rows(text: str, sep: str, skipped: int) -> list[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sep, strict=True)
    rows = []
    try:
        for cells in reader:
            stripped = [cell.strip().strip("\ufeff") for cell in cells]  # marks of joined files
            if any(stripped):
                rows.append((reader.line_num + skipped, stripped))
    except csv.Error as error:
        raise ValueError(
            f"not a CSV file: {error} in line {reader.line_num + skipped}, cells separated by "
            f"{SEPARATORS.get(sep, repr(sep))}. Expected quotes in pairs; see {flag('sep')}."
        ) from error
    return rows


def _choice(readings: dict[str, list[Row]]) -> str:
    """Return the separator with which all rows have as many cells as the header."""
    regular = [sep for sep, rows in readings.items() if _is_table(rows)]
    if not regular:  # the error to come is about what the header most looks like
        return max(readings, key=lambda sep: len(readings[sep][0][1]))
    if len(regular) > 1:
        numeric = [sep for sep in regular if _all_numeric(readings[sep])]
        if len(numeric) != 1:
            names = " and by ".join(SEPARATORS[sep] for sep in regular)
            raise ValueError(
                f"the cells could be separated by {names}: name the separator with {flag('sep')}."
            )
        return numeric[0]
    return regular[0]


def _is_table(rows: list[Row]) -> bool:
    return len(rows) > 1 and len(rows[0][1]) > 1 and not irregular(rows)


def _all_numeric(rows: list[Row]) -> bool:
    return all(looks_numeric(cell) for _, row in islice(rows, 1, None) for cell in row[1:])
