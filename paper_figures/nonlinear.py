"""Figure "nonlinear": what of the predictions survives a nonlinearity, from rich to lazy."""

import itertools
from functools import cache

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlnflow.plots import influence_plots
from paper_figures import _data, _networks, _results, _style
from paper_figures._networks import ACTIVATIONS

TRAIN = "dog"
QUERIES = ("cat", "sparrow", "pine")
RICH, LAZY = 1e-3, 10.0
STRENGTHS = {
    _data.Scale.quick: (1e-3, 1e-1, 10.0),
    _data.Scale.paper: tuple(10.0 ** np.arange(-3, 2)),
}
WIDTHS = {_data.Scale.quick: (32,), _data.Scale.paper: (8, 32, 128)}
SEEDS = {_data.Scale.quick: 1, _data.Scale.paper: 3}
SHOWN = 32
COLORS = {"linear": "#000000", "tanh": "#0072B2", "relu": "#D55E00"}
NAMES = {"linear": "linear", "tanh": "tanh", "relu": "ReLU"}
MARKERS = {8: "v", 32: "o", 128: "^"}
"""By width."""
DASHED = (0, (3, 1.3))

HEADLINES = {
    "relu.0.001.32.flips": "rich ReLU network: {:.0%} of pairs change sign",
    "relu.10.32.flips": "lazy: {:.0%}",
    "linear.10.32.flips": "lazy linear network: {:.0%}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Curves of rich and lazy networks, and what is predicted over the strength of the start."""
    found = _results.saved("nonlinear", measures(scale))
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 6.6)
        upper, lower = figure.subfigures(2, 1, hspace=0.03, height_ratios=(1.75, 1))
        panels = upper.subplots(2, 3)
        for row, strength in zip(panels, (RICH, LAZY), strict=True):
            for axis, name in zip(row, ACTIVATIONS, strict=True):
                _curves(axis, name, strength)
            row[0].set_ylabel(f"{'rich' if strength == RICH else 'lazy'}: influence of {TRAIN}")
        for axis in panels[1]:
            axis.set_xlabel("steps $\\times$ rate / items")
        axes = lower.subplots(1, 4)
        for axis, drawn in zip(axes, (_flips, _stages, _order, _distance), strict=True):
            drawn(axis, found)
            axis.set(xscale="log", xlabel="strength of the start")
        _style.letters([*panels.ravel(), *axes])
        _keys(upper, lower, WIDTHS[scale])
    return figure, _claims(found)


@cache
def measures(scale: _data.Scale) -> xr.Dataset:
    """Numbers of all networks, dims (activation, strength, width, seed)."""
    axes = {
        "activation": list(ACTIVATIONS),
        "strength": list(STRENGTHS[scale]),
        "width": list(WIDTHS[scale]),
        "seed": list(range(SEEDS[scale])),
    }
    sizes = [len(values) for values in axes.values()]
    each = [
        _networks.measured(name, width, strength, seed)
        for name, strength, width, seed in itertools.product(*axes.values())
    ]
    names = [name for name in each[0] if each[0][name].ndim == 0]
    values = {n: (list(axes), np.reshape([float(one[n]) for one in each], sizes)) for n in names}
    return xr.Dataset(values, axes)


def _curves(axis: Axes, name: str, strength: float) -> None:
    """Exact tangent and retraining of one train item, with the transitions."""
    found = _networks.measured(name, SHOWN, strength, 0)
    kept = found.time <= 1.35 * float(found.transitions[-1])
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    for query in QUERIES:
        color = _style.KINSHIP_COLORS[_data.kinship(TRAIN, query)]
        for curves, style in ((found.exact, "-"), (found.retrained, DASHED)):
            curve = curves.sel(query=query, train=TRAIN)[kept]
            axis.plot(found.time[kept], curve, color=color, linestyle=style, linewidth=1.2)
    axis.set_xlim(0, float(found.time[kept][-1]))
    axis.margins(y=0.12)
    for level, when in enumerate(found.transitions.values):
        color = _style.LEVEL_COLORS[level]
        axis.axvline(when, color=color, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0)
    axis.set_title(f"{NAMES[name]}, strength {strength:g}")


def _lines(axis: Axes, values: xr.DataArray, style: object = "-") -> None:
    """One line per activation and width, mean over seeds; the width shown above is thick."""
    for name, width in itertools.product(ACTIVATIONS, values.width.values):
        line = values.sel(activation=name, width=width).mean("seed")
        main = width == SHOWN
        axis.plot(
            values.strength,
            line,
            color=COLORS[name],
            linestyle=style,
            linewidth=1.4 if main else 0.6,
            marker=MARKERS[int(width)],
            markersize=3.2 if main else 2.2,
            alpha=1 if main else 0.6,
        )


def _flips(axis: Axes, found: xr.Dataset) -> None:
    _lines(axis, found.flips)
    _lines(axis, found.flips_retrained.sel(width=[SHOWN]), DASHED)
    axis.set(ylim=(0, 1.05), title="pairs with a sign flip", ylabel="share")


def _stages(axis: Axes, found: xr.Dataset) -> None:
    _lines(axis, found.stages)
    axis.axhline(1, color="0.7", linewidth=0.6, zorder=0)
    axis.set(ylim=(0.8, None), title="last / first transition", ylabel="ratio of times")


def _order(axis: Axes, found: xr.Dataset) -> None:
    _lines(axis, found.order)
    _lines(axis, found.order_windows.sel(width=[SHOWN]), DASHED)
    axis.axhline(0.5, color="0.7", linewidth=0.6, zorder=0)
    axis.set(ylim=(0, 1.05), title="cousin before sibling", ylabel="share")


def _distance(axis: Axes, found: xr.Dataset) -> None:
    _lines(axis, found.distance)
    axis.axhline(1, color="0.7", linewidth=0.6, zorder=0)
    axis.set(ylim=(0, None), title="extremum to transition", ylabel="distance / chance")


def _keys(upper: Figure, lower: Figure, widths: tuple[int, ...]) -> None:
    """Legends beside the panels."""

    def line(color: str, style: object = "-") -> Line2D:
        return Line2D([], [], color=color, linestyle=style, linewidth=1.3)

    kin = [(f"on {q}", line(_style.KINSHIP_COLORS[_data.kinship(TRAIN, q)])) for q in QUERIES]
    rest = [("exact tangent", line("0.3")), ("retraining", line("0.3", DASHED))]
    dots = [
        (f"level {k}", line(color, (0, (1, 1.5)))) for k, color in enumerate(_style.LEVEL_COLORS)
    ]
    nets = [(NAMES[name], line(color)) for name, color in COLORS.items()]
    nets += [("by retraining (g), windows (i)", line("0.3", DASHED))]
    nets += [
        (f"width {width}", Line2D([], [], color="0.3", linestyle="", marker=mark, markersize=3))
        for width, mark in MARKERS.items()
        if width in widths
    ]
    for figure, entries in ((upper, kin + rest + dots), (lower, nets)):
        labels, handles = zip(*entries, strict=True)
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=len(labels),
            columnspacing=1.2,
            **_style.LEGEND,
        )


def _claims(found: xr.Dataset) -> dict[str, float]:
    """Means over seeds at the width shown."""
    kept = found.sel(width=SHOWN).mean("seed")
    return {
        f"{name}.{strength:g}.{SHOWN}.{key}": float(
            kept[key].sel(activation=name, strength=strength)
        )
        for name, strength, key in itertools.product(
            ACTIVATIONS, kept.strength.values, list(kept.data_vars)
        )
    }
