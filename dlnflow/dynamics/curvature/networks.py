"""The Hessian of a two-layer network at many checkpoints, in its smallest exact form.

    L = (1/N) sum_i l_i,   G = (1/N) R X^T,   S = (1/N) X X^T,   dW = Q W1 + W2 P
    H (P, Q) = (W2^T dW S - Q^T G,  dW S W1^T - G P^T)   =   J^T J - T x I

for a change P of W1 and Q of W2: the Gauss-Newton part through J (P, Q) = dW S^(1/2), and the
coupling T = [[0, G^T], [G, 0]], which acts on every hidden direction alone. Hidden directions
outside the columns of W1 and W2^T have zero gradient and curvatures +-singular values of G.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import linalg

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import network
from dlnflow.dynamics.network import Weights
from dlnflow.task import Task

RANK_RTOL = 1e-12
"""Input directions below this, relative to the largest singular value of X, are unused."""


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks of two layers, in orthonormal bases of the input and hidden directions they use.

    Attributes
    ----------
    w1 : array, shape (T, k, m)
        First layer; k hidden directions, m input directions.
    w2 : array, shape (T, d, k)
        Second layer.
    x : array, shape (m, N)
        Inputs, with x x^T diagonal.
    y : array, shape (d, N)
    spare : int
        Hidden directions that the network does not use, h - k.
    unused_inputs : bool
        Whether there are input directions without data, whose curvature is zero.
    """

    w1: FloatArray
    w2: FloatArray
    x: FloatArray
    y: FloatArray
    spare: int
    unused_inputs: bool

    @classmethod
    def of(cls, weights: Weights, task: Task, hidden: int) -> "Networks":
        """Rotate weights (T, out, in) of two layers and inputs into the bases they use."""
        w1, w2 = weights
        x, unused = task.x, False
        if not task.one_hot:
            u, s, vt = linalg.svd(x, full_matrices=False)
            rank = int(np.sum(s > RANK_RTOL * s[0]))
            w1, x, unused = w1 @ u[:, :rank], s[:rank, None] * vt[:rank], rank < len(task.x)
        n_in, n_out = x.shape[0], task.n_out
        if w1.shape[1] > n_in + n_out:
            # Only products of the columns count, so R of their QR decomposition replaces them.
            r = np.linalg.qr(np.concatenate([w1, w2.mT], axis=2), mode="r")
            w1, w2 = r[..., :n_in], r[..., n_in:].mT
        return cls(w1, w2, x, task.y, hidden - w1.shape[1], unused)

    def at(self, times: IntArray | slice) -> "Networks":
        """Return a selection of checkpoints."""
        return replace(self, w1=self.w1[times], w2=self.w2[times])

    def __len__(self) -> int:
        return len(self.w1)

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return self.y.shape[1]

    @cached_property
    def residual(self) -> FloatArray:
        """R = Y - W X, shape (T, d, N)."""
        return self.y - network.outputs([self.w1, self.w2], self.x)[-1]

    @cached_property
    def correlation(self) -> FloatArray:
        """G = (1/N) R X^T, minus the gradient with respect to W, shape (T, d, m)."""
        return self.residual @ self.x.T / self.n_items

    @cached_property
    def input_scale(self) -> FloatArray:
        """Square roots of the diagonal of S, shape (m,)."""
        return np.sqrt(np.sum(self.x**2, axis=1) / self.n_items)

    def gradients(self, time: int, items: IntArray) -> FloatArray:
        """Gradients of l_i in the reduced space, one flattened (P, Q) per row."""
        r, x = self.residual[time][:, items], self.x[:, items]
        p = -np.einsum("hi,mi->ihm", self.w2[time].T @ r, x)
        q = -np.einsum("di,hi->idh", r, self.w1[time] @ x)
        return np.concatenate([p.reshape(len(items), -1), q.reshape(len(items), -1)], axis=1)

    def hessian_product(self, time: int, vectors: FloatArray) -> FloatArray:
        """H times flattened (P, Q) in the reduced space, vectors on the last axis."""
        w1, w2, g = self.w1[time], self.w2[time], self.correlation[time]
        lead = vectors.shape[:-1]
        p = vectors[..., : w1.size].reshape(*lead, *w1.shape)
        q = vectors[..., w1.size :].reshape(*lead, *w2.shape)
        moved = (q @ w1 + w2 @ p) * self.input_scale**2
        hp = w2.T @ moved - q.mT @ g
        hq = moved @ w1.T - g @ p.mT
        return np.concatenate([hp.reshape(*lead, -1), hq.reshape(*lead, -1)], axis=-1)

    def hessian(self, time: int) -> FloatArray:
        """Dense H in the reduced space."""
        size = self.w1[0].size + self.w2[0].size
        return self.hessian_product(time, np.eye(size))
