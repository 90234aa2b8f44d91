"""First-order response of gradient flow in modal coordinates.

D = W2^T W2 - W1 W1^T depends on the initial weights alone, so that the tangents of A and C are
equal. With T = dZ along a symmetric matrix M = (a b^T + b a^T) / 2 of combined items,

    T' = F T - [dB C; dV2 A] - Z dA + [ M G; R M B ],
    dA = V2^T dV2 + (its transpose)  or  B^T dB + (its transpose),

R = U^T (Y - W) P the residual and G = P^T (Y - W)^T W2 the error at the hidden layer.
"""

from typing import TYPE_CHECKING

import numpy as np

from dlnflow._support import FloatArray

if TYPE_CHECKING:
    from dlnflow.dynamics.reduced.modal import Modal


class Response:
    """One flow with its tangents along K directions, as a state (1, (1 + K) (m + r) h).

    Parameters
    ----------
    modal : Modal
        One flow, B = 1.
    a, b : arrays, shape (K, m)
        Directions in the item basis of `modal`.
    """

    def __init__(self, modal: "Modal", a: FloatArray, b: FloatArray) -> None:
        self.modal, self.pairs = modal, [(a, b)] if a is b else [(a, b), (b, a)]
        self.shape = (1 + len(a), *modal.start.shape[1:])
        self.start = np.zeros((1, int(np.prod(self.shape))))
        self.start.reshape(self.shape)[0] = modal.start[0]
        h = self.shape[2]
        self.moved = np.empty((2, len(a), h, h))
        self.pushed = np.empty((len(a), *self.shape[1:]))

    def velocity(self, state: FloatArray, out: FloatArray) -> None:
        """Write the time derivative of the state."""
        modal, m = self.modal, self.modal.m
        state, out = state.reshape(self.shape), out.reshape(self.shape)
        z, tangents, slope = state[0], state[1:], out[1:]
        a, c = modal.grams(state[:1])
        np.matmul(z[:m], c[0], out=out[0, :m])
        np.matmul(z[m:], a[0], out=out[0, m:])
        np.matmul(tangents[:, :m], c[0], out=slope[:, :m])
        np.matmul(tangents[:, m:], a[0], out=slope[:, m:])
        np.matmul(z, self.gram_tangents(z, tangents), out=self.pushed)
        slope += self.pushed
        np.negative(out, out=out)
        modal.swap(state, out)
        self._force(z, out[0, :m], slope)

    def gram_tangents(self, z: FloatArray, tangents: FloatArray) -> FloatArray:
        """Tangents dA = dC of every direction, (K, h, h); overwritten by the next call."""
        rows = slice(self.modal.m, None) if self.modal.complete else slice(0, self.modal.m)
        half, whole = self.moved
        np.matmul(z[rows].T, tangents[:, rows], out=half)
        return np.add(half, np.swapaxes(half, 1, 2), out=whole)

    def _force(self, z: FloatArray, hidden: FloatArray, slope: FloatArray) -> None:
        """Add the forcing; `hidden` is B' of the base, which is G."""
        m = self.modal.m
        residual = self.modal.residual(z)  # (m, r)
        for a, b in self.pairs:
            share = 1 / len(self.pairs)
            np.multiply(a[:, :, None], (share * (b @ hidden))[:, None, :], out=self.pushed[:, :m])
            left, right = share * (a @ residual), b @ z[:m]
            np.multiply(left[:, :, None], right[:, None, :], out=self.pushed[:, m:])
            slope += self.pushed

    def loss_tangents(self, state: FloatArray, items: FloatArray) -> FloatArray:
        """dl_q = - r_q^T dW x_q for queries (Q, m) in the item basis, shape (Q, K)."""
        modal, m = self.modal, self.modal.m
        state = state.reshape(self.shape)
        z, tangents = state[0], state[1:]
        error = items @ modal.residual(z)
        hidden, moved = items @ z[:m], items @ tangents[:, :m]
        change = moved @ z[m:].T
        change += hidden @ np.swapaxes(tangents[:, m:], 1, 2)
        values = -np.einsum("qr,kqr->qk", error, change)
        if not modal.complete:
            # K = C - V2^T V2 weighs what W2 makes of the hidden layer outside of the targets
            rest = modal.grams(state[:1])[1][0] - z[m:].T @ z[m:]
            half = z[m:].T @ tangents[:, m:]
            moved_rest = self.gram_tangents(z, tangents) - half - np.swapaxes(half, 1, 2)
            values += np.einsum("kqh,qh->qk", moved, hidden @ rest)
            values += 0.5 * np.einsum("kqh,qh->qk", hidden @ moved_rest, hidden)
        return values


class Outside:
    """One flow with Z^T (m, h), the tangent along e_i - Q q_i that all items share."""

    def __init__(self, modal: "Modal") -> None:
        self.modal = modal
        rows, h = modal.start.shape[1:]
        self.shape = (rows + modal.m, h)
        self.start = np.concatenate([modal.start[0], np.zeros((modal.m, h))]).reshape(1, -1)

    def velocity(self, state: FloatArray, out: FloatArray) -> None:
        """Z^T' = G - Z^T C, with G = B' of the base."""
        modal, rows = self.modal, self.modal.start.shape[1]
        state, out = state.reshape(self.shape), out.reshape(self.shape)
        modal.velocity(state[None, :rows], out[None, :rows])
        out[rows:] = out[: modal.m] - state[rows:] @ modal.grams(state[None, :rows])[1][0]

    def products(self, state: FloatArray, query: FloatArray, train: FloatArray) -> FloatArray:
        """- r_q^T W2 Z q_i, shape (Q, I)."""
        modal, rows = self.modal, self.modal.start.shape[1]
        state = state.reshape(self.shape)
        out = np.empty((1, rows, self.shape[1]))
        modal.velocity(state[None, :rows], out)
        return -(query @ (out[0, : modal.m] @ state[rows:].T)) @ train.T
