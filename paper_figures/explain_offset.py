"""Figure "explain": why the peaks of different estimators do not align."""

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.analysis import explain_offset
from dlnflow.plots import influence_plots
from paper_figures import _data, _style

TRAIN = "dog"
QUERIES = ("cat", "sparrow", "pine")
FRACTIONS = (0.05, 0.25, 0.5, 0.75, 1.0)
"""Removed shares of dog's weight; the tangent is the limit 0."""
POINTS = {_data.Scale.quick: 100, _data.Scale.paper: 400}
CAUSES = {
    "removed 1": "removed altogether",
    "removed 0.5": "half removed",
    "analytic": "closed form (reweights only\nwhat inputs and outputs share)",
    "dot product, local": "gradients at that time\n(no past, no propagation)",
    "displacement": "past gradients summed\n(not propagated)",
}

HEADLINES = {
    "removed 1.cat.peak_offset": "dog removed: peak on cat {:+.2f} from the tangent",
    "analytic.cat.peak_offset": "closed form {:+.2f}",
    "dot product, local.cat.peak_offset": "present step only {:+.2f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Left: peak time against the removed share. Right: offset of every relative of the tangent."""
    table = explain_offset(
        _data.run(), fractions=FRACTIONS, points=POINTS[scale], query=QUERIES, train=TRAIN
    ).set_index(["curve", "query"])
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 2.6)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        for query in QUERIES:
            _ladder(left, table, query)
        _offsets(right, table)
        _style.letters([left, right])
    return figure, _measured(table)


def _ladder(axis: Axes, table: pd.DataFrame, query: str) -> None:
    kin = _data.kinship(TRAIN, query)
    names = ["tangent", *(f"removed {share:g}" for share in FRACTIONS)]
    times = [table.loc[(name, query), "peak_flow"] for name in names]
    axis.plot([0, *FRACTIONS], times, "o-", color=_style.KINSHIP_COLORS[kin], markersize=3.5)
    axis.annotate(
        f"on {query} ({kin})",
        (1, times[-1]),
        xytext=(0, -12),
        textcoords="offset points",
        ha="right",
        fontsize=6.5,
        color=_style.KINSHIP_COLORS[kin],
    )
    axis.set(xlabel="removed share of dog (0 = exact tangent)", ylabel="peak (flow time)")
    axis.set_ylim(1.5, 4.8)


def _offsets(axis: Axes, table: pd.DataFrame) -> None:
    axis.axvline(0, color="0.7", linewidth=0.6, zorder=0)
    for query in QUERIES:
        color = _style.KINSHIP_COLORS[_data.kinship(TRAIN, query)]
        offsets = [table.loc[(name, query), "peak_offset_flow"] for name in CAUSES]
        axis.plot(offsets, range(len(CAUSES)), "o", color=color, markersize=4.5, label=query)
    axis.set_yticks(range(len(CAUSES)), CAUSES.values())
    axis.set_ylim(len(CAUSES) - 0.5, -0.5)
    axis.set_xlabel("peak minus that of the tangent (flow time)")
    axis.legend(loc="center right", title="dog on", title_fontsize=6.5, **_style.LEGEND)


def _measured(table: pd.DataFrame) -> dict[str, float]:
    claims = {f"tangent.{q}.peak": float(table.loc[("tangent", q), "peak_flow"]) for q in QUERIES}
    for name in (*(f"removed {share:g}" for share in FRACTIONS), *list(CAUSES)[2:]):
        for query in QUERIES:
            row = table.loc[(name, query)]
            claims[f"{name}.{query}.peak_offset"] = float(row["peak_offset_flow"])
            claims[f"{name}.{query}.pearson"] = float(row["pearson"])
    return claims
