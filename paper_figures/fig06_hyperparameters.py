"""Figure 6: does the Bayesian influence predict retraining? Over settings of the sampler."""

import multiprocessing
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from dlnflow._support import IntArray
from dlnflow.analysis.sweep import PAPER_GRID
from dlnflow.plots import influence_plots, panels
from dlnflow.sampling import sweep
from dlnflow.theory.rlct import learning_coefficient
from paper_figures import _data, _landscape, _localized, _results, _scores, _style

GRIDS: dict[_data.Scale, dict[str, Sequence[float]]] = {
    _data.Scale.quick: {
        "step_size": (1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
        "n_beta": (1e1, 1e3, 1e4),
        "localization": (1e2, 1e4, 1e5, 1e6),
    },
    _data.Scale.paper: {
        **{name: PAPER_GRID[name] for name in ("step_size", "n_beta", "localization")},
        "decay": (0.8, 0.95),
        "stability": (1e-3, 1e-2, 1e-1),
    },
}
SLICE = {
    _data.Scale.quick: {"chains": 2, "draws": 200, "decay": 0.95, "stability": 0.1},
    _data.Scale.paper: {"chains": 4, "draws": 400, "decay": 0.95, "stability": 0.1},
}
"""What the heat maps hold fixed; quick runs nothing else. The paper does not state its choice."""
EVERY = {_data.Scale.quick: 1, _data.Scale.paper: 3}
"""Of the checkpoints of `_localized`."""
FOLDER = "fig06_sweep"
"""In the folder of the figures, one file per setting of the paper scale: an interrupted run goes on
where it stopped, and a finished one is drawn anew in seconds."""
MATCHED = 0.2
"""Largest relative error of a learning coefficient that counts as right."""
TOLERATED = 0.5
"""Share of checkpoints that may fail R-hat: the largest of 16 fails now and then by chance, and
chains that do not reach their posterior fail nearly everywhere."""
FEWEST_PAIRS = 20
"""Of neighbours that a correlation is given for."""
LLC_RANGE = (1e-3, 30.0)
"""Shares of the exact coefficient that are drawn; what is beyond stands at the ends."""
BETA_COLORS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7")
STATES = {"refused": "0.88", "diverged": "0.6"}
"""Settings without a result, and their grey."""
STATE_NAMES = ("mixed", "not mixed", *STATES)
TRUTH = learning_coefficient((8, _data.HIDDEN, 15), 8).coefficient
"""Exact, of the trained network: 60."""
COLD = 1e6
"""n beta of the closed form, where the posterior is Gaussian."""
MARKS = {
    "tangent": "exact tangent",
    "laplace_bif": "exact BIF at its best localization",
    "gradient_kernel": "gradient kernel",
}
"""What needs no sampling, drawn as lines."""

HEADLINES = {
    "best": "best median Pearson with leave-one-out {:.2f}",
    "best_mixed": "{:.2f} among chains that mix",
    "gradient_kernel": "gradient kernel {:.2f}",
    "tangent": "exact tangent {:.2f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """Heat maps over step size and localization, one per n beta; all settings in one panel."""
    table, marks = scored(scale), references(scale)
    betas = sorted(table["n_beta"].unique())
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 5.0)
        upper, lower = figure.subfigures(2, 1, hspace=0.02, height_ratios=(1.1, 1))
        maps = upper.subplots(1, len(betas), sharey=True)
        for axis, n_beta in zip(maps, betas, strict=True):
            image = _heat(axis, _chosen(table, scale, n_beta), n_beta)
        maps[0].set_ylabel("step size $\\epsilon$")
        bar = upper.colorbar(image, ax=list(maps), pad=0.01, fraction=0.05)
        bar.set_label("median Pearson\nwith leave-one-out")
        _key(upper)
        below = lower.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        _all_settings(below[0], table, marks)
        _coefficients(below[1], table)
        _style.letters([*maps, *below])
    return figure, _measured(table, marks) | _narrowed(table) | _smooth(table, scale)


@cache
def scored(scale: _data.Scale) -> pd.DataFrame:
    """Return one row per setting, with its score, state and how long its chains are."""
    steps, grid = _steps(scale), GRIDS[scale]
    options: dict[str, Any] = {
        "references": [_data.influence(scale, "leave_one_out").sel(time=steps)],
        "coefficient_at": _data.run().n_steps,
        "kernel": "rmsprop_sgld",
        "burn_in": 0,
    }
    options |= {name: value for name, value in SLICE[scale].items() if name not in grid}
    with tempfile.TemporaryDirectory() as folder:
        if scale is _data.Scale.quick or not _results.OUT:
            with warnings.catch_warnings():
                _quiet()
                table = sweep(_data.run(), steps, grid, folder, **options)
        else:
            context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads
            kept = _results.OUT[0] / FOLDER
            with ProcessPoolExecutor(mp_context=context, initializer=_one_thread) as pool:
                table = sweep(_data.run(), steps, grid, kept, executor=pool, **options)
    return _judged(table)


def _steps(scale: _data.Scale) -> IntArray:
    """Return the checkpoints of the sweep."""
    return _localized.steps(scale)[EVERY[scale] - 1 :: EVERY[scale]]


def _quiet() -> None:
    """Silence the warning of too large a step: the figure shows what comes of it."""
    warnings.filterwarnings("ignore", message="`step_size` = .* is too large", category=UserWarning)


def _one_thread() -> None:
    """Leave the other cores to the other processes."""
    import torch

    _quiet()
    torch.set_num_threads(1)


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    """Add `state` and `relaxations`, the steps of a chain over those it needs to forget."""
    verdicts = table.reindex(columns=["mixed", "short", "not mixed", "diverged"]).fillna(0)
    table = table.copy()
    refused = table.get("error", pd.Series(None, table.index, dtype=object)).notna()
    stuck = verdicts["not mixed"] > TOLERATED * verdicts.sum(axis=1)
    table["state"] = np.select(
        [refused, verdicts["diverged"] > 0, stuck], ["refused", "diverged", "not mixed"], "mixed"
    )
    # eps_hat is at most eps / stability, and a flat direction relaxes in 2 / (eps_hat gamma).
    per_step = table["step_size"] / table["stability"] * table["localization"] / 2
    table["relaxations"] = table["draws"] * per_step
    table["matched"] = abs(table["llc"].astype(float) / TRUTH - 1) <= MATCHED
    return table


@cache
def references(scale: _data.Scale) -> dict[str, float]:
    """Return the median Pearson with leave-one-out of what needs no sampling."""
    steps = _steps(scale)
    retrained = _data.influence(scale, "leave_one_out").sel(time=steps)
    gaussian = _localized.exact(scale, COLD).sel(localization=slice(_localized.HELD, None))
    gaussian = gaussian.sel(time=steps)
    return {
        "tangent": _scores.median(_data.influence(scale, "tangent").sel(time=steps), retrained),
        "laplace_bif": max(_scores.median(row, retrained) for row in gaussian),
        "gradient_kernel": _scores.median(_localized.kernel(scale).sel(time=steps), retrained),
    }


def _chosen(table: pd.DataFrame, scale: _data.Scale, n_beta: float) -> pd.DataFrame:
    """Return the settings of one heat map."""
    fixed = SLICE[scale] | {"n_beta": n_beta}
    return table[np.all([np.isclose(table[key], value) for key, value in fixed.items()], axis=0)]


def _heat(axis: Axes, rows: pd.DataFrame, n_beta: float) -> QuadMesh:
    """One heat map; hatched: not mixed, grey: no result."""
    score, state = (
        rows.pivot(index="step_size", columns="localization", values=name)
        for name in ("leave_one_out", "state")
    )
    values = score.where(~state.isin(list(STATES))).to_numpy(dtype=float)
    image = axis.pcolormesh(values, cmap=panels.DIVERGING, vmin=-1, vmax=1)
    for (i, j), name in np.ndenumerate(state.to_numpy()):
        style = {"facecolor": STATES[name]} if name in STATES else {"fill": False}
        if name != "mixed":
            hatch = "/////" if name == "not mixed" else None
            axis.add_patch(
                Rectangle((j, i), 1, 1, linewidth=0, edgecolor="0.55", hatch=hatch, **style)
            )
        if len(score.columns) < 6 and name not in STATES:
            axis.text(
                j + 0.5,
                i + 0.5,
                f"{values[i, j]:.2f}",
                ha="center",
                va="center",
                fontsize=6.5,
                fontweight="bold" if name == "mixed" else "normal",
                bbox=_style.boxed(0.75),
            )
    for side, labels in ((axis.xaxis, score.columns), (axis.yaxis, score.index)):
        every = slice(None, None, 1 if len(labels) < 7 else 2)
        side.set_ticks(np.arange(len(labels))[every] + 0.5, [_power(v) for v in labels[every]])
    axis.set(xlabel="localization $\\gamma$")
    axis.set_title(f"$n\\beta$ = {_power(n_beta)}")
    return image


def _power(value: float) -> str:
    return f"$10^{{{round(np.log10(value))}}}$"


def _key(figure: Figure) -> None:
    handles = [
        Patch(facecolor="white", edgecolor="0.55", hatch="/////", linewidth=0.3, label="not mixed"),
        *[Patch(facecolor=shade, label=name) for name, shade in STATES.items()],
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, handlelength=1.6)


def _all_settings(axis: Axes, table: pd.DataFrame, marks: dict[str, float]) -> None:
    """Score against how often a chain forgets its start; filled: mixed."""
    betas = sorted(table["n_beta"].unique())
    size = 4.2 if len(table) < 200 else 1.6
    shifts = np.geomspace(0.82, 1.22, len(betas))  # else dots hide each other
    for n_beta, color, aside in zip(betas, BETA_COLORS, shifts, strict=False):
        for state, face in (("mixed", color), ("not mixed", "none")):
            rows = table[(table["n_beta"] == n_beta) & (table["state"] == state)]
            axis.plot(
                rows["relaxations"] * aside,
                rows["leave_one_out"].astype(float),
                "o",
                color=color,
                markerfacecolor=face,
                markersize=size,
                label=f"$n\\beta$ = {_power(n_beta)}" if face == color else "_",
            )
    for (name, value), shift in zip(marks.items(), (3, 3, -3), strict=True):
        axis.axhline(value, color="black", linewidth=0.8, linestyle=(0, (4, 1.6)), zorder=0)
        axis.annotate(
            f"{MARKS[name]} {value:.2f}",
            (0, value),
            xycoords=("axes fraction", "data"),
            xytext=(3, shift),
            textcoords="offset points",
            ha="left",
            fontsize=6.5,
            va="bottom" if shift > 0 else "top",
        )
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    axis.axvline(1, color="0.7", linewidth=0.6, zorder=0)
    axis.annotate(
        "one relaxation time",
        (1, 0),
        xycoords=("data", "axes fraction"),
        xytext=(3, 4),
        textcoords="offset points",
        fontsize=6.5,
        color="0.4",
    )
    shown = table.loc[~table["state"].isin(list(STATES)), "relaxations"]
    axis.set(
        xscale="log",
        ylim=(-0.5, 1.05),
        xlim=(shown.min() / 2, shown.max() * 2.5),
        ylabel="median Pearson\nwith leave-one-out",
        xlabel="relaxation times of a flat direction in one chain,\n"
        "$\\epsilon\\gamma\\,\\times$ draws / 2a (colours are set side by side)",
    )
    handles, _ = axis.get_legend_handles_labels()
    handles.append(
        Line2D(
            [],
            [],
            color="0.3",
            marker="o",
            markersize=4.2,
            linestyle="",
            markerfacecolor="none",
            label="open: not mixed",
        )
    )
    axis.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.53, 1.13), ncols=5,
        **_style.LEGEND | {"columnspacing": 0.9, "handletextpad": 0.1},
    )  # fmt: skip


def _coefficients(axis: Axes, table: pd.DataFrame) -> None:
    """Score against the learning coefficient that the same setting finds; filled: mixed."""
    axis.axvspan(1 - MATCHED, 1 + MATCHED, color="0.9", linewidth=0)
    axis.axhline(0, color="0.7", linewidth=0.6, zorder=0)
    share = (table["llc"].astype(float) / TRUTH).clip(*LLC_RANGE)
    size = 4.2 if len(table) < 200 else 1.6
    for n_beta, color in zip(sorted(table["n_beta"].unique()), BETA_COLORS, strict=False):
        for state, face in (("mixed", color), ("not mixed", "none")):
            rows = (table["n_beta"] == n_beta) & (table["state"] == state)
            axis.plot(
                share[rows], table["leave_one_out"][rows].astype(float), "o", color=color,
                markerfacecolor=face, markersize=size,
            )  # fmt: skip
    axis.set(xscale="log", xlim=(LLC_RANGE[0] / 1.5, LLC_RANGE[1] * 1.5))
    axis.set_xlabel("learning coefficient found / exact\n(ends: that or beyond)")


def _narrowed(table: pd.DataFrame) -> dict[str, float]:
    """Return what the paper's first step keeps, and how that scores."""
    usable = table[~table["state"].isin(list(STATES))]
    score, matched = usable["leave_one_out"].astype(float), usable["matched"]
    best = usable.loc[score.idxmax()]
    return {
        "matched": float(matched.sum()),
        "matched.share": float(matched.sum() / len(table)),
        "matched.best": float(score[matched].max()),
        "matched.median": float(score[matched].median()),
        "unmatched.median": float(score[~matched].median()),
        "matched.share_mixed": float((usable["state"][matched] == "mixed").mean()),
        "llc_of_best": float(best["llc"] / TRUTH),
    }


def _smooth(table: pd.DataFrame, scale: _data.Scale) -> dict[str, float]:
    """Return how alike neighbouring settings score: of all with a score, and of those that mix."""
    usable = table[~table["state"].isin(list(STATES))]
    claims = {}
    for name, rows in (("all", usable), ("mixed", usable[usable["state"] == "mixed"])):
        found = _landscape.smoothness(rows, GRIDS[scale], "leave_one_out")
        if found.pairs >= FEWEST_PAIRS:
            claims |= {f"smooth.{name}.{key}": float(v) for key, v in found._asdict().items()}
    for option in ("decay", "stability"):
        if option in GRIDS[scale]:
            about = GRIDS[scale], option, "leave_one_out"
            claims[f"range.{option}"], error = _landscape.sensitivity(usable, *about)
            claims[f"range.{option}.error"] = error
    return claims


def _measured(table: pd.DataFrame, marks: dict[str, float]) -> dict[str, float]:
    score = table["leave_one_out"].astype(float)
    usable = ~table["state"].isin(list(STATES))
    mixed = table["state"] == "mixed"
    shares = {f"share.{name}": (table["state"] == name).mean() for name in STATE_NAMES}
    claims = (
        marks
        | shares
        | {
            "best": score[usable].max(),
            "best_mixed": score[mixed].max(),
            "best_not_mixed": score[usable & ~mixed].max(),
            "not_mixed.longest": table.loc[usable & ~mixed, "relaxations"].max(),
            "mixed.shortest": table.loc[mixed, "relaxations"].min(),
        }
    )
    return {key: float(value) for key, value in claims.items()}
