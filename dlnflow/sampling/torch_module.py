"""Sample around the weights of any torch model.

    p(theta) ~ exp(-n_beta L(theta) - (localization / 2) |theta - theta_0|^2),
    L = mean loss of `data`

Gradients may use minibatches; the losses that are recorded never do.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from dlnflow import checks
from dlnflow._support.progress import Progress
from dlnflow.sampling import chains
from dlnflow.sampling.evaluators.module import (
    Batch,
    ChainLosses,
    EvaluationOptions,
    ItemLosses,
    ModuleEvaluator,
    Parameters,
)
from dlnflow.sampling.noise import MINIBATCH, generator
from dlnflow.sampling.restriction import described, positions
from dlnflow.sampling.settings import Settings


def sample(
    model: nn.Module,
    batch_loss: ItemLosses,
    data: Batch,
    observed: Batch | Sequence[int] | None = None,
    *,
    settings: Settings,
    kernel: str = "sgld",
    checkpoints: Mapping[int, Mapping[str, Tensor]] | None = None,
    **evaluation: Any,
) -> xr.DataArray:
    """Sample the localised posterior of a model and record the losses of observed items.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode; left as it is.
    batch_loss : callable
        (model, batch) -> losses (n,) or (n, k), differentiable and the same at every call;
        `model` is called like the module, `batch` holds n items of each tensor of `data`.
    data : tuple of Tensor, first axis N
        Training items; L is their mean loss.
    observed : tuple of Tensor or sequence of int, optional
        Items whose losses are recorded: tensors like `data`, or different positions in `data`.
        Default: all.
    settings : Settings
        Posterior, lengths, seed, precision.
    kernel : str
        Name in `KERNELS`; "mala" needs the full batch.
    checkpoints : mapping of step to state dict, optional
        In any order. Default: the model's present weights, as step 0.
    **evaluation
        Fields of `dlnflow.sampling.evaluators.module.EvaluationOptions`.

    Returns
    -------
    xarray.DataArray, dims (time, chain, draw, item)
        Loss traces; the attribute `vectorised` says how the chains ran, the attribute
        `target_changed` which option changed the target, if one did. Coordinates (time, chain):
        `acceptance` of MALA; `relative_step` of full-batch `sgld` and `rmsprop_sgld`, the step
        times the largest curvature, with a warning where it biases variances by over 25 %.

    Raises
    ------
    ValueError
        If data, items, checkpoints or settings do not fit together, the model is in training
        mode, a loss function does not give one differentiable loss per item, gives another one
        the second time (dropout), or the losses of a checkpoint are not finite.
    TypeError
        If the model is no module or the settings are no `Settings`.
    """
    how = EvaluationOptions.of(evaluation)
    check_model(model)
    check_settings(settings)
    size = check_data("data", data)
    if how.batch_size is not None and how.batch_size > size:
        raise ValueError(f"`batch_size` must lie in [1, {size}], got {how.batch_size}.")
    chains.check(kernel, settings, exact=how.batch_size in (None, size))
    dtype = getattr(torch, settings.dtype)
    data = in_precision(data, dtype)
    watched = data if observed is None else in_precision(observed_items(data, observed), dtype)
    states = {0: dict(model.state_dict())} if checkpoints is None else ordered(checkpoints)
    positions = observed_positions(data, observed)
    losses, starts, reports, vectorised = [], [], [], True
    with Progress(len(states), "sampling") as progress:
        for step, state in states.items():
            where, entries = _moving(model, state, how)
            training, watching = (
                ChainLosses(model, loss, where, how.vectorise)
                for loss in (batch_loss, how.observed_loss or batch_loss)
            )
            keys = [(settings.seed, step, c) for c in range(settings.chains)]
            streams = [generator(*key, stream=MINIBATCH) for key in keys]
            evaluator = ModuleEvaluator(training, watching, data, watched, how, streams)
            center = where.flat(state, dtype).expand(settings.chains, -1).contiguous()
            evaluator.check(center[0])
            starts.append(evaluator.observe(center[:1]).double().numpy())
            chains.check_checkpoints(kernel, settings, center, starts[-1], [step])
            names = item_names(how.items, positions, starts[-1].shape[1])
            block, report = chains.sample(evaluator, center, kernel, settings, keys, entries)
            losses.append(block.double().numpy())
            reports.append(report)
            vectorised = vectorised and bool(training.vectorise)
            progress.advance()
    count = evaluator.n_parameters if entries is None else len(entries)
    attrs = settings.attrs(kernel, size, count) | {
        "batch_size": how.batch_size or size,
        "vectorised": int(vectorised),
    }
    if how.restrict is not None:
        attrs["restrict"] = described(how.restrict, count)
    return chains.traces_of(
        np.stack(losses),
        reports,
        time=list(states),
        items=names,
        checkpoint_loss=np.concatenate(starts),
        attrs=attrs,
    )


def _moving(
    model: nn.Module, state: Mapping[str, Tensor], how: EvaluationOptions
) -> tuple[Parameters, Tensor | None]:
    """Return the layout of theta, and the positions in it that move; None for all."""
    if how.restrict is None:
        return Parameters.of(model, state, how.parameters), None
    where, found = Parameters.restricted(model, state, how.restrict)
    moving = positions(found)
    return where, None if moving is None else torch.as_tensor(moving)


def check_model(model: object) -> None:
    """Refuse what is no module, and modules in training mode.

    Raises
    ------
    TypeError
        If it is not a torch.nn.Module.
    ValueError
        Naming the first module in training mode.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")
    for name, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"`model` is in training mode ({name or 'the whole model'}): dropout and batch "
                "statistics would enter the losses. Call model.eval() first."
            )


def check_settings(settings: object) -> None:
    """Refuse settings that were not checked.

    Raises
    ------
    TypeError
        If they are not a `Settings`.
    """
    if not isinstance(settings, Settings):
        raise TypeError(
            f"`settings` must be a dlnflow.sampling.Settings, got {type(settings).__name__}."
        )


def ordered(checkpoints: Mapping[int, Mapping[str, Tensor]]) -> dict[int, Mapping[str, Tensor]]:
    """Return checkpoints by increasing step.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If there are none, or a key is no step.
    """
    if not isinstance(checkpoints, Mapping) or not checkpoints:
        raise ValueError(
            "`checkpoints` must map at least one step to a state dict, e.g. {100: "
            f"model.state_dict()}}; got {type(checkpoints).__name__}."
        )
    steps = {checks.whole_number("checkpoints", step): step for step in checkpoints}
    return {step: checkpoints[steps[step]] for step in sorted(steps)}


def check_data(name: str, data: Batch) -> int:
    """Return the number of items.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is not a tuple of tensors of one length.
    """
    if not isinstance(data, tuple) or not data or not all(torch.is_tensor(d) for d in data):
        raise ValueError(f"`{name}` must be a tuple of tensors, e.g. (inputs, targets).")
    lengths = {len(d) for d in data}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"tensors of `{name}` must have one length > 0, got {[len(d) for d in data]}."
        )
    return len(data[0])


def in_precision(data: Batch, dtype: torch.dtype) -> Batch:
    """Return floating-point tensors in the precision of the chains, others as they are."""
    return tuple(d.to(dtype) if d.is_floating_point() else d for d in data)


def observed_positions(data: Batch, observed: Batch | Sequence[int] | None) -> list[int]:
    """Return the positions that name the observed items.

    Returns
    -------
    list of int
        In `data`; in `observed` itself where it holds tensors.

    Raises
    ------
    ValueError
        If positions are no whole numbers, outside the data, or repeat.
    """
    if observed is None:
        return list(range(len(data[0])))
    if _is_batch(observed):
        return list(range(len(observed[0])))
    try:
        where = torch.as_tensor(observed)
    except (TypeError, ValueError, RuntimeError):
        where = torch.tensor([])
    size = len(data[0])
    kind = where.is_floating_point() or where.is_complex() or where.dtype == torch.bool
    if where.ndim != 1 or len(where) == 0 or kind:
        raise ValueError(
            "`observed` must be a tuple of tensors like `data`, or a list of whole numbers, "
            f"positions in it; got {observed!r:.80}."
        )
    outside = where[(where < 0) | (where >= size)]
    if len(outside):
        raise ValueError(f"`observed` item {int(outside[0])} is not in the data (0..{size - 1}).")
    if len(where.unique()) < len(where):
        raise ValueError("`observed` must name different items; drop the repeats.")
    return where.tolist()


def observed_items(data: Batch, observed: Batch | Sequence[int]) -> Batch:
    """Return the observed items as tensors.

    Returns
    -------
    tuple of Tensor

    Raises
    ------
    ValueError
        If positions are outside the data, repeat, or tensors do not match.
    """
    if _is_batch(observed):
        if len(observed) != len(data):
            raise ValueError(f"`observed` must have {len(data)} tensors, got {len(observed)}.")
        check_data("observed", observed)
        return observed
    where = observed_positions(data, observed)
    return tuple(d[where] for d in data)


def _is_batch(observed: object) -> bool:
    """Whether observed items are given as tensors."""
    return isinstance(observed, tuple) and bool(observed) and all(map(torch.is_tensor, observed))


def item_names(items: Sequence[str] | None, positions: Sequence[int], count: int) -> list[str]:
    """Return different names of `count` observed losses.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If their number is wrong or one repeats.
    """
    if items is None:
        each = count // len(positions)
        if each == 1:
            return [str(p) for p in positions]
        return [f"{p}.{k}" for p in positions for k in range(each)]
    names = [str(i) for i in items]
    if len(names) != count:
        raise ValueError(f"`items` has {len(names)} names for {count} observed losses.")
    if len(set(names)) < count:
        raise ValueError("`items` must be different names.")
    return names
