"""One page for any number of pairs: who influences whom, when, and one curve of every shape."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from dlnflow import analysis
from dlnflow._support import FloatArray, IntArray
from dlnflow.analysis.shapes import CurveShapes, by_similarity, primary
from dlnflow.influence.estimator import title
from dlnflow.plots import keys, panels

WIDTH = 11.0
"""Of a page, in inches."""
HEAT_WIDTH = 4.4
"""Of the heat map of a single train item."""
FEW_TRAIN = 5
"""Up to this many train items have a heat map with all queries each."""
MAX_NAMES, SOME_NAMES = 50, 40
"""Axes with more items than the first name every second, third, ... one, about the second."""
NAME_LENGTH = 18
"""Longer names of items are cut."""
CLIP = 0.95
"""Colours saturate at this quantile of the largest |value| of curves."""
GROUP_ROWS, FEWEST_ROWS = 480, 12
"""Rows of the heat map of groups, and what the smallest group has of them."""
MEMBERS = 24
"""Curves of a group that are drawn in grey behind the one that stands for it."""
TITLE_CHARACTER = 0.063
"""Mean width of a character of a title, in inches."""
GREY = "0.82"
BEGUN = 0.02
"""A curve has left zero where it reaches this fraction of its largest |value|."""


class Panel(NamedTuple):
    """One pair: its curves (estimator[, seed], time), events of the first, and explained ones."""

    number: int
    train: str
    query: str
    count: int
    curves: xr.DataArray
    events: pd.DataFrame
    keys: list[keys.Key]


class View(NamedTuple):
    """What is drawn: curves (estimator[, seed], time, query, train), and the first of them."""

    curves: xr.DataArray
    first: xr.DataArray
    found: CurveShapes
    panels: list[Panel]
    time: str
    marks: dict[str, float]

    @property
    def at(self) -> FloatArray:
        """Time of the samples."""
        return self.first[self.time].values.astype(np.float64)

    @property
    def name(self) -> str:
        """What the first estimator is called, and that it is a mean where it is one."""
        name = title(str(self.curves["estimator"].values[0]))
        if "seed" not in self.curves.dims:
            return name
        return f"{name}, mean of {self.curves.sizes['seed']} seeds"

    @property
    def label(self) -> str:
        """Label of the time axis, which says whether it is logarithmic."""
        return panels.time_label(self.time, self.found.log)


def page(
    curves: xr.DataArray,
    found: CurveShapes,
    *,
    marks: dict[str, float],
    explained: pd.DataFrame | None = None,
) -> Figure:
    """Draw curves with dims (estimator[, seed], time, query, train).

    Parameters
    ----------
    curves : xarray.DataArray
    found : CurveShapes
        From `dlnflow.analysis.shapes`, of the same curves.
    marks : mapping of label to time
        In the unit of the time axis, the most important first.
    explained : pandas.DataFrame, optional
        From `dlnflow.analysis.explain_events`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    time = panels.time_name(curves, "flow_time")
    if found.log:
        curves = curves.isel(time=slice(_begin(curves, found, time), None))
    if explained is not None and "estimator" in explained:
        explained = explained[explained["estimator"] == str(curves["estimator"].values[0])]
    shown = [_panel(curves, k, row, explained) for k, row in enumerate(found.table.itertuples())]
    view = View(curves, primary(curves), found, shown, time, {})
    carrying = [key.mode for panel in shown for key in panel.keys]
    view = view._replace(marks=keys.spaced(marks, view.at, found.log, carrying))
    if all(panel.count == 1 for panel in shown):
        return _all_curves(view)
    if curves.sizes["train"] == 1:
        return _one_train_item(view)
    return _many_pairs(view)


def _begin(curves: xr.DataArray, found: CurveShapes, time: str) -> int:
    """Sample at which a logarithmic axis begins: just before any curve has left zero."""
    first = primary(curves)
    flat = np.abs(first.values[:, (found.group != -1).values])
    begun = (flat > BEGUN * flat.max(axis=0)).any(axis=1)
    return max(int(np.argmax(begun)) - 1, int(np.argmax(first[time].values > 0)))


def _panel(curves: xr.DataArray, number: int, row: tuple, explained: pd.DataFrame | None) -> Panel:
    """Curves and events of the pair in one row of the table of shapes."""
    pair = curves.sel(query=[row.query], train=[row.train]).load()
    first = primary(pair)
    shown = keys.clear(analysis.events(first), float(np.abs(first.values).max()))
    explanations = keys.explanations(shown, explained)
    own = pair.isel(query=0, train=0)
    return Panel(number, row.train, row.query, row.count, own, shown, explanations)


def _all_curves(view: View) -> Figure:
    """Every pair in a panel of its own; one or two of them larger."""
    count = max(1, len(view.panels))
    across = min(count, 3 if count in (5, 6) else 4)
    rows = -(-count // across)
    width = {1: 6.4, 2: 9.0}.get(across, WIDTH)
    height = {1: 3.4, 2: 2.9}.get(across, 2.3)
    figure, body = _figure(view, width, rows * height)
    axes = body.subplots(rows, across, sharex=True, squeeze=False)
    _draw_panels(axes, view, width)
    if not view.panels:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, NOTHING, ha="center", va="center")
    return figure


def _figure(view: View, width: float, height: float) -> tuple[Figure, FigureBase]:
    """Return a figure, and its part above the legend and the lines that explain events."""
    lines = [
        (f"{panel.number + 1 if len(view.panels) > 1 else ''}{key.letter}", key)
        for panel in view.panels
        for key in panel.keys
    ]
    foot = keys.Foot(_handles(view), lines, width)
    figure = Figure(figsize=(width, height + foot.height), layout="constrained")
    body, below = figure.subfigures(2, 1, height_ratios=[height, foot.height])
    foot.write(below)
    return figure, body


NOTHING = "No influence of one item on another differs from zero."


def _one_train_item(view: View) -> Figure:
    """Left, every query over time; right, one curve of every shape."""
    rows = -(-len(view.panels) // 2)
    names = min(view.curves.sizes["query"], MAX_NAMES)
    height = max(1.75 * rows + 0.3, 0.125 * names + 0.8, 3.6)
    figure, body = _figure(view, WIDTH, height)
    left, right = body.subfigures(1, 2, width_ratios=[HEAT_WIDTH, WIDTH - HEAT_WIDTH])
    _over_time(left, view, "a  All queries")
    axes = right.subplots(rows, min(2, len(view.panels)), sharex=True, squeeze=False)
    _draw_panels(axes, view, WIDTH - HEAT_WIDTH)
    right.suptitle(_heading("b", view), x=0.01, ha="left")
    return figure


def _many_pairs(view: View) -> Figure:
    """Above, who and when, or queries over time for few train items; below, a curve per shape."""
    few = view.curves.sizes["train"] <= FEW_TRAIN
    rows = -(-len(view.panels) // 4)
    upper = 4.8 if not few else float(np.clip(0.12 * view.curves.sizes["query"] + 0.6, 3.0, 5.2))
    lower = 1.9 * rows + 0.25
    figure, body = _figure(view, WIDTH, upper + lower)
    top, bottom = body.subfigures(2, 1, height_ratios=[upper, lower])
    if few:
        _over_time(top, view, "a  All queries")
    else:
        left, right = top.subfigures(1, 2, width_ratios=[1.12, 1.0])
        _who(left, view)
        _when(right, view)
    axes = bottom.subplots(rows, min(4, len(view.panels)), sharex=True, squeeze=False)
    _draw_panels(axes, view, WIDTH)
    bottom.suptitle(_heading("b" if few else "c", view), x=0.01, ha="left")
    return figure


def _heading(letter: str, view: View) -> str:
    group = view.found.group
    left_out = int((group == -1).sum()) - len(
        set(view.curves["query"].values) & set(view.curves["train"].values)
    )
    faint = f" ({left_out:,} below 1 % of the largest left out)" if left_out else ""
    return (
        f"{letter}  Curves: {len(view.panels)} shapes among {int((group != -1).sum()):,} pairs"
        f"{faint}, and for each one pair, train item \u2192 query"
    )


def _who(figure: FigureBase, view: View) -> None:
    """Matrix of pairs at their largest |influence|, similar items side by side."""
    values = view.first.values
    largest = np.abs(values).argmax(axis=0)
    peaks = np.take_along_axis(values, largest[None], axis=0)[0]
    queries, trains = view.first["query"].values, view.first["train"].values
    peaks[queries[:, None] == trains[None]] = 0.0
    rows, columns = _orders(queries, trains, peaks)
    peaks = peaks[np.ix_(rows, columns)]
    limit = _limit(np.abs(peaks))
    axis = figure.subplots()
    image = axis.imshow(
        peaks,
        cmap=panels.DIVERGING,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="antialiased",  # more items than pixels are averaged, none is skipped
    )
    name_ticks(axis, "y", "query item", queries[rows])
    name_ticks(axis, "x", "train item", trains[columns])
    axis.spines[:].set_visible(False)
    axis.set_title(f"a  Who: largest influence over training ({view.name})", loc="left")
    _bar(figure, image, axis)


def _orders(queries: np.ndarray, trains: np.ndarray, peaks: FloatArray) -> tuple[IntArray, ...]:
    """Order items by similarity of their influence; one order if both axes hold the same items."""
    if np.array_equal(queries, trains):
        order = by_similarity(np.hstack([peaks, peaks.T]))
        return order, order
    return by_similarity(peaks), by_similarity(peaks.T)


def _limit(sizes: FloatArray) -> float:
    return float(np.quantile(sizes[sizes > 0], CLIP)) if sizes.any() else 1.0


def _bar(figure: FigureBase, image: AxesImage, axes: Axes | list[Axes]) -> None:
    bar = figure.colorbar(image, ax=axes, aspect=40, pad=0.01, extend="both")
    bar.set_label(panels.INFLUENCE_BAR)
    bar.outline.set_visible(False)


def name_ticks(
    axis: Axes, which: str, label: str, names: Sequence[str], offset: float = 0.0
) -> None:
    """Name items at 0, 1, ... (plus `offset`), every k-th where there are too many to read.

    Parameters
    ----------
    axis : matplotlib Axes
    which : {"x", "y"}
    label : str
        Label of the axis; says which items are named.
    names : sequence of str
    offset : float
    """
    count = len(names)
    every = 1 if count <= MAX_NAMES else -(-count // SOME_NAMES)
    size = float(np.clip(245 / max(count / every, 1), 5.0, 7.0))
    ticks = np.arange(count)[::every] + offset
    shown = [panels.plain(name, NAME_LENGTH) for name in names[::every]]
    setter: Callable[..., object] = axis.set_yticks if which == "y" else axis.set_xticks
    setter(ticks, shown, fontsize=size, rotation=0 if which == "y" else 90)
    axis.tick_params(axis=which, length=0 if every == 1 else 1.5)
    label = label if every == 1 else f"{label} (1 in {every} of {count:,} named)"
    (axis.set_ylabel if which == "y" else axis.set_xlabel)(label)


def _when(figure: FigureBase, view: View) -> None:
    """All pairs over time, each divided by its own largest |value|, one block per shape."""
    axis = figure.subplots()
    flat = view.first.values.reshape(len(view.at), -1)
    group = view.found.group.values.ravel()
    blocks = [_block(flat, np.flatnonzero(group == k)) for k in range(len(view.panels))]
    image = panels.draw_heat(axis, view.at, np.vstack(blocks), limit=1.0, log=view.found.log)
    ends = np.cumsum([len(block) for block in blocks])
    for end in ends[:-1]:
        axis.axhline(end, color="black", linewidth=0.7)
    middles = ends - np.array([len(block) for block in blocks]) / 2
    axis.set_yticks(middles, [f"{p.number + 1}  ({p.count:,})" for p in view.panels])
    axis.tick_params(axis="y", length=0)
    axis.set_ylabel("shape (pairs in it)")
    axis.set_xlabel(view.label)
    heading = "b  When: each pair relative to its own largest, by shape"
    axis.set_title(heading, loc="left", pad=13 if view.marks else 6)
    panels.draw_marks(axis, view.marks)
    bar = figure.colorbar(image, ax=axis, aspect=40, pad=0.01, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["helps", "0", "harms"])
    bar.outline.set_visible(False)


def _block(flat: FloatArray, members: IntArray) -> FloatArray:
    """Rows of one group at even spacing in the order of their largest |value|, (rows, T)."""
    share = len(members) / max(1, flat.shape[1])
    count = max(FEWEST_ROWS, int(share * GROUP_ROWS))
    when = np.abs(flat[:, members]).argmax(axis=0)
    order = members[np.argsort(when, kind="stable")]
    rows = flat[:, order[np.arange(count) * len(order) // count]].T
    return rows / np.abs(rows).max(axis=1, keepdims=True)


def _over_time(figure: FigureBase, view: View, heading: str) -> None:
    """Heat map of every query over time, one per train item, all on one scale of colours."""
    values = view.first.transpose("train", "query", "time").values
    queries, trains = view.first["query"].values, view.first["train"].values
    values = np.where((queries == trains[:, None])[:, :, None], 0.0, values)
    order = by_similarity(np.concatenate(list(values), axis=1))
    values, queries = values[:, order], queries[order]
    limit = _limit(np.abs(values).max(axis=2))
    width = (HEAT_WIDTH if len(trains) == 1 else WIDTH) - 2.0  # beside names and colours
    room = int(width / len(trains) / TITLE_CHARACTER) - len("weight of ")
    axes = figure.subplots(1, len(trains), squeeze=False)[0]
    for axis, name, rows in zip(axes, trains, values, strict=True):
        image = panels.draw_heat(axis, view.at, rows, limit=limit, log=view.found.log)
        axis.set_title(f"weight of {panels.plain(name, room)}", pad=13 if view.marks else 6)
        axis.set_yticks([])
        panels.draw_marks(axis, view.marks, labelled=len(trains) < 4 or axis is axes[0])
    if len(trains) == 1:
        queries = [f"{name} (itself)" if name == trains[0] else name for name in queries]
    name_ticks(axes[0], "y", "influence on query", queries, offset=0.5)
    figure.supxlabel(view.label, fontsize=panels.STYLE["axes.labelsize"])
    figure.suptitle(f"{heading}: influence over time ({view.name})", x=0.01, ha="left")
    _bar(figure, image, list(axes))


def _draw_panels(axes: np.ndarray, view: View, width: float) -> None:
    """Draw one panel per pair, in a part of the figure that is `width` inches wide."""
    for axis, panel in zip(axes.flat, view.panels, strict=False):
        _draw_panel(axis, panel, view)
    across, count = axes.shape[1], len(view.panels)
    for k, axis in enumerate(axes.flat):
        if k >= count:
            axis.set_axis_off()
            continue
        panels.scale_time(axis, view.at, view.found.log)
        lowest = k + across >= count
        axis.tick_params(labelbottom=lowest)
        axis.set_xlabel(view.label if lowest else "")
        axis.set_ylabel(panels.INFLUENCE_LABEL if k % across == 0 else "")
        panels.draw_marks(axis, view.marks, labelled=k < across)
        text = _title(view.panels[k], view, (width - 0.5) / across - 0.35)
        axis.set_title(text, loc="left", pad=13 if view.marks and k < across else 4)


def _draw_panel(axis: Axes, panel: Panel, view: View) -> None:
    """Curves of one pair by all estimators, those like it in grey, and events."""
    _draw_members(axis, panel, view)
    names = [title(str(name)) for name in panel.curves["estimator"].values]
    panels.draw_curves(
        axis, panel.curves, time=view.time, styles=panels.STYLES, labels=names, width=1.3
    )
    panels.draw_events(axis, panel.events, color=panels.OKABE_ITO[0], time=view.time)
    for key in panel.keys:
        keys.write_key(axis, key.event, key.letter, view.time)
    axis.margins(y=0.17)  # room for markers and letters


def _title(panel: Panel, view: View, width: float) -> str:
    """Name of a pair, and on a second line how many are like it; `width` in inches."""
    number = f"{panel.number + 1}  " if len(view.panels) > 1 else ""
    room = int(width / TITLE_CHARACTER) - len(number) - 3
    short = min(len(panel.train), len(panel.query), room // 2)
    names = [
        panels.plain(name, max(room // 2, room - short)) for name in (panel.train, panel.query)
    ]
    like = f"\nand {panel.count - 1:,} like it" if panel.count > 1 else ""
    return number + " \u2192 ".join(names) + like


def _draw_members(axis: Axes, panel: Panel, view: View) -> None:
    """Curves of the same shape in grey, scaled to the height of the one that stands for them."""
    group = view.found.group.values.ravel()
    members = np.flatnonzero(group == panel.number)
    if len(members) < 2:
        return
    members = members[np.linspace(0, len(members) - 1, MEMBERS).round().astype(int)]
    rows = view.first.values.reshape(len(view.at), -1)[:, np.unique(members)].T
    height = view.found.table["size"].iloc[panel.number]
    rows = rows * (height / np.abs(rows).max(axis=1, keepdims=True))
    lines = np.stack([np.broadcast_to(view.at, rows.shape), rows], axis=-1)
    axis.add_collection(LineCollection(lines, colors=GREY, linewidths=0.5, zorder=0.5))


def _handles(view: View) -> list[Line2D]:
    """What lines and markers of the panels mean."""
    names = [title(str(name)) for name in view.curves["estimator"].values]
    seeds = f", range of {view.curves.sizes['seed']} seeds" if "seed" in view.curves.dims else ""
    handles = [
        Line2D(
            [],
            [],
            color=panels.OKABE_ITO[k % len(panels.OKABE_ITO)],
            linestyle=panels.STYLES[k % len(panels.STYLES)],
            linewidth=1.3,
            label=name + seeds,
        )
        for k, name in enumerate(names)
    ]
    if any(panel.count > 1 for panel in view.panels):
        handles.append(Line2D([], [], color=GREY, label="like it, at its height"))
    kinds = {kind for panel in view.panels for kind in panel.events["kind"]}
    for kind, label in MARKED.items():
        if kind in kinds:
            face = "white" if kind == "sign_flip" else "0.3"
            style = {"marker": panels.MARKERS[kind], "markerfacecolor": face, "markersize": 4}
            handles.append(Line2D([], [], color="0.3", linestyle="", label=label, **style))
    if view.marks:
        dotted = (0, (1, 1.5))
        label = "half of mode n learned"
        handles.append(Line2D([], [], color="0.45", linestyle=dotted, linewidth=0.9, label=label))
    return handles


MARKED = {"peak": "most harmful", "trough": "most helpful", "sign_flip": "sign flip"}
