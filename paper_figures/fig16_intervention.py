"""Figure 16: up-weighting induction patterns before, during or after the measured rise."""

from collections.abc import Sequence
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from dlnflow.lm.experiment import left_out
from dlnflow.lm.intervene import Window, intervene, windows
from dlnflow.lm.runs.train import load_data
from dlnflow.plots import influence_plots
from dlnflow.traces import groups
from paper_figures import _lm_data, _style
from paper_figures._data import Scale

SEEDS = {Scale.quick: (0,), Scale.paper: (0, 1, 2)}
"""Each seed has its own influence curve, windows and four trainings."""
WINDOW_COLORS = {"never": "0.3", "before": "#0072B2", "during": "#D55E00", "after": "#009E73"}
HEADLINES = {
    "shift.before": "window before: transition {:+.0f} steps",
    "shift.during": "during: {:+.0f}",
    "shift.after": "after: {:+.0f}",
}


def draw(scale: Scale, seeds: Sequence[int] | None = None) -> tuple[Figure, dict[str, float]]:
    """Choose windows from figure 15's curve of every seed, retrain, draw the induction scores."""
    seeds = SEEDS[scale] if seeds is None else tuple(seeds)
    choices = {seed: chosen(scale, seed) for seed in seeds}
    return show(xr.concat([retrained(scale, *one) for one in choices.items()], "seed"), choices)


def chosen(scale: Scale, seed: int) -> dict[str, Window]:
    """Return the windows that the influence of repeated on repeated tokens suggests."""
    traces, classes = _lm_data.traces(scale, "repeats", seed)
    found = groups(traces, classes, exclude=left_out(classes))
    curve = found.sel(query="repeated", train="repeated")
    # from the first checkpoint on, where there is no circuit: what all losses share is no rise
    return windows(curve.time.values, (curve - curve[0]).values)


def retrained(scale: Scale, seed: int, choices: dict[str, Window]) -> xr.Dataset:
    """Train with every window and without one, until one checkpoint after the last window."""
    run, name = _lm_data.settings(scale, seed), _lm_data.SIZES[scale].configuration
    last = max(window.stop for window in choices.values())
    n_steps = min(run.n_steps, (last // run.every + 1) * run.every)
    data = load_data(_lm_data.folder(scale, seed))
    with _lm_data.pool() as executor:
        return intervene(
            replace(run, n_steps=n_steps),
            _lm_data.OUT / f"{name}-windows",
            choices,
            seeds=[seed],
            data=data,
            executor=executor,
            progress=lambda run_name: _lm_data.say(f"trained {run_name}"),
        )


def show(
    result: xr.Dataset, choices: dict[int, dict[str, Window]]
) -> tuple[Figure, dict[str, float]]:
    """Draw one panel per seed; shaded: its windows."""
    seeds = list(choices)
    with mpl.rc_context(influence_plots.STYLE):
        width = _style.PAGE_WIDTH * (0.62 if len(seeds) == 1 else 1)
        figure = _style.figure(width, 2.6)
        axes = figure.subplots(1, len(seeds), sharey=True, squeeze=False)[0]
        for axis, seed in zip(axes, seeds, strict=True):
            for k, name in enumerate(map(str, result.window.values)):
                one = result.score.sel(window=name, seed=seed).dropna("time")
                color = WINDOW_COLORS.get(name, "black")
                style = "--" if name == "never" else "-"
                axis.plot(
                    one.time,
                    one,
                    style,
                    marker="o",
                    markersize=2.5,
                    color=color,
                    linewidth=1.1,
                    label=name,
                    zorder=3 - k / 10,
                )
                if name in choices[seed]:
                    window = choices[seed][name]
                    axis.axvspan(window.start, window.stop, color=color, alpha=0.12, linewidth=0)
            axis.axhline(result.attrs["threshold"], color="0.5", linewidth=0.6, linestyle=":")
            axis.set(xlabel="training step", title=f"seed {seed}; dots are checkpoints")
        axes[0].set_ylabel("induction score, best layer")
        axes[0].legend(title="up-weighted", title_fontsize=6.5, **_style.LEGEND)
    shifts = result["shift"].mean("seed")
    claims = {f"shift.{name}": float(shifts.sel(window=name)) for name in result.window.values}
    for seed in seeds:
        for name in result.window.values:
            crossed = float(result.crossing.sel(seed=seed, window=name))
            claims[f"crossing.{name}.seed{seed}"] = crossed
    return figure, {k: v for k, v in claims.items() if np.isfinite(v)}
