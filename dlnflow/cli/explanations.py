"""Which distinction of the data the events of curves belong to, for the terminal and for JSON."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import dlnflow as dln
from dlnflow import analysis
from dlnflow._support.terminal import visible
from dlnflow.dynamics import Dynamics

NEAREST_TO_TRUTH = ("leave_one_out", "tangent", "analytic")
"""Whose events are explained: the first of these that was computed."""
MOST_CURVES = 2000
"""Curves that are explained; of more, those with the largest values."""
SENTENCES = 8
"""On a terminal."""


def explained(
    run: Dynamics, curves: xr.DataArray, pairs: list[tuple[str, str]] | None = None
) -> pd.DataFrame | None:
    """Explain the events of the estimator that is nearest to retraining.

    Parameters
    ----------
    run : Run
    curves : xarray.DataArray
        Stacked estimators; a dim `seed` is averaged over.
    pairs : list of (train, query), optional
        Those that will be shown. Default: all.

    Returns
    -------
    pandas.DataFrame or None
        A table of `analysis.explain_events` whose ``attrs`` have the `estimator` and the number of
        `curves` too; None if the closed form does not take the run.
    """
    names = curves["estimator"].values.tolist()
    name = next((one for one in NEAREST_TO_TRUTH if one in names), None)
    if name is None or dln.ESTIMATORS["analytic"].refusal(run):
        return None
    one = curves.sel(estimator=name, drop=True).assign_attrs(estimator=name)
    if "seed" in one.dims:
        one = one.mean("seed", keep_attrs=True)
    count = one.sizes["query"] * one.sizes["train"]
    if pairs:
        # With the largest of all curves, from which the floor of events follows.
        size = np.abs(one).max("time").transpose("train", "query")
        at = np.unravel_index(int(np.argmax(size.values)), size.shape)
        largest = size.train.values[at[0]], size["query"].values[at[1]]
        kept = zip(*pairs[:SENTENCES], largest, strict=True)
        train, query = (list(dict.fromkeys(side)) for side in kept)
        one = one.sel(train=train, query=query)
    elif count > MOST_CURVES:
        kept = max(1, MOST_CURVES // one.sizes["train"])
        size = np.abs(one).max(("time", "train")).values
        one = one.isel(query=np.sort(np.argsort(-size, kind="stable")[:kept]))
    table = analysis.explain_events(run, one)
    table.attrs["curves"] = f"{one.sizes['query'] * one.sizes['train']} of {count}"
    return table


def content(table: pd.DataFrame | None) -> dict[str, object] | None:
    """Return a table of `explained` as what JSON can hold, with sentences; None without one."""
    if table is None:
        return None
    about = ("estimator", "curves", "a0", "approximated")
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    sentences = analysis.event_sentences(table) if len(table) <= MOST_CURVES else None
    return {name: table.attrs[name] for name in about} | {"sentences": sentences, "rows": rows}


def print_explained(table: pd.DataFrame, run: Dynamics, pairs: list[tuple[str, str]]) -> None:
    """Print sentences on the events of the first pairs, then the modes that they name.

    Parameters
    ----------
    table : pandas.DataFrame
        What `explained` returns.
    run : Run
    pairs : list of (train, query)
        In the order in which they matter.
    """
    shown = _chosen(table[table["role"] != "none"], pairs)
    if shown.empty:
        return
    console = Console(markup=False, emoji=False, highlight=False)
    name, found = table.attrs["estimator"], shown["correlation"]
    if name != "analytic":
        name += (
            f"; modes from the closed form, whose curves\ncorrelate with these by "
            f"{found.median():.2f} (median; lowest {found.min():.2f})"
        )
    console.print(f"What carries events of {name}:")
    for sentence in analysis.event_sentences(shown, brief=True):
        console.print(f"- {visible(sentence)}")
    console.print(_modes(shown, table.attrs, float(run.flow_time(1))))


def _chosen(table: pd.DataFrame, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """Rows of the largest extremum and of the first flip of the first pairs."""
    place = {pair: k for k, pair in enumerate(pairs)}
    order = [place.get(pair, -1) for pair in zip(table["train"], table["query"], strict=True)]
    table = table.assign(order=order, flip=table["kind"] == "sign_flip").query("order >= 0")
    rank = np.where(table["flip"], table["step"], -table["value"].abs())
    first = table.assign(rank=rank).sort_values(["order", "flip", "rank"], kind="stable")
    events = first.drop_duplicates(["order", "flip"])["event"].head(SENTENCES).tolist()
    kept = table[table["event"].isin(events)].sort_values(["order", "step"], kind="stable")
    return kept.drop(columns=["order", "flip"])


def _modes(shown: pd.DataFrame, about: Mapping[str, Any], per_step: float) -> Table:
    """One row per mode that is named: strength, when it is learned, what it tells apart."""
    listed = Table(box=SIMPLE, padding=(0, 1), pad_edge=False)
    for head, side in (("mode", "right"), ("strength", "right"), ("learned @", "right")):
        listed.add_column(head, justify=side, no_wrap=True)
    listed.add_column("tells apart (the side of the train item first)")
    first = shown.drop_duplicates("mode").sort_values("mode")
    for mode, distinction in zip(first["mode"], first["distinction"], strict=True):
        strength, learned = (about[name][mode - 1] for name in ("singular_values", "half_times"))
        listed.add_row(
            str(mode), f"{strength:.3g}", f"{learned / per_step:.0f}", visible(distinction)
        )
    return listed
