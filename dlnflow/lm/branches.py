"""A run and its branches: the same run, but that rows have other weights from some step on.

A branch starts from a copy of the run's state (weights, optimiser, losses) at the last checkpoint
before its weights differ, and has the bits of a run from step 0. The induction score is measured on
the way, at more steps than there are checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow import checks, lm
from dlnflow._support.files import write_atomic, write_json
from dlnflow.lm.runs.folder import read_record

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

    from dlnflow.lm.runs.model import RunSettings
    from dlnflow.lm.runs.train import Data, Weigh

SCORES, WEIGHTS = "scores.json", "window.json"
"""Measured scores, and what describes the weights of rows, in the folder of a run."""


@dataclass(frozen=True)
class Crossing:
    """What counts as the transition, how finely it is located, and when a branch may end.

    Attributes
    ----------
    threshold : float
        Induction score, summed over the heads of the best layer.
    every : int
        Steps from one measurement to the next; the score is taken as linear in between.
    beyond : int
        Steps that a branch is trained and measured after it has crossed the threshold.
    """

    threshold: float = 0.3
    every: int = 20
    beyond: int = 100

    def __post_init__(self) -> None:
        checks.real_number("threshold", self.threshold)
        checks.positive_integer("every", self.every)
        checks.whole_number("beyond", self.beyond)

    def step(self, scores: xr.DataArray) -> float:
        """Return the step at which scores (time) first reach the threshold; NaN if never.

        Parameters
        ----------
        scores : DataArray, dim time
            NaN where they were not measured.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `scores` are something else, or their times do not increase.
        """
        if getattr(scores, "dims", None) != ("time",) or "time" not in scores.coords:
            got = getattr(scores, "dims", type(scores).__name__)
            raise ValueError(f"`scores` must be a DataArray over time with its steps, got {got}.")
        measured = scores.dropna("time")
        return lm.induction.crossing(measured.time, measured, self.threshold)


@dataclass(frozen=True)
class Branching:
    """What runs that are compared have in common.

    Attributes
    ----------
    settings : RunSettings
        Of the run; its checkpoints are where a branch can start.
    data : Data
        Ids to train on.
    probe : (n, 2 p) int array
        Sequences on which the induction score is measured.
    transition : Crossing
        How finely, and when a branch ends.
    """

    settings: RunSettings
    data: Data
    probe: NDArray[np.int64]
    transition: Crossing

    def trunk(self, folder: Path) -> xr.DataArray:
        """Train the run to its end, or go on with it, and keep its state at every checkpoint.

        Returns
        -------
        DataArray, dim time
            Induction score of the best layer at the measured steps.
        """
        scores = _Scores(folder, self)

        def watch(step: int, model: GPTNeoXForCausalLM) -> bool:
            scores.measure(step, model)
            if step % self.settings.every == 0 and (folder / "resume.pt").exists():
                _copy(folder / "resume.pt", _state(folder, step))
            return False

        lm.train.train(self.settings, folder, data=self.data, watch=watch)
        return scores.array()

    def branch(self, folder: Path, weigh: Weigh, trunk: Path, start: int) -> xr.DataArray:
        """Train with other weights of rows until `transition.beyond` steps after the crossing.

        Parameters
        ----------
        folder : path
            Of the branch.
        weigh : callable
            Weights of rows, 1 before step `start`.
        trunk : path
            Folder of the run, trained at least to `start` or the end of the branch.
        start : int
            Step from which on weights may differ.

        Returns
        -------
        DataArray, dim time
            As of `trunk`; before the branch starts the scores are those of the run. Nothing is
            trained, or written, if the run has crossed or ended by then.
        """
        scores = _Scores(folder, self)
        if not (folder / "resume.pt").exists():
            known = sorted(int(p.stem.split("-")[1]) for p in trunk.glob("state-*.pt"))
            kept = [step for step in known if step <= start]
            if kept:  # else from step 0, which takes longer and gives the same
                scores.take_over(_Scores(trunk, self), kept[-1])
                if not scores.over():
                    _copy(_state(trunk, kept[-1]), folder / "resume.pt")
        if scores.over():
            return scores.array()

        def watch(step: int, model: GPTNeoXForCausalLM) -> bool:
            scores.measure(step, model)
            return scores.over()

        lm.train.train(self.settings, folder, data=self.data, weigh=weigh, watch=watch)
        return scores.array()


class _Scores:
    """Measured induction scores of a run, in a file that always has all of them."""

    def __init__(self, folder: Path, runs: Branching) -> None:
        self.path, self.runs = folder / SCORES, runs
        found = read_record(self.path, ("every", "steps", "scores"), remedy=f"Delete {folder}.")
        if len(found["steps"]) != len(found["scores"]):
            raise ValueError(f"{self.path} is damaged (not one score per step). Delete {folder}.")
        self.known: dict[int, float] = dict(zip(found["steps"], found["scores"], strict=True))

    def measure(self, step: int, model: GPTNeoXForCausalLM) -> None:
        """Measure a step if it is one of those that are measured."""
        wanted = step % self.runs.transition.every == 0 or step == self.runs.settings.n_steps
        if not wanted or step in self.known:
            return
        found = lm.induction.scores(model, self.runs.probe).induction
        self.known[step] = float(found.sum("head", skipna=False).max("layer"))
        self._write()

    def take_over(self, others: _Scores, last: int) -> None:
        """Begin with the scores of another run up to a step."""
        self.known = {step: score for step, score in others.known.items() if step <= last}
        self._write()

    def over(self) -> bool:
        """Return whether the run has ended, or crossed the threshold so many steps ago."""
        crossed, last = self.runs.transition.step(self.array()), max(self.known, default=0)
        ended = last >= self.runs.settings.n_steps
        return ended or last >= crossed + self.runs.transition.beyond

    def array(self) -> xr.DataArray:
        """Return the scores up to the end of the run, dim time."""
        steps = sorted(step for step in self.known if step <= self.runs.settings.n_steps)
        values = [self.known[step] for step in steps]
        return xr.DataArray(np.array(values, float), {"time": np.array(steps, int)}, ("time",))

    def _write(self) -> None:
        steps = sorted(self.known)
        record = {"every": self.runs.transition.every, "steps": steps}
        write_json(self.path, record | {"scores": [self.known[step] for step in steps]})


def claim(folder: Path, weights: Mapping[str, Any] | None, every: int) -> None:
    """Write down what describes a run, or check that it is the one there.

    Parameters
    ----------
    folder : path
        Of the run.
    weights : mapping, optional
        What the weights of its rows follow from, as JSON; None: all are 1.
    every : int
        Steps from one measurement to the next.

    Raises
    ------
    ValueError
        If it holds another run, or one of an earlier version, which did not measure on the way.
    """
    if (folder / "settings.json").exists():  # else it never began
        _check(folder, dict(weights) if weights else None, every)
        return
    write_json(folder / WEIGHTS, weights)
    write_json(folder / SCORES, {"every": every, "steps": [], "scores": []})


def _check(folder: Path, weights: dict[str, Any] | None, every: int) -> None:
    if not (folder / SCORES).exists():
        raise ValueError(
            f"`out` {folder} holds a run that was not measured on the way (no {SCORES}), as those "
            "of earlier versions. Use another folder."
        )
    remedy = f"Delete {folder}."
    there = read_record(folder / SCORES, ("every",), remedy=remedy)["every"]
    if there != every:
        raise ValueError(
            f"`out` {folder} holds a run that was measured every {there} steps; `transition` asks "
            f"for every {every}. Use another folder."
        )
    if not (folder / WEIGHTS).exists():
        raise ValueError(f"`out` {folder} is damaged (no {WEIGHTS}). {remedy}")
    plain = (folder / WEIGHTS).read_text().strip() == "null"
    theirs = None if plain else read_record(folder / WEIGHTS, remedy=remedy)
    if theirs != weights:
        raise ValueError(
            f"`out` {folder} holds a run with another window ({theirs}). Use another folder."
        )


def _state(folder: Path, step: int) -> Path:
    return folder / f"state-{step}.pt"


def _copy(source: Path, to: Path) -> None:
    write_atomic(to, lambda path: shutil.copyfile(source, path))
