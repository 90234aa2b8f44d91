"""Figure 5: influence between structural classes of tokens over the checkpoints."""

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow import plotting
from dlnflow.analysis.groups import groups
from paper_figures import _lm_data, _style
from paper_figures._data import Scale

HEADLINES = {
    "induction.induction.last": "induction on induction at the last checkpoint {:.4f}",
    "loss.last": "held-out loss {:.2f} nats",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """One panel per query class; last, loss and learning coefficient."""
    traces, classes = _lm_data.traces(scale, "text")
    return show(groups(traces, classes), traces)


def show(found: xr.DataArray, traces: xr.DataArray) -> tuple[Figure, dict[str, float]]:
    """Draw class influence and the usual companion from results."""
    names = [str(n) for n in found["query"].values]
    with mpl.rc_context(plotting.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.6)
        axes = figure.subplots(2, 4, sharex=True).flat
        for axis, query in zip(axes, names, strict=False):
            curves(axis, found.sel(query=query))
            axis.set_title(f"query: {query.replace('_', ' ')}")
        for axis in axes[len(names) : -1]:
            axis.set_visible(False)
        companion(axes[-1], traces)
        axes[0].legend(**_style.LEGEND)
        figure.supylabel("mean influence (down: helps)", fontsize=8)
        figure.supxlabel("training step", fontsize=8)
    last = found.isel(time=-1)
    claims = {f"{q}.{i}.last": float(last.sel(query=q, train=i)) for q in names for i in names}
    loss = traces.checkpoint_loss.mean("item")
    return figure, claims | {"loss.last": float(loss[-1])}


def curves(axis: Axes, found: xr.DataArray) -> None:
    """Influence of every class on one, with bands of one standard error."""
    for name in found["train"].values:
        one, color = found.sel(train=name), _lm_data.CLASS_COLORS.get(str(name), "black")
        axis.plot(one.time, one, color=color, label=str(name).replace("_", " "), linewidth=1.1)
        axis.fill_between(
            one.time, one - one.standard_error, one + one.standard_error, color=color, alpha=0.2,
            linewidth=0,
        )  # fmt: skip
    axis.axhline(0, color="0.7", linewidth=0.5)
    axis.set_xscale("symlog", linthresh=100)


def companion(axis: Axes, traces: xr.DataArray) -> None:
    """Loss, and the learning coefficient n_beta (E[L] - L(theta_t)) on the observed text."""
    loss = traces.checkpoint_loss.mean("item")
    coefficient = traces.attrs["n_beta"] * (traces.mean("item") - loss)
    error = coefficient.mean("draw").std("chain", ddof=1) / np.sqrt(traces.sizes["chain"])
    axis.plot(loss.time, loss, color="black", linewidth=1.1)
    axis.set_ylabel("held-out loss")
    other = axis.twinx()
    other.errorbar(
        loss.time, coefficient.mean(("draw", "chain")), error, color="#D55E00", linewidth=1.1
    )
    other.set_ylabel("learning coefficient", color="#D55E00")
    axis.set_title("loss, learning coefficient")
