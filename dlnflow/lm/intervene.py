"""Does stagewise influence say *when* to act? Up-weight induction patterns in a window of training.

Runs differ in the window alone: same data order, same seed, same rows up-weighted by the same
factor. If the influence curve marks the stage in which the circuit forms, a window before or
during its rise should bring the transition forward, and one after it should change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks
from dlnflow._support.files import write_json
from dlnflow.lm import induction
from dlnflow.lm.data.spelling import special_ids
from dlnflow.lm.data.token_classes import repeated_pairs
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.folder import check_inputs, read_record
from dlnflow.lm.runs.model import RunSettings
from dlnflow.lm.runs.train import Data, prepare, train

SHARE = 0.25
"""Rows of a batch that are up-weighted: those with most induction patterns."""
RISE = (0.1, 0.5)
"""Shares of the largest influence between which a curve counts as rising: influence goes on growing
long after a circuit has formed, so nine tenths of it would mark a much later time."""


@dataclass(frozen=True)
class Window:
    """Up-weighting of induction-pattern rows at steps start <= step < stop.

    Attributes
    ----------
    start, stop : int
        Optimiser steps.
    factor : float
        Weight of the rows in the window; 1 outside and for all other rows.
    special : tuple of int, optional
        Ids of special tokens, which make no pattern; `intervene` takes them from the tokenizer.
    """

    start: int
    stop: int
    factor: float = 4.0
    special: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        checks.positive("factor", self.factor)
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"`start` and `stop` must satisfy 0 <= start < stop, got "
                f"{self.start} and {self.stop}."
            )

    def __call__(self, step: int, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the weights of the rows of a step."""
        weights = np.ones(len(rows), np.float32)
        if self.start <= step < self.stop:
            weights[pattern_rows(rows, self.special or ())] = self.factor
        return weights


def pattern_rows(rows: NDArray[np.int32], special: Sequence[int] = ()) -> NDArray[np.intp]:
    """Return the quarter of the rows with the largest share of induction patterns."""
    ids = np.arange(int(rows.max()) + 1)
    share = repeated_pairs(rows.astype(np.int64), np.isin(ids, special)).mean(1)
    count = max(1, round(SHARE * len(rows)))
    return np.argsort(-share, kind="stable")[:count]


def windows(steps: ArrayLike, influence: ArrayLike, *, factor: float = 4.0) -> dict[str, Window]:
    """Choose windows before, during and after the rise of a measured influence curve.

    During: from 10 % to 50 % of the largest helpful influence (linear between checkpoints);
    before and after: the adjacent windows of the same length, cut at step 0.

    Parameters
    ----------
    steps : (T,) int array
        Checkpoints.
    influence : (T,) array
        Negative = helps, for example of repeated tokens on repeated tokens.
    factor : float
        Weight in the window.

    Returns
    -------
    dict of str to Window
        Keys before, during, after.

    Raises
    ------
    ValueError
        If the influence never is helpful, or its rise starts at the first checkpoint.
    """
    curve = -np.asarray(influence, float)
    if not np.nanmax(curve) > 0:
        raise ValueError("`influence` is nowhere negative: there is no rise to choose windows by.")
    low, high = (induction.crossing(steps, curve, r * np.nanmax(curve)) for r in RISE)
    start, stop = round(low), max(round(high), round(low) + 1)
    length = stop - start
    if start == 0:
        raise ValueError("`influence` rises before the first checkpoint; add earlier ones.")
    return {
        "before": Window(max(0, start - length), start, factor),
        "during": Window(start, stop, factor),
        "after": Window(stop, stop + length, factor),
    }


def intervene(
    settings: RunSettings,
    out: str | Path,
    choices: Mapping[str, Window],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    threshold: float = 0.3,
    data: Data | None = None,
    executor: Executor | None = None,
    progress: Callable[[str], None] | None = None,
) -> xr.Dataset:
    """Retrain with every window and without one, for several seeds; resumable.

    Seeds differ in when they make the transition. To give each its own windows, call this once
    per seed with the same `out` and join the results with `xarray.concat(..., "seed")`.

    Parameters
    ----------
    settings : RunSettings
        The run; its seed is replaced.
    out : path
        Folder for all runs: ``<window>-seed<k>/``.
    choices : mapping of str to Window
        From `windows`, or chosen by hand.
    seeds : sequence of int
        Seeds of the weights and the data order.
    threshold : float
        Induction score, summed over the heads of the best layer, that counts as the transition.
    data : Data, optional
        Prepared ids; by default prepared once in `out`.
    executor : concurrent.futures.Executor, optional
        Where runs are trained; by default here, one after another.
    progress : callable, optional
        Called with the name of every run when it is finished.

    Returns
    -------
    Dataset
        `score` (window, seed, time); `crossing` (window, seed), the step at which it passes the
        threshold, NaN if it does not; `shift` (window, seed), crossing minus that of the run
        without a window ("never") and the same seed: negative = earlier.

    Raises
    ------
    ValueError
        If a run in `out` was made with another window, corpus or tokenizer.
    """
    out = Path(out)
    data = data or prepare(settings, out / "data")
    check_inputs(out, data.training, data.tokenizer)
    period = min(induction.PERIOD, settings.context // 2)  # the model takes all of u u
    special = special_ids(data.tokenizer)
    probe = induction.repeated_sequences(
        data.training.counts, period=period, disjoint=False, special=special
    )
    plans: dict[str, Window | None] = {"never": None} | {
        name: replace(w, special=special) if w.special is None else w for name, w in choices.items()
    }
    runs = {}
    for name, window in plans.items():
        for seed in seeds:
            folder = out / f"{name}-seed{seed}"
            _claim(folder, window)
            work = (replace(settings, seed=seed), folder, data, window, probe)
            runs[folder.name] = executor.submit(_scores, *work) if executor else work
    parts = []
    for name, run in runs.items():
        parts.append(run.result() if isinstance(run, Future) else _scores(*run))
        if progress is not None:
            progress(name)
    steps = parts[0].time.values
    score = np.stack(parts).reshape(len(plans), len(seeds), -1)
    crossing = np.array([[induction.crossing(steps, s, threshold) for s in row] for row in score])
    pair, coords = ("window", "seed"), {"window": list(plans), "seed": list(seeds), "time": steps}
    return xr.Dataset(
        {
            "score": ((*pair, "time"), score),
            "crossing": (pair, crossing),
            "shift": (pair, crossing - crossing[:1]),
        },
        coords=coords,
        attrs={"threshold": threshold},
    )


def _scores(
    settings: RunSettings, folder: Path, data: Data, window: Window | None, probe: NDArray[np.int64]
) -> xr.DataArray:
    """Train one run, or go on with it, and measure it at every checkpoint."""
    train(settings, folder, data=data, weigh=window)
    # the folder may hold a longer run
    ladder = Checkpoints.from_directory(folder, settings.checkpoint_steps())
    return induction.measure(ladder, probe).layer_induction.max("layer")


def _claim(folder: Path, window: Window | None) -> None:
    """Write down the window of a run, or check that it is the one there."""
    mine = {} if window is None else vars(window) | {"special": list(window.special or ())}
    path = folder / "window.json"
    if path.exists() and (folder / "settings.json").exists():  # else it never began
        none = path.read_text().strip() == "null"
        theirs = {} if none else read_record(path, remedy=f"Delete {folder}.")
        if "n_special" in theirs:  # written by an earlier version
            theirs["special"] = list(range(theirs.pop("n_special")))
        if theirs != mine:
            raise ValueError(
                f"`out` {folder} holds a run with another window ({theirs or None}). "
                "Use another folder."
            )
    write_json(path, mine or None)
