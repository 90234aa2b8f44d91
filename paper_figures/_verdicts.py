"""Numbers with intervals, and what they say about a claim.

shown               the whole interval fulfils the condition
contradicted        the whole interval fails it
not shown           the interval has both
not testable here   there is no number
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from paper_figures._claims import EXPECTED

SHOWN, NOT_SHOWN, CONTRADICTED, NOT_TESTABLE = (
    "shown",
    "not shown",
    "contradicted",
    "not testable here",
)


@dataclass(frozen=True)
class Number:
    """A measured value and the ends of its interval."""

    value: float
    low: float
    high: float

    def __sub__(self, other: Number) -> Number:
        """Return the difference; ends as if both could be at their worst at once."""
        return Number(self.value - other.value, self.low - other.high, self.high - other.low)

    def __add__(self, other: Number) -> Number:
        """Return the sum, with ends like those of a difference."""
        return self - (-other)

    def __neg__(self) -> Number:
        return Number(-self.value, -self.high, -self.low)

    def __abs__(self) -> Number:
        if self.low >= 0:
            return self
        if self.high <= 0:
            return -self
        return Number(abs(self.value), 0.0, max(-self.low, self.high))

    def __str__(self) -> str:
        """Return value and interval with three significant digits."""
        if math.isinf(self.high):
            return f"at least {self.low:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def smallest(numbers: Iterable[Number]) -> Number:
    """Return the smallest of several numbers, each anywhere in its interval."""
    numbers = list(numbers)
    return Number(*(min(getattr(n, end) for n in numbers) for end in ("value", "low", "high")))


def total(numbers: Iterable[Number]) -> Number:
    """Return the sum of several numbers."""
    first, *others = numbers
    for other in others:
        first = first + other
    return first


@dataclass(frozen=True)
class Condition:
    """What a number must fulfil: low < number < high."""

    low: float = -math.inf
    high: float = math.inf

    def verdict(self, number: Number | None) -> str:
        """Judge a number."""
        if number is None:
            return NOT_TESTABLE
        fits = number.high < self.high or math.isinf(self.high)
        if fits and (self.low < number.low or math.isinf(self.low)):
            return SHOWN
        if number.high < self.low or self.high < number.low:
            return CONTRADICTED
        return NOT_SHOWN

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"> {self.low:g}"
        if math.isinf(self.low):
            return f"< {self.high:g}"
        return f"{self.low:g} to {self.high:g}"


def above(bound: float) -> Condition:
    """Return: the number is larger."""
    return Condition(low=bound)


def below(bound: float) -> Condition:
    """Return: the number is smaller."""
    return Condition(high=bound)


def around_zero(bound: float) -> Condition:
    """Return: the number is at most `bound` away from 0."""
    return Condition(-bound, bound)


@cache
def _expected(figure: str) -> Mapping[str, Any]:
    return json.loads((EXPECTED / f"{figure}.json").read_text())


def of_figure(figure: str, name: str) -> Number:
    """Return a number of ``expected/FIGURE.json``; its interval is the tolerance of the test."""
    bound = _expected(figure)[name]
    if "at_least" in bound:
        return Number(bound["at_least"], bound["at_least"], math.inf)
    return Number(
        bound["value"], bound["value"] - bound["within"], bound["value"] + bound["within"]
    )


@dataclass(frozen=True)
class Row:
    """One measurement for a claim: of which model and seed, with how many chains."""

    source: str
    chains: str
    number: Number | None


@dataclass(frozen=True)
class Claim:
    """What the paper says, what was measured, and what the number must fulfil.

    Attributes
    ----------
    name : str
        Section and number.
    says, measured : str
        Sentences.
    condition : Condition or None
        None: not testable here.
    rows : sequence of Row
        None of them: not testable here, and `measured` says why.
    """

    name: str
    says: str
    measured: str
    condition: Condition | None
    rows: Sequence[Row]

    def verdicts(self) -> dict[str, str]:
        """Return the verdict of every row by its source, of none by the empty word."""
        if self.condition is None or not self.rows:
            return {"": NOT_TESTABLE}
        return {row.source: self.condition.verdict(row.number) for row in self.rows}
