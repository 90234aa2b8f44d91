"""Figures of influence over training."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import analysis, checks, result
from dlnflow._support import Progress
from dlnflow._support.files import atomic_path, place
from dlnflow.analysis.shapes import log_time
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import ESTIMATORS, title
from dlnflow.plots import overviews, panels
from dlnflow.plots.panels import OKABE_ITO, STYLE, STYLES

MAX_LINES = len(OKABE_ITO)
"""More curves than colours in one panel are shown as a heat map instead."""
SAME_IDS = {"svg.hashsalt": "dlnflow"}
"""Identifiers in an SVG are random without it."""
NO_LAYOUT = {"figure.autolayout": False, "figure.constrained_layout.use": False}
MOST_SHAPES = 8
"""Curves on a page: more cannot be told apart at a glance."""
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
    shown = {dim: [_legible(name) for name in curves[dim].values] for dim in ("query", "train")}
    curves = curves.assign_coords(shown)
    checks.one_of("columns", columns, ["estimator", "query"])
    time = panels.time_name(curves, time)
    rows, across = curves.sizes["train"], curves.sizes[columns]
    if rows * across > MAX_PANELS:
        raise ValueError(
            f"{rows} x {across} panels are more than {MAX_PANELS}; select fewer train or query "
            "items, or use `overview`."
        )
    heat = columns == "estimator" and curves.sizes["query"] > MAX_LINES
    log = log_time(curves) and not marks
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=_size(rows, across, heat, curves), layout="constrained")
        axes = figure.subplots(rows, across, sharex=True, sharey=_sharing(columns), squeeze=False)
        for axis, row, column in _cells(axes):
            cell = curves.isel({"train": row, columns: column})
            if not include_self:
                cell = cell.where(cell["query"] != cell["train"])
            if heat:
                _heat_cell(figure, axis, cell, time, log)
            else:
                _line_cell(axis, cell, time, marks or {}, events, first=row == 0)
            _headings(axis, curves, columns, row, column, 14 if marks else 6)
        for axis in axes.flat:
            axis.set_xlabel("")
            panels.scale_time(axis, curves[time].values, log)
        figure.supxlabel(panels.time_label(time, log), fontsize=STYLE["axes.labelsize"])
        if not heat:
            _legend(figure, axes)
    return figure


def overview(
    influence: xr.DataArray,
    *,
    run: Dynamics | None = None,
    marks: Mapping[str, float] | None = None,
    explained: pd.DataFrame | None = None,
) -> Figure:
    """Draw one readable page for any number of items.

    Up to 8 pairs of different items have a panel each. Of more, one pair is drawn for every shape
    of curve (`dlnflow.analysis.shapes`), chosen for difference and not for size, with how many
    are like it; in grey some of those, at its height. For up to 5 train items there is a heat map
    with every query over time; for more, (a) who influences whom: the value of every pair at its
    largest |influence|, and (b) when: every pair over time, relative to its own largest value, in
    blocks of one shape. Shapes, heat maps and (b) are those of the first estimator. Peaks
    (triangle up, most harmful), troughs and, of the first estimator, sign flips are marked.

    Parameters
    ----------
    influence : xarray.DataArray
        One result, or several from `dlnflow.stack`. With the dim ``seed`` heat maps and lines are
        means over seeds, and bands reach from the smallest to the largest.
    run : Run, optional
        Where `analytic` takes it, the default of the two below: when its modes are learned, and
        what carries the events drawn.
    marks : mapping of label to time, optional
        Dotted lines, the most important first; what crowds a line before it is left out. Default:
        the half-times in ``explained.attrs``.
    explained : pandas.DataFrame, optional
        From `dlnflow.analysis.explain_events`: up to two events of a panel have a letter, and a
        line below that names the mode that carries them, with its share.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a sweep dim other than ``estimator`` and ``seed`` is left.
    """
    curves = _with_estimators(influence)
    found = analysis.shapes(curves, MOST_SHAPES)
    if explained is None and run is not None and not ESTIMATORS["analytic"].refusal(run):
        explained = _explained(run, curves, found.table)
    if marks is None and explained is not None:
        times = explained.attrs.get("half_times", ())
        marks = {str(k): when for k, when in enumerate(times, start=1)}
    with mpl.rc_context(STYLE):
        return overviews.page(curves, found, marks=dict(marks or {}), explained=explained)


def _explained(run: Dynamics, curves: xr.DataArray, table: pd.DataFrame) -> pd.DataFrame | None:
    """Explain the events of the pairs in a table of shapes."""
    if table.empty:
        return None
    names = {dim: list(dict.fromkeys(table[dim])) for dim in ("query", "train")}
    first = panels.seed_mean(curves.isel(estimator=0, drop=True).sel(names))
    return analysis.explain_events(
        run, first.assign_attrs(estimator=str(curves["estimator"].values[0]))
    )


def save_figure(
    figure: Figure, path: str | PathLike[str], *, title: str | None = None, alt: str | None = None
) -> list[Path]:
    """Write a figure as PNG, PDF and SVG, atomically and byte for byte the same every time.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path-like
        Without suffix, or with ``.png``, ``.pdf`` or ``.svg``, which is replaced.
    title, alt : str, optional
        A title, and what the figure shows in words; they are written into the files.

    Returns
    -------
    list of pathlib.Path
        The PNG, the PDF and the SVG. Existing files are replaced only when the new ones are whole.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".png", ".pdf", ".svg") else path
    targets = {kind: stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "pdf", "svg")}
    for target in targets.values():
        place(target)  # all three or none
    # Dates and program versions would make two identical figures differ.
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Software": None, "Title": title, "Description": alt},
        "pdf": {"CreationDate": None, "Producer": None, "Title": title, "Subject": alt},
        "svg": {"Date": None, "Creator": None, "Title": title or "", "Description": alt or ""},
    }
    written = []
    layout = figure.get_layout_engine()
    context = mpl.rc_context(STYLE | NO_LAYOUT | SAME_IDS)
    with context, Progress(1 + len(metadata), "drawing") as progress:
        if layout is not None:
            layout.execute(figure)
        progress.advance()
        # Solved once for all files; with an engine each of them would draw the figure twice.
        figure.set_layout_engine(None)
        try:
            for kind, about in metadata.items():
                with atomic_path(targets[kind]) as temporary:
                    figure.savefig(temporary, format=kind, metadata=about)
                written.append(targets[kind])
                progress.advance()
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
    return curves.transpose("estimator", ...)


def _legible(name: str) -> str:
    """A name letter by letter; legends would hide one that begins with an underscore."""
    name = panels.plain(name)
    return f" {name}" if name.startswith("_") else name


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
    table = analysis.events(_as_result(panels.seed_mean(cell.dropna(over, how="all"))))
    for k, name in enumerate(names):
        rows = table[table["query" if over == "query" else "estimator"] == name]
        panels.draw_events(axis, rows, color=OKABE_ITO[k % MAX_LINES], time=time)


def _as_result(cell: xr.DataArray) -> xr.DataArray:
    for dim in ("query", "train"):
        if dim not in cell.dims:
            cell = cell.expand_dims(dim)
    return cell.transpose(..., *result.CORE_DIMS)


def _heat_cell(figure: Figure, axis: Axes, cell: xr.DataArray, time: str, log: bool) -> None:
    values = panels.seed_mean(cell).transpose("query", "time").fillna(0.0).values
    mesh = panels.draw_heat(axis, cell[time].values, values, log=log)
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
