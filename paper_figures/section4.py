"""Figure of section 4: what classes of tokens do to each other, in every run that was sampled.

`python -m paper_figures.claims` draws it from the numbers in ``expected/class_matrix_*.json``;
nothing is sampled.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from dlnflow._support.files import atomic_path
from dlnflow.plots import influence_plots
from dlnflow.plots.tokens import color_of, steps_axis
from paper_figures import _style
from paper_figures._gallery import COLORS, GALLERY
from paper_figures._lm_claims import ALL, END, INDUCTION, LEFT, OTHER, PART, RIGHT, Measured, runs

PICTURE = GALLERY / "section4.png"
DPI = 150
ALT = (
    "Curves of the influence of delimiters, word parts, word ends and induction patterns on each "
    "other over training, one row for each model."
)
CAPTION = (
    "Mean influence, minus the correlation of losses, between tokens of two classes; negative is "
    "help. **a**, of right on left delimiters. **b**, **c**, of word parts and word ends on left "
    "and on right delimiters. **d**, of induction patterns on each other, with and without pairs "
    "of one id. Bands are 95 % t intervals; crosses are checkpoints whose chains have not mixed "
    "(R-hat of a class mean above 1.05)."
)
COLUMNS = (
    ("right on left\ndelimiters", [(LEFT, RIGHT, ALL, "right delimiters", "D")]),
    (
        "on left\ndelimiters",
        [(LEFT, PART, ALL, "word parts", "o"), (LEFT, END, ALL, "word ends", "s")],
    ),
    (
        "on right\ndelimiters",
        [(RIGHT, PART, ALL, "word parts", "o"), (RIGHT, END, ALL, "word ends", "s")],
    ),
    (
        "on induction\npatterns",
        [
            (INDUCTION, INDUCTION, ALL, "induction, all pairs", "o"),
            (INDUCTION, INDUCTION, OTHER, "induction, other ids", "s"),
        ],
    ),
)
"""Title, and query, train, pairs, label and marker of every curve."""


def draw(measured: tuple[Measured, ...]) -> Figure:
    """One row for each run: bands are 95 % t intervals, crosses are chains that did not mix."""
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 1.9 * len(measured) + 0.3)
        axes = figure.subplots(len(measured), len(COLUMNS), squeeze=False, sharex="row")
        for row, run in zip(axes, measured, strict=True):
            for axis, (title, curves) in zip(row, COLUMNS, strict=True):
                for curve in curves:
                    _curve(axis, run, *curve)
                axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)
                if run is measured[0]:
                    axis.set_title(title, fontsize=8)
            steps_axis(row, np.array(run.steps))
            row[0].set_ylabel(f"{run.source.replace('`', '')}\ninfluence")
        lines = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
        named = [name for name in lines if not name.startswith("_")]
        figure.legend(
            [lines[name] for name in named],
            named,
            loc="outside upper center",
            ncols=len(named),
            **_style.LEGEND,
        )
        figure.supxlabel("training step", fontsize=8)
        _style.letters(axes[0])
    return figure


def _curve(
    axis: Axes, run: Measured, query: str, train: str, pairs: str, label: str, marker: str
) -> None:
    found = [run.influence(query, train, at, pairs) for at in range(len(run.steps))]
    # a class on itself has one colour, filled and open; others that of the train class
    color = color_of(train) if pairs == ALL else "0.35"
    value, low, high = (
        np.array([getattr(n, end) for n in found]) for end in ("value", "low", "high")
    )
    axis.fill_between(run.steps, low, high, color=color, alpha=0.2, linewidth=0)
    axis.plot(
        run.steps, value, color=color, marker=marker, markersize=3, linewidth=1.1, label=label
    )
    bad = np.isin(run.data["verdict"], ["not mixed", "diverged"])
    axis.plot(np.array(run.steps)[bad], value[bad], "x", color="black", markersize=5, zorder=5)


def write(out: Path) -> None:
    """Write the figure as a PNG for a page."""
    save(draw(runs()), out)


def save(figure: Figure, out: Path) -> None:
    """Write a figure in few colours."""
    with atomic_path(out) as path:
        figure.savefig(path, format="png", dpi=DPI)
        with Image.open(path) as image:
            small = image.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
        small.save(path, format="PNG", optimize=True)
