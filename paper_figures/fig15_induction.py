"""Figure 15: influence between repeated tokens rises when the induction head forms."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import plotting
from dlnflow.analysis.groups import groups
from dlnflow.lm.experiment import left_out
from dlnflow.lm.induction import crossing
from paper_figures import _lm_data, _style
from paper_figures._data import Scale

RISE = (0.1, 0.9)
"""Shares of the largest induction score between which the circuit forms."""
HEADLINES = {
    "rise_in_errors": "repeated on repeated rises by {:.1f} standard errors",
    "rise_in_errors.differences": "with slow drift removed by {:.1f}",
    "steepest_rise": "steepest at step {:.0f}",
    "score_from": "induction score at a tenth of its end: step {:.0f}",
    "score_to": "at nine tenths: {:.0f}",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Influence above the induction score of every head."""
    return show(*_lm_data.traces(scale, "repeats"), _lm_data.scores(scale))


def show(
    traces: xr.DataArray, classes: xr.DataArray, scores: xr.Dataset
) -> tuple[Figure, dict[str, float]]:
    """Draw from results: losses as drawn, draw-to-draw differences, induction scores."""
    out = left_out(classes)
    plain, fast = (groups(traces, classes, exclude=out, differences=d) for d in (False, True))
    best = scores.induction.max(("layer", "head"))
    span = [crossing(scores.time, best, share * float(best.max())) for share in RISE]
    with mpl.rc_context(plotting.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH * 0.62, 5.4)
        axes = figure.subplots(3, 1, sharex=True)
        for axis, found, title in zip(
            axes, (plain, fast), ("losses", "draw-to-draw differences of losses"), strict=False
        ):
            _influence(axis, found, title)
        axes[0].legend(**_style.LEGEND, loc="lower left")
        _scores(axes[2], scores)
        for axis in axes:
            axis.axvspan(*span, color="0.9", linewidth=0, zorder=0)
        axes[2].set_xlim(0, float(traces.time.max()) * 1.03)
        _style.letters(axes)
    claims = {"induction.last": float(best[-1]), "score_from": span[0], "score_to": span[1]}
    return figure, claims | _rise(plain, "") | _rise(fast, ".differences")


def _influence(axis: Axes, found: xr.DataArray, title: str) -> None:
    """Draw group means with bars of one standard error; crosses where chains have not mixed."""
    for (query, train), color in _lm_data.GROUP_COLORS.items():
        one = found.sel(query=query, train=train)
        axis.errorbar(one.time, one, one.standard_error, color=color, linewidth=1.1, capsize=2,
                      label=f"{train} on {query}", marker="o", markersize=2.5)  # fmt: skip
    bad = found.verdict.isin(["not mixed", "diverged"]).values
    if bad.any():
        axis.plot(found.time[bad], found.sel(query="repeated", train="repeated")[bad], "x",
                  color="0.4", zorder=5)  # fmt: skip
    axis.axhline(0, color="0.7", linewidth=0.5)
    axis.set_title(title)
    axis.set_ylabel("influence\n$\\leftarrow$ helps    harms $\\rightarrow$")


def _scores(axis: Axes, scores: xr.Dataset) -> None:
    """Draw the induction score of every head; the best one in colour."""
    for layer in range(scores.sizes["layer"]):
        for head in range(scores.sizes["head"]):
            one = scores.induction.isel(layer=layer, head=head)
            best = float(one.max()) == float(scores.induction.max())
            axis.plot(one.time, one, color="#D55E00" if best else "0.6", linewidth=1.1,
                      label=f"head {head} of layer {layer}" if best else None)  # fmt: skip
    axis.set(ylabel="induction score", xlabel="training step", ylim=(0, 1))
    axis.legend(**_style.LEGEND)


def _rise(found: xr.DataArray, suffix: str) -> dict[str, float]:
    """How far repeated-on-repeated moved from the first to the last checkpoint, in its errors."""
    one = found.sel(query="repeated", train="repeated")
    before, after = one.isel(time=0), one.isel(time=-1)
    error = np.hypot(before.standard_error, after.standard_error)
    claims = {f"rise_in_errors{suffix}": float((before - after) / error)}
    for train in ("repeated", "other"):
        other = found.sel(query="other", train=train).isel(time=-1)
        error = np.hypot(other.standard_error, after.standard_error)
        claims[f"above.{train}_other{suffix}"] = float((other - after) / error)
    k = int(np.argmin(np.diff(one) / np.diff(one.time)))
    claims[f"steepest_rise{suffix}"] = float(one.time[k : k + 2].mean())
    mixed = ~found.verdict.isin(["not mixed", "diverged"])
    return claims | {f"share_mixed{suffix}": float(mixed.mean())}
