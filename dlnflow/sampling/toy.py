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

from dlnflow._progress import Progress
from dlnflow.sampling import chains
from dlnflow.sampling.chains import with_acceptance
from dlnflow.sampling.noise import Streams
from dlnflow.sampling.posterior import Evaluation, Posterior
from dlnflow.sampling.settings import Settings
from dlnflow.sampling.traces import check_start, labelled
from dlnflow.task import Task

SLAB_BYTES = 400_000
"""Positions of the chains that advance together; a handful of such arrays fits in L2."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


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
    uniform = None if weights is not None else 1.0 / n_items

    buffers: dict[int, tuple[Tensor, ...]] = {}

    def evaluate(theta: Tensor) -> Evaluation:
        layers = theta.view(-1, n_in + d_out, hidden)
        if len(layers) not in buffers:
            buffers[len(layers)] = _buffers(layers, n_in)
        gradient, gradient1, gradient2 = buffers[len(layers)]
        w1t, w2 = layers[:, :n_in], layers[:, n_in:]
        wt = torch.bmm(w1t, w2.mT)  # (C, n_in, d_out)
        error = (wt if xt is None else torch.matmul(xt, wt)).sub_(yt)  # (C, N, d_out)
        items = error.square().sum(-1).mul_(0.5)  # (C, N)
        error.mul_(scale[:, None] if uniform is None else uniform)
        d = error if x is None else torch.matmul(x, error)  # D^T (C, n_in, d_out)
        torch.bmm(d, w2, out=gradient1)
        torch.bmm(d.mT, w1t, out=gradient2)
        gradient[:, :n_in].copy_(gradient1)
        gradient[:, n_in:].copy_(gradient2)
        return Evaluation(items @ scale, gradient.view(theta.shape), items)

    return evaluate


def _buffers(layers: Tensor, n_in: int) -> tuple[Tensor, ...]:
    """Return space for the gradient and its two blocks."""
    # bmm writes only into contiguous batches, and fresh arrays of this size cost more than the
    # arithmetic, since the system takes their pages back at once.
    return (
        torch.empty_like(layers),
        torch.empty_like(layers[:, :n_in], memory_format=torch.contiguous_format),
        torch.empty_like(layers[:, n_in:], memory_format=torch.contiguous_format),
    )


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
        Item weights w_i; default 1.

    Returns
    -------
    xarray.DataArray, dims (time, chain, draw, item)
        Loss traces.

    Raises
    ------
    ValueError
        If a setting is out of range, a loss at a checkpoint is not finite, or the step is beyond
        stability.
    """
    dtype = DTYPES[settings.dtype]
    w1, w2, y = (torch.as_tensor(np.array(a), dtype=dtype) for a in (w1, w2, task.y))
    x = None if task.one_hot else torch.as_tensor(np.array(task.x), dtype=dtype)
    w = None if weights is None else torch.as_tensor(np.array(weights), dtype=dtype)
    time = np.atleast_1d(np.asarray(time))
    theta = pack(w1, w2)  # (T, P)
    start = evaluator(x, y, w1.shape[1], w)(theta).items.double().numpy()
    check_start(start, time)
    centers = theta.repeat_interleave(settings.chains, 0)  # (T chains, P)
    keys = [(settings.seed, int(t), c) for t in time for c in range(settings.chains)]
    slab = max(1, SLAB_BYTES // (theta.shape[1] * theta.element_size()))
    losses = np.empty((len(keys), settings.draws, task.n_items), np.float64)
    states = []
    with Progress(len(keys), "sampling") as progress:
        for first in range(0, len(keys), slab):
            rows = slice(first, first + slab)
            block, state = _advance(centers[rows], keys[rows], x, y, kernel, settings, w)
            losses[rows] = block.numpy()
            states.append(state)
            progress.advance(len(block))
    traces = labelled(
        losses.reshape(len(time), settings.chains, settings.draws, task.n_items),
        time=time,
        items=task.items,
        checkpoint_loss=start,
        attrs=settings.attrs(kernel, task.n_items, theta.shape[1]),
    )
    return with_acceptance(traces, states)


def _advance(
    center: Tensor,
    keys: Sequence[tuple[int, int, int]],
    x: Tensor | None,
    y: Tensor,
    kernel: str,
    settings: Settings,
    weights: Tensor | None,
) -> tuple[Tensor, object]:
    """Run one slab of chains: losses (C, draws, N) and the last state."""
    hidden = center.shape[1] // (len(y) + (y.shape[1] if x is None else len(x)))
    posterior = Posterior(
        evaluator(x, y, hidden, weights), center, settings.n_beta, settings.localization
    )
    noise = Streams(keys, center.shape[1], center.dtype)
    built = chains.build(kernel, posterior, settings.kernel_options())
    return chains.run(built, center, noise, **settings.lengths())
