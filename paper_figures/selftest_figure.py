"""Figure selftest: every sampler on targets whose answer is known, over step sizes."""

from functools import cache

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dlnflow.plots import influence_plots
from dlnflow.sampling import known_targets, selftest
from dlnflow.theory.rlct import learning_coefficient
from paper_figures import _data, _style

CHAINS = {_data.Scale.quick: 512, _data.Scale.paper: selftest.CHAINS}
"""Per Gaussian target; networks have an eighth."""
KERNELS = {
    "sgld": "SGLD",
    "rmsprop_sgld": "RMSProp-SGLD",
    "rmsprop_sgld, frozen": "RMSProp-SGLD, frozen",
    "mala": "MALA",
    "underdamped": "underdamped",
}
KERNEL_STYLES = {
    "sgld": ("0.0", "x"),
    "rmsprop_sgld": ("#CC79A7", "P"),
    "rmsprop_sgld, frozen": ("#E69F00", "*"),
    "mala": ("0.55", "v"),
    "underdamped": ("#56B4E9", "<"),
}
"""Neither colours nor markers of `TARGETS`, which mean something else."""
RANGE = {
    "sgld": (0.88, 1.33),
    "rmsprop_sgld": (0.9, 1.85),
    "rmsprop_sgld, frozen": (0.88, 1.33),
    "mala": (0.88, 1.1),
    "underdamped": (0.88, 1.1),
}
"""Vertical range of each panel."""
TARGETS = {
    "isotropic": ("#000000", "o"),
    "ill-conditioned": ("#0072B2", "s"),
    "correlated": ("#009E73", "^"),
    "quartic": ("#D55E00", "D"),
}
RANKS = (1, 2, 3)
"""The networks of the self-test: 6 inputs, as many hidden units as the rank, 6 outputs."""
APART = 0.06
"""Decades between the markers of two targets at the same step."""

HEADLINES = {
    "rmsprop_sgld.isotropic.0.03": "Algorithm 1, small steps, isotropic Gaussian: variance {:.2f}",
    "rmsprop_sgld, frozen.isotropic.0.03": "the same, frozen: {:.2f} of the exact one",
    "rmsprop_sgld, frozen.correct": "frozen passes (1 = yes): {:.0f}",
}
"""Claims that the runner prints, as sentences."""


def draw(scale: _data.Scale) -> tuple[Figure, dict[str, float]]:
    """One panel per kernel, and the learning coefficients of all."""
    table = results(scale)
    verdicts = selftest.verdicts(table)
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.6)
        axes = figure.subplots(2, 3).ravel()
        for axis, name in zip(axes, KERNELS, strict=False):
            _kernel(axis, table[table["kernel"] == name])
            axis.set_title(f"{KERNELS[name]}: {verdicts[name]}")
            axis.set_ylim(RANGE[name])
        _curves(axes[0])
        _coefficients(axes[-1], table)
        for axis in axes[::3]:
            axis.set_ylabel("variance, measured / exact")
        _keys(axes[2], axes[0])
        _style.letters(axes)
    return figure, _measured(table, verdicts)


@cache
def results(scale: _data.Scale) -> pd.DataFrame:
    """Return the table of the self-test."""
    return selftest.selftest(chains=CHAINS[scale])


def _kernel(axis: Axes, rows: pd.DataFrame) -> None:
    """Points with two standard errors, and what theory predicts as short lines behind them."""
    axis.axhline(1, color="0.6", linewidth=0.6, zorder=0)
    for target, (color, marker) in TARGETS.items():
        mine = rows[rows["target"] == target]
        step = mine["relative_step"] * _aside(target)
        axis.errorbar(
            step,
            mine["ratio"],
            2 * mine["standard_error"],
            fmt=marker,
            color=color,
            markersize=3,
            linewidth=0.8,
        )
        axis.plot(step, mine["predicted"], "_", color=color, markersize=9, markeredgewidth=1)
    axis.set(xscale="log", xlabel="step size $\\times$ largest curvature")
    axis.set_xlim(0.02, 1.2)
    axis.set_xticks(selftest.RELATIVE_STEPS, [f"{step:g}" for step in selftest.RELATIVE_STEPS])
    axis.minorticks_off()


def _aside(target: str) -> float:
    """Return the factor by which everything of a target stands beside its true step."""
    return 10 ** (APART * (list(TARGETS).index(target) - (len(TARGETS) - 1) / 2))


def _curves(axis: Axes) -> None:
    """What SGLD should measure at every step; other kernels learn theirs, or have none."""
    relative = np.geomspace(*axis.get_xlim(), 60)
    for target in known_targets.targets(1, 0):
        if target.name in TARGETS:
            stiffest = np.linalg.eigvalsh(target.precision)[-1]
            steps = np.repeat(relative[:, None] / stiffest, len(target.precision), axis=1)
            color, _ = TARGETS[target.name]
            axis.plot(
                relative * _aside(target.name),
                target.discretised(steps),
                color=color,
                linewidth=0.7,
                zorder=1,
            )


def _network(rank: int) -> str:
    return f"network 6-{rank}-6, rank {rank}"


def _exact(rank: int) -> float:
    return float(learning_coefficient((6, rank, 6), rank).coefficient)


def _coefficients(axis: Axes, table: pd.DataFrame) -> None:
    """Sampled learning coefficients at the smallest step, against Aoyagi's."""
    axis.axhline(1, color="0.6", linewidth=0.6, zorder=0)
    small = table[table["relative_step"] == min(selftest.RELATIVE_STEPS)]
    for k, (name, (color, marker)) in enumerate(KERNEL_STYLES.items()):
        mine = small[small["kernel"] == name].set_index("target").loc[[*map(_network, RANKS)]]
        place = np.arange(len(RANKS)) + 0.13 * (k - (len(KERNEL_STYLES) - 1) / 2)
        axis.errorbar(
            place,
            mine["ratio"],
            2 * mine["standard_error"],
            fmt=marker,
            color=color,
            markersize=3,
            linewidth=0.8,
            label=KERNELS[name],
        )
    axis.set_xticks(range(len(RANKS)), [f"{_exact(r):g}\n6-{r}-6" for r in RANKS])
    axis.set(xlabel="exact value; network", ylabel="sampled / exact", ylim=(0.8, 2.5))
    axis.set_title(f"learning coefficient, step {min(selftest.RELATIVE_STEPS):g}")
    axis.legend(loc="upper left", handlelength=1.0, **_style.LEGEND)


def _keys(targets: Axes, theory: Axes) -> None:
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", markersize=3, label=name)
        for name, (color, marker) in TARGETS.items()
    ]
    targets.legend(handles=handles, loc="upper left", handlelength=1.0, **_style.LEGEND)
    handles = [
        Line2D([], [], color="0.2", linewidth=0.7, label="predicted"),
        Line2D([], [], color="0.6", linewidth=0.6, label="exact"),
    ]
    theory.legend(handles=handles, loc="upper left", handlelength=1.4, **_style.LEGEND)


def _measured(table: pd.DataFrame, verdicts: dict[str, str]) -> dict[str, float]:
    """Ratios on the Gaussians and the quartic, learning coefficients, verdicts."""
    claims: dict[str, float] = {}
    for name in KERNELS:
        rows = table[table["kernel"] == name]
        claims[f"{name}.correct"] = float(verdicts[name] == "correct")
        if rows["predicted"].notna().any():
            claims[f"{name}.largest_z"] = float(rows["z"].abs().max())
        indexed = rows.set_index(["target", "relative_step"])["ratio"]
        claims |= {
            f"{name}.{target}.{step:g}": float(indexed[target, step])
            for target in TARGETS
            for step in selftest.RELATIVE_STEPS
        }
        claims |= {
            f"{name}.coefficient.rank{rank}": _exact(rank)
            * float(indexed[_network(rank), min(selftest.RELATIVE_STEPS)])
            for rank in RANKS
        }
    return claims
