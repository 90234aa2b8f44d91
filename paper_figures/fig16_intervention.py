"""Figure 16: up-weighting induction patterns before, during or after the measured rise."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from dlnflow import plotting
from dlnflow.analysis.groups import groups
from dlnflow.lm.intervene import intervene, windows
from dlnflow.lm.model import CONFIGURATIONS
from dlnflow.lm.train import load_data
from paper_figures import _lm_data, _style
from paper_figures._data import Scale

SEEDS = {Scale.quick: (0,), Scale.paper: (0, 1, 2)}
"""Three retrainings beside the run without a window for each seed."""
WINDOW_COLORS = {"never": "0.3", "before": "#0072B2", "during": "#D55E00", "after": "#009E73"}
HEADLINES = {
    "shift.before": "window before: transition {:+.0f} steps",
    "shift.during": "during: {:+.0f}",
    "shift.after": "after: {:+.0f}",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Choose windows from figure 15's curve, retrain, draw the induction scores."""
    found = groups(*_lm_data.traces(scale, "repeats"), exclude="row")
    curve = found.sel(query="repeated", train="repeated")
    choices = windows(curve.time.values, curve.values)
    name = _lm_data.SIZES[scale].configuration
    result = intervene(
        CONFIGURATIONS[name], _lm_data.OUT / f"{name}-windows", choices, seeds=SEEDS[scale],
        data=load_data(_lm_data.OUT / name),
    )  # fmt: skip
    return show(result, {k: (w.start, w.stop) for k, w in choices.items()})


def show(result: xr.Dataset, spans: dict[str, tuple[int, int]]) -> tuple[Figure, dict[str, float]]:
    """Draw scores, one line per seed; shaded: the windows."""
    with mpl.rc_context(plotting.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH * 0.7, 2.8)
        axis = figure.subplots()
        for name in result.window.values:
            color = WINDOW_COLORS.get(str(name), "black")
            for k, seed in enumerate(result.seed.values):
                one = result.score.sel(window=name, seed=seed)
                axis.plot(one.time, one, color=color, linewidth=1.1, label=None if k else str(name))
            if str(name) in spans:
                axis.axvspan(*spans[str(name)], color=color, alpha=0.12, linewidth=0)
        axis.axhline(result.attrs["threshold"], color="0.7", linewidth=0.5)
        axis.set(xlabel="training step", ylabel="induction score, best layer")
        axis.legend(title="up-weighted", **_style.LEGEND)
    shifts = result["shift"].mean("seed")
    claims = {f"shift.{name}": float(shifts.sel(window=name)) for name in result.window.values}
    return figure, {k: v for k, v in claims.items() if np.isfinite(v)}
