"""A frame as numbers: one row per item, one column per feature, every fault in one message."""

import warnings
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.tables import labels, long, numbers, scaling
from dlnflow.tables.labels import quoted
from dlnflow.tables.options import CleanOptions, flag

BoolArray = NDArray[np.bool_]
Columns = list[tuple[str, pd.Series]]


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers with names, and what was done to get them.

    Parameters
    ----------
    y : array, shape (n_features, N)
        Column i belongs to item i.
    items, features : tuple of str
        Their names.
    notes : tuple of str
        One line for each thing that was recognised, left out or changed.
    """

    y: FloatArray
    items: tuple[str, ...]
    features: tuple[str, ...]
    notes: tuple[str, ...]


def clean(frame: pd.DataFrame, options: CleanOptions | None = None) -> Table:
    """Turn a frame with one item per row into numbers.

    Parameters
    ----------
    frame : pandas.DataFrame
        Items are named by the index, if it holds more than row numbers, or by the first column.
    options : CleanOptions, optional
        What is to be done to the columns.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        Listing every fault of the table, with the columns or items that have it.
    """
    options = options or CleanOptions()
    if not isinstance(frame, pd.DataFrame) or frame.columns.nlevels + frame.index.nlevels > 2:
        raise ValueError("`frame` must be a pandas DataFrame with plain rows and columns.")
    notes: list[str] = []
    if options.long:
        frame = long.widened(frame, options, notes)
    items, rest = labels.split(frame, None if options.long else options.label_column)
    names = [str(column).strip() for column in rest.columns]
    faults = labels.problems(items) + _name_faults(names)
    if len(set(names)) < len(names):  # options name columns, so their names come first
        _refuse(faults)
    columns = [
        (name, _inferred(column)) for name, (_, column) in zip(names, rest.items(), strict=True)
    ]
    columns = _chosen(columns, options, notes)
    if not columns:
        raise ValueError("the table has no feature column.")
    values, text, bad = _numbers(columns, options, items, notes)
    if text[0].all() and len(set(items)) < len(items):
        long.refuse([name for (name, _), row in zip(columns, text, strict=True) if row.all()])
    features = [name for name, _ in columns]
    bad += scaling.faults(values, text, features, items, scaled=options.standardize)
    faults += bad
    if not bad and len(items) > 1:
        values, features, constant = _varying(values, features, options, notes)
        faults += constant
    _refuse(faults)
    y = scaling.scaled(values, features, options, notes)
    return Table(y, tuple(items), tuple(features), tuple(notes))


def _inferred(column: pd.Series) -> pd.Series:
    """Give a column of objects the type that fits them."""
    try:
        return column.infer_objects()
    except OverflowError:  # of older pandas, at an integer beyond the range of floats
        return column


def _refuse(faults: list[str]) -> None:
    if len(faults) == 1:
        raise ValueError(faults[0])
    if faults:
        lines = [f"{len(faults)} faults:", *(f"- {fault}" for fault in faults)]
        raise ValueError("\n".join(lines))


def _name_faults(names: list[str]) -> list[str]:
    faults = []
    unnamed = [str(k + 1) for k, name in enumerate(names) if not name]
    if unnamed:
        faults.append(f"columns without a name: {', '.join(unnamed)} (counted from 1).")
    repeated = [name for name, times in Counter(names).items() if times > 1 and name]
    if repeated:
        faults.append(f"column names must all differ; repeated: {', '.join(repeated)}.")
    return faults


def _chosen(columns: Columns, options: CleanOptions, notes: list[str]) -> Columns:
    """Leave out columns and replace categories by indicators."""
    names = [name for name, _ in columns]
    for option in ("drop", "one_hot"):
        unknown = [name for name in getattr(options, option) if name not in names]
        if unknown:
            near = checks.did_you_mean(unknown[0], names)
            raise ValueError(
                f"`{option}` names {quoted(unknown)}, which the table lacks; it has the columns "
                f"{quoted(names)}.{near}"
            )
    if options.drop:
        notes.append(f"left out {quoted(list(options.drop))}")
    found: Columns = []
    for name, column in columns:
        if name in options.one_hot:
            found += _indicators(name, column, notes)
        elif name not in options.drop:
            found.append((name, column))
    repeated = [name for name, times in Counter(name for name, _ in found).items() if times > 1]
    if repeated:
        raise ValueError(
            f"`one_hot` makes columns that the table has already: {quoted(repeated)}. Rename them."
        )
    return found


def _indicators(name: str, column: pd.Series, notes: list[str]) -> Columns:
    """One column per category in order of appearance; a missing category is missing in all."""
    words = column.map(lambda cell: np.nan if numbers.is_missing(cell) else str(cell).strip())
    categories = list(dict.fromkeys(word for word in words.tolist() if isinstance(word, str)))
    notes.append(f"{name!r} became {len(categories)} columns, one per category")
    if not categories:
        return [(name, words)]
    gaps = words.isna().to_numpy()
    return [
        (f"{name}={word}", pd.Series(np.where(gaps, np.nan, words == word), index=column.index))
        for word in categories
    ]


def _numbers(
    columns: Columns, options: CleanOptions, items: list[str], notes: list[str]
) -> tuple[FloatArray, BoolArray, list[str]]:
    """Return the cells as numbers, shape (n_features, N), which are text, and the faults."""
    truths = [(name, *numbers.truth(column)) for name, column in columns]
    for pair in dict.fromkeys(pair for *_, pair in truths if pair):
        those = [name for name, _, own in truths if own == pair]
        notes.append(f"{pair} read as 1/0 in {quoted(those)}")
    texts = [column for _, column, _ in truths if not pd.api.types.is_numeric_dtype(column)]
    form = _format(texts, options, notes)
    rows, wrong = [], []
    text = np.zeros((len(columns), len(items)), dtype=bool)
    for k, (name, column, _) in enumerate(truths):
        row, bad = numbers.read_cells(column, form)
        rows.append(row)
        text[k, bad] = True
        if bad:
            wrong.append((name, f"{items[bad[0]]!r} has {column.iloc[bad[0]]!r}"))
    return np.stack(rows), text, _not_numeric(wrong)


def _format(texts: list[pd.Series], options: CleanOptions, notes: list[str]) -> numbers.Format:
    cells = {cell for column in texts for cell in column.tolist() if isinstance(cell, str)}
    plain = {numbers.plain(cell) for cell in cells}
    form = numbers.recognise(plain, options.decimal, options.thousands)
    read = [cell for cell in plain if "," in cell or "." in cell]
    read = [] if form == numbers.FORMATS[0] else [c for c in read if form.number(c) is not None]
    signs = {"decimal": ",.", "thousands": options.thousands or ""}
    for name, characters in signs.items():
        if getattr(options, name) and not any(
            sign in cell for cell in cells for sign in characters
        ):
            warnings.warn(
                f"`{name}` has no effect: no cell of text holds such a sign.", stacklevel=2
            )
    if options.decimal is None and form.decimal == "," and any("," in cell for cell in read):
        notes.append("numbers with a decimal comma")
    if options.thousands is None and form.thousands and any(form.thousands in c for c in read):
        notes.append(f"thousands set apart by {form.thousands!r}")
    return form


def _not_numeric(wrong: list[tuple[str, str]]) -> list[str]:
    if not wrong:
        return []
    names = [name for name, _ in wrong]
    many = ", ".join(f"'{name}' ({shown})" for name, shown in wrong[: labels.SHOWN])
    if len(wrong) > labels.SHOWN:
        many += f" and {len(wrong) - labels.SHOWN} more"
    start = f"features are not numeric: {many}."
    if len(wrong) == 1:
        start = f"feature {names[0]!r} is not numeric; {wrong[0][1]}."
    return [
        f"{start} Columns of categories: {flag('one_hot')}; of item names: "
        f"{flag('label_column')}; of no use: {flag('drop')}."
    ]


def _varying(
    values: FloatArray, features: list[str], options: CleanOptions, notes: list[str]
) -> tuple[FloatArray, list[str], list[str]]:
    """Leave out, or complain of, the features that are the same for all items."""
    constant = np.all(values == values[:, :1], axis=1)
    names = [name for name, flat in zip(features, constant, strict=True) if flat]
    if not names:
        if options.drop_constant:
            warnings.warn("`drop_constant` has no effect: no feature is constant.", stacklevel=2)
        return values, features, []
    if options.drop_constant:
        if len(names) == len(features):
            return values, features, ["every feature is constant: nothing would be left."]
        notes.append(f"left out {len(names)} constant: {quoted(names)}")
        kept = [name for name, flat in zip(features, constant, strict=True) if not flat]
        return values[~constant], kept, []
    shown = [f"{name!r} ({row[0]:g})" for name, row in zip(features, values, strict=True)]
    shown = [text for text, flat in zip(shown, constant, strict=True) if flat]
    start = f"features are constant: {', '.join(shown[: labels.SHOWN])}"
    if len(names) == 1:
        start = f"feature {names[0]!r} is constant ({values[constant][0, 0]:g} for every item)"
    if len(names) > labels.SHOWN:
        start += f" and {len(names) - labels.SHOWN} more"
    return (
        values,
        features,
        [f"{start}; they tell no items apart. Drop such columns: {flag('drop_constant', 'True')}."],
    )
