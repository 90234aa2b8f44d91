"""Figure 5: influence between structural classes of tokens over the checkpoints."""

from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

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
    return show(groups(traces, classes), traces, groups(traces, classes, exclude="token"))


def show(
    found: xr.DataArray, traces: xr.DataArray, apart: xr.DataArray | None = None
) -> tuple[Figure, dict[str, float]]:
    """Draw class influence and the usual companion from results.

    `apart`: the same without pairs of one vocabulary id; drawn dashed for a class on itself.
    """
    names = [str(n) for n in found["query"].values]
    with mpl.rc_context(plotting.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.4)
        axes = list(figure.subplots(2, 4, sharex=True).flat)
        shown = axes[: len(names)]
        for axis, query in zip(shown, names, strict=True):
            curves(axis, found.sel(query=query))
            if apart is not None:
                own = apart.sel(query=query, train=query)
                axis.plot(own.time, own, "--", color=color_of(query), linewidth=1.1)
            axis.set_title(f"on {query.replace('_', ' ')}")
        for axis in axes[len(names) : -1]:
            axis.set_axis_off()
        if apart is not None:
            shown[0].plot([], [], "--", color="0.3", linewidth=1.1, label="own class, other ids")
        handles = shown[0].get_legend_handles_labels()
        where = axes[-2] if len(names) < len(axes) - 1 else shown[0]
        where.legend(*handles, title="train", title_fontsize=7, loc="center", **_style.LEGEND)
        companion(axes[-1], traces)
        steps_axis(axes, found.time.values)
        _style.letters([*shown, axes[-1]])
        figure.supylabel("mean influence, minus correlation\n"
                         "$\\leftarrow$ helps    harms $\\rightarrow$", fontsize=8)  # fmt: skip
        figure.supxlabel("training step", fontsize=8)
    last = found.isel(time=-1)
    claims = {f"{q}.{i}.last": float(last.sel(query=q, train=i)) for q in names for i in names}
    if apart is not None:
        claims |= {f"{q}.other_ids.{k}": float(apart.sel(query=q, train=q)[t])
                   for q in names for k, t in (("first", 0), ("last", -1))}  # fmt: skip
    loss = traces.checkpoint_loss.mean("item")
    return figure, claims | {"loss.last": float(loss[-1])}


def curves(axis: Axes, found: xr.DataArray) -> None:
    """Influence of every class on one, with bands of one standard error."""
    for name in found["train"].values:
        one, color = found.sel(train=name), color_of(str(name))
        axis.plot(one.time, one, color=color, label=str(name).replace("_", " "), linewidth=1.1)
        axis.fill_between(
            one.time, one - one.standard_error, one + one.standard_error, color=color, alpha=0.2,
            linewidth=0,
        )  # fmt: skip
    axis.axhline(0, color="0.7", linewidth=0.5)


def color_of(name: str) -> str:
    """Return the colour of a class."""
    return _lm_data.CLASS_COLORS.get(name, "black")


def steps_axis(axes: Iterable[Axes], steps: NDArray[np.integer]) -> None:
    """Logarithmic steps with room for step 0, and labels at 1, 2, 5 times powers of ten."""
    linear = max(100, int(steps[steps > 0].min()))
    ticks = [m * 10**e for e in range(2, 7) for m in (1, 2, 5)]
    for axis in axes:
        axis.set_xscale("symlog", linthresh=linear, linscale=0.4)
        axis.set_xlim(steps[0] / 1.15, steps[-1] * 1.15)
        inside = [t for t in ([0] if steps[0] == 0 else []) + ticks if t >= steps[0] / 1.15]
        inside = [t for t in inside if t <= steps[-1] * 1.15]
        axis.set_xticks(inside, [short(t) for t in inside])
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())


def short(step: int) -> str:
    """Write thousands as k."""
    return f"{step // 1000}k" if step >= 1000 else str(step)


def companion(axis: Axes, traces: xr.DataArray) -> None:
    """Loss, and n_beta (E[L] - L(theta_t)), which is negative away from a minimum of L.

    L here is the loss of the observed text, not that of the gradient data.
    """
    loss = traces.checkpoint_loss.mean("item")
    coefficient = traces.attrs["n_beta"] * (traces.mean("item") - loss)
    error = coefficient.mean("draw").std("chain", ddof=1) / np.sqrt(traces.sizes["chain"])
    axis.plot(loss.time, loss, color="black", linewidth=1.1)
    axis.set_ylabel("held-out loss")
    other = axis.twinx()
    other.errorbar(
        loss.time, coefficient.mean(("draw", "chain")), error, color="#D55E00", linewidth=1.1
    )
    other.set_ylabel(r"$n\beta\,(E[L]-L)$", color="#D55E00")
    axis.set_title("learning coefficient")
