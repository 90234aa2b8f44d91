"""Reading a CSV strictly: a ragged or empty table is an error, never a guess."""

import csv
from collections import Counter
from os import PathLike

import pandas as pd


def read_table(path: str | PathLike[str]) -> pd.DataFrame:
    """Read a comma-separated UTF-8 file with a header; the first column becomes the index.

    Raises
    ------
    ValueError
        If the file is empty, not UTF-8, has no item row, repeats a column name, or a row has
        another number of cells than the header.
    """
    with open(path, newline="", encoding="utf-8-sig") as handle:
        try:
            rows = list(csv.reader(handle, strict=True))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"not a CSV file in UTF-8: {error}.") from error
    rows = [(number, row) for number, row in enumerate(rows, start=1) if any(map(str.strip, row))]
    if len(rows) < 2:
        raise ValueError("expected a header line and at least two items, found no item.")
    (_, header), body = rows[0], rows[1:]
    header = [name.strip() for name in header]
    if len(header) < 2:
        raise ValueError(
            "expected item names in the first column and features in the others, separated by "
            f"commas; the header has one column: {header[0]!r}."
        )
    for number, row in body:
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} cells, the header has {len(header)}.")
    if all(isinstance(_number(name), float) for name in header[1:]):
        raise ValueError(
            f"the first line looks like data ({', '.join(header[:4])}, ...); expected a header "
            "with the names of the features."
        )
    repeated = [name for name, times in Counter(header[1:]).items() if times > 1]
    if repeated:
        raise ValueError(f"column names must all differ; repeated: {', '.join(repeated)}.")
    index = pd.Index([row[0].strip() for _, row in body], name=header[0], dtype=object)
    columns = {
        name: _numbers([row[position].strip() for _, row in body])
        for position, name in enumerate(header[1:], start=1)
    }
    return pd.DataFrame(columns, index=index)


def _numbers(cells: list[str]) -> list[float] | list[str | float]:
    """Turn cells into floats where they are numbers; an empty cell is a missing value."""
    return [_number(cell) for cell in cells]


def _number(cell: str) -> float | str:
    if not cell:
        return float("nan")
    if "_" in cell:  # Python reads 1_000 as a number, tables do not mean it
        return cell
    try:
        return float(cell)
    except ValueError:
        return cell
