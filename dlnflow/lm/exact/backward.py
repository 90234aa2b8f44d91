"""Backward through a language model's training, and branches of it with other row weights.

The counterparts of `dlnflow.dynamics.torch_sweeps` for `dlnflow.dynamics.adjoint` and
`dlnflow.dynamics.windows`; items are rows, numbered step by step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlnflow._support import FloatArray, IntArray
from dlnflow.lm.exact.derivatives import Moved, Query, StepDerivatives

if TYPE_CHECKING:
    from dlnflow.lm.exact.points import Point
    from dlnflow.lm.exact.taken_steps import Replay

PARTS = ("weights", "mean", "square")
"""What the derivatives of a sweep are by."""


@dataclass(frozen=True, eq=False)
class RunMoment:
    """One step of the run; ``after`` is the point that it led to."""

    before: Point
    after: Point

    @property
    def step(self) -> int:
        """Number of the step."""
        return self.before.step


class RunAdjoint:
    """Derivatives of measurements with respect to weights and moments after a step.

    Rows are (measurement, query), flattened.
    """

    def __init__(
        self, derivatives: StepDerivatives, replay: Replay, queries: Sequence[Query]
    ) -> None:
        self._derivatives, self._replay, self._queries = derivatives, replay, list(queries)
        self._z = derivatives.none(0)

    def state(self) -> dict[str, NDArray]:
        """Return the derivatives as arrays, for `restore`."""
        return {name: part.cpu().numpy() for name, part in zip(PARTS, self._z.parts(), strict=True)}

    def restore(self, parts: list[NDArray]) -> None:
        """Take the derivatives of an earlier `state`."""
        like = self._z.weights
        self._z = Moved(*(torch.as_tensor(part, device=like.device).to(like) for part in parts))

    def open(self) -> None:
        """Start one more measurement, at the end."""
        self._z = self._z.join(self._derivatives.none(len(self._queries)))

    def close(self, positions: list[int]) -> None:
        """Drop measurements."""
        kept = np.ones((len(self._z.weights) // len(self._queries), len(self._queries)), bool)
        kept[positions] = False
        chosen = torch.as_tensor(np.flatnonzero(kept), device=self._z.weights.device)
        self._z = Moved(*(part[chosen] for part in self._z.parts()))

    def add(self, point: Point, scale: FloatArray) -> None:
        """Add scale[m] times the gradient of every query at a point to measurement m."""
        gradients = torch.stack(
            [self._derivatives.query(query, point.weights)[1] for query in self._queries]
        )
        factor = torch.as_tensor(scale).to(gradients)[:, None, None]
        weights = self._z.weights + (factor * gradients).flatten(0, 1)
        self._z = Moved(weights, self._z.mean, self._z.square)

    def back(self, moment: RunMoment) -> FloatArray:
        """Go back one step; return the effects of its rows, shape (rows of z, n)."""
        rows = self._replay.rows(moment.step)
        effects, self._z = self._derivatives.back(moment.before, rows, self._z)
        return effects.detach().cpu().double().numpy()


class AmongAll:
    """A sweep whose effects stand among those of all rows of the run, 0 elsewhere: (., N)."""

    def __init__(self, sweep: RunAdjoint, n_items: int) -> None:
        self._sweep, self._n_items = sweep, n_items
        self.open, self.close, self.add = sweep.open, sweep.close, sweep.add

    def back(self, moment: RunMoment) -> FloatArray:
        """Go back one step; return the effects of all rows."""
        found = self._sweep.back(moment)
        effects = np.zeros((len(found), self._n_items))
        effects[:, rows_of(moment.step, found.shape[1])] = found
        return effects


class Branches:
    """The run (first) and its open branches, trained one after another; for `windows.follow`."""

    def __init__(
        self,
        replay: Replay,
        derivatives: StepDerivatives,
        queries: Sequence[Query],
        item_weights: FloatArray,
    ) -> None:
        self._replay, self._derivatives, self._queries = replay, derivatives, list(queries)
        self._changed, self._points = item_weights, [replay.start()]
        self._weights: list[FloatArray | None] = [None]
        self.open: list[int] = []

    def propagate(self, step: int) -> int:
        """Return the step; models are evaluated when something is asked of them."""
        return step

    def loss_differences(self, step: int, query: IntArray) -> FloatArray:
        """Queries of the run minus those of the branches, shape (open, I, n_query)."""
        chosen = [self._queries[q] for q in query]
        found = np.array([self._derivatives.values(chosen, p.weights) for p in self._points])
        return (found[0] - found[1:]).reshape(len(self.open), len(self._changed), -1)

    def step(self, step: int) -> None:
        """One step of all."""
        pairs = zip(self._points, self._weights, strict=True)
        self._points = [stepped(self._replay, point, weights) for point, weights in pairs]

    def add(self, window: int) -> None:
        """Branch off the run, once for every change of row weights."""
        self._points += [self._points[0]] * len(self._changed)
        self._weights += list(self._changed)
        self.open.append(int(window))

    def drop(self, window: int) -> None:
        """Remove the branches of a window."""
        del self._points[self._of(window)], self._weights[self._of(window)]
        self.open.remove(window)

    def restore(self, window: int) -> None:
        """Give the rows of a window's branches their weight 1 back."""
        self._weights[self._of(window)] = [None] * len(self._changed)

    def _of(self, window: int) -> slice:
        count = len(self._changed)
        first = 1 + count * self.open.index(window)
        return slice(first, first + count)


def rows_of(step: int, count: int) -> slice:
    """Positions of the rows of a step among all rows of a run."""
    return slice(step * count, (step + 1) * count)


def moments(replay: Replay, stop: int, seen) -> Iterator[RunMoment]:
    """Yield the steps stop - 1, ..., 0; `seen` is called with the points on the way forward."""
    for before, after in replay.backward(stop, seen):
        yield RunMoment(before, after)


def stepped(replay: Replay, point: Point, weights: FloatArray | None) -> Point:
    """Take one step from a point, with weights (N,) of all rows of the run, or all 1."""
    return next(replay.points(point, point.step + 1, row_weights(weights, replay)))


def row_weights(weights: FloatArray | None, replay: Replay):
    """Return the weights of a step's rows as a function of the step."""
    if weights is None:
        return None
    count = replay.settings.rows * replay.settings.accumulate

    def weigh(step: int) -> FloatArray:
        return np.ascontiguousarray(weights[rows_of(step, count)])

    return weigh


def directions_at(directions: FloatArray, step: int, like: Tensor, count: int) -> Tensor:
    """Change of the weights of a step's rows along every direction (K, N), shape (K, n)."""
    return torch.as_tensor(directions[:, rows_of(step, count)]).to(like)
