"""Averages over a stretch of training that SOURCE treats as stationary.

For two layers, with S = (1/N) X X^T and G = (1/N) R X^T, the Hessian of (1/N) sum_i l_i maps a
change (P, Q) of (W1, W2) to

    (W2^T W2 P S + W2^T Q W1 S - Q^T G,    Q W1 S W1^T + W2 P S W1^T - G P^T),

so that its average needs the averages of W2^T W2, W1 S W1^T, G and of the products of entries of
W2 and W1 S. No Hessian is formed at any step.
"""

from functools import cached_property

import numpy as np
from scipy import linalg

from dlnflow._support.typing import FloatArray, IntArray
from dlnflow.dynamics import item_gradients
from dlnflow.dynamics.loops import Problem
from dlnflow.dynamics.network import Weights, flatten, unflatten
from dlnflow.dynamics.replay import Moment

CHUNK = 256
"""Steps whose weights are held before they enter the average of products."""


class Segment:
    """Mean Hessian and mean gradients of single items, accumulated over steps."""

    def __init__(self, problem: Problem, train: IntArray, gauss_newton: bool) -> None:
        self._train, self._gauss_newton = train, gauss_newton
        x = np.eye(problem.n_items) if problem.x is None else problem.x
        self._x, self._s = x, x @ x.T / problem.n_items
        (hidden, n_in), (n_out, _) = (w.shape for w in problem.weights)
        self._products = np.zeros((n_out, hidden, hidden, n_in))  # W2[d, a] (W1 S)[b, m]
        self._outer = np.zeros((hidden, hidden))
        self._inner = np.zeros((hidden, hidden))
        self._g = np.zeros((n_out, n_in))
        self._gradients = [np.zeros((len(train), *w.shape)) for w in problem.weights]
        self._held: list[Weights] = []
        self.steps = 0

    def add(self, moment: Moment) -> None:
        """Include one step."""
        self.steps += 1
        # The errors of a pass of the objective carry the factor 1/N.
        self._g += moment.products.errors[-1] @ self._x.T
        single = item_gradients.of_items(moment.products, self._train)
        for total, gradient in zip(self._gradients, single, strict=True):
            total += gradient
        self._held.append(moment.weights)
        if len(self._held) == CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            w1, w2 = (np.stack(layer) for layer in zip(*self._held, strict=True))
            seen = w1 @ self._s
            self._products += np.tensordot(w2, seen, axes=(0, 0))
            self._outer += np.einsum("tda,tdb->ab", w2, w2, optimize=True)
            self._inner += np.einsum("tam,tbm->ab", seen, w1, optimize=True)
            self._held = []

    @cached_property
    def gradients(self) -> Weights:
        """Mean of (1/N) grad l_i, shapes (n_train, out, in)."""
        return [g / self.steps for g in self._gradients]

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
        return [
            outer @ p @ self._s + through_q - np.swapaxes(q, -1, -2) @ g,
            q @ inner + through_p - g @ np.swapaxes(p, -1, -2),
        ]

    @cached_property
    def eigen(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and eigenvectors (columns) of the mean Hessian on flattened (P, Q)."""
        shapes = [g.shape[1:] for g in self._gradients]
        size = sum(a * b for a, b in shapes)
        dense = flatten(self.hessian_product(unflatten(np.eye(size), shapes)))
        return linalg.eigh((dense + dense.T) / 2, driver="evd", overwrite_a=True)
