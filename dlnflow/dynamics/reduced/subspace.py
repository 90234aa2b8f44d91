"""A two-layer problem in the smallest spaces of items, inputs, outputs and hidden units it uses.

Full-batch training moves the weights only by

    dW1 ~ W2^T E Om X^T,   dW2 ~ E Om X^T W1^T,   E = Y - W2 W1 X,   Om = diag(w).

With w = 1 three spaces never grow, whatever the rule, as long as it is linear in the gradient
(gradient descent, momentum, flow; not Adam):

* items: the rows of E stay in the span of the rows of Y and X (one-hot: of Y and W1(0)). In an
  orthonormal basis Q of it, (Y Q, X Q) is a problem of m items with the same gradients, and item j
  is the combination q_j = Q^T e_j of them: its residual is E Q q_j, its input X Q q_j.
* outputs: the columns of E and W2 stay in the span of the columns of Y and W2(0).
* hidden units: `dlnflow.dynamics.network.reduced`, applied to what is left.

A weight other than 1 on item i adds one direction, e_i, whatever N. With rho^2 = 1 - |q_i|^2 and
S = (I - q_i q_i^T)^(1/2) = I - (1 - rho) u u^T, u = q_i / |q_i|, the columns of

    P = [ e_i, (I - e_i e_i^T) Q S^-1 ]

are orthonormal, span the same items and e_i, and make Om diagonal: diag(w_i, 1, ..., 1). The
problem becomes (Y P, X P) = ([y_i, Y Q S], [x_i, X Q S]), which needs no division by rho.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import linalg

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import network
from dlnflow.dynamics.loops import Problem

RANK_RTOL = 1e-14
"""Directions below this, relative to the largest, are rounding of a span."""


@dataclass(frozen=True)
class Reduced(Problem):
    """A `Problem` of m combined items that stands for one of N items.

    ``weights`` and ``y`` may have leading axes: independent networks with data of their own.

    Attributes
    ----------
    total : int
        N, by which the objective is divided.
    items : array, shape (N, m)
        Q: row j holds item j as a combination of the columns of ``y``.
    limit : float
        Summed squared error beyond which the original problem has diverged.
    """

    total: int = 0
    items: FloatArray = None  # type: ignore[assignment]
    limit: float = np.inf

    @property
    def n_items(self) -> int:
        """Number of items N of the problem that this one stands for."""
        return self.total

    @cached_property
    def error_limit(self) -> float:
        """The limit of the problem that this one stands for."""
        return self.limit

    def copies(self, batch: tuple[int, ...]) -> network.Weights:
        """Initial weights with the batch axes, writable."""
        return [np.broadcast_to(w, batch + w.shape[-2:]).copy() for w in self.weights]

    def query(self, chosen: IntArray) -> tuple[FloatArray, FloatArray]:
        """Inputs and targets of chosen items, (n_in, Q) and (d_out, Q), for `network.losses`."""
        q = self.items[chosen].T
        return (q if self.x is None else self.x @ q), self.y @ q

    def without(self, chosen: IntArray) -> "Reduced":
        """Return one network per chosen item, whose weight is that of the first combined item.

        Returns
        -------
        Reduced
            ``y`` of shape (B, d_out, m + 1), weights with a leading axis B; the inputs of a
            problem that has some get the same leading axis. ``items`` are those of this problem.
        """
        q = self.items[chosen]
        shrink = Shrink.of(self.items, chosen)

        def extended(matrix: FloatArray) -> FloatArray:
            first = (q @ matrix.T)[:, :, None]
            return np.concatenate([first, shrink.times(matrix)], axis=2)

        w1, w2 = self.weights
        x = None if self.x is None else extended(self.x)
        first = extended(w1) if self.x is None else np.broadcast_to(w1, (len(q), *w1.shape))
        second = np.broadcast_to(w2, (len(q), *w2.shape))
        return replace(self, weights=[first, second], x=x, y=extended(self.y))


@dataclass(frozen=True)
class Shrink:
    """S = I - (1 - rho) u u^T of many items: ``u`` (B, m) unit vectors or 0, ``rho`` (B,)."""

    u: FloatArray
    rho: FloatArray

    @classmethod
    def of(cls, items: FloatArray, chosen: IntArray) -> "Shrink":
        """rho^2 = 1 - |q|^2 without cancellation: the part of u in the items that stay."""
        q = items[chosen]
        norm = np.linalg.norm(q, axis=1, keepdims=True)
        u = np.divide(q, norm, out=np.zeros_like(q), where=norm > 0)
        seen = items @ u.T
        seen[chosen, np.arange(len(chosen))] = 0.0
        return cls(u, np.where(norm[:, 0] > 0, np.linalg.norm(seen, axis=0), 1.0))

    def times(self, matrix: FloatArray) -> FloatArray:
        """Matrix @ S for matrix (..., m), shape (B, ..., m)."""
        return self._along(matrix, self.rho - 1)

    def divide(self, matrix: FloatArray) -> FloatArray:
        """Matrix @ S^-1 for matrix (B, d, m); where rho = 0, nothing that stays lies along u."""
        return self._along(matrix, np.divide(1, self.rho, where=self.rho > 0, out=self.rho + 1) - 1)

    def _along(self, matrix: FloatArray, factor: FloatArray) -> FloatArray:
        part = matrix @ self.u[:, :, None]
        return matrix + factor[:, None, None] * part * self.u[:, None, :]


def applies(problem: Problem) -> bool:
    """Whether the spaces are invariant: two layers, full batch, a rule linear in the gradient."""
    linear = problem.optimizer.traits.linear
    return len(problem.weights) == 2 and problem.batches is None and linear


def reduce(problem: Problem, apart: IntArray | None = None) -> Reduced:
    """Express a problem in the spaces it uses; exact up to rounding.

    Parameters
    ----------
    problem : Problem
        Two layers, one network.
    apart : array of int, optional
        Items whose weight may differ from 1: combined items of their own, the first ones.

    Returns
    -------
    Reduced
        With at most rank(Y) + min(h, N) combined items for one-hot inputs, rank(Y) + rank(X) for
        others, plus those apart, and no more than the problem has of anything.
    """
    w1, w2 = problem.weights
    x, y = problem.x, problem.y
    if x is not None and x.shape[0] > x.shape[1]:
        inputs = _basis(x.T)  # rows of W1 outside of the inputs neither move nor matter
        w1, x = w1 @ inputs, inputs.T @ x
    items = _items(np.vstack([y, w1 if x is None else x]), apart)
    w1, x, y = (w1 @ items, None, y @ items) if x is None else (w1, x @ items, y @ items)
    if y.shape[1] + w2.shape[1] < len(y):
        outputs = _basis(np.hstack([y, w2]).T)
        y, w2 = outputs.T @ y, outputs.T @ w2
    weights, _ = network.reduced([w1, w2])
    return Reduced(
        weights=weights,
        x=x,
        y=y,
        optimizer=problem.optimizer,
        stable_bound=problem.stable_bound,
        total=problem.n_items,
        items=items,
        limit=problem.error_limit,
    )


def _items(rows: FloatArray, apart: IntArray | None) -> FloatArray:
    """[e_S, basis of the rows on the other items], shape (N, m)."""
    if apart is None or not len(apart):
        return _basis(rows)
    own = np.zeros((rows.shape[1], len(apart)))
    own[apart, np.arange(len(apart))] = 1.0
    others = rows.copy()
    others[:, apart] = 0.0
    return np.hstack([own, _basis(others)])


def _basis(rows: FloatArray) -> FloatArray:
    """Orthonormal columns that span the rows of a matrix, shape (n, m).

    Rows are scaled to unit length first, so that small ones (initial weights) count like others.
    """
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows[length[:, 0] > 0] / length[length[:, 0] > 0]
    q, r, _ = linalg.qr(rows.T, mode="economic", pivoting=True)
    size = np.abs(np.diag(r))
    rank = int(np.sum(size > RANK_RTOL * size[0] * np.sqrt(len(q))))
    return np.eye(len(q)) if rank == len(q) else q[:, :rank]
