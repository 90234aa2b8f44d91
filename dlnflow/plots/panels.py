"""One matplotlib axis at a time: influence curves, their events, heat maps.

`dlnflow.plots.influence_plots` arranges these into figures; use them directly to build your own.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.traces.intervals import TWO_SIGMA, interval

STYLE = {
    "font.size": 8,
    "figure.titlesize": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "image.interpolation": "nearest",
    "mathtext.default": "regular",
}
"""Settings of every figure, fit for a column or a page of a journal."""
OKABE_ITO = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#B8A90F",
)
"""Okabe & Ito's colours, distinct for colour-blind readers; yellow darkened for white paper."""
STYLES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
"""Line styles for estimators drawn over each other."""
TIME_LABELS = {"flow_time": "training time (flow time)", "time": "training time (optimiser steps)"}
SIGNED = "\u2190 helps    harms \u2192"
INFLUENCE_LABEL = f"influence on loss\n{SIGNED}"
"""Sign of d loss(query) / d weight(train) in words: down is help."""
INFLUENCE_BAR = "\u2190 helps    influence on loss    harms \u2192"
"""The same in one line, for colour bars."""
MARKERS = {"peak": "^", "trough": "v", "sign_flip": "o"}
NOT_MIXED = "0.75"
"""Grey of sampled values whose chains have not mixed."""
LEGEND = {
    "fontsize": 6.5,
    "labelspacing": 0.3,
    "frameon": True,
    "framealpha": 0.85,
    "edgecolor": "none",
    "borderpad": 0.2,
}
"""Small legend on a light ground."""
PAGE_WIDTH = 7.2
"""Of a journal page, in inches."""
MAX_ROWS, COLUMNS = 600, 400
"""Rows and columns of a heat map, about as many as it has pixels on a screen."""
DIVERGING = "RdBu_r"
"""Blue below zero (helps), white at zero, red above (harms)."""


def draw_curves(
    axis: Axes,
    curves: xr.DataArray,
    *,
    time: str = "flow_time",
    colors: Sequence[str] = OKABE_ITO,
    styles: Sequence[object] = ("-",),
    labels: Sequence[str] | None = None,
    width: float = 1.4,
) -> list[Line2D]:
    """Draw several curves over time and label the time axis.

    Sampled results, which carry `standard_error` and `verdict`, get a band of two standard errors
    on either side, and are grey where the verdict is not "mixed". Curves of several seeds become
    their mean and a band from the smallest to the largest of them, which the legend names.

    Parameters
    ----------
    axis : matplotlib Axes
    curves : xarray.DataArray
        Two dims, one of them ``time``, and ``seed`` if there are several; one line per entry of
        the remaining one.
    time : {"flow_time", "time"}
        Coordinate on the horizontal axis; flow time falls back to steps where a run has none.
    colors, styles : sequences
        Cycled over the lines.
    labels : sequence of str, optional
        Default: the labels of the other dim.
    width : float
        Line width in points.

    Returns
    -------
    list of matplotlib Line2D

    Raises
    ------
    ValueError
        If there are not two dims but seed, with ``time`` among them.
    """
    seeds, curves = curves, seed_mean(curves)
    if curves.ndim != 2 or "time" not in curves.dims:
        raise ValueError(
            f"`curves` must have two dims but seed, one of them 'time'; got {seeds.dims}."
        )
    (other,) = (dim for dim in curves.dims if dim != "time")
    labels = [str(value) for value in curves[other].values] if labels is None else labels
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    name = time_name(curves, time)
    lines = []
    for k, (row, label) in enumerate(zip(curves.transpose(other, "time"), labels, strict=True)):
        color, style = colors[k % len(colors)], styles[k % len(styles)]
        believed = row.where(_believed(row)) if "verdict" in row.coords else row
        lines += axis.plot(
            curves[name], believed, color=color, linestyle=style, linewidth=width, label=label
        )
        draw_uncertainty(axis, row, time=name, color=color, width=width)
        if "seed" in seeds.dims:
            draw_spread(axis, seeds.isel({other: k}), time=name, color=color, labelled=k == 0)
    axis.set_xlim(float(curves[name][0]), float(curves[name][-1]))
    axis.set_xlabel(TIME_LABELS[name])
    return lines


def seed_mean(curves: xr.DataArray) -> xr.DataArray:
    """Return the mean over the dim ``seed``; curves without it as they are.

    Parameters
    ----------
    curves : xarray.DataArray

    Returns
    -------
    xarray.DataArray
        With its attributes, without coordinates that differ between seeds.
    """
    return curves.mean("seed", keep_attrs=True) if "seed" in curves.dims else curves


def draw_spread(
    axis: Axes, curves: xr.DataArray, *, color: str, time: str = "flow_time", labelled: bool = True
) -> None:
    """Draw a band from the smallest to the largest of the curves of several seeds.

    Parameters
    ----------
    axis : matplotlib Axes
    curves : xarray.DataArray, dims (seed, time)
    color : str
    time : {"flow_time", "time"}
        Coordinate on the horizontal axis.
    labelled : bool
        Whether the band has an entry of the legend.
    """
    axis.fill_between(
        curves[time].values,
        curves.min("seed"),
        curves.max("seed"),
        color=color,
        alpha=0.2,
        linewidth=0,
        zorder=1,
        label=f"line: mean, band: range\nof {curves.sizes['seed']} seeds" if labelled else None,
    )


def draw_uncertainty(
    axis: Axes, curve: xr.DataArray, *, color: str, time: str = "flow_time", width: float = 1.4
) -> None:
    """Draw a band of two standard errors, and in grey the checkpoints that have not mixed.

    Parameters
    ----------
    axis : matplotlib Axes
    curve : xarray.DataArray, dims (time,)
        With `standard_error` (time,) and `verdict` (time,) among its coordinates; nothing is
        drawn for what is absent.
    color : str
        Color of the band.
    time : {"flow_time", "time"}
        Coordinate on the horizontal axis.
    width : float
        Width of the grey line in points.
    """
    at = curve[time].values
    if "standard_error" in curve.coords and np.any(np.isfinite(curve.standard_error)):
        ends = interval(curve, TWO_SIGMA)
        axis.fill_between(
            at, ends.lower, ends.upper, color=color, alpha=0.25, linewidth=0, zorder=1
        )
    if "verdict" not in curve.coords or np.all(_believed(curve)):
        return
    axis.plot(at, curve, color=NOT_MIXED, linewidth=width, zorder=1.5, label="_not mixed")
    edges = np.concatenate([at[:1], (at[1:] + at[:-1]) / 2, at[-1:]])
    for k in np.flatnonzero(~_believed(curve)):
        axis.axvspan(edges[k], edges[k + 1], color=NOT_MIXED, alpha=0.35, linewidth=0, zorder=-1)


def _believed(curve: xr.DataArray) -> NDArray[np.bool_]:
    """Return where a curve is mixed, or was not sampled at all."""
    return np.isin(curve.verdict.values, ["mixed", ""])


def time_name(curves: xr.DataArray, time: str) -> str:
    """Return the coordinate to use as time: `time`, or steps where flow time is undefined.

    Parameters
    ----------
    curves : xarray.DataArray
    time : {"flow_time", "time"}

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If `time` is neither "flow_time" nor "time".
    """
    checks.one_of("time", time, list(TIME_LABELS))
    return time if np.all(np.isfinite(curves[time].values)) else "time"


def time_label(name: str, log: bool) -> str:
    """Return the label of a time axis, which says where it is logarithmic.

    Parameters
    ----------
    name : {"flow_time", "time"}
    log : bool

    Returns
    -------
    str
    """
    label = TIME_LABELS[name]
    return label.removesuffix(")") + ", log scale)" if log else label


def scale_time(axis: Axes, time: FloatArray, log: bool) -> None:
    """Set scale and limits of a time axis; a logarithmic one begins at the first time above 0.

    Parameters
    ----------
    axis : matplotlib Axes
    time : array
        Times of the record.
    log : bool
    """
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlim(time[time > 0][0] if log else time[0], time[-1])


def plain(name: str, length: int | None = None) -> str:
    """Return a name as matplotlib shows it letter by letter: no formulas, cut to `length`.

    Parameters
    ----------
    name : str
    length : int, optional
        Most characters; of a longer name the middle becomes an ellipsis, as names often differ
        at their ends.

    Returns
    -------
    str
    """
    name = " ".join(str(name).split())
    if length is not None and len(name) > length:
        head, tail = length // 2, (length - 1) // 2
        name = f"{name[:head]}\u2026{name[len(name) - tail :]}"
    return name.replace("$", r"\$")


def draw_events(
    axis: Axes, table: pd.DataFrame, *, color: str, time: str = "flow_time", size: float = 3.2
) -> None:
    """Mark peaks (triangle up), troughs (triangle down) and sign flips (open circle).

    Parameters
    ----------
    axis : matplotlib Axes
    table : pandas.DataFrame
        Rows of `dlnflow.events` that belong to one curve.
    color : str
    time : {"flow_time", "time"}
    size : float
        Marker size in points.
    """
    column = "step" if time == "time" else time
    for kind, marker in MARKERS.items():
        rows = table[table["kind"] == kind]
        face = "white" if kind == "sign_flip" else color
        drawn = axis.plot(
            rows[column],
            rows["value"],
            marker,
            color=color,
            markerfacecolor=face,
            markersize=size,
            markeredgewidth=0.8,
            zorder=3,
            clip_on=False,
        )
        drawn[0].set_in_layout(False)  # unclipped markers would otherwise collapse the layout


def draw_marks(axis: Axes, marks: Mapping[str, float], *, labelled: bool = True) -> None:
    """Thin dotted vertical lines at times of interest, named above the axis.

    Parameters
    ----------
    axis : matplotlib Axes
    marks : mapping of label to time
        In the units of the axis.
    labelled : bool
        Whether to write the labels.
    """
    for label, when in marks.items():
        axis.axvline(when, color="0.45", linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=0)
        if labelled:
            axis.annotate(
                label,
                (when, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize="x-small",
                color="0.25",
            )


def draw_heat(
    axis: Axes,
    time: FloatArray,
    values: FloatArray,
    *,
    limit: float | None = None,
    log: bool = False,
) -> AxesImage:
    """Heat map of many curves over time, one row each, first row on top.

    It is an image in the coordinates of the panel, so that its cost does not grow with the curves:
    beyond `MAX_ROWS` curves every second, third, ... is drawn. The limits of the axis must stay.

    Parameters
    ----------
    axis : matplotlib Axes
    time : array, shape (T,)
    values : array, shape (P, T)
    limit : float, optional
        Colours span [-limit, limit]. Default: the largest |value|.
    log : bool
        Whether time is drawn on a log scale, from the first time above 0 on.

    Returns
    -------
    matplotlib AxesImage
        For a colour bar.
    """
    limit = limit or float(np.abs(values).max()) or 1.0
    places = (np.arange(COLUMNS) + 0.5) / COLUMNS
    start, end = (time[time > 0][0] if log else time[0]), time[-1]
    at = start * (end / start) ** places if log else start + (end - start) * places
    nearest = np.searchsorted((time[1:] + time[:-1]) / 2, at)
    image = axis.imshow(
        values[:: -(-len(values) // MAX_ROWS), nearest],
        cmap=DIVERGING,
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        extent=(0, 1, 0, 1),
        transform=axis.transAxes,
    )
    axis.set_ylim(len(values), 0)
    scale_time(axis, time, log)
    return image


def letters(axes: Iterable[Axes], start: str = "a") -> None:
    """Put bold letters a, b, ... at the upper left corner of panels."""
    for k, axis in enumerate(axes):
        axis.annotate(
            chr(ord(start) + k),
            (0, 1),
            xycoords="axes fraction",
            xytext=(-4, 4),
            textcoords="offset points",
            fontsize=10,
            fontweight="bold",
            ha="right",
            va="bottom",
        )
