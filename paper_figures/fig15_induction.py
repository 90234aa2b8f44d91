"""Figure 15: influence between repeated tokens rises when the induction head forms."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from dlnflow.lm.experiment import left_out
from dlnflow.lm.figures import rise
from dlnflow.plots import tokens
from dlnflow.traces import groups
from paper_figures import _lm_data
from paper_figures._data import Scale

HEADLINES = {
    "rise_in_errors": "repeated on repeated rises by {:.1f} standard errors",
    "rise_in_errors.differences": "with slow drift removed by {:.1f}",
    "steepest_rise": "steepest at step {:.0f}",
    "score_from": "induction score rises from step {:.0f}",
    "score_to": "to step {:.0f}",
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
    span = rise(scores)
    figure = tokens.repeats(plain, fast, scores, span)
    claims = {
        "induction.last": float(scores.induction[-1].max()),
        "score_from": span[0],
        "score_to": span[1],
    }
    return figure, claims | _rise(plain, "") | _rise(fast, ".differences")


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
