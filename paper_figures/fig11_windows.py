"""Figure 11: leaving dog out for a while only; when does that matter for whom."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import influence
from dlnflow._support import FloatArray
from dlnflow.plots import influence_plots
from paper_figures import _data, _style

TRAIN = "dog"
QUERIES = ("cat", "sparrow")
WIDTHS = (0.25, 0.5, 1.0)
"""Lengths of the window in flow time."""
WIDTH_COLORS = ("#56B4E9", "#0072B2", "#000000")
STARTS = {_data.Scale.quick: 48, _data.Scale.paper: 200}
UNTIL = 7.0
"""Last flow time at which a window ends; nothing happens after."""
HEADLINES = {
    "cat.1.trough": "a window of 1: most helpful for cat from {:.2f}",
    "sparrow.1.trough": "for sparrow from {:.2f}",
    "cat.1.first_order": "first order correlates {:.3f}",
}


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """One panel per query: influence in the window against its start, exact and first order."""
    run = _data.run()
    unit = float(run.flow_time([1])[0])
    widths = [round(w / unit) for w in WIDTHS]
    starts = np.unique(np.linspace(0, UNTIL / unit - widths[-1], STARTS[scale]).round().astype(int))
    exact, linear = (
        influence.windowed(run, starts, window=widths, train=TRAIN, query=QUERIES, first_order=f)
        .squeeze("train")
        .assign_coords(window=list(WIDTHS))
        for f in (False, True)
    )
    # from the mean over the window to the integral over it, in flow time
    exact, linear = exact * exact.window, linear * linear.window
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 2.6)
        axes = figure.subplots(1, 2)
        for axis, query in zip(axes, QUERIES, strict=True):
            _panel(axis, exact.sel(query=query), linear.sel(query=query), query)
            _style.mark_levels(axis, _data.half_times(scale))
        axes[1].legend(title="absent for (flow time)", title_fontsize=6.5, **_style.LEGEND)
        axes[0].set_ylabel(
            "influence, integrated\nover the window (loss $\\times$ flow time)\n"
            "$\\leftarrow$ helps    harms $\\rightarrow$"
        )
        _style.letters(axes)
    return figure, _measured(scale, exact, linear)


def _panel(axis: Axes, exact: xr.DataArray, linear: xr.DataArray, query: str) -> None:
    for width, color in zip(WIDTHS, WIDTH_COLORS, strict=True):
        one = exact.sel(window=width)
        axis.plot(one.flow_time, one, color=color, label=f"{width:g}")
        axis.plot(one.flow_time, linear.sel(window=width), "--", color=color, linewidth=0.9)
    axis.plot([], [], "--", color="0.3", linewidth=0.9, label="first order")
    axis.axhline(0, color="0.7", linewidth=0.5)
    axis.set(xlabel="start of the window (flow time)", xlim=(0, UNTIL - WIDTHS[-1]))
    axis.set_title(f"{TRAIN} on {query} ({_data.kinship(TRAIN, query)})", pad=16)


def _measured(scale: _data.Scale, exact: xr.DataArray, linear: xr.DataArray) -> dict[str, float]:
    """Start of the most helpful and the most harmful window, and what first order misses."""
    claims = {}
    time = exact.flow_time.values
    for query in QUERIES:
        for width in WIDTHS:
            one, first = (x.sel(query=query, window=width).values for x in (exact, linear))
            claims |= {
                f"{query}.{width:g}.trough": float(time[one.argmin()]),
                f"{query}.{width:g}.peak": float(time[one.argmax()]),
                f"{query}.{width:g}.flip": _flip(time, one),
                f"{query}.{width:g}.first_order": float(np.corrcoef(one, first)[0, 1]),
                f"{query}.{width:g}.ratio": float(np.abs(one).max() / np.abs(first).max()),
            }
        # the middle of the most harmful window against the peaks of the whole-run estimators
        middle = claims[f"{query}.0.5.peak"] + 0.25
        for name in ("tangent", "leave_one_out"):
            whole = _data.influence(scale, name).sel(query=query, train=TRAIN)
            claims[f"{query}.middle_minus_{name}"] = middle - float(
                whole.flow_time[whole.values.argmax()]
            )
    return claims


def _flip(time: FloatArray, curve: FloatArray) -> float:
    """Return where the curve crosses zero between its trough and its peak."""
    first, last = curve.argmin(), curve.argmax()
    return float(np.interp(0, curve[first : last + 1], time[first : last + 1]))
