"""Figure 14: whether a token's class shows in the tokens of high influence on it."""

import matplotlib as mpl
import xarray as xr
from matplotlib.figure import Figure

from dlnflow import plotting
from dlnflow.analysis.neighbours import neighbours
from paper_figures import _lm_data, _style, fig05_classes
from paper_figures._data import Scale

HEADLINES = {
    "induction.last": "recall of induction patterns {:.2f}",
    "induction.other_ids": "among other ids only {:.2f}",
    "induction.chance": "by chance {:.2f}",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Recall by class over checkpoints, against chance."""
    sampled = _lm_data.traces(scale, "text")
    return show(neighbours(*sampled), neighbours(*sampled, exclude="token"))


def show(found: xr.Dataset, apart: xr.Dataset | None = None) -> tuple[Figure, dict[str, float]]:
    """Draw recall with 95 % intervals; dashed: k random neighbours.

    `apart`: the same with neighbours of other vocabulary ids only, drawn dotted.
    """
    names, claims = [str(n) for n in found.token_class.values], {}
    with mpl.rc_context(plotting.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 2.2)
        axes = figure.subplots(1, len(names), sharex=True, sharey=True)
        for axis, name in zip(axes, names, strict=True):
            one, color = found.sel(token_class=name), _lm_data.CLASS_COLORS.get(name, "black")
            axis.fill_between(one.time, one.low, one.high, color=color, alpha=0.25, linewidth=0)
            axis.plot(one.time, one.recall, color=color, linewidth=1.1)
            if apart is not None:
                other = apart.sel(token_class=name)
                axis.plot(other.time, other.recall, ":", color=color, linewidth=1.3)
                claims[f"{name}.other_ids"] = float(other.recall[-1])
                claims[f"{name}.other_ids.above_chance"] = float(other.low[-1] - other.chance)
            axis.axhline(float(one.chance), color="0.3", linestyle="--", linewidth=0.8)
            count = int(one["count"])
            axis.set_title(f"{name.replace('_', ' ')}\n{count} tokens"
                           + (", too few" if bool(one.too_rare) else ""))  # fmt: skip
            claims |= {f"{name}.last": float(one.recall[-1]), f"{name}.chance": float(one.chance),
                       f"{name}.above_chance": float(one.low[-1] - one.chance)}  # fmt: skip
            axis.annotate("chance", (1, float(one.chance)), xycoords=("axes fraction", "data"),
                          fontsize=6, ha="right", va="top", color="0.3")  # fmt: skip
        fig05_classes.steps_axis(axes, found.time.values)
        axes[0].set_ylim(0, 1)
        if apart is not None:
            axes[0].plot([], [], ":", color="0.3", label="other ids only")
            axes[0].legend(**_style.LEGEND)
        axes[0].set_ylabel(f"recall, {found.attrs['k']} neighbours")
        figure.supxlabel("training step", fontsize=8)
    return figure, claims
