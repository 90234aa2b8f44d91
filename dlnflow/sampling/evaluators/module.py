"""Any torch module: losses and gradients of all chains as functions of theta (C, P).

vmap over the chains where the model allows, else one chain after another; the model itself is
never changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dlnflow import checks
from dlnflow.sampling.posterior import Evaluation
from dlnflow.sampling.restriction import Mask, Restrict, as_given, masks, matching

Batch = tuple[Tensor, ...]
ItemLosses = Callable[[Callable[..., Any], Batch], Tensor]
"""(model, batch) -> losses (n,) or (n, k); `model` is called like the module."""


@dataclass(frozen=True)
class Parameters:
    """Which parameters are sampled, how they lie in theta, and the values of all others."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    fixed: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, model: nn.Module, state: Mapping[str, Tensor], patterns: Sequence[str] | None
    ) -> "Parameters":
        """Choose among the parameters that require a gradient, as `matching` does.

        Returns
        -------
        where : Parameters
            The layout of theta.

        Raises
        ------
        ValueError
            If a pattern matches no parameter, or the state lacks one or has another shape.
        """
        known = dict(model.named_parameters())
        free = [name for name, value in known.items() if value.requires_grad]
        names = tuple(matching(free, patterns))
        others = {**known, **dict(model.named_buffers())}
        absent = [name for name in known if name not in state]
        if absent:
            raise ValueError(f"a checkpoint lacks the parameter {absent[0]!r} of the model.")
        for name, value in known.items():
            if state[name].shape != value.shape:
                raise ValueError(
                    f"the parameter {name!r} of a checkpoint has shape {tuple(state[name].shape)}, "
                    f"in the model {tuple(value.shape)}."
                )
        fixed = {n: state.get(n, v).detach() for n, v in others.items() if n not in names}
        return cls(names, tuple(known[n].shape for n in names), fixed)

    @classmethod
    def restricted(
        cls, model: nn.Module, state: Mapping[str, Tensor], restrict: Restrict
    ) -> tuple["Parameters", dict[str, Mask]]:
        """Choose the parameters of which some entry moves, and say which entries do.

        Returns
        -------
        where : Parameters
            The layout of theta, with all entries of these parameters.
        moving : dict of str to bool array
            In the same order.

        Raises
        ------
        ValueError
            As `of` and `dlnflow.sampling.restriction.masks`.
        """
        free = {n: tuple(p.shape) for n, p in model.named_parameters() if p.requires_grad}
        found = masks(free, restrict)
        return cls.of(model, state, list(found)), found

    def flat(self, state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return the sampled parameters of a state dict as one vector (P,)."""
        return torch.cat([state[name].detach().reshape(-1).to(dtype) for name in self.names])

    def unflat(self, theta: Tensor) -> dict[str, Tensor]:
        """Return a vector (P,) as named tensors, with the fixed ones in its precision."""
        parts = theta.split([shape.numel() for shape in self.shapes])
        named = {
            name: part.view(shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }
        for name, value in self.fixed.items():
            named[name] = value.to(theta.dtype) if value.is_floating_point() else value
        return named


@dataclass(frozen=True)
class EvaluationOptions:
    """How a torch module is evaluated while it is sampled.

    Parameters
    ----------
    batch_size : int, optional
        Items per gradient, drawn without replacement anew for each step and chain; default all.
    parameters : sequence of str, optional
        Sample only parameters whose names match (`*` matches anything); the others stay, and so
        do those with requires_grad=False.
    restrict : str, sequence of str, or mapping, optional
        Entries that move, in place of `parameters`: names of parameters (`*` matches anything), or
        a mapping of them to bool masks of their shapes. `dlnflow.lm.components` gives those of the
        layers and heads of a language model.
    items : sequence of str, optional
        Names of the observed losses; default their positions in `data` (in `observed` where it
        holds tensors), "position.k" where an item has several losses.
    observed_loss : callable, optional
        (model, batch) -> (n,) or (n, k): what is recorded, e.g. one loss per token; default the
        training loss.
    observe_at_once : int
        Items per forward pass when observing.
    vectorise : bool, optional
        All chains in one vmap. Default: try, and go one by one where the model refuses.

    Raises
    ------
    ValueError
        If a number is out of range or a list is empty.
    """

    batch_size: int | None = None
    parameters: Sequence[str] | None = None
    restrict: Restrict | None = None
    items: Sequence[str] | None = None
    observed_loss: ItemLosses | None = None
    observe_at_once: int = 512
    vectorise: bool | None = None

    def __post_init__(self) -> None:
        checks.positive_integer("observe_at_once", self.observe_at_once)
        if self.batch_size is not None:
            checks.positive_integer("batch_size", self.batch_size)
        if self.parameters is not None and len(self.parameters) == 0:
            raise ValueError("`parameters` is empty: nothing would move. Leave it out for all.")
        if self.restrict is not None:
            object.__setattr__(self, "restrict", as_given(self.restrict))
        if self.parameters is not None and self.restrict is not None:
            raise ValueError(
                "`parameters` names whole parameters and `restrict` entries of them; give one."
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "EvaluationOptions":
        """Return the options of keyword arguments.

        Returns
        -------
        EvaluationOptions

        Raises
        ------
        ValueError
            If a keyword is unknown.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(
                    f"`{name}` is not an option of `sample`; there are {', '.join(known)}."
                    + checks.did_you_mean(name, known)
                )
        return cls(**options)


class ChainLosses:
    """Losses and gradients of all chains.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode.
    item_losses : callable
        (model, batch) -> losses.
    where : Parameters
        The layout of theta.
    vectorise : bool or None
        None: try vmap once, and remember whether the model refused.
    """

    def __init__(
        self,
        model: nn.Module,
        item_losses: ItemLosses,
        where: Parameters,
        vectorise: bool | None = None,
    ) -> None:
        self._model, self._losses, self._where = model, item_losses, where
        self.vectorise = vectorise
        self.n_parameters = sum(shape.numel() for shape in where.shapes)

    def items(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return the losses (C, n) of a batch that all chains share."""
        with torch.no_grad():
            return self._map(lambda one: self._one(one, batch).flatten(), theta)

    def check(self, name: str, theta: Tensor, batch: Batch, differentiable: bool = False) -> None:
        """Refuse a loss function that gives no posterior.

        Raises
        ------
        ValueError
            If it does not return one floating-point loss (or row of losses) per item, with a
            gradient where it must be `differentiable`, and the same ones at a second call.
        TypeError
            If it is no function.
        """
        if not callable(self._losses):
            raise TypeError(f"`{name}` must be a function (model, batch) -> losses.")
        with torch.enable_grad():
            theta = theta.detach().clone().requires_grad_(differentiable)
            losses, again = self._one(theta, batch), self._one(theta, batch)
        count = len(batch[0])
        if not torch.is_tensor(losses) or not losses.is_floating_point():
            kind = losses.dtype if torch.is_tensor(losses) else type(losses).__name__
            raise ValueError(f"`{name}` must return a floating-point tensor of losses, got {kind}.")
        if losses.ndim not in (1, 2) or len(losses) != count:
            raise ValueError(
                f"`{name}` must return one loss per item, shape ({count},) or ({count}, k); got "
                f"{tuple(losses.shape)}. Do not average over items (reduction='none')."
            )
        if differentiable and not losses.requires_grad:
            raise ValueError(
                f"the losses of `{name}` do not depend on the sampled parameters: call the model "
                "it is given, without detach or torch.no_grad."
            )
        if not torch.allclose(losses, again, rtol=1e-4, atol=0, equal_nan=True):
            raise ValueError(
                f"`{name}` gives other losses when it is called again at the same weights, so "
                "that its noise would enter the covariances. Is there dropout (e.g. "
                "functional.dropout without training=False) or another random operation?"
            )

    def gradient(self, theta: Tensor, batch: Batch, indices: Tensor | None) -> Evaluation:
        """Return mean loss, its gradient, and item losses; indices (C, b) choose minibatches."""

        def mean(one: Tensor, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
            part = batch if chosen is None else tuple(part[chosen] for part in batch)
            losses = self._one(one, part)
            return losses.mean(), losses.detach().flatten()

        both = grad_and_value(mean, has_aux=True)
        if indices is None:
            gradient, (loss, items) = self._map(lambda one: both(one, None), theta)
            return Evaluation(loss, gradient, items)
        gradient, (loss, _) = self._map(both, theta, indices)
        return Evaluation(loss, gradient)

    def _one(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return the losses of one chain."""
        named = self._where.unflat(theta)

        def call(*arguments: Any, **options: Any) -> Any:
            return functional_call(self._model, named, arguments, options)

        return self._losses(call, batch)

    def _map(self, function: Callable[..., Any], *stacked: Tensor) -> Any:
        """Apply a function to every chain, in one vmap if the model allows."""
        if self.vectorise is not False:
            try:
                answer = vmap(function)(*stacked)
            except (RuntimeError, ValueError):
                if self.vectorise:
                    raise
                self.vectorise = False
            else:
                self.vectorise = True
                return answer
        rows = [function(*row) for row in zip(*stacked, strict=True)]
        return _stack(rows)


class ModuleEvaluator:
    """A torch module with its data around one checkpoint.

    Parameters
    ----------
    training, watching : ChainLosses
        Losses of the posterior, and those that are recorded.
    data, watched : tuple of Tensor
        Their items.
    options : EvaluationOptions
        Size of minibatches and of forward passes.
    streams : sequence of torch.Generator
        Generators of the minibatches, one per chain.
    """

    def __init__(
        self,
        training: ChainLosses,
        watching: ChainLosses,
        data: Batch,
        watched: Batch,
        options: EvaluationOptions,
        streams: Sequence[torch.Generator],
    ) -> None:
        self._training, self._watching = training, watching
        self._data, self._watched, self._options = data, watched, options
        self._streams = streams
        self.n_parameters = training.n_parameters
        self.exact = options.batch_size in (None, len(data[0]))
        # The gradient of the full batch already brings the losses of the training items.
        self._free = watched is data and options.observed_loss is None

    def __call__(self, theta: Tensor) -> Evaluation:
        """Return mean loss and gradient, of a fresh minibatch for every chain unless `exact`."""
        if self.exact:
            value = self._training.gradient(theta, self._data, None)
            return value if self._free else value._replace(items=None)
        size, count = len(self._data[0]), self._options.batch_size
        drawn = [torch.randperm(size, generator=s)[:count] for s in self._streams]
        return self._training.gradient(theta, self._data, torch.stack(drawn))

    def observe(self, theta: Tensor) -> Tensor:
        """Return the losses (C, K) of the watched items, a few items at a time."""
        at_once = self._options.observe_at_once
        cut = range(0, len(self._watched[0]), at_once)
        parts = [tuple(t[k : k + at_once] for t in self._watched) for k in cut]
        return torch.cat([self._watching.items(theta, part) for part in parts], dim=1)

    def check(self, theta: Tensor) -> None:
        """Refuse loss functions that give no posterior, or nothing to observe, at theta (P,).

        Raises
        ------
        ValueError, TypeError
            As `ChainLosses.check`.
        """
        some = _first(self._data, self._options.batch_size)
        self._training.check("batch_loss", theta, some, differentiable=True)
        name = "observed_loss" if self._options.observed_loss else "batch_loss"
        self._watching.check(name, theta, _first(self._watched, self._options.observe_at_once))


def _first(data: Batch, count: int | None) -> Batch:
    """Return the first `count` items; None returns all."""
    return tuple(d[:count] for d in data)


def _stack(rows: list[Any]) -> Any:
    """Stack equal nests of tuples of tensors along a new first axis."""
    if isinstance(rows[0], tuple):
        return tuple(_stack(list(column)) for column in zip(*rows, strict=True))
    return torch.stack(rows)
