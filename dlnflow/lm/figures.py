"""Figures 5, 14 and 15 of the paper from a store, whatever model it was sampled around."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr
from matplotlib.figure import Figure

from dlnflow import traces as readers
from dlnflow.lm import experiment, induction
from dlnflow.lm.runs.checkpoints import Checkpoints, find
from dlnflow.plots import influence_plots, tokens

if TYPE_CHECKING:
    from dlnflow.traces.class_sums import ClassSums

NEIGHBOURS = 30
"""k of the recall; a thirtieth of the tokens where there are few."""


def draw(folder: str | Path, store: str | Path, out: str | Path) -> list[Path]:
    """Draw what a store can show: class influence and recall of text, or influence of repeats.

    Parameters
    ----------
    folder : path or str
        The checkpoints, or their name on the hub; read for the induction scores of repeats only.
    store : path
        Made by `experiment.sample`.
    out : path
        Folder for the files.

    Returns
    -------
    list of Path
        PNG, PDF and SVG of every figure.

    Raises
    ------
    ValueError
        If the store holds no finished sample.
    """
    traces, classes = experiment.read(folder, store)
    if tuple(classes["token_class"].values) == experiment.REPEATS:
        local = None if Path(folder).is_dir() else traces.time.values
        drawn = {"fig15_induction": of_repeats(traces, classes, find(folder, local))}
    else:
        drawn = of_text(traces, classes)
    return [
        file
        for name, figure in drawn.items()
        for file in influence_plots.save_figure(figure, Path(out) / name)
    ]


def of_text(traces: xr.DataArray | ClassSums, classes: xr.DataArray) -> dict[str, Figure]:
    """Draw figures 5 and 14, each also without pairs of one vocabulary id.

    Class sums give figure 5 alone, since neighbours are single tokens.

    Returns
    -------
    dict of str to Figure
        Figures by their names.
    """
    between = [readers.groups(traces, classes, exclude=e) for e in ("item", "token")]
    drawn = {"fig05_classes": tokens.class_influence(between[0], traces, between[1])}
    if isinstance(traces, xr.DataArray):
        k = max(1, min(NEIGHBOURS, traces.sizes["item"] // NEIGHBOURS))
        near = [readers.neighbours(traces, classes, k=k, exclude=e) for e in ("item", "token")]
        drawn["fig14_neighbours"] = tokens.recall(*near)
    return drawn


def of_repeats(
    traces: xr.DataArray | ClassSums, classes: xr.DataArray, ladder: Checkpoints
) -> Figure:
    """Draw figure 15; induction scores are measured on the observed sequences themselves.

    Returns
    -------
    Figure
        The figure; it is not saved.
    """
    exclude = experiment.left_out(classes)
    plain, fast = (
        readers.groups(traces, classes, exclude=exclude, differences=d) for d in (False, True)
    )
    scores = induction.measure(ladder, experiment.sequences(traces))
    return tokens.repeats(plain, fast, scores, rise(scores))


def rise(scores: xr.Dataset) -> tuple[float, float]:
    """Return the steps between which the score of the best head rises.

    Returns
    -------
    (float, float)
        As `dlnflow.lm.induction.rise`.
    """
    return induction.rise(scores.time, scores.induction.max(("layer", "head")))
