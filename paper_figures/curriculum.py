"""Figure curriculum: an item up-weighted for a while only, in all windows and in the named one."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import influence
from dlnflow._support import FloatArray
from dlnflow.plots import influence_plots, panels
from dlnflow.theory import coupled
from paper_figures import _data, _style

TRAIN, WEIGHT, WIDTH = "dog", 2.0, 0.5
"""The item, its weight in the window, and the length of the window in flow time."""
QUERIES = ("cat", "sparrow", "pine")
STARTS = {_data.Scale.quick: 32, _data.Scale.paper: 96}
"""Windows for each time of measurement."""
TIMES = {_data.Scale.quick: np.linspace(1, 6, 21), _data.Scale.paper: np.linspace(1, 6, 61)}
"""Flow times at which the losses are measured; a window has ended by then."""
SHOWN = 5.0
"""Time of the curves of panel c, about when siblings are told apart."""
WORTH = 0.01
"""A time counts if some window lowers the loss of cat by that share of the first loss."""
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(8)
HEADLINES = {
    "correlation.cat": "closed form and retraining correlate {:.3f} over all windows",
    "named.smallest_share": "the named window gets at least {:.0%} of what the best one gets",
    "trough.median_share": "that at the trough of influence {:.0%}",
}


class Windows(NamedTuple):
    """Effects of windows that start at `starts` (S,) on the losses at one time, (S, queries)."""

    at: float
    starts: FloatArray
    truth: FloatArray
    linear: FloatArray
    closed: FloatArray


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Effect on cat over start and time of measurement: closed form and truth; curves; choices."""
    found = [_effects(scale, at) for at in TIMES[scale]]
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.3)
        axes = figure.subplots(2, 2).ravel()
        image = _map(axes[0], found, "closed")
        _map(axes[1], found, "truth")
        axes[0].set_title("closed form")
        axes[1].set_title(f"trained with weight {WEIGHT:g} in the window")
        bar = figure.colorbar(image, ax=list(axes[:2]), pad=0.01, fraction=0.05)
        bar.set_label("change of cat's loss")
        _curves(axes[2], min(found, key=lambda one: abs(one.at - SHOWN)))
        shares = _shares(scale, found)
        _choices(axes[3], shares)
        _style.letters(axes)
    return figure, _measured(found, shares)


def _effects(scale: _data.Scale, at: float) -> Windows:
    """Return the change of the losses at a time by every window before it."""
    run = _data.run()
    unit = float(run.flow_time([1])[0])
    end, width = round(at / unit), round(WIDTH / unit)
    starts = np.unique(np.linspace(0, end - width, STARTS[scale]).round().astype(int))
    about = {"window": width, "at": end, "train": TRAIN, "query": list(QUERIES)}
    truth = influence.windowed(run, starts, weight=WEIGHT, **about).values[..., 0]
    linear = influence.windowed(run, starts, first_order=True, **about).values[..., 0]
    closed = _closed(starts * unit, width * unit, end * unit)
    return Windows(at, starts * unit, (WEIGHT - 1) * truth, (WEIGHT - 1) * linear, closed)


def _closed(starts: FloatArray, width: float, at: float) -> FloatArray:
    """Integrate the response kernel of aligned modes over every window, (S, queries)."""
    task = _data.run().task
    a0 = _data.HIDDEN * _data.INIT_STD**2 / 2
    times = starts[:, None] + width * (NODES + 1) / 2
    kernel = coupled.kernel(task.modes.distinct, times.ravel(), at, a0)
    inside = np.einsum("stab,t->sab", kernel.reshape(*times.shape, *kernel.shape[1:]), NODE_WEIGHTS)
    query, train = task.indices(list(QUERIES)), task.indices([TRAIN])[0]
    shared = task.modes.projectors()[:, query, train]
    effect = -np.einsum("sab,aq,bq->sq", inside, shared, shared) * width / 2
    return (WEIGHT - 1) * effect


def _map(axis: Axes, found: list[Windows], name: str) -> mpl.collections.PolyCollection:
    """Colour the effect on cat; dots mark the window that lowers its loss most."""
    limit = max(abs(one.truth[:, 0]).max() for one in found)
    style = {"cmap": panels.DIVERGING, "vmin": -limit, "vmax": limit}
    step = found[1].at - found[0].at
    for one in found:
        values = getattr(one, name)[:, 0]
        edges = np.r_[one.starts, one.starts[-1] + WIDTH / 4]
        rows = [one.at - step / 2, one.at + step / 2]
        image = axis.pcolormesh(edges, rows, values[None], rasterized=True, **style)
        if -values.min() >= WORTH * _first_loss():
            start = one.starts[values.argmin()]
            axis.plot(start, one.at, "o", color="black", markersize=2.2)
    axis.set(xlabel="start of the window (flow time)", ylabel="loss measured at (flow time)")
    return image


def _first_loss() -> float:
    """Return the loss of cat before training; all items have the same."""
    return float(0.5 * (_data.run().task.y[:, 0] ** 2).sum())


def _curves(axis: Axes, one: Windows) -> None:
    for k, query in enumerate(QUERIES):
        color = _style.KINSHIP_COLORS[_data.kinship(TRAIN, query)]
        axis.plot(one.starts, one.truth[:, k], "o", color=color, markersize=2.4, label=query)
        axis.plot(one.starts, one.linear[:, k], "--", color=color, linewidth=0.9)
        axis.plot(one.starts, one.closed[:, k], color=color, linewidth=1.1)
    axis.plot([], [], color="0.3", linewidth=1.1, label="closed form")
    axis.plot([], [], "--", color="0.3", linewidth=0.9, label="first order")
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set(xlabel="start of the window (flow time)", ylabel="change of the loss")
    axis.set_title(f"loss measured at {one.at:g}")
    axis.legend(**_style.LEGEND)


def _shares(scale: _data.Scale, found: list[Windows]) -> FloatArray:
    """Return the share of the best window's gain for cat that each choice gets, (4, T).

    Rows: time of measurement, the window of the closed form, that of first order, and the window
    around the trough of the tangent's influence so far. NaN where no window helps.
    """
    tangent = _data.influence(scale, "tangent").sel(query="cat", train=TRAIN)
    rows = []
    for one in found:
        truth = one.truth[:, 0]
        if -truth.min() < WORTH * _first_loss():
            rows.append([one.at, np.nan, np.nan, np.nan])
            continue
        so_far = tangent[tangent.flow_time.values <= one.at]
        trough = float(so_far.flow_time[so_far.values.argmin()])
        nearest = int(abs(one.starts + WIDTH / 2 - trough).argmin())
        picks = one.closed[:, 0].argmin(), one.linear[:, 0].argmin(), nearest
        rows.append([one.at, *(truth[pick] / truth.min() for pick in picks)])
    return np.array(rows).T


def _choices(axis: Axes, shares: FloatArray) -> None:
    names = ("closed form", "first order", "trough of influence")
    styles = (("black", "-o"), ("0.55", "--s"), ("#CC79A7", "-^"))
    for values, name, (color, style) in zip(shares[1:], names, styles, strict=True):
        axis.plot(shares[0], values, style, color=color, linewidth=1, markersize=3, label=name)
    axis.axhline(1, color="0.7", linewidth=0.5, zorder=0)
    axis.axhline(0, color="0.7", linewidth=0.5, zorder=0)
    axis.set(xlabel="loss measured at (flow time)", ylabel="gain / gain of the best window")
    axis.legend(title="window chosen by", title_fontsize=6.5, **_style.LEGEND)


def _measured(found: list[Windows], shares: FloatArray) -> dict[str, float]:
    claims = {}
    for k, query in enumerate(QUERIES):
        truth, linear, closed = (
            np.concatenate([getattr(one, name)[:, k] for one in found])
            for name in ("truth", "linear", "closed")
        )
        claims[f"correlation.{query}"] = float(np.corrcoef(closed, truth)[0, 1])
        claims[f"correlation_first_order.{query}"] = float(np.corrcoef(linear, truth)[0, 1])
    last = min(found, key=lambda one: abs(one.at - SHOWN))
    gain = last.truth[:, 0]
    signs = np.sign([np.interp(2.0, one.starts, one.truth[:, 0]) for one in found if one.at > 2.5])
    claims |= {
        "flips_of_window_from_2": float((np.diff(signs) != 0).sum()),
        "best_at_5": float(last.starts[gain.argmin()]),
        "best_at_5.change": float(gain.min()),
        "worst_at_5": float(last.starts[gain.argmax()]),
        "worst_at_5.change": float(gain.max()),
        "times_without_helpful_window": float(np.isnan(shares[1]).sum()),
    }
    for name, values in zip(("named", "first_order", "trough"), shares[1:], strict=True):
        claims[f"{name}.smallest_share"] = float(np.nanmin(values))
        claims[f"{name}.median_share"] = float(np.nanmedian(values))
    return claims
