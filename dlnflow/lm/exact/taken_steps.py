"""The steps of a language model's training run, taken again as they were taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlnflow._support.progress import Progress
from dlnflow.lm.exact.points import Point, split
from dlnflow.lm.runs.progression import Progression, learning_rate
from dlnflow.lm.runs.train import batch

if TYPE_CHECKING:
    from dlnflow.lm.data.tokenizer import Tokens
    from dlnflow.lm.runs.model import RunSettings

Weigh = Callable[[int], NDArray[np.floating]]
"""Step -> weights of its rows."""


class Replay:
    """Training steps by the code that trained, from any point of the run.

    Parameters
    ----------
    settings : RunSettings
    tokens : Tokens
        Training ids.
    double : bool
        Take the steps in double precision, which is another run than the trained one: the same
        rows and rates without its rounding.
    device : str
    """

    def __init__(
        self, settings: RunSettings, tokens: Tokens, *, double: bool = False, device: str = "cpu"
    ) -> None:
        self.settings, self.tokens = settings, tokens
        # fused attention may have no second derivative and plain attention rounds to single
        # precision: in double precision the run is that of the sums written out
        self._attention = partial(sdpa_kernel, SDPBackend.MATH) if double else nullcontext
        self._progression = Progression(settings, None, device, double=double)
        if double:
            self._progression.model.set_attn_implementation("sdpa")
        self._parameters = list(self._progression.model.parameters())
        weights = torch.nn.utils.parameters_to_vector(self._parameters).detach()
        self._here: Point | None = None
        self._start = Point(0, weights, torch.zeros_like(weights), torch.zeros_like(weights))

    def start(self) -> Point:
        """Return the point before the first step."""
        return self._start

    def rows(self, step: int) -> NDArray[np.int32]:
        """Return the rows of a step, (n, context + 1)."""
        return batch(self.settings, self.tokens, step)

    def points(
        self,
        start: Point,
        stop: int,
        weigh: Weigh | None = None,
    ) -> Iterator[Point]:
        """Yield the points after every step from `start` on, up to step `stop`.

        `weigh` gives the weights of the rows of a step; 1 by default.

        Raises
        ------
        FloatingPointError
            If a loss is not finite.
        """
        point = start
        for step in range(start.step, stop):
            if self._here is not point:  # at first, or after somebody else's steps
                self._go_to(point)
            rows = self.rows(step)
            weights = np.ones(len(rows), np.float32) if weigh is None else weigh(step)
            with self._attention():
                self._progression.advance(rows, weights, learning_rate(self.settings, step))
            point = self._here = self._point()
            yield point

    def forward(self, stop: int, weigh: Weigh | None = None) -> Iterator[Point]:
        """Yield the points 0, ..., stop, as `points`."""
        yield self._start
        with Progress(stop, "replaying the training") as progress:
            for point in self.points(self._start, stop, weigh):
                yield point
                progress.advance()

    def backward(self, stop: int, seen: Callable[[Point], object]) -> Iterator[tuple[Point, Point]]:
        """Yield the points (before, after) of the steps stop - 1, ..., 0.

        Keeps about sqrt(stop) points, and repeats the stretch between two of them when it is
        reached. `seen` is called with every point of the way forward.
        """
        stride, kept = max(1, int(np.ceil(np.sqrt(stop)))), []
        for point in self.forward(stop):
            seen(point)
            if point.step % stride == 0 and point.step < stop:
                kept.append(point)
        with Progress(stop, "sweeping back through the training") as progress:
            while kept:
                first = kept.pop()
                stretch = [first, *self.points(first, min(first.step + stride, stop))]
                while len(stretch) > 1:
                    after = stretch.pop()
                    yield stretch[-1], after
                    progress.advance()

    def _go_to(self, point: Point) -> None:
        """Put model and optimiser at a point."""
        state = self._progression
        with torch.no_grad():
            parts = (self._split(v) for v in (point.weights, point.mean, point.square))
            for p, w, m, v in zip(self._parameters, *parts, strict=True):
                p.copy_(w)
                state.optimizer.state[p] = {
                    "step": torch.tensor(float(point.step), device=p.device),
                    "exp_avg": m.clone(),
                    "exp_avg_sq": v.clone(),
                }
        state.step = point.step
        state.losses, state.marks = [], []

    def _point(self) -> Point:
        """Copy where model and optimiser are."""
        state = self._progression
        slots = [state.optimizer.state[p] for p in self._parameters]
        vectors = (
            torch.cat([part.detach().reshape(-1) for part in parts])
            for parts in (
                self._parameters,
                [slot["exp_avg"] for slot in slots],
                [slot["exp_avg_sq"] for slot in slots],
            )
        )
        return Point(state.step, *vectors)

    def _split(self, vector: Tensor) -> list[Tensor]:
        return split(vector, self._parameters)
