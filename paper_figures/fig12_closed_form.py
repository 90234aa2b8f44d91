"""Figure 12: removal predicted from the initial weights against retraining."""

from functools import cache

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import dlnflow as dln
from dlnflow import influence
from dlnflow._support import FloatArray
from dlnflow.plots import influence_plots
from paper_figures import _data, _style

TRAIN = "dog"
QUERIES = ("cat", "sparrow", "pine")
FLOW_STEP = 0.003
"""Step of the retraining in units of 1 / s_max."""
STDS = (1e-4, 1e-3, 1e-2, 0.05, 0.1)
SOLUTIONS = {
    "riccati": ("#0072B2", "closed form (balanced start)"),
    "gram": ("#CC79A7", "flow of the Gram blocks"),
}
POINTS = {_data.Scale.quick: 120, _data.Scale.paper: 400}
HEADLINES = {
    "riccati.pearson.0.001": "smallest correlation over pairs {:.6f}",
    "riccati.error.0.001": "largest relative error of the closed form {:.2%}",
    "riccati.error.0.1": "at an initial scale of 0.1 {:.0%}",
    "gram.error.0.001": "of the Gram flow {:.4%}",
}


@cache
def small_steps(scale: _data.Scale, init_std: float) -> tuple[dln.Run, FloatArray]:
    """Return a run of the paper's task with a small step, and recorded steps."""
    task = dln.semantic_hierarchy()
    rate = FLOW_STEP / task.modes.s[0] * task.n_items
    run = dln.Run(task, hidden=_data.HIDDEN, init_std=init_std, learning_rate=rate)
    return run, np.unique(np.linspace(0, run.n_steps, POINTS[scale]).round().astype(int))


@cache
def retrained(scale: _data.Scale, init_std: float) -> xr.DataArray:
    """Return the effect of every removal by gradient descent."""
    return influence.leave_one_out(*small_steps(scale, init_std))


@cache
def predicted(scale: _data.Scale, init_std: float, solution: str) -> xr.DataArray:
    """Return the same, predicted from the initial weights."""
    return influence.closed_form_loo(*small_steps(scale, init_std), solution=solution)


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """a: curves; b: their difference; c: error of every pair; d: error against initial scale."""
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 3.4)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1), height_ratios=(1.3, 1))
        top = figure.add_subplot(grid[0, 0])
        axes = [
            top,
            figure.add_subplot(grid[1, 0], sharex=top),
            figure.add_subplot(grid[0, 1]),
            figure.add_subplot(grid[1, 1]),
        ]
        shown = predicted(scale, _data.INIT_STD, "riccati"), retrained(scale, _data.INIT_STD)
        _curves(axes[0], axes[1], *shown)
        _all_pairs(axes[2], *shown)
        _scales(axes[3], scale)
        _style.letters(axes)
    return figure, _measured(scale)


def relative_error(guess: xr.DataArray, truth: xr.DataArray) -> FloatArray:
    """Return |guess - truth| / |truth| over time for every pair, NaN on the diagonal."""
    error = np.linalg.norm(guess - truth, axis=0) / np.linalg.norm(truth, axis=0)
    np.fill_diagonal(error, np.nan)
    return error


def _curves(axis: Axes, below: Axes, guess: xr.DataArray, truth: xr.DataArray) -> None:
    for query in QUERIES:
        kin = _data.kinship(TRAIN, query)
        color = _style.KINSHIP_COLORS[kin]
        a, b = (x.sel(query=query, train=TRAIN) for x in (guess, truth))
        axis.plot(b.flow_time, b, color=color, linewidth=2.2, alpha=0.45)
        axis.plot(a.flow_time, a, "--", color=color, linewidth=1.0, label=f"on {query} ({kin})")
        below.plot(a.flow_time, a - b, color=color)
    axis.plot([], [], color="0.4", linewidth=2.2, alpha=0.45, label="retrained without dog")
    axis.plot([], [], "--", color="0.3", linewidth=1.0, label="predicted from the start")
    for one in (axis, below):
        one.axhline(0, color="0.7", linewidth=0.5)
    axis.set_ylabel(_style.INFLUENCE)
    axis.tick_params(labelbottom=False)
    axis.legend(**_style.LEGEND)
    below.ticklabel_format(axis="y", scilimits=(-2, 2))
    below.set(xlabel=_style.TIME, ylabel="predicted\nminus retrained", xlim=(0, 8))


def _all_pairs(axis: Axes, guess: xr.DataArray, truth: xr.DataArray) -> None:
    percent = 100 * relative_error(guess, truth)
    image = axis.imshow(percent, cmap="cividis", vmin=0, aspect="auto")
    axis.set_facecolor("0.9")
    names = guess["train"].values
    axis.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(labelsize=5.5, length=0)
    axis.set(xlabel="removed", ylabel="query")
    axis.figure.colorbar(image, ax=axis, label="relative error (%)")


def _scales(axis: Axes, scale: _data.Scale) -> None:
    """Median and range over pairs for both solutions of the flow."""
    for name, (color, label) in SOLUTIONS.items():
        errors = [
            100 * relative_error(predicted(scale, std, name), retrained(scale, std)) for std in STDS
        ]
        low, middle, high = ([f(e) for e in errors] for f in (np.nanmin, np.nanmedian, np.nanmax))
        axis.fill_between(STDS, low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(STDS, middle, "o-", color=color, markersize=3, label=label)
    axis.axhline(1, color="0.5", linewidth=0.6, linestyle=":")
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="standard deviation of initial weights",
        ylabel="relative error (%)",
        ylim=(None, 3e4),
    )
    axis.legend(loc="upper left", **_style.LEGEND)


def _measured(scale: _data.Scale) -> dict[str, float]:
    claims = {}
    for name in SOLUTIONS:
        for std in STDS:
            guess, truth = predicted(scale, std, name), retrained(scale, std)
            error = relative_error(guess, truth)
            different = ~np.eye(len(error), dtype=bool)
            pairs = (x.values[:, different].T for x in (guess, truth))
            claims[f"{name}.error.{std:g}"] = float(np.nanmax(error))
            claims[f"{name}.pearson.{std:g}"] = float(
                min(np.corrcoef(a, b)[0, 1] for a, b in zip(*pairs, strict=True))
            )
    return claims
