"""Figure map: the loss kernel shows the tree of a toy network, and classes of tokens."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import sampling
from dlnflow.analysis import clusters, loss_map, profile_distances
from dlnflow.plots import influence_plots
from paper_figures import _data, _layers, _style, token_maps

SHOWN = (0.6, 1.9, 2.6, 3.9)
"""Flow times of the maps."""
RELATIONS = ("far", "cousin", "sibling")
DRAWS = 500
COLORS = {"mammal": "#D55E00", "bird": "#E69F00", "tree": "#009E73", "flower": "#0072B2"}
"""By pairs of siblings."""

HEADLINES = {
    "far.parting": "far items part at flow time {:.2f}",
    "far.shared_mode": "(the mode that they share is learned at {:.2f})",
    "cousin.parting": "cousins at {:.2f}",
    "cousin.shared_mode": "({:.2f})",
    "sibling.parting": "siblings at {:.2f}",
    "sibling.shared_mode": "({:.2f})",
}


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Maps of the items at four times, distances by kinship; maps and purity of tokens."""
    traces = _traces(scale)
    placed, apart = loss_map(traces), profile_distances(traces)
    time = _data.run().flow_time(traces.time.values)
    half = _data.half_times(scale)
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.0 + 5.9)
        toy, language = figure.subfigures(2, height_ratios=[4.0, 5.9])
        axes = toy.subplot_mosaic("abcd;eeee", height_ratios=[1, 1.05])
        for letter, when in zip("abcd", SHOWN, strict=True):
            t = int(np.abs(time - when).argmin())
            _draw_map(axes[letter], placed.isel(time=t), time[t])
        claims = _draw_distances(axes["e"], apart, time, half)
        _style.letters([axes[k] for k in "abcde"])
        claims |= token_maps.draw(language, "f")
    found = clusters(traces, 4)
    claims |= _clusters(found, time)
    return figure, claims


def _traces(scale: _data.Scale) -> xr.DataArray:
    """Sample losses of all items, localised as for figure 3."""
    run = _data.run()
    suggested = sampling.suggest(run)
    localization = _data.BIF_LOCALIZATION * suggested["localization"]
    return sampling.trace_run(
        run,
        _layers.steps(scale)[1:],  # at the start there is nothing that items share
        n_beta=suggested["n_beta"],
        localization=localization,
        draws=DRAWS,
        burn_in=20,
        step_size=2 / localization,
        kernel="underdamped",
        kernel_options={"persistence": 0.0},
    )


TEXT = {"textcoords": "offset points", "fontsize": 6.5}


def _draw_map(axis: Axes, placed: xr.DataArray, when: float) -> None:
    x, y = placed.values.T
    names = list(placed["item"].values)
    for k, color in enumerate(COLORS.values()):
        pair = slice(2 * k, 2 * k + 2)
        axis.plot(x[pair], y[pair], "o", color=color, markersize=4)
        other = slice(2 * (k ^ 1), 2 * (k ^ 1) + 2)
        above = y[pair].mean() > y[other].mean()  # cousins' names stand on the other side
        together = np.hypot(np.diff(x[pair]), np.diff(y[pair]))[0] < 0.5
        if together:
            center = x[pair].mean(), y[pair].max() if above else y[pair].min()
            style = {"xytext": (0, 4 if above else -4), "ha": "center"}
            style["va"] = "bottom" if above else "top"
            axis.annotate(", ".join(names[pair]), center, **style, **TEXT)
            continue
        for name, a, b in zip(names[pair], x[pair], y[pair], strict=True):
            style = {"xytext": (4 if a > 0 else -4, 0), "ha": "left" if a > 0 else "right"}
            axis.annotate(name, (a, b), va="center", **style, **TEXT)
    axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[], aspect="equal")
    axis.set_title(f"flow time {when:.1f}")


def _draw_distances(
    axis: Axes, apart: xr.DataArray, time: np.ndarray, half: np.ndarray
) -> dict[str, float]:
    items = list(_data.run().task.items)
    kin = np.array([[_data.kinship(a, b) for b in items] for a in items])
    claims = {}
    for level, relation in enumerate(RELATIONS):
        each = apart.values[:, kin == relation]
        mean, color = each.mean(1), _style.KINSHIP_COLORS[relation]
        low, high = np.quantile(each, [0, 1], axis=1)
        axis.fill_between(time, low, high, color=color, alpha=0.15, linewidth=0)
        axis.plot(time, mean, color=color, linewidth=1.3, label=f"{relation} items")
        parting = _steepest(time, mean)
        axis.plot(parting, np.interp(parting, time, mean), "o", color="black", markersize=3.5)
        furthest = int(mean.argmax())
        claims |= {
            f"{relation}.parting": parting,
            f"{relation}.shared_mode": float(half[level]),
            f"{relation}.parting_minus_shared_mode": parting - float(half[level]),
            f"{relation}.furthest": float(time[furthest]),
            f"{relation}.largest_distance": float(mean[furthest]),
        }
    claims["order"] = float(
        claims["far.parting"] < claims["cousin.parting"] < claims["sibling.parting"]
    )
    axis.axhline(np.sqrt(2), color="0.6", linewidth=0.6, linestyle="--", zorder=0)
    style = {"fontsize": 6.5, "ha": "center", "va": "top"}
    axis.annotate("no correlation", (4.6, np.sqrt(2) - 0.055), **style)
    axis.plot([], [], "o", color="black", markersize=3.5, label="steepest rise")
    axis.set(xlabel=_style.TIME, ylabel="distance in the loss kernel", xlim=(0, time[-1]))
    axis.legend(loc="lower right", ncols=2, **_style.LEGEND)
    _style.mark_levels(axis, half)
    return claims


def _steepest(time: np.ndarray, mean: np.ndarray) -> float:
    """Return when a curve rises fastest, by a parabola through the largest slope."""
    slope, middle = np.diff(mean) / np.diff(time), (time[1:] + time[:-1]) / 2
    k = int(np.clip(slope.argmax(), 1, len(slope) - 2))
    a, b, _ = np.polyfit(middle[k - 1 : k + 2], slope[k - 1 : k + 2], 2)
    return float(-b / (2 * a))


def _clusters(found: xr.Dataset, time: np.ndarray) -> dict[str, float]:
    """Say whether pairs of siblings are the clusters while they still help each other."""
    number = found.cluster.values.reshape(len(time), 4, 2)
    pairs = np.array(
        [(row[:, 0] == row[:, 1]).all() and len(set(row[:, 0])) == 4 for row in number]
    )
    inside = (time > 1.9) & (time < 2.6)
    return {
        "clusters.pairs_of_siblings": float(pairs[inside].mean()),
        "clusters.stability": float(found.stability.values[inside].mean()),
        "clusters.stability_after": float(found.stability.values[time > 3.5].mean()),
    }
