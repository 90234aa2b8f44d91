"""All pairs of a large table: a store and a summary in place of millions of curves."""

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import typer
import xarray as xr
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from dlnflow import analysis, result
from dlnflow._support.command import writable
from dlnflow._support.files import write_atomic
from dlnflow._support.terminal import say, visible
from dlnflow.cli.estimates import Asked
from dlnflow.dynamics import Dynamics

MAX_NUMBERS = 20_000_000
"""More numbers than this per estimator (160 MB: 316 items, 200 steps) are no list of curves."""
STORE, SUMMARY = "influence.zarr", "most_influential.csv"
ESTIMATOR = "analytic"
TITLES = {
    "helps others": "Who helps all others together most",
    "harms others": "Who harms all others together most",
    "is helped": "Who is helped by all others together most",
    "is harmed": "Who is harmed by all others together most",
    "pair helps": "Pairs in which one helps the other most",
    "pair harms": "Pairs in which one harms the other most",
}
NOTE = """
A sum is over all other items, at the step at which it is largest; next to it is
the other item with the largest part of its own, at its own step. The mode has
the largest share of the value; others can push the other way. 'a - b' is a pair
whose influence is the same in both directions.
"""


def too_many(run: Dynamics, asked: Asked) -> bool:
    """Whether curves of a table are more than can be listed; other runs take what they get."""
    return run.linear and _numbers(run, asked) > MAX_NUMBERS


def _numbers(run: Dynamics, asked: Asked) -> int:
    pairs = len(asked.train or run.items) * len(asked.query or run.queries)
    return len(run.grid(asked.points)) * pairs


def influence(
    run: Dynamics,
    asked: Asked,
    out: Path | None,
    *,
    named: list[str] | None = None,
    seeds: str | None = None,
) -> dict[str, Any]:
    """Compute analytic influence into OUT/influence.zarr; return what the summary says.

    `named` are the estimators that the user named. The result has ``seconds``, ``files`` and the
    rows of ``most_influential``, for `show` or as JSON.

    Raises
    ------
    typer.BadParameter
        Without a folder, for another estimator, or for several seeds.
    ValueError, OSError
        As `dlnflow.analysis.all_pairs`.
    """
    count = _numbers(run, asked)
    much = f"these curves are {count:,} numbers per estimator ({8 * count / 1e9:.2g} GB)"
    few = "name some items with --train or --query"
    if named and {*named} != {ESTIMATOR}:
        raise typer.BadParameter(
            f"{much}; so many are computed by {ESTIMATOR} alone. Leave --estimator out, or {few}",
            param_hint="--estimator",
        )
    if seeds is not None:
        raise typer.BadParameter(
            f"{much}; so many are computed for one run alone. Leave --seeds out, or {few}",
            param_hint="--seeds",
        )
    if out is None:
        raise typer.BadParameter(
            f"{much}. Either {few}; or give --out FOLDER, and {ESTIMATOR} influence is written to "
            f"FOLDER/{STORE} and summed up here",
            param_hint="--out",
        )
    writable(out)
    say(f"{much}; {ESTIMATOR} alone is computed, into {out / STORE}", err=True)
    started = time.perf_counter()
    curves = analysis.all_pairs(
        run,
        out / STORE,
        ESTIMATOR,
        run.grid(asked.points),
        train=asked.train,
        query=asked.query,
        **asked.options.get(ESTIMATOR, {}),
    )
    computed = time.perf_counter()
    table = analysis.most_influential(run, curves)
    write_atomic(out / SUMMARY, lambda path: table.to_csv(path, index=False))
    seconds = {ESTIMATOR: computed - started, "summary": time.perf_counter() - computed}
    return {
        "seconds": seconds,
        "files": [str(out / name) for name in (STORE, SUMMARY)],
        "most_influential": json.loads(table.to_json(orient="records", double_precision=15)),
    }


def stored(out: Path) -> xr.DataArray:
    """Open the influence that was written into a folder."""
    return result.load(out / STORE)


def show(found: dict[str, Any]) -> None:
    """Print the summary."""
    console = Console(markup=False, emoji=False, highlight=False)
    table = pd.DataFrame(found["most_influential"])
    shown: list[list[tuple[str, ...]]] = []
    for name, title in TITLES.items():
        rows = [_cells(row) for row in table[table["list"] == name].to_dict("records")]
        if rows in shown:  # a symmetric estimator: who helps most is helped most
            console.print(f"{title}: the same items, to the same amount.\n")
        elif rows:
            console.print(title)
            console.print(_table(rows, sums=not name.startswith("pair")))
        else:
            console.print(f"{title}: nobody.\n")
        shown.append(rows or [()])
    console.print(NOTE, soft_wrap=True)
    console.print("wrote " + ", ".join(map(visible, found["files"])), soft_wrap=True)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    value = f"{row['value']:+.3g} @ {row['step']}"
    why = "-"
    if not pd.isna(row["mode"]):
        why = f"mode {row['mode']:.0f} ({row['share']:.0%}): {visible(row['distinction'])}"
    if pd.isna(row["strongest"]):
        arrow = "-" if row["mutual"] else "on"
        return f"{visible(row['train'])} {arrow} {visible(row['query'])}", value, why
    single = f"{row['strongest_value']:+.3g} @ {row['strongest_step']:.0f}"
    name = row["query"] if pd.isna(row["train"]) else row["train"]
    return visible(name), value, f"{visible(row['strongest'])} {single}", why


def _table(rows: list[tuple[str, ...]], *, sums: bool) -> Table:
    shown = Table(box=SIMPLE, padding=(0, 1), pad_edge=False)
    heads = ("item", "sum @ step", "largest part") if sums else ("pair", "influence @ step")
    for head in heads:
        shown.add_column(head, max_width=22, overflow="fold")
    shown.add_column("carried by", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown
