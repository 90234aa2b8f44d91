"""Cells as numbers: decimal signs, thousand separators, yes and no, and gaps."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from dlnflow._support import FloatArray
from dlnflow.tables.options import flag

MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "-", "–", "?"})
"""What people write into cells without a value, in lower case."""
INFINITE = {
    sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in ("inf", "infinity")
}
PAIRS = (
    ("yes", "no"),
    ("true", "false"),
    ("y", "n"),
    ("ja", "nein"),
    ("wahr", "falsch"),
    ("oui", "non"),
    ("vrai", "faux"),
    ("sí", "no"),
    ("si", "no"),
    ("verdadero", "falso"),
    ("sim", "não"),
)
"""Words for 1 and 0; a column is read so if it holds no others."""
WORDS = frozenset(word for pair in PAIRS for word in pair)
QUIET_GROUPS = re.compile(r"[+-]?[1-9]\d{0,2}(?:[ \u00a0\u2009\u202f'’]\d{3})+(?![ '’\d])")
"""Thousands set apart by spaces or apostrophes, which mean nothing else in a number."""


@dataclass(frozen=True)
class Format:
    """How a number is written: the decimal sign, and what may set thousands apart."""

    decimal: str = "."
    thousands: str | None = None

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What a number in this format looks like."""
        return _pattern(self.decimal, self.thousands)

    def number(self, cell: str) -> float | None:
        """Return the number that the cell is in this format, or None."""
        if not self.pattern.fullmatch(cell):
            return None
        if self.thousands:
            cell = cell.replace(self.thousands, "")
        return float(cell if self.decimal == "." else cell.replace(self.decimal, "."))


FORMATS = (Format(".", None), Format(",", None), Format(".", ","), Format(",", "."))
"""Formats in which numbers are recognised; the first is that of CSV files."""


def _pattern(decimal: str, thousands: str | None) -> re.Pattern[str]:
    whole = r"\d+"
    if thousands:
        # A first group of 0 would make 0,250 the number 250.
        whole = rf"(?:[1-9]\d{{0,2}}(?:{re.escape(thousands)}\d{{3}})+|\d+)"
    point = re.escape(decimal)
    return re.compile(rf"[+-]?(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def plain(cell: str) -> str:
    """Strip the cell, write minus as ASCII and drop spaces and apostrophes between thousands."""
    cell = cell.strip()
    if cell.isascii() and " " not in cell and "'" not in cell:  # nearly all are
        return cell
    cell = cell.replace("\u2212", "-")
    grouped = QUIET_GROUPS.match(cell)
    return re.sub(r"[ \u00a0\u2009\u202f'’]", "", cell) if grouped else cell


def looks_numeric(cell: object) -> bool:
    """Whether a cell is a number in some format, a word for 1 or 0, or empty."""
    if not isinstance(cell, str):
        return cell is None or isinstance(cell, Real)
    cell = plain(cell)
    word = cell.casefold()
    return (
        word in MISSING
        or word in INFINITE
        or word in WORDS
        or any(form.number(cell) is not None for form in FORMATS)
    )


def recognise(cells: Iterable[str], decimal: str | None, thousands: str | None) -> Format:
    """Return the format in which the most cells are numbers.

    Parameters
    ----------
    cells : iterable of str
        All text cells of the features, plain.
    decimal, thousands : str or None
        What is known of the format.

    Returns
    -------
    Format

    Raises
    ------
    ValueError
        If two formats read as many cells and differ in a number, as for 1,234.
    """
    allowed = [form for form in FORMATS if decimal in (None, form.decimal)]
    if thousands is not None:
        decimals = [decimal] if decimal else [sign for sign in (".", ",") if sign != thousands]
        allowed = [Format(sign, thousands) for sign in decimals]
    cells = [cell for cell in set(cells) if "," in cell or "." in cell]
    if allowed[0] == FORMATS[0] and all(map(FORMATS[0].pattern.fullmatch, cells)):
        return allowed[0]
    readings = {form: [form.number(cell) for cell in cells] for form in allowed}
    counts = {form: sum(x is not None for x in values) for form, values in readings.items()}
    best = [form for form in allowed if counts[form] == max(counts.values())]
    if best[0] == FORMATS[0]:  # 1.234 with no sign of another format is what programs write
        return best[0]
    for cell, *values in zip(cells, *(readings[form] for form in best), strict=True):
        if len(set(values)) > 1:
            raise ValueError(_ambiguous(cell, dict(zip(best, values, strict=True))))
    return best[0]


def _ambiguous(cell: str, values: dict[Format, float | None]) -> str:
    ways = []
    first = {value: form for form, value in reversed(values.items())}
    for value, form in sorted(first.items(), key=lambda way: way[1].decimal):
        name = "thousands" if form.thousands else "decimal"
        ways.append(f"{value} with {flag(name, form.thousands or form.decimal)}")
    return f"{cell!r} may be {' or '.join(ways)}; the table has no number that tells."


def read_cells(column: pd.Series, form: Format) -> tuple[FloatArray, Sequence[int]]:
    """Return the numbers of a column, NaN where there are none, and the rows that are text.

    Parameters
    ----------
    column : pandas.Series
        It holds numbers, truth values, or text that is not a pair of words.
    form : Format
        Form of its text.

    Returns
    -------
    array, shape (N,)
        Missing cells are NaN, and so is text.
    sequence of int
        Positions of cells that are neither numbers nor missing.
    """
    if _plain_numbers(column):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), []
    cells = column.tolist()
    known = {cell: _text(cell, form) for cell in {c for c in cells if isinstance(c, str)}}
    values = [known[cell] if isinstance(cell, str) else _typed(cell) for cell in cells]
    wrong = [k for k, value in enumerate(values) if value is None]
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64), wrong


def _plain_numbers(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)


def _text(cell: str, form: Format) -> float | None:
    cell = plain(cell)
    number = form.number(cell)
    if number is not None:
        return number
    word = cell.casefold()
    return np.nan if word in MISSING else INFINITE.get(word)


def _typed(cell: Any) -> float | None:
    """Return a cell of an object column as a number; True among numbers is not one."""
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return np.nan
    if isinstance(cell, bool | np.bool_) or not isinstance(cell, Real | Decimal):
        return None
    try:
        return float(cell)
    except OverflowError:  # a whole number beyond the range of floats
        return np.inf if cell > 0 else -np.inf


def truth(column: pd.Series) -> tuple[pd.Series, str]:
    """Read a column of yes and no, or of true and false, as 1 and 0.

    Returns
    -------
    pandas.Series
        The column as it is, if it is none.
    str
        The pair of words, empty if the column is none or holds truth values.
    """
    if pd.api.types.is_numeric_dtype(column):
        return column, ""
    cells = column.tolist()
    first = next((cell for cell in cells if not is_missing(cell)), None)
    if isinstance(first, str) and first.strip().casefold() not in WORDS:
        return column, ""
    kinds = {type(cell) for cell in cells if not is_missing(cell)}
    if kinds and kinds <= {bool, np.bool_}:
        return column.map(lambda c: np.nan if is_missing(c) else float(c)).astype(float), ""
    if kinds != {str}:
        return column, ""
    words = {cell.strip().casefold() for cell in set(cells) if not is_missing(cell)}
    for one, zero in PAIRS:
        if words <= {one, zero}:
            value = {one: 1.0, zero: 0.0}
            numbers = [np.nan if is_missing(c) else value[c.strip().casefold()] for c in cells]
            return pd.Series(numbers, index=column.index), f"{one}/{zero}"
    return column, ""


def is_missing(cell: Any) -> bool:
    """Whether a cell holds no value, in any of the ways that people write so."""
    if isinstance(cell, str):
        return cell.strip().casefold() in MISSING
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))
