"""Figure 13: a text with its tokens' structural classes marked."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnflow.lm.data.token_classes import CLASSES, Vocabulary, classify
from dlnflow.lm.runs.train import load_data
from dlnflow.plots import influence_plots, tokens
from paper_figures import _lm_data, _style
from paper_figures._data import Scale

TEXT = (
    'def unbelievable(items, names):\n    """Return the items, whose names are known."""\n'
    "    names = [name.strip() for name in names]\n    return {n: items[n] for n in names}\n\n"
    "class Transformer(Module):\n    def forward(self, inputs):\n"
    "        return self.attention(inputs)\n"
)
COLUMNS = 60
"""Characters in a line of the figure."""
SHADES = dict(zip(CLASSES, tokens.CLASS_COLORS.values(), strict=True))
OPACITY = 0.45
HEADLINES = {"tokens": "{:.0f} tokens", "classified": "{:.0f} of them in a class"}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Draw one text with the tokenizer of the run."""
    _lm_data.ladder(scale)
    tokenizer = load_data(_lm_data.folder(scale)).tokenizer
    return show(tokenizer, TEXT)


def show(tokenizer, text: str) -> tuple[Figure, dict[str, float]]:
    """Draw a text: one box per token, one coloured stripe under it per class."""
    vocabulary = Vocabulary(tokenizer)
    ids = tokenizer.encode(text).ids
    found = classify([ids], vocabulary).values[0]
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 3.1)
        axis = figure.subplots()
        x = y = 0
        for i, member in zip(ids, found, strict=True):
            word = (vocabulary.pieces[i] or b"").decode("utf-8", "replace")
            shown = word.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
            if x + len(shown) > COLUMNS:
                x, y = 0, y + 1
            _token(axis, x, y, shown, np.array(CLASSES)[member])
            x, y = (0, y + 1) if "\n" in word else (x + len(shown), y)
        axis.set(xlim=(-0.5, COLUMNS + 0.5), ylim=(max(y, 1) - 0.4, -0.5))
        axis.set_axis_off()
        shades = [
            mpl.patches.Patch(
                facecolor=(color, OPACITY), edgecolor="black", label=name.replace("_", " ")
            )
            for name, color in SHADES.items()
        ]
        axis.legend(
            handles=shades, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=6, **_style.LEGEND
        )
    counts = {name: float(n) for name, n in zip(CLASSES, found.sum(0), strict=True)}
    return figure, counts | {"tokens": float(len(ids)), "classified": float(found.any(1).sum())}


def _token(axis: Axes, x: int, y: int, shown: str, names: np.ndarray) -> None:
    """Draw one token; bold edge if it has a class."""
    edge = "black" if len(names) else "0.85"
    axis.add_patch(
        mpl.patches.Rectangle(
            (x + 0.06, y - 0.36),
            len(shown) - 0.12,
            0.72,
            facecolor="white",
            edgecolor=edge,
            linewidth=1.0 if len(names) else 0.5,
        )
    )
    for k, name in enumerate(names):
        width = (len(shown) - 0.12) / len(names)
        axis.add_patch(
            mpl.patches.Rectangle(
                (x + 0.06 + k * width, y - 0.36),
                width,
                0.72,
                facecolor=SHADES[str(name)],
                alpha=OPACITY,
                linewidth=0,
            )
        )
    for k, character in enumerate(shown):
        axis.text(
            x + k + 0.5, y, character, family="monospace", fontsize=6, ha="center", va="center"
        )
