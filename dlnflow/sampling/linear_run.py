"""Loss traces of a two-layer linear run: settings filled in, all checkpoints and chains sampled.

Chains are independent of each other and their random numbers depend on (seed, checkpoint, chain)
alone, so the batch of checkpoints x chains is advanced in slabs that stay in cache, and the answer
does not depend on what else was in the batch.
"""

from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import Dynamics
from dlnflow.sampling import chains, suggested
from dlnflow.sampling.evaluators.linear import LinearEvaluator, pack
from dlnflow.sampling.restriction import Restrict, as_given, described, masks
from dlnflow.sampling.settings import Settings
from dlnflow.sampling.step_checks import check_stable
from dlnflow.task import Task

SINGLE = 1e12
"""Size of data whose cube, the square of a gradient, fits into single precision."""
SLAB_BYTES = 400_000
"""Positions of the chains that advance together; a handful of such arrays fits in L2."""


def trace_run(
    run: Dynamics,
    steps: ArrayLike,
    *,
    kernel: str = "underdamped",
    weights: ArrayLike | None = None,
    trained_weights: ArrayLike | None = None,
    restrict: Restrict | None = None,
    **settings: Any,
) -> xr.DataArray:
    """Sample the localised posterior at checkpoints of a two-layer run.

    Parameters
    ----------
    run : Dynamics
        A run of two layers.
    steps : sequence of int
        Checkpoints.
    kernel : str
        Name in `dlnflow.sampling.KERNELS`: how the chains move. "underdamped" has no bias on
        Gaussian targets and, per step, the largest effective sample size.
    weights : array, shape (N,), optional
        Item weights w_i >= 0 of the posterior; default 1. Recorded as the coordinate `weight`.
    trained_weights : array, shape (N,), optional
        Item weights with which the checkpoints are trained; default 1.
    restrict : str or mapping, optional
        Entries that move, as in `sample`; default all.
    **settings
        Fields of `dlnflow.sampling.Settings`, among them the options of the kernel, e.g.
        kernel_options={"freeze_after": 500, "stability": 0.1}; n_beta, localization, step_size
        and burn_in are filled in where they are left out, as by `suggest(run)`: from the whole
        run, whatever `steps` are.

    Returns
    -------
    xarray.DataArray, dims (time, chain, draw, item)
        Losses of all items.

    Raises
    ------
    ValueError
        If a setting is out of range or the step is beyond stability at a checkpoint.
    """
    steps = checks.recorded_steps(steps, run.n_steps)
    unknown = sorted(set(settings) - set(Settings.__dataclass_fields__))
    if unknown:
        raise ValueError(
            f"unknown sampling option `{unknown[0]}`."
            + checks.did_you_mean(unknown[0], list(Settings.__dataclass_fields__))
        )
    suggested.require_two_layers(run)
    restrict = None if restrict is None else as_given(restrict)
    full = Settings(**suggested.complete(run, settings, kernel))
    _check_precision(run.task, full.dtype)
    if trained_weights is None:
        w1, w2 = suggested.checkpoints(run, steps)
    else:
        w1, w2 = run.train(steps, _item_weights(trained_weights, len(run.items))).weights
    stiffness = suggested.stiffest(run, w1, w2, full.n_beta, full.localization)
    check_stable(kernel, full, stiffness)
    how = {"kernel": kernel, "settings": full, "weights": weights, "restrict": restrict}
    return sample(w1, w2, run.task, time=steps, **how)


def sample(
    w1: ArrayLike,
    w2: ArrayLike,
    task: Task,
    *,
    time: ArrayLike,
    kernel: str,
    settings: Settings,
    weights: ArrayLike | None = None,
    restrict: Restrict | None = None,
) -> xr.DataArray:
    """Sample the localised posterior around every checkpoint.

    Parameters
    ----------
    w1 : array, shape (T, h, n_in)
        First layers of the checkpoints.
    w2 : array, shape (T, d_out, h)
        Second layers.
    task : Task
        Its N items.
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
    chains.check(kernel, settings, exact=True)
    dtype = getattr(torch, settings.dtype)
    w1, w2, y = (torch.as_tensor(np.array(a), dtype=dtype) for a in (w1, w2, task.y))
    x = None if task.one_hot else torch.as_tensor(np.array(task.x), dtype=dtype)
    weights = None if weights is None else _item_weights(weights, task.n_items)
    w = None if weights is None else torch.as_tensor(weights, dtype=dtype)
    time = np.atleast_1d(np.asarray(time))
    theta = pack(w1, w2)  # (T, P)
    evaluator = LinearEvaluator(x, y, w1.shape[1], w)
    start = evaluator.observe(theta).double().numpy()
    chains.check_checkpoints(kernel, settings, theta, start, time)
    entries = None if restrict is None else _entries(w1.shape[1:], w2.shape[1:], restrict)
    centers = theta.repeat_interleave(settings.chains, 0)  # (T chains, P)
    keys = [(settings.seed, int(t), c) for t in time for c in range(settings.chains)]
    slab = max(1, SLAB_BYTES // (theta.shape[1] * theta.element_size()))
    losses = np.empty((len(keys), settings.draws, task.n_items), np.float64)
    reports = []
    with Progress(len(keys), "sampling") as progress:
        for first in range(0, len(keys), slab):
            rows = slice(first, first + slab)
            part = centers[rows], kernel, settings, keys[rows]
            block, report = chains.sample(evaluator, *part, entries)
            losses[rows] = block.numpy()
            reports.append(report)
            progress.advance(len(block))
    traces = chains.traces_of(
        losses.reshape(len(time), settings.chains, settings.draws, task.n_items),
        reports,
        time=time,
        items=task.items,
        checkpoint_loss=start,
        attrs=settings.attrs(
            kernel, task.n_items, theta.shape[1] if entries is None else len(entries)
        ),
    )
    if restrict is not None:
        traces.attrs["restrict"] = described(restrict, traces.attrs["n_parameters"])
    if weights is not None:
        traces = traces.assign_coords(weight=("item", weights))
    return traces


def _entries(first: torch.Size, second: torch.Size, restrict: Restrict) -> torch.Tensor | None:
    """Return the positions in theta that move; None for all.

    Returns
    -------
    Tensor of int or None
    """
    shapes = {"layer1": tuple(first), "layer2": tuple(second)}
    found = {name: np.zeros(shape, bool) for name, shape in shapes.items()}
    found |= masks(shapes, restrict)
    flat = pack(*map(torch.as_tensor, found.values()))
    return None if flat.all() else flat.nonzero()[:, 0]


def _check_precision(task: Task, dtype: str) -> None:
    """Refuse single precision for data in a unit in which it overflows.

    Raises
    ------
    ValueError
        If the largest feature or input is beyond `SINGLE`, or one over it.
    """
    sizes = [float(np.abs(task.y).max()), 1.0 if task.one_hot else float(np.abs(task.x).max())]
    outside = [size for size in sizes if not 1 / SINGLE <= size <= SINGLE]
    if dtype == "float32" and outside:
        raise ValueError(
            f"`dtype` 'float32' overflows where data are as large as {outside[0]:.3g}; it takes "
            f"{1 / SINGLE:g} to {SINGLE:g}. Give dtype='float64', or choose another unit."
        )


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
