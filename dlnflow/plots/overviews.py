"""One page for many items.

`all_pairs` shows who influences whom, when, and the strongest curves; `few_train_items` shows one
row per train item with every query in it.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import pdist

from dlnflow._support import FloatArray, IntArray
from dlnflow.influence.estimator import title
from dlnflow.plots import panels

CURVE_PANELS = 12
"""Train items with curves of their own,"""
TOP_QUERIES = 3
"""and queries in each: those with the largest |influence|."""
FEW_TRAIN = 4
"""Up to this many train items get a row of their own,"""
FEW_CURVES = 6
"""with curves of so many queries: those with the largest |influence|."""
MAX_NAMES = 64
"""Axes with more items than this name every second, third, ... one."""
EARLY = 0.1
"""Time is drawn on a log scale if half of the pairs peak before this share of the record."""
CLIP = 0.99
"""Colours of the who-panel saturate at this quantile of |value|."""


def all_pairs(curves: xr.DataArray) -> Figure:
    """Draw who, when and the strongest of curves with dims (estimator, time, query, train)."""
    time = panels.time_name(curves, "flow_time")
    others = curves.where(curves["query"] != curves["train"], 0.0)
    primary = others.isel(estimator=0)
    shown = _strongest(primary)
    rows = -(-len(shown) // 4)
    log = is_early(primary, time)
    figure = Figure(figsize=(11.0, 4.9 + 1.75 * rows), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[4.9, 1.75 * rows])
    left, right = top.subfigures(1, 2, width_ratios=[1.0, 1.0])
    _who(left, primary)
    _when(right, others, time, log)
    _curves(bottom, others, shown, rows, time, log)
    return figure


def _at_largest(values: FloatArray) -> FloatArray:
    """Signed value at the largest |value| along axis 0."""
    where = np.abs(values).argmax(axis=0)
    return np.take_along_axis(values, where[None], axis=0)[0]


def is_early(curves: xr.DataArray, time: str) -> bool:
    """Whether curves peak so early that a linear time axis would hide it."""
    when = curves[time].values[np.abs(curves.values).argmax(axis=0)]
    return bool(np.median(when) < EARLY * float(curves[time][-1]))


def scale(axis: Axes, time: FloatArray, log: bool) -> None:
    """Set the limits of the time axis, logarithmic or not."""
    if log:
        axis.set_xscale("log")
        axis.set_xlim(time[time > 0][0], time[-1])


def _strongest(curves: xr.DataArray) -> IntArray:
    peaks = np.abs(curves.values).max(axis=(0, 1))
    return np.argsort(-peaks, kind="stable")[:CURVE_PANELS]


def _who(figure: Figure, curves: xr.DataArray) -> None:
    """Matrix of pairs at their largest |influence|, similar items side by side."""
    peaks = _at_largest(curves.values)
    query_order, train_order = _orders(curves, peaks)
    peaks = peaks[np.ix_(query_order, train_order)]
    limit = float(np.quantile(np.abs(peaks), CLIP)) or 1.0
    axis = figure.subplots()
    image = axis.imshow(peaks, cmap=panels.DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    name_ticks(axis.set_yticks, curves["query"].values[query_order])
    name_ticks(axis.set_xticks, curves["train"].values[train_order], rotation=90)
    axis.set_xlabel("train item")
    axis.set_ylabel("query item")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    name = title(str(curves["estimator"].values))
    axis.set_title(f"a  Who: largest influence over training ({name})", loc="left")
    bar = figure.colorbar(image, ax=axis, aspect=40, pad=0.01, extend="both")
    bar.set_label(panels.INFLUENCE_BAR)
    bar.outline.set_visible(False)


def _orders(curves: xr.DataArray, peaks: FloatArray) -> tuple[IntArray, IntArray]:
    """Order items by similarity of their influence; one order if both axes hold the same items."""
    if np.array_equal(curves["query"].values, curves["train"].values):
        order = by_similarity(np.hstack([peaks, peaks.T]))
        return order, order
    return by_similarity(peaks), by_similarity(peaks.T)


def by_similarity(rows: FloatArray) -> IntArray:
    """Order of rows in which similar ones are neighbours."""
    if len(rows) < 3:
        return np.arange(len(rows))
    return leaves_list(linkage(pdist(rows), "average", optimal_ordering=len(rows) <= 500))


def name_ticks(
    setter: Callable[..., object], names: FloatArray, offset: float = 0.0, **text: object
) -> None:
    """Label ticks 0, 1, ... (plus `offset`), every k-th where there are too many."""
    every = -(-len(names) // MAX_NAMES)
    size = float(np.clip(260 / max(len(names), 1), 4.5, 7))
    ticks = np.arange(len(names))[::every] + offset
    setter(ticks, names[::every], fontsize=size, **text)


def _when(figure: Figure, curves: xr.DataArray, time: str, log: bool) -> None:
    """All pairs over time, each divided by its own largest |value|, sorted by when that is."""
    n_estimators = curves.sizes["estimator"]
    axes = figure.subplots(1, n_estimators, sharey=True, squeeze=False)[0]
    flat = curves.stack(pair=("query", "train")).transpose("estimator", "pair", "time").values
    largest = np.abs(flat).max(axis=2, keepdims=True)
    moving = largest[0, :, 0] > 1e-12 * largest.max()  # leaves out the self pairs
    order = np.flatnonzero(moving)
    order = order[np.argsort(np.abs(flat[0, order]).argmax(axis=1), kind="stable")]
    every = -(-len(order) // panels.MAX_ROWS)
    values, largest = flat[:, order[::every]], largest[:, order[::every]]
    relative = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    for axis, name, values in zip(axes, curves["estimator"].values, relative, strict=True):
        mesh = panels.draw_heat(axis, curves[time].values, values, limit=1.0)
        axis.set_title(title(str(name)))
        axis.set_yticks([])
        scale(axis, curves[time].values, log)
    axes[0].set_ylabel(f"{len(order)} pairs, earliest peak on top")
    axes[n_estimators // 2].set_xlabel(panels.TIME_LABELS[time])
    figure.suptitle(
        "b  When: influence of each pair relative to its own largest", x=0.02, ha="left"
    )
    bar = figure.colorbar(mesh, ax=list(axes), aspect=40, pad=0.01, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["helps", "0", "harms"])
    bar.outline.set_visible(False)


def _curves(
    figure: Figure, curves: xr.DataArray, shown: IntArray, rows: int, time: str, log: bool
) -> None:
    """Curves of the strongest train items on the queries that they affect most."""
    axes = figure.subplots(rows, 4, sharex=True, squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, train in zip(axes.flat, shown, strict=False):
        _curve_panel(axis, curves.isel(train=train), time)
    scale(axes[0, 0], curves[time].values, log)  # the panels share it
    for axis in axes[:-1].flat:
        axis.set_xlabel("")
    for axis in axes[:, 0]:
        axis.set_ylabel(panels.INFLUENCE_LABEL)
    draw_key(figure, axes.flat[0], curves, "lower center")
    total = curves.sizes["train"]
    which = (
        "all train items"
        if len(shown) == total
        else f"the {len(shown)} of {total} train items with the largest influence"
    )
    figure.suptitle(
        f"c  Curves: {which}, on the {TOP_QUERIES} queries each affects most", x=0.01, ha="left"
    )


def _curve_panel(axis: Axes, curves: xr.DataArray, time: str) -> None:
    draw_strongest(axis, curves, time, TOP_QUERIES)
    axis.legend(loc="best", fontsize=6.5, handlelength=1.2, labelspacing=0.25)
    axis.set_title(f"weight of {curves['train'].values}", loc="left")


def draw_strongest(axis: Axes, curves: xr.DataArray, time: str, count: int) -> None:
    """Draw the `count` queries with the largest |value|: a colour each, estimators by line style.

    `curves` has the dims (estimator, time, query) of one train item.
    """
    peaks = np.abs(curves.isel(estimator=0).values).max(axis=0)
    for k, query in enumerate(np.argsort(-peaks, kind="stable")[:count]):
        one = curves.isel(query=query)
        lines = panels.draw_curves(
            axis, one, time=time, colors=[panels.OKABE_ITO[k]], styles=panels.STYLES, width=1.1
        )
        lines[0].set_label(str(one["query"].values))
        for line in lines[1:]:
            line.set_label("_")


def draw_key(figure: Figure, axis: Axes, curves: xr.DataArray, where: str) -> None:
    """Write which line style is which estimator outside of the panels, at `where`."""
    names = [title(str(name)) for name in curves["estimator"].values]
    lines = [
        axis.plot([], [], color="0.3", linestyle=style, label="_")[0]
        for _, style in zip(names, panels.STYLES * 9, strict=False)
    ]
    figure.legend(lines, names, loc=f"outside {where}", ncols=len(names))


def few_train_items(curves: xr.DataArray) -> Figure:
    """Draw curves with dims (estimator, time, query, train): all queries, and the strongest.

    Left, one heat map per estimator with every query as a named row; right, the curves of the
    most affected queries, the first estimator solid, the others in the styles of the key.

    Parameters
    ----------
    curves : xarray.DataArray
        At most `FEW_TRAIN` train items.

    Returns
    -------
    matplotlib.figure.Figure
    """
    time = panels.time_name(curves, "flow_time")
    others = curves.where(curves["query"] != curves["train"], 0.0)
    log = is_early(others.isel(estimator=0), time)
    n_train, n_estimators = others.sizes["train"], others.sizes["estimator"]
    height = float(np.clip(0.135 * others.sizes["query"], 3.2, 7.0))
    size = (3.6 + 2.2 * n_estimators + 1.2, height * n_train + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        n_train, n_estimators + 1, squeeze=False, width_ratios=[1.0] * n_estimators + [1.7]
    )
    for row, train in enumerate(others["train"].values):
        one = others.sel(train=train)
        _heats(figure, axes[row], one, time, log, f"weight of {train}")
        _most_affected(axes[row, -1], one, time, log)
    draw_key(figure, axes[0, -1], others, "lower right")
    return figure


def _heats(
    figure: Figure, axes: np.ndarray, curves: xr.DataArray, time: str, log: bool, name: str
) -> None:
    """Every query over time, one panel per estimator, all on the scale of the largest value."""
    # Queries with similar curves lie side by side.
    order = by_similarity(curves.isel(estimator=0).transpose("query", "time").values)
    limit = float(np.abs(curves.values).max()) or 1.0
    for k, axis in enumerate(axes[:-1]):
        values = curves.isel(estimator=k, query=order).transpose("query", "time").values
        mesh = panels.draw_heat(axis, curves[time].values, values, limit=limit)
        scale(axis, curves[time].values, log)
        axis.set_title(title(str(curves["estimator"].values[k])))
        axis.set_xlabel(time.replace("_", " "))
        axis.set_yticks([])
    own = str(curves["train"].values)
    names = [f"{q} (self, not drawn)" if q == own else q for q in curves["query"].values[order]]
    name_ticks(axes[0].set_yticks, np.array(names), offset=0.5)
    axes[0].tick_params(length=0, axis="y")
    axes[0].set_ylabel(f"{name},\ninfluence on")
    bar = figure.colorbar(mesh, ax=list(axes[:-1]), aspect=45, pad=0.01)
    bar.set_label(panels.INFLUENCE_BAR)
    bar.outline.set_visible(False)


def _most_affected(axis: Axes, curves: xr.DataArray, time: str, log: bool) -> None:
    draw_strongest(axis, curves, time, FEW_CURVES)
    scale(axis, curves[time].values, log)
    axis.legend(loc="best", fontsize=7, handlelength=1.2, labelspacing=0.25, frameon=False)
    axis.set_ylabel(panels.INFLUENCE_LABEL)
    axis.set_title("the most affected queries")
