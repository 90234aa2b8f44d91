"""Figure 16: up-weighting induction patterns before, during or after the measured rise.

    python -m paper_figures.fig16_intervention DIR

draws it from the numbers in ``expected/window_shifts.json``; nothing is trained.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.lm.intervene import CONTROL, effects
from dlnflow.plots import influence_plots
from dlnflow.plots.tokens import GROUP_COLORS
from paper_figures import _captions, _lm_data, _style, window_shifts
from paper_figures._data import Scale

SEEDS = {Scale.quick: (0,), Scale.paper: tuple(window_shifts.CROSSES)}
"""Each seed has its own influence curve, windows and trainings."""
COLORS = {
    "never": "0.3",
    "earlier": "#56B4E9",
    "before": "#0072B2",
    "during": "#D55E00",
    "after": "#009E73",
}
SHADED = ("earlier", "before", "during", "after")
CONTROL_COLOR = "#CC79A7"
WIDEST = 1.6
"""Ends of panel c, over the largest shift; intervals are cut there."""
MARKERS = "osD^vPX"
"""One for each seed."""
HEADLINES = {
    "seeds": "{:.0f} seeds with a transition",
    "before.mean": "window before: transition {:+.0f} steps",
    "random.mean": "random rows in it: {:+.0f}",
    "during.mean": "during: {:+.0f}",
    "after.mean": "after: {:+.0f}",
}
Seed = Mapping[str, Any]
"""What `paper_figures.window_shifts` writes for a seed."""


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Choose windows from an influence curve of every seed, retrain, draw what they shift."""
    with _lm_data.pool() as executor:
        found = [
            window_shifts.measure(folder(), seed, _lm_data.say, executor) for seed in SEEDS[scale]
        ]
    return show(found)


def folder() -> Path:
    """Return where its runs are."""
    path = _lm_data.OUT / "windows"
    path.mkdir(parents=True, exist_ok=True)
    return path


def training(scale: Scale) -> list[Callable[[], object]]:
    """Return the trainings that need no other figure, to be done beside others."""
    out = folder()
    left = [seed for seed in SEEDS[scale] if not (out / f"seed{seed}.json").exists()]
    return [partial(window_shifts.without, out, seed, tell=str) for seed in left]


def show(seeds: Sequence[Seed]) -> tuple[Figure, dict[str, float]]:
    """Draw curve and scores of the first seed with a transition, and the shifts of all."""
    one = next(seed for seed in seeds if seed["crossing"])
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 3.6)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
        above = figure.add_subplot(grid[0, 0])
        below = figure.add_subplot(grid[1, 0], sharex=above)
        right = figure.add_subplot(grid[:, 1])
        _curve(above, one)
        _scores(below, one)
        _shifts(right, seeds)
        _style.letters((above, below, right))
    return figure, window_shifts.claims(seeds)


def _curve(axis: Axes, one: Seed) -> None:
    """Draw influence of repeated on repeated tokens with standard errors, and the windows."""
    curve, color = one["curve"], GROUP_COLORS["repeated", "repeated"]
    axis.errorbar(
        curve["steps"],
        curve["influence"],
        curve["error"],
        color=color,
        marker="o",
        markersize=3,
        linewidth=1.1,
        elinewidth=0.8,
    )
    axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axis.set(ylabel="influence, repeated\non repeated tokens", title=f"seed {one['seed']}")
    axis.tick_params(labelbottom=False)
    _shade(axis, one)
    for name in SHADED:
        start, stop = one["windows"][name][:2]
        if start >= _last(one):
            continue
        axis.annotate(
            name,
            ((start + min(stop, _last(one))) / 2, 0.03),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            rotation=90,
            fontsize=6.5,
            color=COLORS[name],
        )


def _last(one: Seed) -> int:
    """Return the right end of the panels."""
    return one["curve"]["steps"][-1] + 50


def _shade(axis: Axes, one: Seed) -> None:
    for name in SHADED:
        start, stop = one["windows"][name][:2]
        axis.axvspan(start, stop, color=COLORS[name], alpha=0.13, linewidth=0)


def _scores(axis: Axes, one: Seed) -> None:
    """Draw the score without a window, with one before the rise, and with the control."""
    drawn = (
        ("never", "no window", COLORS["never"], "--"),
        ("before", "before, 4", COLORS["before"], "-"),
        ("earlier", "earlier, 4", COLORS["earlier"], "-"),
        (CONTROL, "random rows, 4", CONTROL_COLOR, "-"),
    )
    _shade(axis, one)
    for name, label, color, style in drawn:
        steps, score = np.array(one["scores"][name]).T
        axis.plot(steps, score, linestyle=style, color=color, linewidth=1.1, label=label)
    axis.axhline(0.3, color="0.5", linewidth=0.6, linestyle=":")
    axis.set_xlim(one["windows"]["earlier"][0] - 50, _last(one))
    axis.set(xlabel="training step", ylabel="induction score,\nbest layer")
    axis.set_ylim(bottom=0)
    axis.legend(**(_style.LEGEND | {"loc": "upper left"}))


def _shifts(axis: Axes, seeds: Sequence[Seed]) -> None:
    """Draw every seed, and to its left the mean with its 95 % t interval."""
    found = window_shifts.shifts(seeds)
    average = effects(found).sel(unit="steps")
    for row, name in enumerate(window_shifts.LABELS):
        color = CONTROL_COLOR if name == CONTROL else COLORS[name.split("-")[0]]
        for k, seed in enumerate(seeds):
            value = float(found["shift"].sel(window=name, seed=seed["seed"]))
            if np.isnan(value):
                continue
            style = {"color": color, "markersize": 3.6, "markerfacecolor": "white"}
            axis.plot(value, row + 0.16, MARKERS[k % len(MARKERS)], **style)
        mean, low, high = (float(average[n].sel(window=name)) for n in ("mean", "low", "high"))
        if np.isfinite(low):
            axis.plot([low, high], [row - 0.16] * 2, color=color, linewidth=2.2)
        axis.plot(mean, row - 0.16, "o", color=color, markersize=4.5)
    for k, seed in enumerate(seeds):
        label = f"seed {seed['seed']}" if seed["crossing"] else "_"
        style = {"color": "0.3", "markersize": 3.6, "markerfacecolor": "white"}
        axis.plot([], [], MARKERS[k % len(MARKERS)], label=label, **style)
    axis.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    widest = WIDEST * float(abs(found["shift"]).max())
    axis.set_xlim(-widest, widest)
    labels = [label.replace(", random", ",\nrandom") for label in window_shifts.LABELS.values()]
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set(xlabel="shift of the transition (steps)\n\u2190 earlier    later \u2192")
    axis.legend(**(_style.LEGEND | {"loc": "best"}))


def main(out: Path) -> None:
    """Draw the stored numbers."""
    name, (figure, _) = "fig16_intervention", show(window_shifts.stored())
    about = _captions.caption(name)
    influence_plots.save_figure(figure, out / name, title=about.title, alt=about.alt)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
