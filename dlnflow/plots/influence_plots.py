"""Figures of influence over training."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import checks, result
from dlnflow._support.files import atomic_path
from dlnflow.analysis import events as find_events
from dlnflow.influence.estimator import title
from dlnflow.plots import overviews, panels
from dlnflow.plots.panels import OKABE_ITO, STYLE, STYLES

MAX_LINES = len(OKABE_ITO)
"""More curves than colours in one panel are shown as a heat map instead."""
NO_LAYOUT = {"figure.autolayout": False, "figure.constrained_layout.use": False}
MAX_PANELS = 100
"""A figure with more panels cannot be read; `overview` chooses what to show instead."""


def plot_influence(
    influence: xr.DataArray,
    *,
    columns: str = "estimator",
    time: str = "flow_time",
    marks: Mapping[str, float] | None = None,
    events: bool = True,
    include_self: bool = False,
) -> Figure:
    """Plot influence curves: one row of panels per train item, negative (down) = helps.

    Parameters
    ----------
    influence : xarray.DataArray
        One result, or several from `dlnflow.stack`. With the dim ``seed`` lines are means over
        seeds, with a band from the smallest to the largest; heat maps show the mean.
    columns : {"estimator", "query"}
        What the columns of panels show. "estimator": one line per query in each panel (a heat map
        beyond 8 queries); "query": the estimators drawn over each other.
    time : {"flow_time", "time"}
        Flow time, or optimiser steps; steps where the run has no flow time.
    marks : mapping of label to time, optional
        Vertical lines, such as the half-times of modes.
    events : bool
        Mark the peaks, troughs and sign flips that `dlnflow.events` finds, in the mean where
        there are several seeds. Not in heat maps.
    include_self : bool
        Whether to draw the influence of an item on itself, which is usually much larger.

    Returns
    -------
    matplotlib.figure.Figure
        Not saved; see `save_figure`.

    Raises
    ------
    ValueError
        If an option is unknown, a sweep dim other than ``estimator`` and ``seed`` is left, or
        there would be more than 100 panels.
    """
    curves = _with_estimators(influence)
    checks.one_of("columns", columns, ["estimator", "query"])
    time = panels.time_name(curves, time)
    rows, across = curves.sizes["train"], curves.sizes[columns]
    if rows * across > MAX_PANELS:
        raise ValueError(
            f"{rows} x {across} panels are more than {MAX_PANELS}; select fewer train or query "
            "items, or use `overview`."
        )
    heat = columns == "estimator" and curves.sizes["query"] > MAX_LINES
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_size(rows, across, heat, curves), layout="constrained")
        axes = figure.subplots(rows, across, sharex=True, sharey=_sharing(columns), squeeze=False)
        for axis, row, column in _cells(axes):
            cell = curves.isel({"train": row, columns: column})
            if not include_self:
                cell = cell.where(cell["query"] != cell["train"])
            if heat:
                _heat_cell(figure, axis, cell, time)
            else:
                _line_cell(axis, cell, time, marks or {}, events, first=row == 0)
            _headings(axis, curves, columns, row, column, 14 if marks else 6)
        primary = panels.seed_mean(curves.isel(estimator=0))
        early = overviews.is_early(primary.where(primary["query"] != primary["train"], 0.0), time)
        for axis in axes.flat:
            axis.set_xlabel("")
            overviews.scale(axis, curves[time].values, early and not marks)
        figure.supxlabel(panels.TIME_LABELS[time], fontsize=STYLE["axes.labelsize"])
        if not heat:
            _legend(figure, axes)
    return figure


def overview(influence: xr.DataArray) -> Figure:
    """Choose a readable figure for any number of items.

    Few items: `plot_influence`. A few train items and many queries: one row per train item, with
    every query as a row of a heat map and the curves of the most affected. Otherwise one page
    with (a) who influences whom: the value of
    every pair at its largest |influence|; (b) when: every pair over time, relative to its own
    largest value, in the order of that time; (c) curves of the train items with the largest
    influence on their most affected queries. Selections are stated in the figure.

    Parameters
    ----------
    influence : xarray.DataArray
        One result, or several from `dlnflow.stack`. Beyond a few items the mean of seeds is shown,
        and called so.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        As `plot_influence`.
    """
    curves = _with_estimators(influence)
    if curves.sizes["query"] <= MAX_LINES and curves.sizes["train"] <= 8:
        return plot_influence(influence)
    if "seed" in curves.dims:
        words = f"mean of {curves.sizes['seed']} seeds"
        names = [f"{title(str(name))}, {words}" for name in curves["estimator"].values]
        curves = panels.seed_mean(curves).assign_coords(estimator=names)
    few = curves.sizes["train"] <= overviews.FEW_TRAIN
    with mpl.rc_context(STYLE):
        return overviews.few_train_items(curves) if few else overviews.all_pairs(curves)


def save_figure(figure: Figure, path: str | PathLike[str]) -> list[Path]:
    """Write a figure as PNG and PDF, atomically and byte for byte the same every time.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path-like
        Without suffix, or with ``.png`` or ``.pdf``, which is replaced.

    Returns
    -------
    list of pathlib.Path
        The PNG and the PDF. Existing files are replaced only when the new ones are whole.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".pdf") else path
    # Dates and program versions would make two identical figures differ.
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
    written = []
    layout = figure.get_layout_engine()
    with mpl.rc_context(STYLE | NO_LAYOUT):
        if layout is not None:
            layout.execute(figure)
        # Solved once for both files; with an engine each of them would draw the figure twice.
        figure.set_layout_engine(None)
        try:
            for kind, about in metadata.items():
                target = stem.with_name(f"{stem.name}.{kind}")
                with atomic_path(target) as temporary:
                    figure.savefig(temporary, format=kind, metadata=about)
                written.append(target)
        finally:
            figure.set_layout_engine(layout)
    return written


def _with_estimators(influence: xr.DataArray) -> xr.DataArray:
    """Return curves with dims (estimator, time, query, train), after estimator maybe seed."""
    curves = result.check(influence)
    if "estimator" not in curves.dims:
        curves = curves.expand_dims(estimator=[str(curves.attrs["estimator"])])
    if extra := tuple(d for d in curves.dims[:-3] if d not in {"estimator", "seed"}):
        raise ValueError(f"select one value of {extra} before plotting.")
    curves = curves.transpose("estimator", ...)
    return curves.assign_coords({d: _plain(curves[d].values) for d in ("query", "train")})


def _plain(names: np.ndarray) -> list[str]:
    """Names as matplotlib shows them letter by letter: no formulas, none hidden from legends."""
    escaped = [str(name).replace("$", r"\$") for name in names]
    return [f" {name}" if name.startswith("_") else name for name in escaped]


def _sharing(columns: str) -> str:
    # Estimators of one train item share a scale; pairs differ too much for a common one.
    return "row" if columns == "estimator" else "none"


def _size(rows: int, across: int, heat: bool, curves: xr.DataArray) -> tuple[float, float]:
    height = max(1.7, 0.11 * curves.sizes["query"]) if heat else 1.7
    width = max(3.6, 2.1 * across + 1.2) if across <= 4 else 1.35 * across + 1.2
    return width, max(2.4, height * rows + 0.5)


def _cells(axes: np.ndarray) -> Iterator[tuple[Axes, int, int]]:
    for (row, column), axis in np.ndenumerate(axes):
        yield axis, row, column


def _line_cell(
    axis: Axes,
    cell: xr.DataArray,
    time: str,
    marks: Mapping[str, float],
    events: bool,
    first: bool,
) -> None:
    """Draw the lines of one panel, over queries or over estimators."""
    over = "query" if "query" in cell.dims else "estimator"
    names = [str(value) for value in cell[over].values]
    labels = [title(name) for name in names] if over == "estimator" else names
    if not np.any(np.isfinite(cell.values)):  # an item on itself
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0, labelleft=False, labelbottom=False)
        return
    styles = STYLES if over == "estimator" else STYLES[:2]  # equal curves show through each other
    panels.draw_curves(axis, cell, time=time, labels=labels, styles=styles)
    panels.draw_marks(axis, marks, labelled=first)
    if not events:
        return
    table = find_events(_as_result(panels.seed_mean(cell.dropna(over, how="all"))))
    for k, name in enumerate(names):
        rows = table[table["query" if over == "query" else "estimator"] == name]
        panels.draw_events(axis, rows, color=OKABE_ITO[k % MAX_LINES], time=time)


def _as_result(cell: xr.DataArray) -> xr.DataArray:
    for dim in ("query", "train"):
        if dim not in cell.dims:
            cell = cell.expand_dims(dim)
    return cell.transpose(..., *result.CORE_DIMS)


def _heat_cell(figure: Figure, axis: Axes, cell: xr.DataArray, time: str) -> None:
    values = panels.seed_mean(cell).transpose("query", "time").fillna(0.0).values
    mesh = panels.draw_heat(axis, cell[time].values, values)
    names = cell["query"].values
    axis.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=6)
    bar = figure.colorbar(mesh, ax=axis, aspect=30, pad=0.02)
    bar.outline.set_visible(False)


def _headings(
    axis: Axes, curves: xr.DataArray, columns: str, row: int, column: int, pad: float
) -> None:
    name = str(curves[columns].values[column])
    if row == 0:
        text = title(name) if columns == "estimator" else f"on {name}"
        axis.set_title(text, pad=pad)
    if column == 0:
        axis.set_ylabel(f"weight of {curves['train'].values[row]}\n{panels.INFLUENCE_LABEL}")


def _legend(figure: Figure, axes: np.ndarray) -> None:
    named = {}
    for axis in axes.flat:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    figure.legend(named.values(), named.keys(), loc="outside right upper")
