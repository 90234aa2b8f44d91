"""What section 4 and appendix D of the paper claim about language models, and what was measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from paper_figures._estimates import Estimate, difference, interval, together
from paper_figures._records import records
from paper_figures._verdicts import (
    Claim,
    Condition,
    Number,
    Row,
    above,
    around_zero,
    below,
    smallest,
)

LEFT, RIGHT = "left_delimiter", "right_delimiter"
PART, END, INDUCTION = "word_part", "word_end", "induction"
ALL, OTHER = "all pairs", "other ids"
"""Pairs that are averaged over."""
AGAIN, APART = ("repeated", "repeated"), "other sequences and ids"
LATE = 3
"""Checkpoints that are averaged for what is said of late training."""


@dataclass(frozen=True)
class Measured:
    """A file of `paper_figures.class_matrix`."""

    data: dict[str, Any]

    @property
    def source(self) -> str:
        """Model and seed."""
        return f"`{self.data['configuration']}`, seed {self.data['seed']}"

    @property
    def chains(self) -> str:
        """Number of chains."""
        return str(self.data["chains"])

    @property
    def steps(self) -> list[int]:
        """Checkpoints."""
        return self.data["steps"]

    def influence(self, query: str, train: str, at: int, pairs: str = ALL) -> Number:
        """Return the influence of a class on a class at a checkpoint, 95 % t interval."""
        return interval(self._estimate(query, train, at, pairs))

    def late(self, query: str, train: str, pairs: str = ALL) -> Number:
        """Return the mean over the last checkpoints, 95 % t interval."""
        return interval(self._late(query, train, pairs))

    def rather(self, query: str, train: str, than: str) -> Number:
        """Return late influence of one class minus that of another on the same."""
        return interval(difference(self._late(query, train, ALL), self._late(query, than, ALL)))

    def change(self, query: str, train: str) -> Number:
        """Return late influence minus that at the first checkpoint."""
        first = self._estimate(query, train, 0, ALL)
        return interval(difference(self._late(query, train, ALL), first))

    def between(self, query: str, train: str, pairs: str, steps: tuple[int, int]) -> Number:
        """Return influence at one checkpoint minus that at another."""
        a, b = (self._estimate(query, train, at, pairs) for at in steps)
        return interval(difference(a, b))

    def recall(self, name: str, at: int, pairs: str = ALL) -> Number:
        """Return recall of a class minus chance."""
        value, low, high, chance = self.data["recall"][pairs][name][at]
        return Number(value - chance, low - chance, high - chance)

    def _estimate(self, query: str, train: str, at: int, pairs: str) -> Estimate:
        return Estimate(*self._row(query, train, pairs)[at][:3])

    def _row(self, query: str, train: str, pairs: str) -> list[list[float]]:
        found = self.data["influence"][pairs]
        key = f"{query}, {train}"
        return found[key if key in found else f"{train}, {query}"]

    def _late(self, query: str, train: str, pairs: str) -> Estimate:
        """Average checkpoints: chains are independent of each other, sequences are the same."""
        rows = np.array(self._row(query, train, pairs)[-LATE:])
        value, error, _, chain = rows.T
        rest = np.sqrt(np.maximum(error**2 - chain**2, 0)).mean()
        parts = [*(chain / len(rows)), rest]
        dof = [*[self.data["chains"] - 1] * len(rows), self.data["sequences"] - 1]
        return Estimate(float(value.mean()), *together(parts, dof))


@cache
def runs() -> tuple[Measured, ...]:
    """Return what was measured on text, one file for each run."""
    return tuple(map(Measured, records("class_matrix")))


@cache
def repeats() -> tuple[Measured, ...]:
    """Return what was measured on repeated sequences, one file for each run."""
    return tuple(map(Measured, records("repeat_curves")))


def _claim(
    name: str,
    says: str,
    measured: str,
    condition: Condition,
    number: Callable[[Measured], Number],
    of: Callable[[], tuple[Measured, ...]] = runs,
) -> Claim:
    """Return a claim with one row for each run."""
    rows = [Row(run.source, run.chains, number(run)) for run in of()]
    if not rows:
        return _nothing(name, says, f"{measured} Not measured yet.")
    return Claim(name, says, measured, condition, rows)


def _of_settings(name: str, says: str, measured: str, condition: Condition) -> Claim:
    """Return a claim with two rows for each changed setting of each run."""
    rows = [
        Row(f"{Measured(run).source}, {setting}{about}", str(one["chains"]), _interval(found))
        for run in records("sampler_settings")
        for setting, one in run["settings"].items()
        for about, kind in (("", "influence"), (", changes", "changes"))
        if "agreement" in one
        for found in [one["agreement"][kind]]
    ]
    return Claim(name, says, measured, condition, rows)


def _interval(found: list[float]) -> Number:
    return interval(Estimate(*found[:3]))


def _nothing(name: str, says: str, why: str) -> Claim:
    return Claim(name, says, why, None, [])


def _strongest(run: Measured, query: str, train: str, pairs: str) -> int:
    """Return the checkpoint of the most helpful influence."""
    values = [run.influence(query, train, at, pairs).value for at in range(len(run.steps))]
    return int(np.argmin(values))


def _change(query: str, train: str) -> Callable[[Measured], Number]:
    return lambda run: run.change(query, train)


def _late(query: str, train: str) -> Callable[[Measured], Number]:
    return lambda run: run.late(query, train)


def _rather(query: str, train: str, than: str) -> Callable[[Measured], Number]:
    return lambda run: run.rather(query, train, than)


def _after_peak(run: Measured) -> Number:
    """Influence at the last checkpoint minus that at the most helpful one before."""
    most = _strongest(run, INDUCTION, INDUCTION, OTHER)
    return run.between(INDUCTION, INDUCTION, OTHER, (-1, most))


def _share(run: Measured, classes: tuple[str, str], steps: tuple[int, int]) -> Number:
    """Return a change of influence as a share of the rise of repeated on repeated, help is +."""
    rise = -run.between(*AGAIN, APART, (-1, 0)).value
    change = -run.between(*classes, APART, steps)
    return Number(*(end / rise for end in (change.value, change.low, change.high)))


def _least_recall(run: Measured, pairs: str) -> Number:
    found = [run.recall(name, -1, pairs) for name in run.data["recall"][pairs]]
    return min(found, key=lambda number: number.low)


def _gain(run: Measured) -> Number:
    """Mean recall over classes, last minus first checkpoint, errors added as independent."""
    names = list(run.data["recall"][ALL])
    parts = [run.recall(name, -1) - run.recall(name, 0) for name in names]
    ends = [
        (run.recall(name, at).high - run.recall(name, at).low) for name in names for at in (0, -1)
    ]
    half = float(np.sqrt(np.sum(np.square(ends)))) / 2 / len(names)
    value = sum(part.value for part in parts) / len(names)
    return Number(value, value - half, value + half)


FIRST = "at the first checkpoint"
SECTION_4 = [
    _claim(
        "4.1",
        "Influence between induction patterns forms and strengthens during training.",
        "Influence of induction patterns on induction patterns, last minus first checkpoint, pairs "
        "of equal ids included as in the paper.",
        below(0),
        lambda run: run.between(INDUCTION, INDUCTION, ALL, (-1, 0)),
    ),
    _claim(
        "4.2",
        "The same among tokens of other ids.",
        "The same without pairs of one id.",
        below(0),
        lambda run: run.between(INDUCTION, INDUCTION, OTHER, (-1, 0)),
    ),
    _nothing(
        "4.3",
        "In Pythia it begins at 1,000 steps and strengthens for 30,000.",
        "The public checkpoints need network; the models here are trained for 4,500 steps.",
    ),
    _claim(
        "4.4",
        "It peaks and falls.",
        "Influence of induction patterns on those of other ids at the last checkpoint minus the "
        "most helpful one; 0 if the last is the most helpful.",
        above(0),
        _after_peak,
    ),
    _claim(
        "4.5",
        "Left and right delimiters have high influence on each other very early in training.",
        f"Influence of right on left delimiters {FIRST}.",
        below(0),
        lambda run: run.influence(LEFT, RIGHT, 0),
    ),
    _claim(
        "4.6",
        "This inverts: later they have negative influence (they harm each other).",
        "The same late in training.",
        above(0),
        _late(LEFT, RIGHT),
    ),
    _claim(
        "4.7",
        "The influence of the opposite delimiter becomes progressively more negative.",
        "Influence of right on left delimiters, late minus first checkpoint.",
        above(0),
        _change(LEFT, RIGHT),
    ),
    _claim(
        "4.8",
        "Left delimiters share high influence with parts of words.",
        "Influence of word parts on left delimiters late in training.",
        below(0),
        _late(LEFT, PART),
    ),
    _claim(
        "4.9",
        "But not with ends of words.",
        "Influence on left delimiters of word parts minus that of word ends, late in training.",
        below(0),
        _rather(LEFT, PART, END),
    ),
    _claim(
        "4.10",
        "Right delimiters share uplifted influence with ends of words.",
        "Influence of word ends on right delimiters late in training.",
        below(0),
        _late(RIGHT, END),
    ),
    _claim(
        "4.11",
        "But not with word parts.",
        "Influence on right delimiters of word ends minus that of word parts, late in training.",
        below(0),
        _rather(RIGHT, END, PART),
    ),
    _claim(
        "4.12",
        "The relation of left delimiters and word parts develops over time.",
        "Influence of word parts on left delimiters, late minus first checkpoint.",
        below(0),
        _change(LEFT, PART),
    ),
    _claim(
        "4.13",
        "The relation of right delimiters and word ends develops over time.",
        "Influence of word ends on right delimiters, late minus first checkpoint.",
        below(0),
        _change(RIGHT, END),
    ),
    _nothing(
        "4.14",
        "Word parts and left delimiters have a spike late in training.",
        "It lies beyond the 4,500 steps of the models here.",
    ),
    _claim(
        "4.15",
        "The relation of left and right delimiters undergoes a sign flip.",
        "The smaller of minus their influence at the first checkpoint and their influence late in "
        "training; positive if help turned into harm.",
        above(0),
        lambda run: smallest([-run.influence(LEFT, RIGHT, 0), run.late(LEFT, RIGHT)]),
    ),
]
SECTION_D = [
    _claim(
        "D.1",
        "Nearest neighbours tell every class better than chance at the end of training.",
        "Recall minus chance of the class that is told worst, 30 neighbours; intervals count "
        "tokens as independent.",
        above(0),
        lambda run: _least_recall(run, ALL),
    ),
    _claim(
        "D.2",
        "The same among tokens of other ids.",
        "The same with neighbours of other ids.",
        above(0),
        lambda run: _least_recall(run, OTHER),
    ),
    _claim(
        "D.3",
        "Recall improves during training.",
        "Mean recall over the classes, last minus first checkpoint.",
        above(0),
        _gain,
    ),
    _of_settings(
        "D.4",
        "The dynamics do not vary much with the settings of the sampler.",
        "The correlation of influence between classes at two settings, over pairs of classes and "
        "checkpoints (200, 1,200 and 4,500), and of what is left of it without the mean of each "
        "pair over checkpoints (changes). One setting differs from the usual ones, and so do the "
        "random numbers; the noise of chains is averaged out, so that values above 1 are possible. "
        "Chains have 40 draws, too few to mix at 7 of the 12 checkpoints; errors are those among "
        "chains. Not much is taken as a correlation above 0.9.",
        above(0.9),
    ),
    _nothing(
        "D.5",
        "The public checkpoints of Pythia suggest a signal of learning induction.",
        "They need network, and steps denser than there are.",
    ),
    _claim(
        "D.6",
        "Influence between repeated tokens of different sequences rises when induction is learned.",
        "Influence of repeated on repeated tokens, last minus first checkpoint. Pairs of one "
        "sequence or one id are left out here and below.",
        below(0),
        lambda run: run.between(*AGAIN, APART, (-1, 0)),
        repeats,
    ),
    _claim(
        "D.7",
        "The rise ends in a peak, after which influence is stable.",
        "The change from the checkpoint before the last to the last one, as a share of the whole "
        "rise. Stable is taken as less than a fifth either way.",
        around_zero(0.2),
        lambda run: _share(run, AGAIN, (-1, -2)),
        repeats,
    ),
    _claim(
        "D.8",
        "Influence between tokens that are not repeated shows no such change.",
        "Its change from the first to the last checkpoint, as a share of the rise of repeated "
        "tokens. No such change is taken as less than half of it either way.",
        around_zero(0.5),
        lambda run: _share(run, ("other", "other"), (-1, 0)),
        repeats,
    ),
    _claim(
        "D.9",
        "Nor does influence across repeated and other tokens.",
        "The same of tokens that are not repeated on repeated ones.",
        around_zero(0.5),
        lambda run: _share(run, ("other", "repeated"), (-1, 0)),
        repeats,
    ),
    _claim(
        "D.10",
        "The induction score begins to rise before influence does.",
        "Steps from the quarter-rise of the score of the best layer to that of influence; the "
        "interval is that of curves drawn from its errors.",
        above(0),
        lambda run: Number(*run.data["lag"]),
        repeats,
    ),
]
