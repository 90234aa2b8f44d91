"""Tables for the terminal and records for JSON."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from dlnflow import analysis
from dlnflow._support.terminal import visible
from dlnflow.dynamics import Dynamics

MAX_ROWS = 16
"""Pairs in the event table on a terminal,"""
ABREAST = 3
"""and estimators side by side."""
SHARE_NOTE = (
    "Means over seeds. In brackets: the share of the seeds that have an event, where\nnot all have "
    "it within {:.3g} of its mean {}."
)
COMPARISON_NOTE = """
Medians over pairs, min: the smallest Pearson; peak, trough: offset in steps,
+ = later; flips: share of pairs with the same sequence of signs; - = no value.
"""
"""What the columns of a comparison are."""


def _console() -> Console:
    """A console that prints names of items and files as they are."""
    return Console(markup=False, emoji=False, highlight=False)


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as dictionaries that JSON can hold: numpy scalars as Python's, NaN as None."""
    columns = [_plain(column) for _, column in table.items()]
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _plain(column: pd.Series) -> list[object]:
    values = column.tolist()  # of Python's own types
    missing = column.isna() | column.isin([np.inf, -np.inf])
    for place in np.flatnonzero(missing):
        values[place] = None
    return values


def print_run(run: Dynamics, seconds: dict[str, float] | None = None) -> None:
    """Print the data, the run and, if given, what it cost."""
    per_unit = 1 / float(run.flow_time(1))
    unit = "" if np.isnan(per_unit) else f" ({per_unit:.4g} steps are one unit of flow time)"
    _console().print(
        "".join(f"{visible(line)}\n" for line in run.description)
        + f"{run.n_steps} steps of {run.learning_rate:.3g}{unit}\n"
        + ", ".join(f"{name} {value:.2f} s" for name, value in (seconds or {}).items()),
        highlight=False,
    )


def event_table(curves: xr.DataArray) -> pd.DataFrame:
    """Events of stacked curves; of several seeds, with the share of the seeds that have them."""
    table = analysis.events(curves) if "seed" not in curves.dims else analysis.event_shares(curves)
    table.attrs["estimators"] = curves["estimator"].values.tolist()
    return table


def print_line(text: str) -> None:
    """Print a line if there is one to print."""
    if text:
        _console().print(visible(text))


def print_events(table: pd.DataFrame, order: list[tuple[str, str]]) -> None:
    """Print the largest peak and the sign flips of pairs, estimators abreast.

    `order` has the pairs (train, query) that `ordered_pairs` gives.
    """
    names = [str(name) for name in table.attrs["estimators"]]
    console = _console()
    for start in range(0, len(names), ABREAST):
        console.print(_event_table(table, order[:MAX_ROWS], names[start : start + ABREAST]))
    if "share" in table:
        console.print(SHARE_NOTE.format(table.attrs["tolerance"], table.attrs["clock"]))
    console.print(
        f"{min(len(order), MAX_ROWS)} of {len(order)} pairs with events, first the query that each "
        f"train item affects most; {'--json has all' if len(order) > MAX_ROWS else 'all shown'}.\n"
        f"A value counts above {table.attrs['floor']}; flips of\nsampled curves also beyond "
        "2 standard errors, or more\nwhere these have few degrees of freedom.",
        highlight=False,
    )


def ordered_pairs(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs (train, query) of different items with events, in the order in which they are shown.

    By rank within their train item, then by size, so that every item gets a line.
    """
    pairs = table[table["query"] != table["train"]]
    if pairs.empty:
        return []
    largest = pairs.assign(size=pairs["value"].abs()).groupby(["train", "query"])["size"].max()
    rank = largest.groupby("train").rank(ascending=False, method="first")
    return list(pd.DataFrame({"rank": rank, "size": -largest}).sort_values(["rank", "size"]).index)


def _event_table(pairs: pd.DataFrame, order: list[tuple[str, str]], names: list[str]) -> Table:
    shown = Table(
        title="Largest influence (negative = helps) @ step, then steps of sign flips",
        box=SIMPLE,
        padding=(0, 1),
        pad_edge=False,
    )
    for head in ("train", "query", *names):
        shown.add_column(head, justify="left", max_width=14 if head in ("train", "query") else None)
    listed = pairs["train"].isin([t for t, _ in order]) & pairs["query"].isin([q for _, q in order])
    grouped = dict(iter(pairs[listed].groupby(["estimator", "train", "query"], sort=False)))
    for train, query in order:
        shown.add_row(
            visible(train),
            visible(query),
            *[_event_cell(grouped.get((n, train, query))) for n in names],
        )
    return shown


def _event_cell(group: pd.DataFrame | None) -> str:
    if group is None:
        return "-"
    extrema = group[group["kind"] != "sign_flip"]
    flips = [
        f"{row['step']:.0f}" + _share(row)
        for _, row in group[group["kind"] == "sign_flip"].iterrows()
    ]
    text = "-"
    if not extrema.empty:
        row = extrema.loc[extrema["value"].abs().idxmax()]
        text = f"{row['value']:+.3g} @ {row['step']:.0f}" + _share(row)
    return "\n".join([text, "flips " + ", ".join(flips)][: 1 + bool(len(flips))])


def _share(row: pd.Series) -> str:
    """Return the share of the seeds that have an event, in brackets; nothing where all have it."""
    return f" ({row['share']:.0%})" if row.get("share", 1) < 1 else ""


def verdicts(curves: xr.DataArray) -> dict[str, dict[str, int]]:
    """Checkpoints by verdict of every sampled estimator among stacked curves, most frequent first.

    Empty if none was sampled.
    """
    if "verdict" not in curves.coords:
        return {}
    counts = {
        str(name): Counter(filter(None, curves["verdict"].sel(estimator=name).values.tolist()))
        for name in curves["estimator"].values
    }
    return {name: dict(count.most_common()) for name, count in counts.items() if count}


def print_verdicts(found: dict[str, dict[str, int]]) -> None:
    """Print one line per sampled estimator."""
    for name, count in found.items():
        parts = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
        _console().print(f"{name}, chains at {sum(count.values())} checkpoints: {parts}")


def print_comparison(table: pd.DataFrame, reference: str) -> None:
    """Print one line per estimator: agreement with the reference."""
    shown = _plain_table(
        "estimator", "Pearson", "min", "Spearman", "relL2", "peak", "trough", "flips"
    )
    for name, row in table.iterrows():
        shown.add_row(
            str(name),
            *[_cell(row[key], ".3f") for key in ("pearson", "pearson_min", "spearman")],
            _cell(row["relative_l2"], ".3g"),
            *[_cell(np.rint(row[k]) + 0.0, "+.0f") for k in ("peak_offset", "trough_offset")],
            _cell(row["flip_agreement"], ".0%"),
        )
    console = _console()
    console.print(f"\nAgreement with {reference} over time, pairs of different items")
    console.print(shown)


def print_cost(seconds: dict[str, float], retrainings: dict[str, int]) -> None:
    """Explain the columns of the comparison, and print what every estimator cost."""
    shown = _plain_table("estimator", "seconds", "retrainings")
    for name, value in seconds.items():
        shown.add_row(name, f"{value:.2f}", f"{retrainings[name]:,}")
    shown.add_row("all", f"{sum(seconds.values()):.2f}", f"{sum(retrainings.values()):,}")
    console = _console()
    console.print(COMPARISON_NOTE)
    console.print("Cost: wall seconds, and how many runs or windows were trained again")
    console.print(shown)


def _plain_table(*heads: str) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 1))
    for head in heads:
        table.add_column(head, justify="left" if head == "estimator" else "right", no_wrap=True)
    return table


def _cell(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"


def print_files(files: list[Path]) -> None:
    """Print where results were written, if they were."""
    if files:
        _console().print("wrote " + ", ".join(map(visible, files)), highlight=False, soft_wrap=True)
