"""Short keys at peaks, troughs and sign flips of a figure, and the lines that explain them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D

from dlnflow._support import FloatArray
from dlnflow.plots import panels

CLEAR = 0.05
"""Extrema are marked if this prominent, relative to the largest |value| in the panel."""
KEYED = 2
"""Most events of a panel that have a key."""
NEAR = 0.1
"""An explained event is that of a curve if their times differ by less than this fraction."""
APART, MOST_MARKS = 0.08, 6
"""Marks are at least this fraction of the axis apart, or the later one in order is left out."""
LEGEND_CHARACTER, KEY_CHARACTER = 0.058, 0.0505
"""Mean width of a character of the legend and of the lines below it, in inches."""
LEGEND_HEIGHT, LINE_HEIGHT = 0.2, 0.15
"""Height of a row of either, in inches."""
WIDE = 10.0
"""Figures that are wider have two columns of lines."""
VERBS = {
    ("peak", True): "harms most",
    ("peak", False): "helps least",
    ("trough", False): "helps most",
    ("trough", True): "harms least",
    ("sign_flip", True): "turns to harm",
    ("sign_flip", False): "turns to help",
}
"""By kind, and whether the value is positive, or is so after the flip."""


def clear(table: pd.DataFrame, largest: float) -> pd.DataFrame:
    """Return sign flips, and the extrema that can be seen beside the `largest` |value|."""
    return table[(table["kind"] == "sign_flip") | (table["prominence"] > CLEAR * largest)]


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Return the events of one curve that get a key: the largest extremum, and what opposes it.

    Parameters
    ----------
    table : pandas.DataFrame
        Events of one curve.

    Returns
    -------
    pandas.DataFrame
        In order of time; the second is the largest extremum of the other sign, or else the first
        sign flip.
    """
    extrema = table[table["kind"] != "sign_flip"]
    if extrema.empty:
        return table[:KEYED]
    first = extrema["value"].abs().idxmax()
    other = extrema[extrema["sign"] == -extrema.loc[first, "sign"]]
    rest = table[table["kind"] == "sign_flip"] if other.empty else other
    second = rest["value"].abs().nlargest(KEYED - 1, keep="first").index
    return table.loc[sorted({first, *second}, key=lambda k: table.loc[k, "step"])]


class Key(NamedTuple):
    """One explained event: its letter, the event, the mode that carries it, and that in words."""

    letter: str
    event: Mapping
    mode: str
    text: str
    distinction: str

    def line(self, room: int) -> str:
        """Return one line of at most `room` characters."""
        return self.text + two_sides(self.distinction, room - len(self.text))


def explanations(found: pd.DataFrame, explained: pd.DataFrame | None) -> list[Key]:
    """Explain the chosen events of one curve, as far as a table has them.

    Parameters
    ----------
    found : pandas.DataFrame
        Events of one curve, from `dlnflow.events`.
    explained : pandas.DataFrame, optional
        From `dlnflow.analysis.explain_events`, of the same estimator.

    Returns
    -------
    list of Key
        In order of time.
    """
    if explained is None or found.empty:
        return []
    pair = explained[
        (explained["query"] == found["query"].iloc[0])
        & (explained["train"] == found["train"].iloc[0])
        & explained["mode"].notna()
    ]
    events = chosen(found).to_dict("records")
    known = [(event, row) for event in events if (row := _carrier(event, pair)) is not None]
    return [
        Key(
            chr(ord("a") + k),
            event,
            str(row["mode"]),
            _sentence(event, row),
            str(row["distinction"]),
        )
        for k, (event, row) in enumerate(known)
    ]


def _carrier(event: Mapping, pair: pd.DataFrame) -> Mapping | None:
    """Row of the mode that carries an extremum, or that pushes hardest after a flip."""
    rows = pair[(pair["kind"] == event["kind"]) & (pair["sign"] == event["sign"])]
    distance = (rows["flow_time"] - event["flow_time"]).abs()
    if rows.empty or not distance.min() <= NEAR * abs(event["flow_time"]):
        return None
    rows = rows[rows["event"] == rows.loc[distance.idxmin(), "event"]]
    return rows.iloc[-1 if event["kind"] == "sign_flip" else 0].to_dict()


def _sentence(event: Mapping, row: Mapping) -> str:
    verb = VERBS[event["kind"], bool(event["sign"] > 0)]
    share = f"{row['share']:.0%}"
    if event["kind"] == "sign_flip":
        share += " of the push"
    return f"{verb} at {event['flow_time']:.2g}: mode {row['mode']}, {share}: "


def two_sides(distinction: str, room: int) -> str:
    """Return the features of a distinction, both sides cut so that they fit.

    Parameters
    ----------
    distinction : str
        A distinction of `dlnflow.analysis.explain_events`. Where it names no features, its items.
    room : int
        Number of characters.

    Returns
    -------
    str
    """
    items, _, features = distinction.partition("; features: ")
    first, against, second = (features or items).partition(";")[0].partition(" against ")
    room -= len(against)
    first = _cut(first, max(room // 2, room - len(second)) if against else room)
    return first + against + (_cut(second, room - len(first)) if against else "")


def _cut(names: str, room: int) -> str:
    """As many of the names "a, b, c and 4 more" as fit."""
    parts = names.split(", ")
    for kept in range(len(parts), 0, -1):
        text = ", ".join(parts[:kept]) + ("\u2026" if kept < len(parts) else "")
        if len(text) <= room:
            return panels.plain(text)
    return panels.plain(names, max(3, room))


def spaced(
    marks: Mapping[str, float], time: FloatArray, log: bool, first: Iterable[str] = ()
) -> dict[str, float]:
    """Return the marks inside the record that do not crowd each other, those in `first` first.

    Parameters
    ----------
    marks : mapping of label to time
        The most important first.
    time : array
        Times of the record.
    log : bool
        Whether the axis is logarithmic.
    first : labels
        That go before all others.

    Returns
    -------
    dict of label to time
    """
    start = time[time > 0][0] if log else time[0]
    scale = np.log if log else np.asarray
    kept: dict[str, float] = {}
    for label in [*(name for name in first if name in marks), *marks]:
        when = marks[label]
        if label in kept or not start < when < time[-1] or len(kept) == MOST_MARKS:
            continue
        places = (scale(np.array([when, *kept.values()])) - scale(start)) / (
            scale(time[-1]) - scale(start)
        )
        if np.all(np.abs(places[1:] - places[0]) >= APART):
            kept[label] = when
    return kept


def write_key(axis: Axes, event: Mapping, letter: str, time: str) -> None:
    """Write the letter of an event beside its marker."""
    at = event["step" if time == "time" else time]
    offset, ha, va = PLACES[event["kind"]]
    text = axis.annotate(
        letter,
        (at, event["value"]),
        xytext=offset,
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=7.5,
        zorder=5,
        annotation_clip=False,
        bbox={
            "boxstyle": "round,pad=0.02",
            "facecolor": "white",
            "edgecolor": "none",
            "alpha": 0.7,
        },
    )
    text.set_in_layout(False)


class Foot(NamedTuple):
    """What stands below the panels: the legend, and a line for every event that has a letter.

    Sizes are in inches and follow from the number of characters, so that no layout is solved.
    """

    handles: Sequence[Line2D]
    lines: Sequence[tuple[str, Key]]
    width: float

    @property
    def columns(self) -> int:
        """How many lines stand beside each other."""
        return 2 if self.width > WIDE else 1

    @property
    def legend_rows(self) -> int:
        """Rows of the legend."""
        needed = sum(0.62 + LEGEND_CHARACTER * len(one.get_label()) for one in self.handles)
        return max(1, -int(-needed // (self.width - 0.2)))

    @property
    def height(self) -> float:
        """Height of all of it."""
        lines = 1.4 + -(-len(self.lines) // self.columns) if self.lines else 0
        return 0.14 + LEGEND_HEIGHT * self.legend_rows + LINE_HEIGHT * lines

    def write(self, figure: FigureBase) -> None:
        """Write it into a part of a figure that has its size."""
        figure.legend(
            handles=self.handles,
            loc="upper center",
            ncols=-(-len(self.handles) // self.legend_rows),
            columnspacing=1.4,
            borderaxespad=0.2,
        )
        rows = -(-len(self.lines) // self.columns)
        room = int((self.width / self.columns - 0.35) / KEY_CHARACTER)
        style = {"fontsize": 6.8, "va": "bottom"}
        if self.lines:
            figure.text(0.01, (rows + 0.3) * LINE_HEIGHT / self.height, CARRIED, **style)
        for k, (letters, key) in enumerate(self.lines):
            column, row = divmod(k, rows)
            left = column / self.columns + 0.01
            level = (rows - row - 0.85) * LINE_HEIGHT / self.height
            figure.text(left, level, letters, **style)
            figure.text(left + 0.25 / self.width, level, key.line(room), **style)


CARRIED = (
    "Letters: the mode that carries an event, its share (above 100 % where others resist), "
    "and what it tells apart."
)
PLACES = {
    "peak": ((0, 3), "center", "bottom"),
    "trough": ((0, -3), "center", "top"),
    "sign_flip": ((4, 3), "left", "bottom"),
}
"""Offset in points and alignment of letters: where curves are not."""
