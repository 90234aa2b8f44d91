"""How a table is to be read and cleaned; every field is an option of the command as well."""

import codecs
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from dlnflow import checks

SEPARATOR_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " "}
"""Words for separators that are awkward to type in a shell."""
DECIMALS = (".", ",")
THOUSANDS = (",", ".", " ", "'")


@dataclass(frozen=True)
class ReadOptions:
    """How a file becomes rows of cells; None means: recognise it.

    Parameters
    ----------
    sep : str, optional
        What separates cells: one character, or "tab". Recognised: comma, semicolon, tab, bar.
    encoding : str, optional
        Encoding of a text file, e.g. "cp1252". Recognised: UTF-8, UTF-16 and UTF-32, and the
        Windows code pages where they agree.
    header : bool, optional
        Whether the first line names the columns. Default: yes, unless it looks like data, which
        is refused.
    sheet : str or int, optional
        Sheet of an Excel file, by name or counted from 1. Default: the first.

    Raises
    ------
    ValueError
        If a value is impossible.
    """

    sep: str | None = None
    encoding: str | None = None
    header: bool | None = None
    sheet: str | int | None = None

    def __post_init__(self) -> None:
        if self.sep is not None:
            sep = SEPARATOR_WORDS.get(self.sep, self.sep)
            if not isinstance(sep, str) or len(sep) != 1 or sep in '"\r\n\0':
                raise ValueError(
                    f"`sep` must be one character or one of {', '.join(SEPARATOR_WORDS)}; "
                    f"got {self.sep!r}."
                )
            object.__setattr__(self, "sep", sep)
        if self.encoding is not None:
            _check_encoding(self.encoding)
        if self.header not in (None, True, False):
            raise ValueError(f"`header` must be True, False or None, got {self.header!r}.")
        if self.sheet is not None and (
            not isinstance(self.sheet, str | int) or self.sheet in (True, False, "")
        ):
            raise ValueError(
                f"`sheet` must be a name or a number counted from 1, got {self.sheet!r}."
            )


@dataclass(frozen=True)
class CleanOptions:
    """What is made of the columns of a table; the order is that of the parameters.

    Parameters
    ----------
    long : bool
        Each row is one fact, (item, [relation,] attribute[, value]), instead of one item.
    label_column : str or int, optional
        Column with the item names; "#" numbers the rows (row1, row2, ...). Default: an index of
        names, else the first column.
    drop : sequence of str
        Columns to leave out.
    one_hot : sequence of str
        Columns of categories: one feature per category, 1 for its items and 0 for the others.
    decimal, thousands : str, optional
        Decimal sign and thousand separator of numbers that are text. Default: what reads most
        cells as numbers, refused where two readings differ.
    drop_constant : bool
        Leave out features that are the same for all items.
    center : bool
        Subtract from every feature its mean over items.
    standardize : bool
        Center, then divide every feature by its standard deviation over items (divisor N).

    Raises
    ------
    ValueError
        If a value is impossible.
    """

    long: bool = False
    label_column: str | int | None = None
    drop: Sequence[str] = ()
    one_hot: Sequence[str] = ()
    decimal: str | None = None
    thousands: str | None = None
    drop_constant: bool = False
    center: bool = False
    standardize: bool = False

    def __post_init__(self) -> None:
        for name in ("long", "drop_constant", "center", "standardize"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"`{name}` must be True or False, got {getattr(self, name)!r}.")
        for name in ("drop", "one_hot"):
            object.__setattr__(self, name, _column_names(name, getattr(self, name)))
        if self.label_column is not None and (
            isinstance(self.label_column, bool) or not isinstance(self.label_column, str | int)
        ):
            raise ValueError(
                f"`label_column` must be the name of a column or '#', got {self.label_column!r}."
            )
        for name, allowed in (("decimal", DECIMALS), ("thousands", THOUSANDS)):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                shown = " ".join(map(repr, allowed))
                raise ValueError(f"`{name}` must be one of {shown}; got {value!r}.")
        if self.decimal is not None and self.decimal == self.thousands:
            raise ValueError(f"`decimal` and `thousands` are both {self.decimal!r}.")
        both = sorted(set(self.drop) & set(self.one_hot))
        if both:
            raise ValueError(f"`drop` and `one_hot` both name {', '.join(map(repr, both))}.")


def flag(name: str, value: str = "") -> str:
    """Return an option as it is given in Python and on the command line, for messages."""
    command = f"--{name.replace('_', '-')}"
    if not value:
        return f"`{name}` ({command})"
    if value == "True":
        return f"`{name}=True` ({command})"
    return f"`{name}={value!r}` ({command} {shlex.quote(value)})"


def split(options: Mapping[str, object]) -> tuple[ReadOptions, CleanOptions]:
    """Sort keywords into those that read a file and those that clean a frame.

    Returns
    -------
    ReadOptions
    CleanOptions

    Raises
    ------
    ValueError
        If a keyword is neither; the nearest one is suggested.
    """
    reading = [field.name for field in fields(ReadOptions)]
    known = [*reading, *(field.name for field in fields(CleanOptions))]
    check_names(options, known)
    mine = {name: value for name, value in options.items() if name in reading}
    rest = {name: value for name, value in options.items() if name not in reading}
    return ReadOptions(**mine), CleanOptions(**rest)  # type: ignore[arg-type]


def cleaning(options: Mapping[str, object]) -> CleanOptions:
    """Return keywords as options of a frame.

    Returns
    -------
    CleanOptions

    Raises
    ------
    ValueError
        If a keyword is none; one that reads files is told apart from one that nobody knows.
    """
    for name in options:
        if name in {field.name for field in fields(ReadOptions)}:
            raise ValueError(f"`{name}` is an option for files; a frame has been read already.")
    check_names(options, [field.name for field in fields(CleanOptions)])
    return CleanOptions(**options)  # type: ignore[arg-type]


def check_names(options: Mapping[str, object], known: Sequence[str]) -> None:
    """Refuse keywords that are not known.

    Raises
    ------
    ValueError
        With the known ones and the nearest of them.
    """
    for name in options:
        if name not in known:
            raise ValueError(
                f"unknown option `{name}`; a table has the options {', '.join(known)}."
                + checks.did_you_mean(name, known)
            )


def _column_names(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    try:
        names = tuple(str(column) for column in value)  # type: ignore[attr-defined]
    except TypeError as error:
        raise ValueError(f"`{name}` must be a list of column names, got {value!r}.") from error
    repeated = sorted({column for column in names if names.count(column) > 1})
    if repeated:
        raise ValueError(f"`{name}` names {', '.join(map(repr, repeated))} twice.")
    return names


def _check_encoding(name: object) -> None:
    try:
        known = isinstance(name, str) and codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        known = False
    if not known:
        raise ValueError(
            f"`encoding` {name!r} is not known; common ones are utf-8, utf-16, cp1252 (Western "
            "Windows), cp1250 (Central European), cp1251 (Cyrillic), latin-1 and mac_roman."
        )
