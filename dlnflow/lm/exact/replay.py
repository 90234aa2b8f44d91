"""The steps of a language model's training run, taken again as they were taken.

A point is everything that a step depends on besides its rows. Parameters stand one after another
in one vector, in the order of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlnflow._support.progress import Progress
from dlnflow.lm.data.tokenizer import Tokens
from dlnflow.lm.runs.model import RunSettings
from dlnflow.lm.runs.train import Progression, batch, learning_rate


@dataclass(frozen=True, eq=False)
class Point:
    """Weights (P,) and both moments of the optimizer before a step, its gradients' averages."""

    step: int
    weights: Tensor
    mean: Tensor
    square: Tensor


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
        self.settings, self._tokens = settings, tokens
        # fused attention may have no second derivative and plain attention rounds to single
        # precision: in double precision the run is that of the sums written out
        self._attention = partial(sdpa_kernel, SDPBackend.MATH) if double else nullcontext
        self._progression = Progression(settings, None, device, double=double)
        if double:
            self._progression.model.set_attn_implementation("sdpa")
        self._parameters = list(self._progression.model.parameters())
        weights = torch.nn.utils.parameters_to_vector(self._parameters).detach()
        self._start = Point(0, weights, torch.zeros_like(weights), torch.zeros_like(weights))

    def start(self) -> Point:
        """Return the point before the first step."""
        return self._start

    def rows(self, step: int) -> NDArray[np.int32]:
        """Return the rows of a step, (n, context + 1)."""
        return batch(self.settings, self._tokens, step)

    def points(
        self,
        start: Point,
        stop: int,
        weigh: Callable[[int], NDArray[np.floating]] | None = None,
    ) -> Iterator[Point]:
        """Yield the points after every step from `start` on, up to step `stop`.

        `weigh` gives the weights of the rows of a step; 1 by default.

        Raises
        ------
        FloatingPointError
            If a loss is not finite.
        """
        self._go_to(start)
        for step in range(start.step, stop):
            rows = self.rows(step)
            weights = np.ones(len(rows), np.float32) if weigh is None else weigh(step)
            with self._attention():
                self._progression.advance(rows, weights, learning_rate(self.settings, step))
            yield self._point()

    def backward(self, stop: int, seen: Callable[[Point], object]) -> Iterator[tuple[Point, Point]]:
        """Yield the points (before, after) of the steps stop - 1, ..., 0.

        Keeps about sqrt(stop) points, and repeats the stretch between two of them when it is
        reached. `seen` is called with every point of the way forward.
        """
        stride = int(np.ceil(np.sqrt(stop)))
        kept = [self.start()]
        seen(kept[0])
        with Progress(stop, "replaying the training") as progress:
            for point in self.points(kept[0], stop):
                seen(point)
                if point.step % stride == 0 and point.step < stop:
                    kept.append(point)
                progress.advance()
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


def split(vectors: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Return the parts of vectors (..., P) in the shapes of parameters."""
    parts = vectors.split([p.numel() for p in like], dim=-1)
    return [
        part.reshape(*vectors.shape[:-1], *p.shape) for part, p in zip(parts, like, strict=True)
    ]
