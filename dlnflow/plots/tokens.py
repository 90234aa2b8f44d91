"""Class influence, recall and induction over checkpoints, drawn from results of any model."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlnflow.plots.panels import LEGEND, PAGE_WIDTH, SIGNED, STYLE, letters
from dlnflow.traces.format import item_means
from dlnflow.traces.intervals import interval, t_quantile

CLASS_COLORS = {
    "word_part": "#0072B2",
    "word_end": "#56B4E9",
    "formatting": "#999999",
    "induction": "#D55E00",
    "left_delimiter": "#009E73",
    "right_delimiter": "#CC79A7",
}
GROUP_COLORS = {
    ("repeated", "repeated"): "#0072B2",
    ("other", "other"): "0.45",
    ("repeated", "other"): "#E69F00",
}
"""(query, train)"""
LINE = {"linewidth": 1.1, "marker": "o", "markersize": 2.2}
"""Curves have a dot at every checkpoint."""
COLUMNS = 4
"""Panels beside each other."""


def class_influence(
    found: xr.DataArray, traces: xr.DataArray, apart: xr.DataArray | None = None
) -> Figure:
    """Draw influence between classes, a panel for each query class; last, loss and n_beta dL.

    Parameters
    ----------
    found : DataArray, dims (time, query, train)
        From `dlnflow.traces.groups`.
    traces : DataArray
        The loss traces.
    apart : DataArray, optional
        The same without pairs of one vocabulary id; drawn dashed for a class on itself.

    Returns
    -------
    matplotlib.figure.Figure
        Bands are 95 % intervals. Not saved; see `dlnflow.plots.influence_plots.save_figure`.
    """
    names = [str(n) for n in found["query"].values]
    rows = -(-(len(names) + 1) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH, 2.2 * rows), layout="constrained")
        axes = list(figure.subplots(rows, COLUMNS, sharex=True).flat)
        shown = axes[: len(names)]
        for axis, query in zip(shown, names, strict=True):
            _classes(axis, found.sel(query=query))
            if apart is not None:
                own = apart.sel(query=query, train=query)
                axis.plot(own.time, own, "--", color=color_of(query), linewidth=1.1)
            axis.set_title(f"on {query.replace('_', ' ')}")
        for axis in axes[len(names) : -1]:
            axis.set_axis_off()
        if apart is not None:
            shown[0].plot([], [], "--", color="0.3", linewidth=1.1, label="own class, other ids")
        handles = shown[0].get_legend_handles_labels()
        where = axes[-2] if len(names) < len(axes) - 1 else shown[0]
        where.legend(*handles, title="train", title_fontsize=7, loc="center", **LEGEND)
        _companion(axes[-1], traces)
        steps_axis(axes, found.time.values)
        letters([*shown, axes[-1]])
        figure.supylabel(f"mean influence, minus correlation\n{SIGNED}", fontsize=8)
        figure.supxlabel("training step", fontsize=8)
    return figure


def recall(found: xr.Dataset, apart: xr.Dataset | None = None) -> Figure:
    """Draw recall of classes from nearest neighbours with 95 % intervals; dashed: chance.

    Parameters
    ----------
    found : Dataset
        From `dlnflow.traces.neighbours`.
    apart : Dataset, optional
        The same with neighbours of other vocabulary ids only, drawn dotted, like its chance.

    Returns
    -------
    matplotlib.figure.Figure
        The figure; it is not saved.
    """
    names = [str(n) for n in found.token_class.values]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH, 2.2), layout="constrained")
        axes = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            one, color = found.sel(token_class=name), color_of(name)
            axis.fill_between(one.time, one.low, one.high, color=color, alpha=0.25, linewidth=0)
            axis.plot(one.time, one.recall, color=color, **LINE)
            if apart is not None:
                other = apart.sel(token_class=name)
                axis.plot(other.time, other.recall, ":", color=color, **LINE)
                axis.axhline(float(other.chance), color="0.3", linestyle=":", linewidth=0.8)
            axis.axhline(float(one.chance), color="0.3", linestyle="--", linewidth=0.8)
            chances = [float(each.sel(token_class=name).chance) for each in (found, apart or found)]
            count = int(one["count"])
            axis.set_title(
                f"{name.replace('_', ' ')}\n{count} tokens"
                + (", too few" if bool(one.too_rare) else "")
            )
            axis.annotate(
                "chance",
                (1, min(chances)),
                xytext=(0, -1),
                textcoords="offset points",
                xycoords=("axes fraction", "data"),
                fontsize=6,
                ha="right",
                va="top",
                color="0.3",
            )
        steps_axis(axes, found.time.values)
        axes[0].set_ylim(0, 1)
        if apart is not None:
            axes[0].plot([], [], ":", color="0.3", label="other ids only")
            axes[0].legend(**LEGEND)
        axes[0].set_ylabel(f"recall, {found.attrs['k']} neighbours")
        figure.supxlabel("training step", fontsize=8)
    return figure


def repeats(
    plain: xr.DataArray, fast: xr.DataArray, scores: xr.Dataset, span: tuple[float, float]
) -> Figure:
    """Draw influence between repeated tokens above the induction score of every head.

    Parameters
    ----------
    plain, fast : DataArray, dims (time, query, train)
        From `dlnflow.traces.groups`: losses, and draw-to-draw differences.
    scores : Dataset
        From `dlnflow.lm.induction.measure`.
    span : (float, float)
        Steps between which the induction score rises, shaded.

    Returns
    -------
    matplotlib.figure.Figure
        Not saved. Bars are 95 % intervals; crosses where chains have not mixed.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(PAGE_WIDTH * 0.62, 5.4), layout="constrained")
        axes = figure.subplots(3, 1, sharex=True)
        for axis, found, title in zip(
            axes, (plain, fast), ("losses", "draw-to-draw differences of losses"), strict=False
        ):
            _groups(axis, found, title)
        axes[0].legend(**LEGEND, loc="best")
        _scores(axes[2], scores)
        for axis in axes:
            axis.axvspan(*span, color="0.9", linewidth=0, zorder=0)
        axes[2].set_xlim(0, max(1.0, float(plain.time.max())) * 1.03)
        letters(axes)
    return figure


def color_of(name: str) -> str:
    """Return the colour of a class."""
    return CLASS_COLORS.get(name, "black")


def steps_axis(axes: Iterable[Axes], steps: NDArray[np.integer]) -> None:
    """Logarithmic steps with room for step 0, and labels at 1, 2, 5 times powers of ten."""
    linear = max(100, int(steps[steps > 0].min(initial=10**9))) if steps.any() else 100
    ticks = [m * 10**e for e in range(2, 7) for m in (1, 2, 5)]
    for axis in axes:
        axis.set_xscale("symlog", linthresh=linear, linscale=0.4)
        axis.set_xlim(steps[0] / 1.15, max(1, steps[-1]) * 1.15)
        inside = [t for t in ([0] if steps[0] == 0 else []) + ticks if t >= steps[0] / 1.15]
        inside = [t for t in inside if t <= steps[-1] * 1.15]
        axis.set_xticks(inside, [short(t) for t in inside])
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())


def short(step: int) -> str:
    """Write thousands as k."""
    return f"{step // 1000}k" if step >= 1000 else str(step)


def _classes(axis: Axes, found: xr.DataArray) -> None:
    """Influence of every class on one, with 95 % intervals."""
    for name in found["train"].values:
        one, color = found.sel(train=name), color_of(str(name))
        axis.plot(one.time, one, color=color, label=str(name).replace("_", " "), **LINE)
        ends = interval(one)
        axis.fill_between(one.time, ends.lower, ends.upper, color=color, alpha=0.2, linewidth=0)
    axis.axhline(0, color="0.7", linewidth=0.5)


def _companion(axis: Axes, traces: xr.DataArray) -> None:
    """Loss, and n_beta (E[L] - L(theta_t)), which is negative away from a minimum of L.

    L here is the loss of the observed text, not that of the gradient data. Bars are 95 %
    intervals from the spread of the chains.
    """
    means = item_means(traces)
    loss = means.checkpoint_loss
    away = (means - loss).mean("draw", skipna=False)
    by_chain = traces.attrs["n_beta"] * away.transpose("time", "chain").values
    kept = np.isfinite(by_chain)  # diverged chains are left out
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN where too few are left
        n = kept.sum(1)
        mean = np.where(kept, by_chain, 0).sum(1) / n
        spread = np.where(kept, (by_chain - mean[:, None]) ** 2, 0).sum(1) / (n - 1)
        error = t_quantile(n - 1) * np.sqrt(spread / n)
    axis.plot(loss.time, loss, color="black", **LINE)
    axis.set_ylabel("held-out loss")
    other = axis.twinx()
    other.errorbar(loss.time, mean, error, color="#D55E00", linewidth=1.1)
    other.set_ylabel(r"$n\beta\,(E[L]-L)$", color="#D55E00")
    axis.set_title("learning coefficient")


def _groups(axis: Axes, found: xr.DataArray, title: str) -> None:
    """Draw group means with 95 % intervals; crosses where chains have not mixed."""
    for (query, train), color in GROUP_COLORS.items():
        one = found.sel(query=query, train=train)
        half = interval(one).upper - one
        style = {"linewidth": 1.1, "capsize": 2, "marker": "o", "markersize": 2.5}
        axis.errorbar(one.time, one, half, color=color, label=f"{train} on {query}", **style)
    bad = found.verdict.isin(["not mixed", "diverged"]).values
    if bad.any():
        axis.plot(
            found.time[bad],
            found.sel(query="repeated", train="repeated")[bad],
            "x",
            color="0.4",
            zorder=5,
        )
    axis.axhline(0, color="0.7", linewidth=0.5)
    axis.set_title(title)
    axis.set_ylabel(f"influence\n{SIGNED}")


def _scores(axis: Axes, scores: xr.Dataset) -> None:
    """Draw the induction score of every head; the best one in colour."""
    for layer in range(scores.sizes["layer"]):
        for head in range(scores.sizes["head"]):
            one = scores.induction.isel(layer=layer, head=head)
            best = float(one.max()) == float(scores.induction.max())
            axis.plot(
                one.time,
                one,
                color="#D55E00" if best else "0.6",
                linewidth=1.1,
                label=f"head {head} of layer {layer}" if best else None,
            )
    axis.set(ylabel="induction score", xlabel="training step", ylim=(0, 1))
    axis.legend(**LEGEND)
