"""Figure 8: influence of every item on every other, and how well the estimators agree."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dlnflow.plots import influence_plots, panels
from paper_figures import _data, _style
from paper_figures.fig03_influence import PANELS

LIMITS = {"sibling": 0.8, "cousin": 0.55, "far": 0.25}
"""Half of the vertical range, by kinship."""
PAIRINGS = (
    ("analytic", "tangent"),
    ("analytic", "leave_one_out"),
    ("tangent", "leave_one_out"),
    ("bif", "tangent"),
    ("bif", "leave_one_out"),
)
"""Estimator and reference. Seed 0 alone is sampled."""

HEADLINES = {
    "seed0.pearson_median": "closed form and tangent: median Pearson {:.3f}",
    "seed0.pearson_min": "minimum {:.3f}",
    "tangent_vs_leave_one_out.pearson_median": "tangent and leave-one-out: median {:.3f}",
    "bif_vs_leave_one_out.pearson_median": "Bayesian influence and leave-one-out: median {:.3f}",
    "leave_one_out.fewest_sign_flips": "fewest leave-one-out sign flips of a pair: {:.0f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Matrix of small panels; rows are queries, columns train items."""
    curves = _data.curves(scale, PANELS)
    items = list(_data.run().task.items)
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 6.9)
        axes = figure.subplots(len(items), len(items))
        for (row, column), axis in np.ndenumerate(axes):
            query, train = items[row], items[column]
            pair = {name: curve.sel(query=query, train=[train]) for name, curve in curves.items()}
            _cell(axis, pair, _data.kinship(query, train), query)
        for axis in axes[-1]:
            axis.tick_params(labelbottom=True)
        figure.supxlabel(f"train item (column): {_style.TIME}", fontsize=8)
        figure.supylabel("query item (row): influence on its loss (down = helps)", fontsize=8)
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        _key(figure, curves)
    return figure, _agreement(scale)


def _cell(axis: Axes, curves: dict[str, xr.DataArray], kin: str, query: str) -> None:
    axis.set(xticks=[0, 3, 6], yticks=[], xlim=(0, 7.5))
    axis.spines["left"].set_visible(False)
    axis.tick_params(labelbottom=False)
    if kin == "self":
        axis.text(
            0.5, 0.5, query, ha="center", va="center", transform=axis.transAxes, fontweight="bold"
        )
        axis.spines["bottom"].set_visible(False)
        axis.tick_params(width=0)
        return
    for name, curve in curves.items():
        panels.draw_curves(
            axis,
            curve,
            width=0.9,
            colors=[_style.ESTIMATOR_COLORS[name]],
            styles=[_style.ESTIMATOR_STYLES[name]],
        )
    axis.set(xlim=(0, 7.5), ylim=(-LIMITS[kin], LIMITS[kin]), xlabel="")
    axis.set_facecolor(to_rgba(_style.KINSHIP_COLORS[kin], 0.09))


def _key(figure: Figure, curves: dict[str, xr.DataArray]) -> None:
    colors, styles = _style.ESTIMATOR_COLORS, _style.ESTIMATOR_STYLES
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colors[name], linestyle=styles[name], label=_style.label(curve))
        for name, curve in curves.items()
    ]
    handles += [
        Patch(facecolor=to_rgba(color, 0.15), label=f"{kin}: vertical range ±{LIMITS[kin]}")
        for kin, color in _style.KINSHIP_COLORS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)


def _agreement(scale: _data.Scale) -> dict[str, float]:
    """Pearson correlations and offsets by kinship, over all pairs and several seeds."""
    tables = []
    for seed in range(_data.SEEDS[scale]):
        for name, reference in PAIRINGS:
            if name != "bif" or seed == 0:
                table = _data.compared(scale, name, reference, seed)
                tables.append(table.assign(reference=reference, seed=seed))
    pairs = pd.concat(tables)
    pairs = pairs[pairs["query"] != pairs["train"]]
    pairs["kin"] = [
        _data.kinship(q, t) for q, t in zip(pairs["query"], pairs["train"], strict=True)
    ]
    claims: dict[str, float] = {"seeds": float(_data.SEEDS[scale])}
    shown = pairs[(pairs["seed"] == 0) & (pairs["estimator"] == "analytic")]
    shown = shown.loc[shown["reference"] == "tangent", "pearson"]
    claims |= {"seed0.pearson_median": shown.median(), "seed0.pearson_min": shown.min()}
    for (name, reference), rows in pairs.groupby(["estimator", "reference"]):
        stem = f"{name}_vs_{reference}"
        claims |= {
            f"{stem}.pearson_median": rows["pearson"].median(),
            f"{stem}.pearson_min": rows["pearson"].min(),
        }
        for kin in LIMITS:
            mine = rows[rows["kin"] == kin]
            claims |= {
                f"{stem}.{kin}.pearson_mean": mine["pearson"].mean(),
                f"{stem}.{kin}.pearson_min": mine["pearson"].min(),
                f"{stem}.{kin}.peak_offset": mine["peak_offset_flow"].mean(),
                f"{stem}.{kin}.trough_offset": mine["trough_offset_flow"].mean(),
            }
    removed = pairs[(pairs["estimator"] == "tangent") & (pairs["reference"] == "leave_one_out")]
    claims["leave_one_out.fewest_sign_flips"] = float(removed["reference_flips"].min())
    return {key: float(value) for key, value in claims.items() if np.isfinite(value)}
