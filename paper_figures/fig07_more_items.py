"""Figure 7: influence of other train items: the same stages wherever one stands in the tree."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.plots import influence_plots
from paper_figures import _claims, _data, _style
from paper_figures.fig03_influence import PANELS, by_kinship

TRAINS = ("cat", "sparrow", "pine", "rose")
SHARED = "analytic"
"""The estimator that is the same in all rows."""

HEADLINES = {
    "leave_one_out.cat.sibling.peak": "cat on its sibling: leave-one-out peaks at {:.2f}",
    "leave_one_out.sparrow.sibling.peak": "sparrow on its sibling: leave-one-out peaks at {:.2f}",
    "leave_one_out.pine.sibling.peak": "pine on its sibling: leave-one-out peaks at {:.2f}",
    "leave_one_out.rose.sibling.peak": "rose on its sibling: leave-one-out peaks at {:.2f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """One row per train item, one column per estimator; the closed form once: all rows share it."""
    curves = {
        name: curve.sel(train=list(TRAINS)) for name, curve in _data.curves(scale, PANELS).items()
    }
    half = _data.half_times(scale)
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 6.6)
        axes = figure.subplots(len(TRAINS), len(PANELS), sharex=True, sharey=True)
        for (row, column), axis in np.ndenumerate(axes):
            train, name = TRAINS[row], PANELS[column]
            if row and name == SHARED:
                _same_as_above(axis)
                continue
            by_kinship(axis, curves[name].sel(train=train), train, named=column == 0)
            axis.set(
                xlim=(0, 7.5),
                ylim=(-1.1, 0.6),
                xlabel=_style.TIME if row == len(TRAINS) - 1 or name == SHARED else "",
            )
            axis.tick_params(labelbottom=row == len(TRAINS) - 1 or name == SHARED)
            _style.mark_levels(axis, half, labelled=row == 0)
            if row == 0:
                axis.set_title(_style.label(curves[name]), pad=13)
        for axis, train in zip(axes[:, 0], TRAINS, strict=True):
            axis.set_ylabel(f"weight of {train}\n{_style.INFLUENCE}")
        _style.letters(axes[:, 0])
    return figure, _measured(curves)


def _same_as_above(axis: Axes) -> None:
    axis.set_axis_off()
    axis.text(
        0.5,
        0.5,
        "the same curves:\nthe closed form depends\non kinship only",
        transform=axis.transAxes,
        ha="center",
        va="center",
        fontsize=6.5,
        color="0.4",
    )


def _measured(curves: dict[str, xr.DataArray]) -> dict[str, float]:
    """Main peak per train item and kinship, mean over the queries of that kinship."""
    found = _data.found_events(curves)
    claims = {}
    for name in PANELS:
        for train in TRAINS:
            for kin in _style.KINSHIP_COLORS:
                queries = [
                    q for q in curves[name]["query"].values if _data.kinship(train, q) == kin
                ]
                rows = found[found["train"] == train]
                times = [
                    _claims.largest(rows[rows["query"] == q], name, "peak")[0] for q in queries
                ]
                claims[f"{name}.{train}.{kin}.peak"] = float(np.mean(times))
    return claims
