"""Which column names the items; the numbers that pandas gives to rows never do."""

from collections import Counter

import pandas as pd

from dlnflow import checks
from dlnflow.tables.options import flag

ROW_NUMBERS = "#"
"""As a label column: the rows are numbered."""
SHOWN = 100
"""Names that a message lists."""


def split(frame: pd.DataFrame, label_column: str | int | None) -> tuple[list[str], pd.DataFrame]:
    """Return the names of the items and the other columns.

    Parameters
    ----------
    frame : pandas.DataFrame
        One item per row.
    label_column : str, int or None
        See `CleanOptions`.

    Returns
    -------
    list of str
    pandas.DataFrame

    Raises
    ------
    ValueError
        If no column names the items, or there is no such column.
    """
    if label_column is not None:
        return _named(frame, str(label_column))
    if index_has_names(frame.index):
        return _texts(frame.index), frame
    if frame.shape[1] < 2 or _is_numeric(frame.iloc[:, 0]):
        raise ValueError(
            "the table needs item names, as its index or in a first column of text, and at least "
            f"one column of features. {_way_out(frame)}"
        )
    return _texts(frame.iloc[:, 0]), frame.iloc[:, 1:]


def index_has_names(index: pd.Index) -> bool:
    """Whether an index is more than row numbers, which filtering and sorting leave as they were."""
    if index.name is not None:
        return True
    return not pd.api.types.is_integer_dtype(index.infer_objects())


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.infer_objects())


def _texts(values: pd.Index | pd.Series) -> list[str]:
    return ["" if pd.isna(value) else str(value).strip() for value in values]


def _named(frame: pd.DataFrame, label: str) -> tuple[list[str], pd.DataFrame]:
    names = [str(column).strip() for column in frame.columns]
    places = [k for k, name in enumerate(names) if name == label]
    if len(places) > 1:
        raise ValueError(f"`label_column` {label!r} names {len(places)} columns.")
    if places:
        rest = [k for k in range(len(names)) if k != places[0]]
        return _texts(frame.iloc[:, places[0]]), frame.iloc[:, rest]
    if frame.index.name is not None and str(frame.index.name) == label:
        return _texts(frame.index), frame
    if label == ROW_NUMBERS:
        return [f"row{k}" for k in range(1, len(frame) + 1)], frame
    raise ValueError(
        f"`label_column` {label!r} is not in the table; it has {', '.join(names[:SHOWN])}."
        + checks.did_you_mean(label, names)
    )


def _way_out(frame: pd.DataFrame) -> str:
    for k, name in enumerate(map(str, frame.columns)):
        column = frame.iloc[:, k]
        if not _is_numeric(column) and column.is_unique and not column.isna().any():
            return f"Column {name!r} would do: {flag('label_column', name)}."
    return f"Rows are numbered with {flag('label_column', ROW_NUMBERS)}."


def problems(names: list[str]) -> list[str]:
    """Return what is wrong with item names: missing or repeated ones."""
    found = []
    missing = [k for k, name in enumerate(names) if not name]
    if missing:
        places = ", ".join(map(str, missing[:SHOWN]))
        positions = "position" if len(missing) == 1 else "positions"
        found.append(f"`items` has no name at {positions} {places} (counted from 0).")
    repeated = [name for name, times in Counter(names).items() if times > 1 and name]
    if repeated:
        found.append(
            f"`items` must all differ; repeated: {quoted(repeated)}. Every row is one item: merge "
            f"such rows, name another {flag('label_column')}, or number the rows: "
            f"{flag('label_column', ROW_NUMBERS)}."
        )
    return found


def quoted(names: list[str]) -> str:
    """List names in quotes, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
