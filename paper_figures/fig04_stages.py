"""Figure 4: influence peaks against the branching of the hidden representations."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.analysis import events
from dlnflow.analysis.embedding import branching_times, embedding
from dlnflow.plots import influence_plots, panels
from paper_figures import _claims, _data, _style

TRAIN = "dog"
QUERIES = ("pine", "sparrow", "cat")
"""In the order in which they part from dog: numbered 1, 2, 3."""
OFFSETS = {"pine": (0, 9), "sparrow": (-5, 0), "cat": (-3, 7)}
"""Where the numbers of the forks stand, in points beside their middle."""
MAX_TIMES = 90
"""Steps in the picture of the paths."""

HEADLINES = {
    "pine.leave_one_out_peak_minus_onset": "leave-one-out peak on pine: {:+.2f} from onset",
    "sparrow.leave_one_out_peak_minus_onset": "leave-one-out peak on sparrow: {:+.2f} from onset",
    "cat.leave_one_out_peak_minus_onset": "leave-one-out peak on cat: {:+.2f} from onset",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Influence of dog, separation from dog, and the paths of all items in a plane."""
    curves = _data.stacked(scale, ("tangent", "leave_one_out")).sel(
        train=[TRAIN], query=list(QUERIES)
    )
    found = events(curves)
    branching = branching_times(_data.trajectory(scale)).set_index(["item", "other"]).loc[TRAIN]
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.2)
        axes = figure.subplot_mosaic("ac;bc", width_ratios=[1, 1.08])
        axes["b"].sharex(axes["a"])
        _influence(axes["a"], curves.sel(train=TRAIN), found)
        _separation(axes["b"], scale, branching)
        for axis in (axes["a"], axes["b"]):
            for query in QUERIES:
                when = branching.loc[query, "onset_flow_time"]
                axis.axvline(
                    when, color=_color(query), linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=0
                )
        _paths(axes["c"], scale, branching)
        _style.letters([axes["a"], axes["b"], axes["c"]])
    return figure, _measured(found, branching)


def _color(query: str) -> str:
    return _style.KINSHIP_COLORS[_data.kinship(TRAIN, query)]


def _pair(axis: Axes, query: str, xy: tuple[float, float], offset: tuple[float, float]) -> None:
    """Write dog and a query in its colour; circled numbers are modes, in other figures."""
    axis.annotate(
        f"{TRAIN} | {query}",
        xy,
        xytext=offset,
        textcoords="offset points",
        ha="right" if offset[0] < 0 else "center",
        va="center",
        fontsize=7,
        color=_color(query),
        zorder=6,
        bbox=_style.boxed(),
    )


def _influence(axis: Axes, curves: xr.DataArray, found: pd.DataFrame) -> None:
    colors = [_color(query) for query in QUERIES]
    exact, removed = (curves.sel(estimator=name) for name in ("tangent", "leave_one_out"))
    panels.draw_curves(
        axis, exact, colors=colors, styles=[panels.STYLES[1]], width=0.8, labels=["_"] * 3
    )
    panels.draw_curves(axis, removed, colors=colors, labels=[f"on {q}" for q in QUERIES])
    for query in QUERIES:
        rows = found[found["query"] == query]
        when, value = _claims.largest(rows, "leave_one_out", "peak")
        panels.draw_events(
            axis,
            pd.DataFrame([{"kind": "peak", "flow_time": when, "value": value}]),
            color=_color(query),
        )
        late, low = _last_trough(rows, "tangent")
        axis.plot(
            late,
            low,
            "v",
            color=_color(query),
            markerfacecolor="white",
            markersize=3.5,
            markeredgewidth=0.8,
        )
    axis.set(xlabel="", ylabel=_style.INFLUENCE, ylim=(-0.9, 0.45))
    axis.set_title("influence of dog")
    axis.tick_params(labelbottom=False)
    handles = [line for line in axis.get_lines() if line.get_label().startswith("on ")]
    handles += axis.plot([], [], color="0.3", label="leave-one-out")
    handles += axis.plot(
        [], [], color="0.3", linestyle=panels.STYLES[1], linewidth=0.8, label="exact tangent"
    )
    axis.legend(
        handles=handles, loc="lower right", fontsize=6.5, handlelength=1.8, labelspacing=0.3
    )


def _separation(axis: Axes, scale: _data.Scale, branching: pd.DataFrame) -> None:
    """Squared distance of hidden representations from that of dog, relative to the last."""
    path = _data.trajectory(scale)
    time, items = path.run.flow_time(path.steps), list(path.run.task.items)
    dog = path.hidden[:, :, items.index(TRAIN)]
    for query in QUERIES:
        squared = np.sum((path.hidden[:, :, items.index(query)] - dog) ** 2, axis=1)
        squared /= squared[-1]
        axis.plot(time, squared, color=_color(query), linewidth=1.4)
        onset, fastest = branching.loc[query, ["onset_flow_time", "flow_time"]]
        axis.plot(onset, np.interp(onset, time, squared), "o", color="black", markersize=3)
        axis.plot(
            fastest,
            np.interp(fastest, time, squared),
            "o",
            color="black",
            markerfacecolor="white",
            markersize=3.5,
            markeredgewidth=0.8,
        )
    axis.plot([], [], "o", color="black", markersize=3, label="onset (a tenth)")
    axis.plot(
        [],
        [],
        "o",
        color="black",
        markerfacecolor="white",
        markersize=3.5,
        markeredgewidth=0.8,
        label="fastest",
    )
    axis.legend(loc="lower right", handlelength=0.8, **_style.LEGEND)
    axis.set(xlim=(0, 7.5), ylim=(-0.02, 1.05), xlabel=_style.TIME)
    axis.set_ylabel("squared distance to dog\n(relative to final)")


def _paths(axis: Axes, scale: _data.Scale, branching: pd.DataFrame) -> None:
    """Stress scaling of all representations over training, forks numbered."""
    path = _data.trajectory(scale)
    keep = np.unique(np.linspace(0, len(path.steps) - 1, MAX_TIMES).astype(int))
    thinned = path.run.train(path.steps[keep])
    picture = embedding(thinned, scaling="stress", common_drift=False)
    time = picture["flow_time"].values
    for item in picture["item"].values:
        x, y = picture.sel(item=item).values.T
        axis.plot(x, y, color="0.55", linewidth=1.0, zorder=1)
        axis.scatter(x, y, c=time, cmap="viridis", vmin=0, vmax=7.5, s=5, linewidths=0, zorder=2)
        axis.annotate(
            item,
            (x[-1], y[-1]),
            xytext=(6 * np.sign(x[-1]), 4 * np.sign(y[-1])),
            textcoords="offset points",
            ha="left" if x[-1] > 0 else "right",
            va="bottom" if y[-1] > 0 else "top",
            fontsize=7,
        )
    for query in QUERIES:
        when = branching.loc[query, "onset_flow_time"]
        ends = picture.sel(item=[TRAIN, query]).values  # (time, 2, component)
        fork = np.array([[np.interp(when, time, ends[:, i, k]) for k in (0, 1)] for i in (0, 1)])
        axis.plot(*fork.T, "o-", color="black", markersize=3.5, linewidth=0.9, zorder=3)
        _pair(axis, query, tuple(fork.mean(axis=0)), OFFSETS[query])
    place = axis.inset_axes((0.2, 0.02, 0.6, 0.022))
    bar = axis.figure.colorbar(axis.collections[0], cax=place, orientation="horizontal")
    bar.set_label(_style.TIME)
    bar.outline.set_visible(False)
    axis.set_aspect("equal", anchor="N")
    axis.margins(x=0.16, y=0.2)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title("hidden representations (multidimensional scaling)")


def _last_trough(rows: pd.DataFrame, estimator: str) -> tuple[float, float]:
    """Return the first trough after the highest peak."""
    peak = _claims.largest(rows, estimator, "peak")[0]
    later = rows[
        (rows["estimator"] == estimator) & (rows["kind"] == "trough") & (rows["flow_time"] > peak)
    ]
    if later.empty:
        return np.nan, np.nan
    return float(later.iloc[0]["flow_time"]), float(later.iloc[0]["value"])


def _measured(found: pd.DataFrame, branching: pd.DataFrame) -> dict[str, float]:
    claims: dict[str, float] = {}
    for query in QUERIES:
        rows = found[found["query"] == query]
        onset, fastest = branching.loc[query, ["onset_flow_time", "flow_time"]]
        peak = {
            name: _claims.largest(rows, name, "peak")[0] for name in ("tangent", "leave_one_out")
        }
        trough = _last_trough(rows, "tangent")[0]
        claims |= {
            f"{query}.onset": onset,
            f"{query}.branching": fastest,
            f"{query}.leave_one_out_peak_minus_onset": peak["leave_one_out"] - onset,
            f"{query}.tangent_peak_minus_onset": peak["tangent"] - onset,
            f"{query}.tangent_second_trough_minus_branching": trough - fastest,
        }
    return {key: float(value) for key, value in claims.items()}
