"""What all figures share: sizes, colours by kinship, panel letters."""

from collections.abc import Iterable

import matplotlib as mpl
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.influence.estimator import title
from dlnflow.plots import influence_plots, panels

KINSHIP_COLORS = {"sibling": "#0072B2", "cousin": "#D55E00", "far": "#009E73"}
ESTIMATOR_COLORS = {
    "analytic": "#0072B2",
    "tangent": "#000000",
    "leave_one_out": "#D55E00",
    "bif": "#CC79A7",
}
ESTIMATOR_STYLES = {
    "analytic": (0, (4, 1.6)),
    "tangent": "-",
    "leave_one_out": "-",
    "bif": (0, (1.2, 1.2)),
}
LEVEL_COLORS = ("0.35", "#009E73", "#D55E00", "#0072B2")
"""Shared by all, animal | plant, mammal | bird and tree | flower, siblings."""
TIME, INFLUENCE = panels.TIME_LABELS["flow_time"], panels.INFLUENCE_LABEL
LEGEND, PAGE_WIDTH, letters = panels.LEGEND, panels.PAGE_WIDTH, panels.letters


def figure(width: float, height: float) -> Figure:
    """Return an empty figure in the common style; sizes in inches."""
    with mpl.rc_context(influence_plots.STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def label(curve: xr.DataArray) -> str:
    """Return what a result is called, with the factor it is drawn with."""
    name, scale = title(curve.attrs["estimator"]), curve.attrs.get("scale")
    return name if scale is None else f"{name} \u00d7 {scale:.0f}"


def boxed(alpha: float = 0.85) -> dict[str, object]:
    """Return the white box behind text that stands on lines."""
    return {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": alpha}


def numbered(
    axis: Axes,
    number: int,
    xy: tuple[float, float],
    *,
    offset: tuple[float, float] = (0, 0),
    over_axis: bool = False,
    size: float = 6.0,
) -> None:
    """Write the number of a level in a circle of its colour, at data coordinates.

    `over_axis` places it at the upper edge of the panel and takes only x from `xy`; `offset` is
    in points.
    """
    color = LEVEL_COLORS[number]
    axis.annotate(
        str(number),
        (xy[0], 1) if over_axis else xy,
        xytext=offset,
        ha="center",
        va="center",
        xycoords=("data", "axes fraction") if over_axis else "data",
        textcoords="offset points",
        fontsize=size,
        color=color,
        zorder=6,
        annotation_clip=False,
        bbox={
            "boxstyle": "circle,pad=0.18",
            "facecolor": "white",
            "edgecolor": color,
            "linewidth": 0.7,
        },
    )


def mark_levels(axis: Axes, times: Iterable[float], *, labelled: bool = True) -> None:
    """Dotted lines at the half-times of the modes that are in view, numbered on top."""
    left, right = axis.get_xlim()
    for number, when in enumerate(times):
        if not left < when < right:
            continue
        color = LEVEL_COLORS[number]
        axis.axvline(when, color=color, linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=0)
        if labelled:
            numbered(axis, number, (when, 1), offset=(0, 6), over_axis=True)
