"""First-order response of all losses to the weights of items, in reduced coordinates.

The derivative along the weight of item i is driven by r_i x_i^T = E (q_i q_i^T) X^T, which is
linear in the symmetric m x m matrix q_i q_i^T. So with more than m (m + 1) / 2 train items only
that many directions are followed, a basis of the symmetric matrices, whatever N.

For one-hot inputs the tangent of W1 also has a part outside of the combined items, along
e_i - Q q_i. It obeys an equation of its own, which is the same for all items up to the factor q_i:

    dW1_i = P_i Q^T + Z q_i (e_i - Q q_i)^T,   Z' = W2^T (E - W2 Z) / N,   Z(0) = 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import loops, network
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.optimizers import Base
from dlnflow.dynamics.reduced.subspace import Reduced
from dlnflow.dynamics.schedule import Schedule

SLAB_NUMBERS = 2**15
"""Directions are followed together until their tangents are about this many numbers (256 kB)."""


class Directions(NamedTuple):
    """Symmetric matrices (a_k b_k^T + b_k a_k^T) / 2, and every item's in terms of them.

    ``a``, ``b`` have shape (K, m); ``mix`` (K, I) makes q_i q_i^T, None where they are the items'.
    """

    a: FloatArray
    b: FloatArray
    mix: FloatArray | None

    @classmethod
    def of(cls, q: FloatArray) -> "Directions":
        """The items' own (I, m), or a basis of all symmetric matrices if that is smaller."""
        m = q.shape[1]
        if len(q) <= m * (m + 1) // 2:
            return cls(q, q, None)
        first, second = np.triu_indices(m)
        unit, twice = np.eye(m), np.where(first == second, 1.0, 2.0)
        return cls(unit[first], unit[second], (q[:, first] * q[:, second] * twice).T)

    def __getitem__(self, part: slice) -> "Directions":
        a = self.a[part]
        return Directions(a, a if self.a is self.b else self.b[part], None)


def influence(reduced: Reduced, steps: IntArray, query: IntArray, train: IntArray) -> FloatArray:
    """K[t, q, i] = d l_q / d w_i = - r_q^T (dW_i) x_q, shape (T, Q, I).

    Parameters
    ----------
    reduced : Reduced
    steps : array of int, shape (T,)
    query, train : arrays of int, shapes (Q,), (I,)

    Returns
    -------
    array
    """
    of_query, of_train = reduced.items[query], reduced.items[train]
    directions = Directions.of(of_train)
    each = sum(w.size for w in reduced.weights)
    size = max(1, SLAB_NUMBERS // each)
    slabs = [slice(k, k + size) for k in range(0, len(directions.a), size)]
    values = np.zeros((len(steps), len(query), len(train)))
    for part in slabs:
        found = _Driven(reduced, directions[part]).follow(steps, _inside(reduced, of_query))
        if directions.mix is None:
            values[..., part] += found
        else:
            values += found @ directions.mix[part]
    if reduced.x is None:
        outside = (query[:, None] == train) - of_query @ of_train.T
        if np.abs(outside).max() > OUTSIDE_ATOL:
            record = _outside(reduced, of_query, of_train, outside)
            values += _Driven(reduced, None).follow(steps, record)
    return values


OUTSIDE_ATOL = 1e-13
"""What is left of items outside of the combined ones, where it is rounding."""
Record = Callable[[Weights, Weights], FloatArray]


def _inside(reduced: Reduced, q: FloatArray) -> Record:
    """- r_q^T (Q_k W1 + W2 P_k) x_q, shape (Q, K)."""
    x = q.T if reduced.x is None else reduced.x @ q.T
    y = reduced.y @ q.T
    return lambda weights, tangents: network.loss_tangents(weights, tangents, x, y).T


def _outside(reduced: Reduced, query: FloatArray, train: FloatArray, outside: FloatArray) -> Record:
    """- (r_q^T W2 Z q_i) (e_q . (e_i - Q q_i)), shape (Q, I)."""

    def record(weights: Weights, tangents: Weights) -> FloatArray:
        residual = reduced.y - network.outputs(weights, None)[-1]
        inner = (residual.T @ weights[1]) @ tangents[0]
        return -((query @ inner) @ train.T) * outside

    return record


class _Driven:
    """The trained network with tangents along some directions, or (None) with Z."""

    def __init__(self, reduced: Reduced, directions: Directions | None) -> None:
        self.reduced, self.directions = reduced, directions
        self.scaled = reduced.scaled(np.ones(reduced.items.shape[1]))
        self.inputs = None if directions is None else self._inputs(directions)

    def _inputs(self, directions: Directions) -> tuple[FloatArray, FloatArray]:
        x = self.reduced.x
        pair = directions.a, directions.b
        return pair if x is None else (pair[0] @ x.T, pair[1] @ x.T)

    def start(self) -> tuple[Weights, Weights]:
        weights = self.reduced.copies(())
        if self.directions is None:
            return weights, [np.zeros_like(weights[0])]
        return weights, [np.zeros((len(self.directions.a), *w.shape)) for w in weights]

    def slopes(self, weights: Weights, tangents: Weights) -> tuple[Weights, Weights, FloatArray]:
        """Gradients, their tangents and the residual."""
        reduced = self.reduced
        products = network.propagate(weights, reduced.x, reduced.y, self.scaled)
        if self.directions is None:
            error = products.errors[1] - (weights[1] @ tangents[0]) / reduced.total
            moved = [-(weights[1].T @ error)]
        else:
            still = np.zeros((1, 1, self.scaled.shape[-1]))
            moved = network.gradient_tangents(weights, tangents, products, self.scaled, still)
            self._force(moved, weights, products.residual)
        return network.gradients(products), moved, products.residual

    def _force(self, moved: Weights, weights: Weights, residual: FloatArray) -> None:
        """Subtract the gradients W2^T F, F W1^T of F_k = sym(E a_k, X b_k) / N, rank 2 or 1."""
        a, b = self.directions.a, self.directions.b
        pairs = [(a, self.inputs[1])] if a is b else [(a, self.inputs[1]), (b, self.inputs[0])]
        for left, right in pairs:
            error = (left @ residual.T) / (self.reduced.total * len(pairs))
            moved[0] -= (error @ weights[1])[:, :, None] * right[:, None, :]
            moved[1] -= error[:, :, None] * (right @ weights[0].T)[:, None, :]

    def follow(self, steps: IntArray, record: Record) -> FloatArray:
        """Train and record, shape (T, ...)."""
        if self.reduced.continuous:
            return self._flow(steps, record)
        problem, optimizer = self.reduced, self.reduced.optimizer
        weights, tangents = self.start()
        wanted, kept, last = set(steps.tolist()), [], int(steps[-1])
        state, moved_state = optimizer.start(weights), optimizer.start(tangents)
        with (
            Progress(last, "training with derivatives") as progress,
            np.errstate(all="ignore"),
        ):
            for step in range(last):
                if step in wanted:
                    kept.append(record(weights, tangents))
                gradients, moved, residual = self.slopes(weights, tangents)
                problem.check(residual, step)
                optimizer.step(weights, gradients, state)
                optimizer.step_tangent(tangents, moved, moved_state, base=Base(gradients, state))
                progress.advance()
            problem.check_end(weights, last)
        kept.append(record(weights, tangents))
        return np.stack(kept)

    def _flow(self, steps: IntArray, record: Record) -> FloatArray:
        weights, tangents = self.start()

        def velocity(stacked: Weights, _: FloatArray) -> Weights:
            gradients, moved, _ = self.slopes(stacked[:2], stacked[2:])
            return gradients + moved

        unit = Schedule.constant(np.ones(self.scaled.shape[-1]))
        return loops.integrate(
            self.reduced, steps, unit, weights + tangents, velocity,
            lambda s: record(s[:2], s[2:]),
        )  # fmt: skip
