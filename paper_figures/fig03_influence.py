"""Figure 3: influence of dog on the other items, by several estimators."""

from collections.abc import Sequence
from itertools import product

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.influence.estimator import title
from dlnflow.plots import influence_plots, panels
from paper_figures import _claims, _data, _style

PANELS = ("bif", "analytic", "tangent", "leave_one_out")
"""Upper panels, left to right; the layout follows the list."""
TRAIN = "dog"
QUERIES = ("cat", "sparrow", "pine")
"""One sibling, one cousin, one far item."""
SHOWN = 0.05
"""Extrema are marked if this prominent, relative to the largest value in the panel."""
ZOOM = {"cat": (0.8, 7.2), "sparrow": (0.8, 4.8), "pine": (0.9, 3.1)}

HEADLINES = {
    "tangent.cat.peak": "dog on cat: exact tangent peaks at {:.2f}",
    "analytic_vs_tangent.cat.peak_offset_flow": "closed form {:+.2f} from it",
    "leave_one_out.cat.peak": "leave-one-out at {:.2f}",
    "bif_vs_leave_one_out.cat.pearson": "Bayesian influence and leave-one-out: Pearson {:.2f}",
    "leave_one_out.cat.sign_flips": "leave-one-out sign flips, cat: {:.0f}",
    "leave_one_out.sparrow.sign_flips": "sparrow: {:.0f}",
    "leave_one_out.pine.sign_flips": "pine: {:.0f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale, estimators: Sequence[str] = PANELS) -> tuple[Figure, dict[str, float]]:
    """Upper row: all queries, one estimator each. Lower row: one query each, all estimators."""
    curves = {
        name: curve.sel(train=[TRAIN])
        for name, curve in _data.curves(scale, tuple(estimators)).items()
    }
    found = _data.found_events(curves)
    half = _data.half_times(scale)
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.5)
        upper, lower = figure.subfigures(2, 1, hspace=0.04)
        top = upper.subplots(1, len(estimators), sharey=True, squeeze=False)[0]
        for axis, name in zip(top, estimators, strict=True):
            by_kinship(axis, curves[name].sel(train=TRAIN), TRAIN, named=name == estimators[0])
            axis.set_title(_style.label(curves[name]), pad=13)
            axis.set_xlim(0, 7.5)
            _style.mark_levels(axis, half)
        top[0].set_ylabel(_style.INFLUENCE)
        bottom = lower.subplots(1, len(QUERIES))
        for axis, query in zip(bottom, QUERIES, strict=True):
            _one_query(axis, curves, found, query)
            axis.set_xlim(ZOOM[query])
            _style.mark_levels(axis, half)
        bottom[0].set_ylabel(_style.INFLUENCE)
        bottom[0].legend(loc="lower right", handlelength=2.2, **_style.LEGEND)
        _style.letters([*top, *bottom])
    return figure, _measured(scale, curves, found)


def by_kinship(axis: Axes, curves: xr.DataArray, train: str, *, named: bool = True) -> None:
    """Curves of all other items, coloured by how they are related to the train item."""
    for kin, color in _style.KINSHIP_COLORS.items():
        names = [q for q in curves["query"].values if _data.kinship(train, q) == kin]
        panels.draw_curves(
            axis,
            curves.sel(query=names),
            colors=[color],
            styles=panels.STYLES[:2],
            width=1.1,
            labels=[", ".join(names), *["_"] * (len(names) - 1)],
        )
    if named:
        axis.legend(loc="lower right", handlelength=1.2, **_style.LEGEND)


def _one_query(
    axis: Axes, curves: dict[str, xr.DataArray], found: pd.DataFrame, query: str
) -> None:
    """All estimators on one query with their peaks, and how late leave-one-out is."""
    shown = {name: curve.sel(query=[query], train=TRAIN) for name, curve in curves.items()}
    for name, curve in shown.items():
        panels.draw_curves(
            axis,
            curve,
            width=1.2,
            labels=[title(name)],
            colors=[_style.ESTIMATOR_COLORS[name]],
            styles=[_style.ESTIMATOR_STYLES[name]],
        )
    mine = found[(found["query"] == query) & (found["kind"] != "sign_flip")]
    clear = mine["prominence"] > SHOWN * max(float(np.abs(curve).max()) for curve in shown.values())
    for name in shown:
        rows = mine[clear & (mine["estimator"] == name)]
        panels.draw_events(axis, rows, color=_style.ESTIMATOR_COLORS[name])
    if {"tangent", "leave_one_out"} <= set(shown):
        _delay(
            axis,
            _claims.largest(mine, "tangent", "peak"),
            _claims.largest(mine, "leave_one_out", "peak"),
        )
    axis.set_title(f"dog on {query} ({_data.kinship(TRAIN, query)})", pad=13)


def _delay(axis: Axes, exact: tuple[float, float], removed: tuple[float, float]) -> None:
    """Arrow from the peak of the tangent to that of leave-one-out, with the delay."""
    (early, high), (late, low) = exact, removed
    axis.plot([early, early], [low, high], color="0.3", linewidth=0.6, linestyle=":")
    arrow = {"arrowstyle": "->", "linewidth": 0.8, "color": "0.3", "shrinkA": 0, "shrinkB": 2}
    axis.annotate("", (late, low), (early, low), arrowprops=arrow)
    axis.annotate(
        f"peaks {late - early:.2f}\nafter the tangent",
        (late, low),
        xytext=(12, 7),
        textcoords="offset points",
        fontsize=6.5,
        bbox=_style.boxed(),
    )


def _measured(
    scale: _data.Scale, curves: dict[str, xr.DataArray], found: pd.DataFrame
) -> dict[str, float]:
    """Times of the main peak, trough and first sign flip; agreement and offsets."""
    claims: dict[str, float] = {}
    for name, query in product(curves, QUERIES):
        rows = found[(found["estimator"] == name) & (found["query"] == query)]
        claims |= {f"{name}.{query}.{key}": v for key, v in _claims.of_curve(rows, name).items()}
    for reference in ("tangent", "leave_one_out"):
        for name in PANELS[: PANELS.index(reference)]:
            if {name, reference} <= set(curves):
                claims |= _agreement(scale, name, reference)
    if "leave_one_out" in curves:
        claims |= _alike(curves["leave_one_out"].sel(train=TRAIN), _data.half_times(scale))
    if "bif" in curves:
        claims["bif.mixed_checkpoints"] = float((curves["bif"].verdict == "mixed").sum())
        claims["bif.scale"] = curves["bif"].attrs["scale"]
    return {key: value for key, value in claims.items() if np.isfinite(value)}


def _alike(removed: xr.DataArray, half: Sequence[float]) -> dict[str, float]:
    """Influence on the cousin over that on the sibling, before their parting and in it."""
    time = removed.flow_time.values
    cat, sparrow = (removed.sel(query=query).values for query in QUERIES[:2])
    return {
        f"leave_one_out.sparrow_over_cat.at_level{level}": float(
            np.interp(half[level], time, sparrow) / np.interp(half[level], time, cat)
        )
        for level in (0, 2)
    }


def _agreement(scale: _data.Scale, name: str, reference: str) -> dict[str, float]:
    table = _data.compared(scale, name, reference).set_index(["train", "query"])
    return {
        f"{name}_vs_{reference}.{query}.{key}": float(table.loc[(TRAIN, query), key])
        for query in QUERIES
        for key in ("pearson", "peak_offset_flow", "trough_offset_flow")
    }
