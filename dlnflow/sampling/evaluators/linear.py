"""All chains of a two-layer linear network as one batched program.

    l_i = 1/2 |y_i - W2 W1 x_i|^2,   L = (1/N) sum_i w_i l_i,   D = (1/N) (W2 W1 X - Y) diag(w) X^T
    grad_{W1} L = W2^T D,            grad_{W2} L = D W1^T

Gradients are written by hand. theta (C, P), P = (n_in + d_out) h, holds W1^T (n_in, h) and then
W2 (d_out, h): with the hidden index last, all three products run over long contiguous rows, twice
as fast as any other order.
"""

import torch
from torch import Tensor

from dlnflow.sampling.posterior import Evaluation


def pack(w1: Tensor, w2: Tensor) -> Tensor:
    """Return theta (..., P) from W1 (..., h, n_in) and W2 (..., d_out, h)."""
    return torch.cat([w1.mT.flatten(-2), w2.flatten(-2)], dim=-1)


class LinearEvaluator:
    """Losses and gradients of a two-layer linear network on all items.

    Parameters
    ----------
    x : Tensor, shape (n_in, N), or None
        Inputs; None means one-hot.
    y : Tensor, shape (d_out, N)
        Targets.
    hidden : int
        Number h of hidden units.
    weights : Tensor, shape (N,) or (C, N), optional
        w_i, the same for all chains or of each chain; default 1.
    """

    exact = True

    def __init__(
        self, x: Tensor | None, y: Tensor, hidden: int, weights: Tensor | None = None
    ) -> None:
        d_out, n_items = y.shape
        n_in = n_items if x is None else x.shape[0]
        self.n_in = n_in
        self.n_parameters = (n_in + d_out) * hidden
        self._x, self._xt = x, None if x is None else x.mT.contiguous()
        self._yt = y.mT.contiguous()  # (N, d_out)
        scale = torch.full((n_items,), 1.0 / n_items, dtype=y.dtype)
        scale = scale if weights is None else scale * weights
        self._scale = None if weights is None else scale
        # A 0-dim tensor: a Python number would be wrapped anew at every step.
        self._factor = scale[0] if weights is None else scale[..., None]
        self._half = torch.tensor(0.5, dtype=y.dtype)
        self._space = _Workspace(n_in, d_out, hidden)

    def __call__(self, theta: Tensor) -> Evaluation:
        """Return loss (C,), gradient (C, P) and the loss of every item (C, N)."""
        space, x = self._space, self._x
        w1t, w2, w2t = space.layers(theta)
        wt = torch.bmm(w1t, w2t)  # (C, n_in, d_out)
        error = (wt if x is None else torch.matmul(self._xt, wt)).sub_(self._yt)  # (C, N, d_out)
        items = (error * error).sum(-1).mul_(self._half)  # (C, N)
        error.mul_(self._factor)
        d = error if x is None else torch.matmul(x, error)  # D^T (C, n_in, d_out)
        torch.bmm(d, w2, out=space.gradient1)
        torch.bmm(d.mT, w1t, out=space.gradient2)
        space.block1.copy_(space.gradient1)
        space.block2.copy_(space.gradient2)
        return Evaluation(self._mean(items), space.gradient, items)

    def observe(self, theta: Tensor) -> Tensor:
        """Return the loss of every item (C, N)."""
        return self(theta).items

    def _mean(self, items: Tensor) -> Tensor:
        if self._scale is None:
            return items.mean(-1)
        return items @ self._scale if self._scale.ndim == 1 else (items * self._scale).sum(-1)


class _Workspace:
    """Views of theta and space for the gradient, kept from step to step.

    bmm writes only into contiguous batches, and fresh arrays of this size cost more than the
    arithmetic, since the system takes their pages back at once.
    """

    def __init__(self, n_in: int, d_out: int, hidden: int) -> None:
        self._shape, self._n_in = (-1, n_in + d_out, hidden), n_in
        self._theta: Tensor | None = None

    def layers(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return W1^T (C, n_in, h), W2 (C, d_out, h) and W2^T."""
        if theta is not self._theta:
            if self._theta is None or self._theta.shape != theta.shape:
                self._allocate(theta)
            layers, self._theta = theta.view(self._shape), theta
            w1t, w2 = layers[:, : self._n_in], layers[:, self._n_in :]
            self._views = w1t, w2, w2.mT
        return self._views

    def _allocate(self, theta: Tensor) -> None:
        self.gradient = torch.empty_like(theta)
        blocks = self.gradient.view(self._shape)
        self.block1, self.block2 = blocks[:, : self._n_in], blocks[:, self._n_in :]
        self.gradient1 = torch.empty(self.block1.shape, dtype=theta.dtype)
        self.gradient2 = torch.empty(self.block2.shape, dtype=theta.dtype)
