"""Averages over a stretch of training that SOURCE treats as stationary.

For two layers, with S = sum_i c_i x_i x_i^T and G = sum_i c_i r_i x_i^T (c_i = 1/N, or the shares
of a minibatch), the Hessian of the objective maps a change (P, Q) of (W1, W2) to

    (W2^T W2 P S + W2^T Q W1 S - Q^T G,    Q W1 S W1^T + W2 P S W1^T - G P^T),

so that its average needs the averages of W2^T W2 x S, W1 S W1^T, G and of the products of entries
of W2 and W1 S. No Hessian is formed at any step.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy import linalg

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import item_gradients, replay
from dlnflow.dynamics.loops import Problem
from dlnflow.dynamics.network import Weights, flatten, unflatten
from dlnflow.dynamics.replay import LinearMoment

CHUNK = 256
"""Steps whose weights are held before they enter the average of products."""


def segments(
    problem: Problem, bounds: IntArray, steps: IntArray, train: IntArray, *, gauss_newton: bool
) -> Iterator["LinearSegment"]:
    """Yield the averages between consecutive bounds, in order.

    Parameters
    ----------
    problem : Problem
        Two layers, discrete steps.
    bounds : array of int, shape (S + 1,)
    steps : array of int
        Steps at which `LinearSegment.along` will be asked for.
    train : array of int
        Items whose gradients are averaged.
    gauss_newton : bool
        Leave out the term with the residuals.
    """
    wanted, number = set(steps.tolist()), 0
    segment = LinearSegment(problem, int(bounds[0]), train, gauss_newton)
    for moment in replay.forward(problem, int(bounds[-1])):
        segment.add(moment)
        if moment.step + 1 in wanted:
            segment.keep(moment.step + 1, moment.after)
        if moment.step + 1 == bounds[number + 1]:
            yield segment
            number += 1
            segment = LinearSegment(problem, moment.step + 1, train, gauss_newton)


class LinearSegment:
    """Mean Hessian and mean gradients of single items, accumulated over steps."""

    def __init__(self, problem: Problem, first: int, train: IntArray, gauss_newton: bool) -> None:
        self.first, self.steps = first, 0
        self._problem, self._train, self._gauss_newton = problem, train, gauss_newton
        x = np.eye(problem.n_items) if problem.x is None else problem.x
        self._x, self._varies = x, problem.batches is not None
        (hidden, n_in), (n_out, _) = (w.shape for w in problem.weights)
        self._products = np.zeros((n_out, hidden, hidden, n_in))  # W2[d, a] (W1 S)[b, m]
        self._s = x @ x.T / problem.n_items
        size = (hidden, n_in, hidden, n_in) if self._varies else (hidden, hidden)
        self._outer = np.zeros(size)  # W2^T W2, with S where that varies
        self._inner = np.zeros((hidden, hidden))
        self._g = np.zeros((n_out, n_in))
        self._displaced = [np.zeros((len(train), *w.shape)) for w in problem.weights]
        self._rate = [np.zeros_like(w) for w in problem.weights]
        self._shapes = [w.shape for w in problem.weights]
        self._held: list[tuple[FloatArray, ...]] = []
        self._kept: dict[int, Weights] = {}

    def add(self, moment: LinearMoment) -> None:
        """Include one step."""
        self.steps += 1
        # The errors of a pass of the objective carry the share of every item.
        self._g += moment.products.errors[-1] @ self._x.T
        for layer, moved in enumerate(moment.displacements(self._train)):
            self._displaced[layer] += moved
            self._rate[layer] += moment.rates[layer]
        if self._varies:
            self._s = (self._x * moment.shares) @ self._x.T
        self._held.append((*moment.weights, self._s))
        if len(self._held) == CHUNK:
            self._flush()

    def keep(self, step: int, weights: Weights) -> None:
        """Hold the weights at a step where losses are measured."""
        self._kept[step] = weights

    def _flush(self) -> None:
        if not self._held:
            return
        w1, w2, s = (np.stack(part) for part in zip(*self._held, strict=True))
        seen = w1 @ s
        self._products += np.tensordot(w2, seen, axes=(0, 0))
        if self._varies:
            outer = w2.mT @ w2
            self._outer += np.tensordot(outer, s, axes=(0, 0)).transpose(0, 2, 1, 3)
        else:
            self._outer += np.einsum("tda,tdb->ab", w2, w2, optimize=True)
        self._inner += np.einsum("tam,tbm->ab", seen, w1, optimize=True)
        self._held = []

    @cached_property
    def displacements(self) -> Weights:
        """Mean of what the optimizer makes of share_i grad l_i, shapes (n_train, out, in)."""
        return [moved / self.steps for moved in self._displaced]

    def pull(self, vectors: Weights) -> Weights:
        """Mean of what the optimizer makes of a gradient, of the mean Hessian times vectors."""
        pairs = zip(self._rate, self.hessian_product(vectors), strict=True)
        return [rate / self.steps * curved for rate, curved in pairs]

    @cached_property
    def _means(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        self._flush()
        n_out, hidden, _, n_in = self._products.shape
        coupling = self._products.transpose(0, 2, 1, 3).reshape(n_out * hidden, hidden * n_in)
        g = np.zeros_like(self._g) if self._gauss_newton else self._g
        return tuple(a / self.steps for a in (coupling, self._outer, self._inner, g))

    def hessian_product(self, vectors: Weights) -> Weights:
        """Mean Hessian times (P, Q), shapes (K, hidden, n_in) and (K, n_out, hidden)."""
        coupling, outer, inner, g = self._means
        p, q = vectors
        through_q = (q.reshape(len(q), -1) @ coupling).reshape(p.shape)
        through_p = (p.reshape(len(p), -1) @ coupling.T).reshape(q.shape)
        if self._varies:
            size = p[0].size
            direct = (p.reshape(len(p), size) @ outer.reshape(size, size)).reshape(p.shape)
        else:
            direct = outer @ p @ self._s
        return [
            direct + through_q - np.swapaxes(q, -1, -2) @ g,
            q @ inner + through_p - g @ np.swapaxes(p, -1, -2),
        ]

    @cached_property
    def eigen(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and eigenvectors (columns) of the mean Hessian on flattened (P, Q)."""
        size = sum(a * b for a, b in self._shapes)
        dense = flatten(self.hessian_product(self.vectors(np.eye(size))))
        return linalg.eigh((dense + dense.T) / 2, driver="evd", overwrite_a=True)

    def flat(self, vectors: Weights) -> FloatArray:
        """Vectors as rows, in the order of `eigen`."""
        return flatten(vectors)

    def vectors(self, flat: FloatArray) -> Weights:
        """Inverse of `flat`."""
        return unflatten(flat, self._shapes)

    def along(self, step: int, vectors: Weights, query: IntArray) -> FloatArray:
        """Return grad l_q . vector_k at a kept step, shape (n_query, K)."""
        problem = self._problem
        products = item_gradients.item_pass(self._kept[step], problem.x, problem.y)
        return item_gradients.dot(vectors, products)[:, query].T
