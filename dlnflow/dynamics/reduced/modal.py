"""Gradient flow of reduced one-hot problems in the singular basis of their targets.

With rows Z = [B; V2], B = (W1 P)^T in a basis P of item space whose first columns are the right
singular vectors of Y, and V2 = U^T W2, the flow is

    Z' = F Z - [B C; V2 A],   A = W1 W1^T,  C = W2^T W2,   F: swaps rows j of B and V2, times s_j.

D = C - A is conserved whatever the start. So one of the two h x h matrices gives the other, rows of
W2 outside of the columns of U are never followed, and a step costs (2 m + r) h^2 or (m + 2 r) h^2
multiplications for m combined items instead of the 3 d_out h m of the residual form.

Removing an item leaves a problem of the same form: its column of W1 rests and enters only D.
"""

from dataclasses import dataclass, field

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics.reduced.subspace import Reduced, Shrink


@dataclass(frozen=True)
class Modal:
    """Independent flows of the same size, with a leading axis B.

    Attributes
    ----------
    s : array, shape (B, r)
        Singular values of the targets.
    start : array, shape (B, m + r, h)
        Z at the start.
    d : array, shape (B, h, h)
        The conserved C - A, A of the items that are not removed.
    complete : bool
        Whether U spans all outputs in use, so that C = V2^T V2.
    items : array, shape (B, Q, m)
        Queries in the item basis.
    own : tuple of arrays
        Where a query is the removed item itself: indices (b, q), its target U^T y (n, r) and its
        W1 e_i (n, h), which rests.
    """

    s: FloatArray
    start: FloatArray
    d: FloatArray
    complete: bool
    items: FloatArray
    own: tuple[IntArray, IntArray, FloatArray, FloatArray]
    scratch: dict = field(default_factory=dict, repr=False)

    @property
    def m(self) -> int:
        """Number of combined items."""
        return self.start.shape[1] - self.s.shape[1]

    def grams(self, z: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(A, C) of states z (B, m + r, h)."""
        if self.complete:
            c = _gram(z[:, self.m :])
            return c - self.d, c
        a = _gram(z[:, : self.m])
        return a, a + self.d

    def velocity(self, z: FloatArray, out: FloatArray) -> None:
        """Write Z' in units where dW1/dt = W2^T (Y - W) Om."""
        m = self.m
        a, c = self.grams(z)
        np.matmul(z[:, :m], c, out=out[:, :m])
        np.matmul(z[:, m:], a, out=out[:, m:])
        np.negative(out, out=out)
        self.swap(z, out)

    def swap(self, z: FloatArray, out: FloatArray) -> None:
        """Add F Z to `out`."""
        m, r = self.m, self.s.shape[1]
        scale = self.s[:, :, None]
        part = np.multiply(scale, z[:, m:], out=self._part(z.shape))
        out[:, :r] += part
        np.multiply(scale, z[:, :r], out=part)
        out[:, m:] += part

    def _part(self, shape: tuple[int, ...]) -> FloatArray:
        """Scratch of the shape of the V2 rows of a state of `shape`, made once."""
        wanted = (shape[0], self.s.shape[1], shape[2])
        if wanted not in self.scratch:
            self.scratch[wanted] = np.empty(wanted)
        return self.scratch[wanted]

    def residual(self, z: FloatArray) -> FloatArray:
        """(U^T (Y - W) P)^T of states (..., m + r, h), shape (..., m, r)."""
        m, r = self.m, self.s.shape[1]
        error = z[..., :m, :] @ -_transposed(z[..., m:, :])
        diagonal = np.arange(r)
        error[..., diagonal, diagonal] += self.s.reshape(*z.shape[:-2], r)
        return error

    def losses(self, z: FloatArray) -> FloatArray:
        """Losses of the queries, (B, Q).

        The part of W2 outside of U has |W2_rest w|^2 = w^T K w, K = C - V2^T V2.
        """
        m = self.m
        residual = self.items @ self.residual(z)
        values = np.einsum("bqr,bqr->bq", residual, residual)
        rows, columns, target, w = self.own
        if len(rows):
            miss = target - (z[rows, m:] @ w[:, :, None])[..., 0]
            values[rows, columns] = np.einsum("nr,nr->n", miss, miss)
        if not self.complete:
            rest = self.grams(z)[1] - _gram(z[:, m:])
            hidden = self.items @ z[:, :m]
            hidden[rows, columns] = w
            values += np.einsum("bqh,bqh->bq", hidden @ rest, hidden)
        return 0.5 * values


def base(reduced: Reduced, query: IntArray) -> Modal:
    """Return the problem itself as one flow."""
    u = _outputs(reduced)
    w1, w2 = reduced.weights
    left, s, vt = np.linalg.svd(u.T @ reduced.y)
    start = np.vstack([vt @ w1.T, left.T @ (u.T @ w2)])
    none = np.zeros(0, dtype=np.intp)
    return Modal(
        s=s[None],
        start=start[None],
        d=(w2.T @ w2 - w1 @ w1.T)[None],
        complete=u.shape[0] == u.shape[1],
        items=(reduced.items[query] @ vt.T)[None],
        own=(none, none, np.zeros((0, len(s))), np.zeros((0, len(w1)))),
    )


def without(reduced: Reduced, removed: IntArray, query: IntArray) -> Modal:
    """One flow per removed item."""
    u, shrink = _outputs(reduced), Shrink.of(reduced.items, removed)
    w1, w2 = reduced.weights
    left, s, vt = np.linalg.svd(shrink.times(u.T @ reduced.y))
    v2 = _transposed(left) @ (u.T @ w2)
    b = vt @ _transposed(shrink.times(w1))
    q = reduced.items[removed]
    rest = q @ w1.T
    d = w2.T @ w2 - w1 @ w1.T + rest[:, :, None] * rest[:, None, :]
    rows, columns = np.nonzero(removed[:, None] == query)
    target = (_transposed(left) @ (q @ (u.T @ reduced.y).T)[:, :, None])[..., 0]
    # P^T e_j = V^T S^-1 q_j, 0 for the removed item
    items = np.broadcast_to(reduced.items[query], (len(removed), len(query), q.shape[1]))
    items = shrink.divide(items) @ _transposed(vt)
    items[rows, columns] = 0.0
    return Modal(
        s=s,
        start=np.concatenate([b, v2], axis=1),
        d=d,
        complete=u.shape[0] == u.shape[1],
        items=items,
        own=(rows, columns, target[rows], rest[rows]),
    )


def _outputs(reduced: Reduced) -> FloatArray:
    """Orthonormal columns that span those of the targets; all outputs if they do."""
    u, s, _ = np.linalg.svd(reduced.y, full_matrices=False)
    rank = int(np.sum(s > 1e-14 * s[0] * np.sqrt(len(s))))
    return u[:, :rank] if rank < len(u) else np.eye(len(u))


def _gram(rows: FloatArray) -> FloatArray:
    """rows^T rows; the copy keeps the product from a slower symmetric routine."""
    return _transposed(rows.copy()) @ rows


def _transposed(matrix: FloatArray) -> FloatArray:
    return np.swapaxes(matrix, -1, -2)
