"""One row per train item, for a few train items and many queries."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow._support.typing import IntArray
from dlnflow.influence.estimator import title
from dlnflow.plots import overviews, panels

MAX_TRAIN = 4
"""More train items than this are drawn by the overview of all pairs."""
CURVES = 6
"""Queries with curves: those with the largest |influence|."""


def draw(curves: xr.DataArray) -> Figure:
    """Draw curves with dims (estimator, time, query, train): all queries, and the strongest.

    Left, one heat map per estimator with every query as a named row; right, the curves of the
    most affected queries, the first estimator solid, the others in the styles of the key.
    """
    time = panels.time_name(curves, "flow_time")
    others = curves.where(curves["query"] != curves["train"], 0.0)
    log = overviews.is_early(others.isel(estimator=0), time)
    n_train, n_estimators = others.sizes["train"], others.sizes["estimator"]
    height = float(np.clip(0.135 * others.sizes["query"], 3.2, 7.0))
    figure = Figure(figsize=(3.6 + 2.2 * n_estimators + 1.2, height * n_train + 0.5),
                    layout="constrained")  # fmt: skip
    axes = figure.subplots(
        n_train, n_estimators + 1, squeeze=False, width_ratios=[1.0] * n_estimators + [1.7]
    )
    for row, train in enumerate(others["train"].values):
        one = others.sel(train=train)
        _heats(figure, axes[row], one, time, log, f"weight of {train}")
        _strongest(axes[row, -1], one, time, log)
    overviews.draw_key(figure, axes[0, -1], others, "lower right")
    return figure


def _heats(
    figure: Figure, axes: np.ndarray, curves: xr.DataArray, time: str, log: bool, name: str
) -> None:
    """Every query over time, one panel per estimator, all on the scale of the largest value."""
    order = _order(curves)
    limit = float(np.abs(curves.values).max()) or 1.0
    for k, axis in enumerate(axes[:-1]):
        values = curves.isel(estimator=k, query=order).transpose("query", "time").values
        mesh = panels.draw_heat(axis, curves[time].values, values, limit=limit)
        overviews.scale(axis, curves[time].values, log)
        axis.set_title(title(str(curves["estimator"].values[k])))
        axis.set_xlabel(time.replace("_", " "))
        axis.set_yticks([])
    own = str(curves["train"].values)
    names = [f"{q} (self, not drawn)" if q == own else q for q in curves["query"].values[order]]
    overviews.name_ticks(axes[0].set_yticks, np.array(names), offset=0.5)
    axes[0].tick_params(length=0, axis="y")
    axes[0].set_ylabel(f"{name},\ninfluence on")
    bar = figure.colorbar(mesh, ax=list(axes[:-1]), aspect=45, pad=0.01)
    bar.set_label(panels.INFLUENCE_BAR)
    bar.outline.set_visible(False)


def _order(curves: xr.DataArray) -> IntArray:
    """Queries with similar curves side by side."""
    first = curves.isel(estimator=0).transpose("query", "time").values
    return overviews.by_similarity(first)


def _strongest(axis: Axes, curves: xr.DataArray, time: str, log: bool) -> None:
    overviews.draw_strongest(axis, curves, time, CURVES)
    overviews.scale(axis, curves[time].values, log)
    axis.legend(loc="best", fontsize=7, handlelength=1.2, labelspacing=0.25, frameon=False)
    axis.set_ylabel(panels.INFLUENCE_LABEL)
    axis.set_title("the most affected queries")
