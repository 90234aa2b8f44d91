"""All checkpoints and all chains of a two-layer linear network as one batched program.

    l_i = 1/2 |y_i - W2 W1 x_i|^2,   L = (1/N) sum_i w_i l_i,   D = (1/N) (W2 W1 X - Y) diag(w) X^T
    grad_{W1} L = W2^T D,            grad_{W2} L = D W1^T

Gradients are written by hand; the batch is checkpoints x chains. Chains are independent of each
other and their random numbers depend on (seed, checkpoint, chain) alone, so the batch is advanced
in slabs that stay in cache, and the answer does not depend on what else was in the batch.

theta (C, P), P = (n_in + d_out) h, holds W1^T (n_in, h) and then W2 (d_out, h): with the hidden
index last, all three products run over long contiguous rows, twice as fast as any other order.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from dlnflow import checks
from dlnflow._support.progress import Progress
from dlnflow._support.typing import FloatArray
from dlnflow.sampling import chains
from dlnflow.sampling.chains import Report, judged
from dlnflow.sampling.noise import Streams
from dlnflow.sampling.posterior import Evaluation, Posterior
from dlnflow.sampling.precision import check_precision
from dlnflow.sampling.settings import Settings
from dlnflow.task import Task
from dlnflow.traces.format import check_start, labelled

SLAB_BYTES = 400_000
"""Positions of the chains that advance together; a handful of such arrays fits in L2."""


def pack(w1: Tensor, w2: Tensor) -> Tensor:
    """Return theta (..., P) from W1 (..., h, n_in) and W2 (..., d_out, h)."""
    return torch.cat([w1.mT.flatten(-2), w2.flatten(-2)], dim=-1)


def evaluator(
    x: Tensor | None, y: Tensor, hidden: int, weights: Tensor | None = None
) -> Callable[[Tensor], Evaluation]:
    """Return theta (C, P) -> Evaluation with the loss of every item.

    Parameters
    ----------
    x : Tensor, shape (n_in, N), or None
        Inputs; None means one-hot.
    y : Tensor, shape (d_out, N)
        Targets.
    hidden : int
        h.
    weights : Tensor, shape (N,), optional
        w_i; default 1.

    Returns
    -------
    callable
        theta -> Evaluation(loss (C,), gradient (C, P), items (C, N)).
    """
    d_out, n_items = y.shape
    n_in = n_items if x is None else x.shape[0]
    yt = y.mT.contiguous()  # (N, d_out)
    xt = None if x is None else x.mT.contiguous()
    scale = torch.full((n_items,), 1.0 / n_items, dtype=y.dtype)
    scale = scale if weights is None else scale * weights
    # A 0-dim tensor: a Python number would be wrapped anew at every step.
    factor = scale[0] if weights is None else scale[:, None]
    half = torch.tensor(0.5, dtype=y.dtype)
    space = _Workspace(n_in, d_out, hidden)

    def evaluate(theta: Tensor) -> Evaluation:
        w1t, w2, w2t = space.layers(theta)
        wt = torch.bmm(w1t, w2t)  # (C, n_in, d_out)
        error = (wt if xt is None else torch.matmul(xt, wt)).sub_(yt)  # (C, N, d_out)
        items = (error * error).sum(-1).mul_(half)  # (C, N)
        error.mul_(factor)
        d = error if x is None else torch.matmul(x, error)  # D^T (C, n_in, d_out)
        torch.bmm(d, w2, out=space.gradient1)
        torch.bmm(d.mT, w1t, out=space.gradient2)
        space.block1.copy_(space.gradient1)
        space.block2.copy_(space.gradient2)
        loss = items.mean(-1) if weights is None else items @ scale
        return Evaluation(loss, space.gradient, items)

    return evaluate


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


def sample(
    w1: ArrayLike,
    w2: ArrayLike,
    task: Task,
    *,
    time: ArrayLike,
    kernel: str,
    settings: Settings,
    weights: ArrayLike | None = None,
) -> xr.DataArray:
    """Sample the localised posterior around every checkpoint.

    Parameters
    ----------
    w1 : array, shape (T, h, n_in)
        First layers of the checkpoints.
    w2 : array, shape (T, d_out, h)
        Second layers.
    task : Task
        N items.
    time : array of int, shape (T,)
        Steps of the checkpoints; part of the seeds.
    kernel : str
        Name in `KERNELS`.
    settings : Settings
        Posterior, lengths, seed, precision.
    weights : array, shape (N,), optional
        Item weights w_i >= 0; default 1. Recorded as the coordinate `weight`.

    Returns
    -------
    xarray.DataArray, dims (time, chain, draw, item)
        Loss traces, with the coordinates and attributes of `dlnflow.sampling.sample`.

    Raises
    ------
    ValueError
        If a setting is out of range, a loss at a checkpoint is not finite, or the step is beyond
        stability.
    """
    settings.warn_if_target_changed()
    dtype = getattr(torch, settings.dtype)
    w1, w2, y = (torch.as_tensor(np.array(a), dtype=dtype) for a in (w1, w2, task.y))
    x = None if task.one_hot else torch.as_tensor(np.array(task.x), dtype=dtype)
    weights = None if weights is None else _item_weights(weights, task.n_items)
    w = None if weights is None else torch.as_tensor(weights, dtype=dtype)
    time = np.atleast_1d(np.asarray(time))
    theta = pack(w1, w2)  # (T, P)
    start = evaluator(x, y, w1.shape[1], w)(theta).items.double().numpy()
    check_start(start, time)
    check_precision(settings, kernel, theta, float(start.mean(1).max()))
    centers = theta.repeat_interleave(settings.chains, 0)  # (T chains, P)
    keys = [(settings.seed, int(t), c) for t in time for c in range(settings.chains)]
    slab = max(1, SLAB_BYTES // (theta.shape[1] * theta.element_size()))
    losses = np.empty((len(keys), settings.draws, task.n_items), np.float64)
    reports = []
    with Progress(len(keys), "sampling") as progress:
        for first in range(0, len(keys), slab):
            rows = slice(first, first + slab)
            block, report = _advance(centers[rows], keys[rows], x, y, kernel, settings, w)
            losses[rows] = block.numpy()
            reports.append(report)
            progress.advance(len(block))
    traces = labelled(
        losses.reshape(len(time), settings.chains, settings.draws, task.n_items),
        time=time,
        items=task.items,
        checkpoint_loss=start,
        attrs=settings.attrs(kernel, task.n_items, theta.shape[1]),
    )
    if weights is not None:
        traces = traces.assign_coords(weight=("item", weights))
    return judged(traces, reports)


def _item_weights(weights: ArrayLike, n_items: int) -> FloatArray:
    """Return item weights >= 0, one per item.

    Returns
    -------
    array, shape (N,)

    Raises
    ------
    ValueError
        If they are not.
    """
    array = checks.nonnegative("weights", weights)
    if array.shape != (n_items,):
        raise ValueError(
            f"`weights` must be one number per item, shape ({n_items},), got {array.shape}."
        )
    return array


def _advance(
    center: Tensor,
    keys: Sequence[tuple[int, int, int]],
    x: Tensor | None,
    y: Tensor,
    kernel: str,
    settings: Settings,
    weights: Tensor | None,
) -> tuple[Tensor, Report]:
    """Run one slab of chains: losses (C, draws, N) and what the last state says."""
    hidden = center.shape[1] // (len(y) + (y.shape[1] if x is None else len(x)))
    posterior = Posterior(
        evaluator(x, y, hidden, weights), center, settings.n_beta, settings.localization
    )
    noise = Streams(keys, center.shape[1], center.dtype)
    built = chains.build(kernel, posterior, settings.for_kernel())
    losses, state = chains.run(built, center, noise, **settings.lengths())
    return losses, Report.of(built, posterior, state)
