"""Tables for the terminal and records for JSON."""

from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from dlnflow.training import Run

MAX_ROWS = 24
"""Rows of the event table on a terminal; the largest events come first."""


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as dictionaries that JSON can hold: numpy scalars as Python's, NaN as None."""
    return [{key: _plain(value) for key, value in row.items()} for row in table.to_dict("records")]


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def print_run(run: Run, seconds: dict[str, float]) -> None:
    """Print one line on the task and one on the run."""
    task = run.task
    Console().print(
        f"{task.n_items} items, {task.n_out} features, {task.modes.rank} modes "
        f"(strengths {task.modes.s[0]:.3g} to {task.modes.s[-1]:.3g})\n"
        f"{run.optimizer}, {run.depth} layers, hidden {run.hidden}, init std {run.init_std:g}, "
        f"{run.n_steps} steps of {run.learning_rate:.3g}, seed {run.seed}\n"
        + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()),
        highlight=False,
    )


def print_events(table: pd.DataFrame) -> None:
    """Print the events between different items: per estimator and pair one line."""
    pairs = table[table["query"] != table["train"]]
    shown = Table(
        title="Influence on another item over training (negative = helps)",
        caption=f"noise floor: {table.attrs['floor']}",
        box=SIMPLE,
    )
    for name, justify in (
        ("estimator", "left"), ("train", "left"), ("query", "left"), ("largest", "right"),
        ("at step", "right"), ("sign flips at steps", "left"),
    ):  # fmt: skip
        shown.add_column(name, justify=justify)
    rows = [_event_row(key, group) for key, group in pairs.groupby(
        ["estimator", "train", "query"], sort=False)]  # fmt: skip
    rows.sort(key=lambda row: -abs(row[0]))
    for _, cells in rows[:MAX_ROWS]:
        shown.add_row(*cells)
    console = Console()
    console.print(shown)
    if len(rows) > MAX_ROWS:
        console.print(f"{len(rows) - MAX_ROWS} more pairs with smaller peaks; --json has them all")


def _event_row(key: tuple[str, ...], group: pd.DataFrame) -> tuple[float, list[str]]:
    extrema = group[group["kind"] != "sign_flip"]
    flips = group.loc[group["kind"] == "sign_flip", "step"]
    if extrema.empty:
        value, cells = 0.0, ["-", "-"]
    else:
        row = extrema.loc[extrema["value"].abs().idxmax()]
        value, cells = row["value"], [f"{row['value']:+.3g}", f"{row['step']:.0f}"]
    return value, [*map(str, key), *cells, ", ".join(f"{step:.0f}" for step in flips) or "-"]


def print_comparison(table: pd.DataFrame, reference: str, seconds: dict[str, float]) -> None:
    """Print one line per estimator: agreement with the reference and cost."""
    shown = Table(
        title=f"Agreement with {reference} over time, pairs of different items",
        caption="medians, and Pearson's minimum; peak and trough: offset in steps, + = later;\n"
        "flips: share of pairs with the same sequence of signs; sec: time taken",
        box=None,
        padding=(0, 0, 0, 2),
    )
    heads = ("estimator", "Pearson", "min", "Spearman", "relL2", "peak", "trough", "flips", "sec")
    for head in heads:
        left = head == "estimator"
        shown.add_column(head, justify="left" if left else "right", no_wrap=True)
    for name, row in table.iterrows():
        shown.add_row(
            str(name), f"{row['pearson']:.3f}", f"{row['pearson_min']:.3f}",
            f"{row['spearman']:.3f}", f"{row['relative_l2']:.3f}", f"{row['peak_offset']:+.0f}",
            f"{row['trough_offset']:+.0f}", f"{row['flip_agreement']:.0%}",
            f"{seconds[str(name)]:.2f}",
        )  # fmt: skip
    Console().print(shown)


def print_files(files: list[Path]) -> None:
    """Print where results were written."""
    Console().print("wrote " + ", ".join(str(f) for f in files), highlight=False, soft_wrap=True)
