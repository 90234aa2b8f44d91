"""Figure 15: influence between repeated tokens rises when the induction head forms."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from dlnflow import plotting
from dlnflow.analysis.groups import groups
from paper_figures import _lm_data, _style
from paper_figures._data import Scale

HEADLINES = {
    "rise_in_errors": "repeated on repeated rises by {:.1f} standard errors",
    "rise_in_errors.differences": "with slow drift removed by {:.1f}",
    "induction.last": "best induction head {:.2f}",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Influence above the induction score of every head."""
    return show(*_lm_data.traces(scale, "repeats"), _lm_data.scores(scale))


def show(
    traces: xr.DataArray, classes: xr.DataArray, scores: xr.Dataset
) -> tuple[Figure, dict[str, float]]:
    """Draw from results: losses as drawn, draw-to-draw differences, induction scores."""
    plain, fast = (groups(traces, classes, exclude="row", differences=d) for d in (False, True))
    with mpl.rc_context(plotting.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH * 0.7, 5.2)
        axes = figure.subplots(3, 1, sharex=True)
        for axis, found, title in zip(
            axes, (plain, fast), ("losses", "draw-to-draw differences of losses"), strict=False
        ):
            for (query, train), color in _lm_data.GROUP_COLORS.items():
                one = found.sel(query=query, train=train)
                axis.errorbar(
                    one.time, one, one.standard_error, color=color, linewidth=1.1, capsize=2,
                    label=f"{train} on {query}", marker="o", markersize=2.5,
                )  # fmt: skip
            axis.axhline(0, color="0.7", linewidth=0.5)
            axis.set_title(title)
            axis.set_ylabel("influence\n(down: helps)")
        axes[0].legend(**_style.LEGEND)
        for layer in (
            scores.layer.values if "layer" in scores.coords else range(scores.sizes["layer"])
        ):
            for head in range(scores.sizes["head"]):
                one = scores.induction.isel(layer=layer, head=head)
                best = float(one.max()) == float(scores.induction.max())
                axes[2].plot(one.time, one, color="#D55E00" if best else "0.6", linewidth=1.1,
                             label=f"L{layer}H{head}" if best else None)  # fmt: skip
        axes[2].set(ylabel="induction score", xlabel="training step", ylim=(0, 1))
        axes[2].legend(**_style.LEGEND)
    claims = {"induction.last": float(scores.induction.isel(time=-1).max())}
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
    return claims
