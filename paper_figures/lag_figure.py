"""Figure of appendix D.2: influence between repeated tokens against the induction score.

`python -m paper_figures.claims` draws it from the numbers in ``expected/repeat_curves_*.json``;
nothing is sampled.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.plots import influence_plots
from dlnflow.plots.tokens import GROUP_COLORS, steps_axis
from paper_figures import _style
from paper_figures._gallery import GALLERY
from paper_figures._lm_claims import APART, Measured, repeats
from paper_figures.section4 import save

PICTURE = GALLERY / "lag.png"
ALT = (
    "Influence between repeated tokens becomes helpful while the induction score rises; influence "
    "between other tokens stays where it is."
)
CAPTION = (
    "Repeated sequences. **a**, mean influence between tokens of second halves (repeated), of "
    "first halves (other), and across; pairs of one sequence or one id are left out, and bands are "
    "95 % t intervals. **b**, induction score of the best layer; the lines are the quarter-rise of "
    "the score (dotted) and of influence, and the shaded range is the 95 % interval of the latter."
)


def draw(measured: tuple[Measured, ...]) -> Figure:
    """Influence and score, one column for each run."""
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH * min(1, 0.6 * len(measured)), 4.2)
        axes = figure.subplots(2, len(measured), squeeze=False, sharex="col")
        for (above, below), run in zip(axes.T, measured, strict=True):
            _influence(above, run)
            _score(below, run)
            steps_axis((above, below), np.array(run.steps))
            above.set_title(run.source.replace("`", ""))
        axes[0, 0].set_ylabel("influence")
        axes[1, 0].set_ylabel("induction score\n(best layer)")
        axes[0, 0].legend(loc="lower left", **_style.LEGEND)
        figure.supxlabel("training step", fontsize=8)
        _style.letters(axes[:, 0])
    return figure


def _influence(axis: Axes, run: Measured) -> None:
    for (query, train), color in GROUP_COLORS.items():
        found = [run.influence(query, train, at, APART) for at in range(len(run.steps))]
        value, low, high = (
            np.array([getattr(n, end) for n in found]) for end in ("value", "low", "high")
        )
        label = f"{query} and {train}" if query != train else f"{query} on {train}"
        axis.fill_between(run.steps, low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(run.steps, value, color=color, marker="o", markersize=3, label=label)
    axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)


def _score(axis: Axes, run: Measured) -> None:
    steps, score = (np.array(run.data["score"][name]) for name in ("steps", "best layer"))
    axis.plot(steps, score, color="black", linewidth=1.1)
    quarter = run.data["score"]["quarter-rise"]
    middle, low, high = (quarter + lag for lag in run.data["lag"])
    axis.axvspan(low, high, color=GROUP_COLORS["repeated", "repeated"], alpha=0.2, linewidth=0)
    axis.axvline(middle, color=GROUP_COLORS["repeated", "repeated"], linewidth=1.1)
    axis.axvline(quarter, color="black", linewidth=0.8, linestyle=":")
    axis.set_ylim(bottom=0)


def write(out: Path) -> None:
    """Write the figure as a PNG for a page."""
    save(draw(repeats()), out)
