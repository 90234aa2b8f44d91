"""Figure 2: the hierarchical data, their correlations, and the modes being learned one by one."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.plots import influence_plots
from dlnflow.theory import saxe
from paper_figures import _data, _style

GROUPS = ("animal", "plant", "mammal", "bird", "tree", "flower")

HEADLINES = {
    "theory_error_relative_max": "largest distance of theory from simulation: {:.1%} of a strength",
    "half_time.level1": "animal | plant half learned at {:.2f}",
    "half_time.level2": "mammal | bird and tree | flower at {:.2f}",
    "half_time.level3": "siblings at {:.2f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Tree, feature matrix, correlation of items, and mode strengths: theory on simulation."""
    task = _data.run().task
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 5.2)
        axes = figure.subplot_mosaic("ab;cd", width_ratios=[1, 1.25], height_ratios=[1, 1.15])
        _tree(axes["a"], task.items)
        _features(axes["b"], task)
        correlation = np.corrcoef(task.y.T)
        _correlation(figure, axes["c"], correlation, task.items)
        claims = _modes(axes["d"], scale)
        _style.letters(axes.values())
    return figure, claims


def _tree(axis: Axes, items: tuple[str, ...]) -> None:
    """Draw the binary tree with the features as nodes and the items as leaves."""
    names = [("living",), GROUPS[:2], GROUPS[2:], items]
    for depth, level in enumerate(names):
        x = (np.arange(len(level)) + 0.5) / len(level)
        for k, name in enumerate(level):
            if depth:
                parent = (k // 2 + 0.5) / len(names[depth - 1])
                axis.plot([parent, x[k]], [1 - depth, -depth], color="0.6", linewidth=0.8, zorder=0)
            leaf = depth == len(names) - 1
            axis.text(
                x[k],
                -depth - 0.08 * leaf,
                name,
                ha="center",
                va="top" if leaf else "center",
                rotation=60 if leaf else 0,
                fontsize=7,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
            )
    for depth in (1, 2, 3):
        _style.numbered(axis, depth, (0.0, 0.5 - depth), size=7)
    axis.set(xlim=(0, 1), ylim=(-3.6, 0.2))
    axis.set_axis_off()
    axis.set_title("levels of the hierarchy")


def _features(axis: Axes, task: object) -> None:
    axis.imshow(task.y, cmap="Greys", vmin=0, vmax=1.6, aspect="auto")
    axis.set_xticks(
        range(task.n_items), task.items, rotation=60, ha="right", rotation_mode="anchor"
    )
    axis.set_yticks(range(task.n_out), task.features, fontsize=6)
    axis.hlines(np.array([0.5, 2.5, 6.5]), -0.5, task.n_items - 0.5, color="0.6", linewidth=0.6)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title("features of each item")


def _correlation(figure: Figure, axis: Axes, values: np.ndarray, items: tuple[str, ...]) -> None:
    image = axis.imshow(values, cmap="cividis", vmin=-0.1, vmax=1)
    axis.set_xticks(range(len(items)), items, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(items)), items)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title("similarity of items")
    bar = figure.colorbar(image, ax=axis, shrink=0.85, aspect=18, pad=0.03)
    bar.outline.set_visible(False)
    bar.set_label("correlation of their features")


def _modes(axis: Axes, scale: _data.Scale) -> dict[str, float]:
    """Simulated strengths, the closed form over them, and their distance."""
    modes = _data.block_modes(scale)
    path = _data.trajectory(scale)
    time = path.run.flow_time(path.steps)
    theory = saxe.mode_strength(time[:, None], modes.s, modes.a0)
    for k, level in enumerate(modes.level):
        color = _style.LEVEL_COLORS[level]
        axis.plot(time, modes.strength[:, k], color=color, linewidth=2.6, alpha=0.45)
        axis.plot(time, theory[:, k], color="black", linewidth=0.8, linestyle=(0, (4, 2)))
    half = _data.half_times(scale)
    axis.set_xlim(0, time[-1])
    _style.mark_levels(axis, half)
    distinct = path.run.task.modes.distinct
    for level, (s, name) in enumerate(zip(distinct, _data.LEVELS, strict=True)):
        count = int(np.sum(modes.s == s))
        text = f"{name}, {count} modes" if count > 1 else name
        axis.text(
            9.1,
            s + 0.09,
            text,
            ha="right",
            va="bottom",
            color=_style.LEVEL_COLORS[level],
            bbox=_style.boxed(1.0),
            zorder=5,
        )
        _style.numbered(axis, level, (9.4, s), offset=(0, 7.5))
    simulated = axis.plot([], [], color="0.5", linewidth=2.6, alpha=0.6, label="simulation")
    closed = axis.plot(
        [], [], color="black", linewidth=0.8, linestyle=(0, (4, 2)), label="closed form"
    )
    axis.legend(handles=simulated + closed, loc="lower right", fontsize=6.5, labelspacing=0.2)
    axis.set(ylim=(0, 4.4), xlabel=_style.TIME, ylabel="mode strength")
    error = np.abs(theory - modes.strength).max(axis=0) / modes.s
    a0 = [np.mean(modes.a0[modes.level == k]) for k in range(4)]
    claims = {f"half_time.level{k}": half[k] for k in range(4)}
    claims |= {
        f"half_time_theory.level{k}": float(saxe.half_time(distinct[k], a0[k])) for k in range(4)
    }
    claims |= {f"squared_strength.level{k}": distinct[k] ** 2 for k in range(4)}
    return claims | {"theory_error_relative_max": float(error.max())}
