"""Long tables: one fact a row, (item, [relation,] attribute[, value])."""

import numpy as np
import pandas as pd

from dlnflow._support import FloatArray
from dlnflow.tables import labels, numbers
from dlnflow.tables.labels import quoted
from dlnflow.tables.options import CleanOptions, flag

ROLES = {
    "item": {"item", "name", "subject", "entity", "concept", "thing", "animal"},
    "relation": {"relation", "predicate", "verb"},
    "attribute": {"attribute", "feature", "property", "object"},
    "value": {"value", "score", "rating", "weight", "truth"},
}
"""Headings by which columns are known; otherwise their order tells."""
BY_NUMBER = {
    2: ("item", "attribute"),
    3: ("item", "relation", "attribute"),
    4: ("item", "relation", "attribute", "value"),
}


def widened(frame: pd.DataFrame, options: CleanOptions, notes: list[str]) -> pd.DataFrame:
    """Return a long table with one item per row, named by the index.

    A fact that is not listed is 0 if all values are 0 or 1, and missing otherwise.

    Parameters
    ----------
    frame : pandas.DataFrame
        Two to four columns.
    options : CleanOptions
        `label_column` is the item, `decimal` and `thousands` are those of values.
    notes : list of str
        Gets a line on how the columns were taken.

    Returns
    -------
    pandas.DataFrame
        The index holds the items; a relation is part of the name of its column ("can fly").

    Raises
    ------
    ValueError
        If the table is not long, a fact has no item or attribute, or facts contradict.
    """
    roles = _roles(frame, options.label_column)
    text = {
        role: [
            cell if isinstance(cell, str) else "" if pd.isna(cell) else str(cell)
            for cell in column.tolist()
        ]
        for role, column in roles.items()
        if role != "value"
    }
    text = {role: [cell.strip() for cell in cells] for role, cells in text.items()}
    for role, cells in text.items():
        empty = [str(k + 1) for k, cell in enumerate(cells) if not cell]
        if empty:
            raise ValueError(f"facts without {role}: {', '.join(empty[: labels.SHOWN])}.")
    attributes = text["attribute"]
    if "relation" in text:
        attributes = [f"{r} {a}" for r, a in zip(text["relation"], attributes, strict=True)]
    values = _values(roles, options, text["item"])
    _check_long(text["item"])
    wide = _pivoted(text["item"], attributes, values)
    listed = set(values[np.isfinite(values)].tolist())
    if listed <= {0.0, 1.0} and wide.isna().to_numpy().any():
        wide = wide.fillna(0.0)
        notes.append("facts that are not listed are 0")
    used = ", ".join(f"{role} in {str(column.name)!r}" for role, column in roles.items())
    notes.insert(0, f"{len(values)} facts read from a long table: {used}")
    return wide


def refuse(columns: list[str]) -> None:
    """Refuse a table of repeated items and columns of text, which is read as if it were wide.

    Raises
    ------
    ValueError
        With the two ways to one row per item.
    """
    raise ValueError(
        f"items are repeated and the text in {quoted(columns)} is not numeric: a long table, one "
        f"fact a row? One row per item is wanted. {flag('long', 'True')} reads (item, [relation,] "
        "attribute[, value]); or pivot it, with pandas: frame.pivot(index=item, "
        "columns=attribute, values=value)."
    )


def _roles(frame: pd.DataFrame, label: str | int | None) -> dict[str, pd.Series]:
    """Return the columns by what they hold."""
    if label is None and labels.index_has_names(frame.index):
        frame = frame.reset_index()
    names = [str(column).strip() for column in frame.columns]
    columns = [frame.iloc[:, k] for k in range(len(names))]
    if label is not None:
        if names.count(str(label)) != 1:
            raise ValueError(f"`label_column` {label!r} must be one of {quoted(names)}.")
        first = names.index(str(label))
        order = [first, *(k for k in range(len(names)) if k != first)]
        names, columns = [names[k] for k in order], [columns[k] for k in order]
    if len(names) not in BY_NUMBER:
        raise ValueError(
            f"a long table has the columns item, [relation,] attribute[, value]; got {len(names)}: "
            f"{quoted(names)}. A table that is both long and wide cannot be read: split it."
        )
    known = _known(names)
    if label is None and len(known) == len(names) and {"item", "attribute"} <= set(known):
        return {role: columns[known[role]] for role in ROLES if role in known}
    roles = BY_NUMBER[len(names)]
    if len(names) == 3 and (
        known.get("value") == 2 or all(map(numbers.looks_numeric, columns[2].tolist()))
    ):
        roles = ("item", "attribute", "value")
    return dict(zip(roles, columns, strict=True))


def _known(names: list[str]) -> dict[str, int]:
    return {
        role: k
        for k, name in enumerate(names)
        for role, words in ROLES.items()
        if name.casefold() in words
    }


def _values(roles: dict[str, pd.Series], options: CleanOptions, items: list[str]) -> FloatArray:
    if "value" not in roles:
        return np.ones(len(items))
    column, _ = numbers.truth(roles["value"].infer_objects())
    cells = {numbers.plain(cell) for cell in column.tolist() if isinstance(cell, str)}
    form = numbers.recognise(cells, options.decimal, options.thousands)
    values, wrong = numbers.read_cells(column, form)
    bad = sorted({*wrong, *np.flatnonzero(~np.isfinite(values)).tolist()})
    if bad:
        shown = ", ".join(f"{items[k]!r} has {column.iloc[k]!r}" for k in bad[: labels.SHOWN])
        raise ValueError(f"values of facts must be finite numbers; {shown}.")
    return values


def _check_long(items: list[str]) -> None:
    if len(items) > 1 and len(set(items)) == len(items):
        raise ValueError(
            f"every item has one row, so the table is not long: leave out {flag('long')}."
        )


def _pivoted(items: list[str], attributes: list[str], values: FloatArray) -> pd.DataFrame:
    """Set the values in a matrix, items and attributes in order of appearance."""
    facts = pd.DataFrame({"item": items, "attribute": attributes, "value": values})
    spread = facts.groupby(["item", "attribute"], sort=False)["value"].nunique()
    unclear = [f"{item} {attribute}" for item, attribute in spread.index[spread > 1]]
    if unclear:
        raise ValueError(f"facts have several values: {quoted(unclear)}.")
    facts = facts.drop_duplicates()
    rows, row_names = pd.factorize(facts["item"])
    cells, cell_names = pd.factorize(facts["attribute"])
    wide = np.full((len(row_names), len(cell_names)), np.nan)
    wide[rows, cells] = facts["value"]
    return pd.DataFrame(wide, index=pd.Index(row_names, dtype=object), columns=cell_names)
