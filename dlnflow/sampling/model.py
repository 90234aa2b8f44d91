"""Sample around the weights of any torch model.

    p(theta) ~ exp(-n_beta L(theta) - (localization / 2) |theta - theta_0|^2),
    L = mean loss of `data`

Gradients may use minibatches; the losses that are recorded never do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from dlnflow._support.progress import Progress
from dlnflow.sampling import chains
from dlnflow.sampling.functional import Batch, ChainLosses, ItemLosses, Parameters
from dlnflow.sampling.model_input import (
    check_data,
    check_model,
    check_settings,
    first_items,
    in_precision,
    item_names,
    observed_items,
    observed_positions,
    ordered,
)
from dlnflow.sampling.noise import MINIBATCH, Streams, generator
from dlnflow.sampling.plan import Plan
from dlnflow.sampling.posterior import Evaluation, Posterior
from dlnflow.sampling.precision import check_precision
from dlnflow.sampling.settings import Settings
from dlnflow.traces.format import check_start, labelled


def sample(
    model: nn.Module,
    batch_loss: ItemLosses,
    data: Batch,
    observed: Batch | Sequence[int] | None = None,
    *,
    settings: Settings,
    kernel: str = "sgld",
    checkpoints: Mapping[int, Mapping[str, Tensor]] | None = None,
    **plan: Any,
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
    **plan
        Fields of `dlnflow.sampling.plan.Plan`.

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
    how = Plan.of(plan)
    check_model(model)
    check_settings(settings)
    settings.warn_if_target_changed()
    size = check_data("data", data)
    if how.batch_size is not None and how.batch_size > size:
        raise ValueError(f"`batch_size` must lie in [1, {size}], got {how.batch_size}.")
    dtype = getattr(torch, settings.dtype)
    data = in_precision(data, dtype)
    watched = data if observed is None else in_precision(observed_items(data, observed), dtype)
    states = {0: dict(model.state_dict())} if checkpoints is None else ordered(checkpoints)
    positions = observed_positions(data, observed)
    found = []
    with Progress(len(states), "sampling") as progress:
        for step, state in states.items():
            around = _Checkpoint(model, batch_loss, data, watched, positions, step, state, how)
            found.append(around.sample(kernel, settings))
            progress.advance()
    losses = np.stack([f[0] for f in found])
    attrs = settings.attrs(kernel, size, found[0][2]) | {
        "batch_size": how.batch_size or size,
        "vectorised": int(all(f[3] for f in found)),
    }
    traces = labelled(
        losses,
        time=list(states),
        items=item_names(how.items, positions, losses.shape[-1]),
        checkpoint_loss=np.stack([f[1] for f in found]),
        attrs=attrs,
    )
    return chains.judged(traces, [f[4] for f in found])


@dataclass
class _Checkpoint:
    """The chains around one state of the model."""

    model: nn.Module
    batch_loss: ItemLosses
    data: Batch
    watched: Batch
    positions: Sequence[int]
    step: int
    state: Mapping[str, Tensor]
    how: Plan

    def sample(self, kernel: str, settings: Settings) -> tuple[Any, Any, int, bool, chains.Report]:
        """Return losses (chains, draws, K), at the checkpoint (K,), P, vectorised, report."""
        how = self.how
        where = Parameters.of(self.model, self.state, how.parameters)
        center = where.flat(self.state, getattr(torch, settings.dtype))
        center = center.expand(settings.chains, -1).contiguous()
        training = ChainLosses(self.model, self.batch_loss, where, how.vectorise)
        watching = ChainLosses(
            self.model, how.observed_loss or self.batch_loss, where, how.vectorise
        )

        def observe(theta: Tensor) -> Tensor:
            cut = range(0, len(self.watched[0]), how.observe_at_once)
            parts = [tuple(t[k : k + how.observe_at_once] for t in self.watched) for k in cut]
            return torch.cat([watching.items(theta, part) for part in parts], dim=1)

        training.check("batch_loss", center[0], first_items(self.data, how.batch_size), True)
        part = first_items(self.watched, how.observe_at_once)
        watching.check("observed_loss" if how.observed_loss else "batch_loss", center[0], part)
        start = observe(center[:1])[0].double().numpy()
        check_start(start[None], [self.step])
        item_names(how.items, self.positions, len(start))
        check_precision(settings, kernel, center, float(start.mean()))
        full = how.batch_size is None or how.batch_size == len(self.data[0])
        evaluate = self._evaluator(training, settings, full)
        posterior = Posterior(evaluate, center, settings.n_beta, settings.localization, full)
        built = chains.build(kernel, posterior, settings.for_kernel())
        keys = [(settings.seed, self.step, c) for c in range(settings.chains)]
        noise = Streams(keys, center.shape[1], center.dtype)
        # The gradient of the full batch already brings the losses of the training items.
        free = full and self.watched is self.data and how.observed_loss is None
        losses, state = chains.run(
            built,
            center,
            noise,
            observe=None if free else lambda state: observe(state.theta),
            **settings.lengths(),
        )
        way = bool(training.vectorise)
        report = chains.Report.of(built, posterior, state)
        return losses.double().numpy(), start, center.shape[1], way, report

    def _evaluator(self, training: ChainLosses, settings: Settings, full: bool) -> Any:
        """Return theta -> Evaluation, with a fresh minibatch for every chain unless full."""
        if full:
            return lambda theta: training.gradient(theta, self.data, None)
        size, chain_numbers = len(self.data[0]), range(settings.chains)
        streams = [generator(settings.seed, self.step, c, stream=MINIBATCH) for c in chain_numbers]

        def evaluate(theta: Tensor) -> Evaluation:
            drawn = [torch.randperm(size, generator=s)[: self.how.batch_size] for s in streams]
            return training.gradient(theta, self.data, torch.stack(drawn))

        return evaluate
