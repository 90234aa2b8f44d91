"""Losses of trainings that differ in item weights, from the flow instead of by retraining."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlnflow._support import FloatArray, IntArray, each
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.theory import flow
from dlnflow.theory.flow import riccati

ORTHOGONAL_RTOL = 1e-12
"""Inputs are orthogonal and of equal length when X^T X = c I holds to this, relative to c."""
CHUNK_FLOATS = 16_000_000
"""Trajectories are computed in portions of about this many numbers (128 MB)."""
GRAM_RTOL = 1e-10
"""Relative tolerance of the Gram flow; its error is far below that of a finite step size."""


@dataclass(frozen=True)
class Removal:
    """A run as the flow sees it: initial weights, data, times and the items whose loss counts.

    ``times`` and ``step``, the time of one step (0 for the flow itself), are in units of
    dW1/dt = W2^T (Y - W X) X^T, the sum over items (no factor 1/N).
    """

    w1: FloatArray
    w2: FloatArray
    x: FloatArray
    y: FloatArray
    times: FloatArray
    query: IntArray
    step: float
    momentum: float

    @classmethod
    def of(cls, run: Dynamics, steps: IntArray, query: IntArray) -> "Removal":
        """Take the start of `run`; its flow time counts in units of the mean eigenvalue of XX^T."""
        w1, w2 = run.initial_weights()
        x = run.task.x
        unit = x.shape[0] / np.sum(x**2)
        times, step = run.flow_time(steps) * unit, float(run.flow_time(1)) * unit
        momentum = run.traits.momentum
        # Momentum starts from rest: it lags by momentum / (1 - momentum) steps.
        times = times - step * (1 - momentum**steps) * momentum / (1 - momentum)
        step = 0.0 if run.traits.continuous else step
        return cls(w1, w2, x, run.task.y, times, query, step, momentum)

    @property
    def scale(self) -> float | None:
        """The c of X^T X = c I, or None: then removing an item leaves inputs that are not white."""
        gram = self.x.T @ self.x
        scale = float(np.trace(gram)) / len(gram)
        off = np.abs(gram - scale * np.eye(len(gram))).max()
        return scale if off <= ORTHOGONAL_RTOL * scale else None

    def imbalance(self) -> float:
        """Imbalance of the start relative to the largest strength; the Riccati form drops it."""
        root = np.sqrt(self.scale or 1.0)
        _, remainder = flow.imbalance(self.w1 @ self.x / root, self.w2)
        return float(remainder) / float(np.linalg.norm(self.y / root, 2))

    def gram_losses(self, weights: FloatArray) -> FloatArray:
        """Losses for item weights (B, N), from the Gram flow; shape (B, T, n_query).

        Exact for any inputs, start and weights.
        """
        size = len(self.times) * (self.w1.shape[1] + self.w2.shape[0]) ** 2
        return np.concatenate([self._gram(part) for part in _portions(weights, size)])

    def _gram(self, weights: FloatArray) -> FloatArray:
        weighted = self.x * weights[:, None, :]
        s_yx, s_xx = self.y @ weighted.swapaxes(1, 2), weighted @ self.x.T
        step = self.step * (1 + self.momentum) / (1 - self.momentum)
        w = flow.gram(self.w1, self.w2, s_yx, s_xx, self.times, step=step, rtol=GRAM_RTOL).map
        residual = self.y[:, self.query] - w @ self.x[:, self.query]
        return 0.5 * np.sum(residual**2, axis=-2)

    def riccati_losses(self, removed: IntArray) -> FloatArray:
        """Losses without each of the `removed` items (-1: all kept); shape (B, T, n_query).

        With X^T X = c I the items are one-hot in the basis x_i / sqrt(c), for the first layer
        W1 X / sqrt(c), the features Y / sqrt(c) and the time c t. Removing item i sets its column
        of both to zero: it gets no gradient, and the other items do not see it. The start is
        taken as balanced; see docs/derivations/flow.md.
        """
        size = len(self.times) * (self.x.shape[1] + self.y.shape[0]) ** 2
        return np.concatenate([self._riccati(part) for part in _portions(removed, size)])

    def _riccati(self, removed: IntArray) -> FloatArray:
        n_items, root = self.x.shape[1], np.sqrt(self.scale)
        times = self.times * root**2
        kept = (np.arange(n_items) != removed[:, None])[:, None, :]
        w1 = self.w1 @ self.x / root
        start, maps = np.where(kept, w1, 0.0), np.where(kept, self.y / root, 0.0)
        w2 = np.broadcast_to(self.w2, (len(removed), *self.w2.shape))
        solution = riccati.eigen(maps, flow.imbalance(start, w2)[0])
        if self.step:
            solution = riccati.stepped(solution, self.step * root**2, self.momentum)
        y = riccati.start(solution, start, w2)
        predicted = riccati.maps(solution, y, times, n_items)[..., self.query]
        predicted[times == 0] = (self.w2 @ w1)[
            :, self.query
        ]  # before anything is taken as balanced
        rows, columns = np.nonzero(removed[:, None] == self.query)
        if rows.size:
            # W x_i = W2 (W1 x_i) of the removed item: W1 x_i stays, W2 moves.
            own = riccati.Eigen(*(part[rows] for part in solution))
            layers = np.concatenate([start[rows].swapaxes(1, 2), w2[rows]], axis=1)
            vectors = np.einsum("bkh,hb->bk", layers, w1[:, removed[rows]])
            moved = riccati.carried(own, y[rows], vectors, times)[..., n_items:]
            predicted[:, rows, :, columns] = np.swapaxes(moved, 0, 1)
        residual = self.y[:, self.query] - root * predicted
        return np.swapaxes(0.5 * np.sum(residual**2, axis=-2), 0, 1)


def _portions(batch: np.ndarray, floats_each: int) -> Iterator[np.ndarray]:
    """Split a batch so that each part holds about `CHUNK_FLOATS` numbers."""
    size = max(1, CHUNK_FLOATS // floats_each)
    for first in each(range(0, len(batch), size), "gradient flow without an item"):
        yield batch[first : first + size]
