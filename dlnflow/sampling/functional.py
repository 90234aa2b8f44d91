"""A torch model as a function of theta (C, P): losses and gradients of all chains.

vmap over the chains where the model allows, else one chain after another; the model itself is
never changed.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dlnflow.sampling.posterior import Evaluation

Batch = tuple[Tensor, ...]
ItemLosses = Callable[[Callable[..., Any], Batch], Tensor]
"""(model, batch) -> losses (n,) or (n, k); `model` is called like the module."""


def matching(known: Iterable[str], patterns: str | Sequence[str] | None) -> list[str]:
    """Return the names that match a pattern, in their own order.

    Parameters
    ----------
    known : iterable of str
        Names of all parameters that may move.
    patterns : str or sequence of str, optional
        Whole names, in which `*` matches anything; None or empty: all.

    Returns
    -------
    list of str
        The chosen names.

    Raises
    ------
    ValueError
        If a pattern matches no name.
    """
    known = list(known)
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns or "*")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
            more = ", ..." if len(known) > 8 else ""
            hint = f" Write '*{pattern}*' for all names that contain it."
            raise ValueError(
                f"`parameters` pattern {pattern!r} matches none of {', '.join(known[:8])}{more} "
                "(those that require a gradient)."
                + (hint if any(pattern in name for name in known) else "")
            )
    return [name for name in known if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


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
            told = losses.dtype if torch.is_tensor(losses) else type(losses).__name__
            raise ValueError(f"`{name}` must return a floating-point tensor of losses, got {told}.")
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


def _stack(rows: list[Any]) -> Any:
    """Stack equal nests of tuples of tensors along a new first axis."""
    if isinstance(rows[0], tuple):
        return tuple(_stack(list(column)) for column in zip(*rows, strict=True))
    return torch.stack(rows)
