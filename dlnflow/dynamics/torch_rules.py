"""Update rules of torch runs: options, learning rates that change, clipped gradients."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.dynamics.optimizers import State, Traits

SMALL = 1e-6
"""Added to the norm that clipping divides by, as in torch.nn.utils.clip_grad_norm_."""


@dataclass(frozen=True, eq=False)
class TunedRule:
    """A rule whose rate changes from step to step and whose gradients are clipped before it.

        g <- min(1, clip / (|g| + 1e-6)) g,    then the step of `rule` at learning rate rates[k]

    with |g| the norm over all weights. The derivative of the factor counts. ``rule`` makes the
    rule of a learning rate, ``rates`` has one for every step.
    """

    rule: Callable[[Any], Any]
    rates: FloatArray
    clip: float | None

    @property
    def learning_rate(self) -> float:
        """The largest."""
        return float(self.rates.max())

    def start(self, weights: list[Tensor]) -> State:
        """Return the state of the rule, the number of steps and the factor of the last gradient."""
        return {**self.rule(self.learning_rate).start(weights), "taken": 0, "kept": 1.0}

    def update(
        self, weights: list[Tensor], gradients: list[Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        """Return weights and state after a step."""
        kept = torch.ones_like(state["kept"])
        if self.clip is not None:
            kept = clip_factor(gradients, self.clip).to(kept)
            gradients = [kept * g for g in gradients]
        inner = {name: part for name, part in state.items() if name not in ("taken", "kept")}
        moved, inner = self._at(state["taken"]).update(weights, gradients, inner)
        return moved, {**inner, "taken": state["taken"] + 1, "kept": kept}

    def displacement(self, state: State) -> Any:
        """Return what the rule makes of a unit of gradient, clipped as this step's was."""
        factors = self._at(state["taken"] - 1).displacement(state)
        if isinstance(factors, list):
            return [state["kept"] * part for part in factors]
        return state["kept"] * factors

    def _at(self, step: Tensor) -> Any:
        """Return the rule of a step."""
        rates = self._tensor.to(step.device)
        # an index in square brackets would be read off the tensor, which graphs cannot follow
        return self.rule(rates.index_select(0, step.detach().long().reshape(1)).reshape(()))

    @cached_property
    def _tensor(self) -> Tensor:
        return torch.as_tensor(self.rates)


def clip_factor(gradients: list[Tensor], clip: float) -> Tensor:
    """Return min(1, clip / (|g| + 1e-6)), with the derivative 0 at g = 0."""
    squares = torch.stack([(g * g).sum() for g in gradients]).sum()
    zero = (squares == 0).to(squares)
    return torch.clamp(clip / ((squares + zero).sqrt() - zero + SMALL), max=1.0)


def tuned(
    rule: type, rate: float, n_steps: int, *, schedule: Any, clip: float | None, options: Any
) -> Any:
    """Return the rule of a run: `rule` itself at one rate, or a `TunedRule`.

    Parameters
    ----------
    rule : class of update rules
    rate : float
    n_steps : int
    schedule : function of a step, array (n_steps,), or None
        Factors of the rate.
    clip : float, optional
        Largest norm of a gradient.
    options : mapping, optional
        Fields of the rule.

    Returns
    -------
    update rule

    Raises
    ------
    ValueError
        If an option is unknown, `clip` is not positive, or factors are not finite and >= 0.
    """
    make = partial(rule, **known_options(rule, options)) if options else rule
    if schedule is None and clip is None:
        return make(rate)
    clip = None if clip is None else checks.positive("clip", clip)
    return TunedRule(make, rate * _factors(schedule, n_steps), clip)


def known_options(rule: type, options: Any) -> dict[str, Any]:
    """Return options that are fields of a rule.

    Raises
    ------
    ValueError
        If they are none.
    """
    known = [f.name for f in dataclasses.fields(rule)] if dataclasses.is_dataclass(rule) else []
    known = [name for name in known if name != "learning_rate"]
    if not isinstance(options, Mapping):
        raise ValueError(f"`options` must be a dict of fields of the rule, got {options!r}.")
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f"`options` has {unknown[0]!r}, and {rule.__name__} takes "
            f"{', '.join(known) or 'none'}.{checks.did_you_mean(str(unknown[0]), known)}"
        )
    return dict(options)


def require_one_decay_each(options: Mapping[str, Any] | None, count: int) -> None:
    """Refuse a list of decays of another length than the list of parameters.

    Raises
    ------
    ValueError
        If it is.
    """
    decay = (options or {}).get("weight_decay", 0.0)
    if isinstance(decay, Sequence) and len(decay) != count:
        raise ValueError(
            f"`options` must give one weight_decay, or one per parameter, {count}; got "
            f"{len(decay)}."
        )


def tuned_traits(traits: Traits, *, changed: bool) -> Traits:
    """What holds of a rule for a torch model: no flow time, no rotations, plain if unchanged."""
    return Traits(
        linear=traits.linear and not changed,
        differentiable=traits.differentiable,
        plain=traits.plain and not changed,
        continuous=traits.continuous,
        momentum=traits.momentum,
        learning_rate=traits.learning_rate,
        n_steps=traits.n_steps,
    )


def _factors(schedule: Any, n_steps: int) -> FloatArray:
    """Factors of the learning rate at steps 0, ..., n_steps; the last step is only looked at."""
    if schedule is None:
        return np.ones(n_steps + 1)
    given: ArrayLike = schedule
    if callable(schedule):
        given = [schedule(step) for step in range(n_steps + 1)]
    factors = checks.real_array("rate_schedule", given)
    if factors.shape == (n_steps,):
        factors = np.append(factors, factors[-1])
    if factors.shape != (n_steps + 1,):
        raise ValueError(
            f"`rate_schedule` must give one factor per step, {n_steps}; got shape {factors.shape}."
        )
    if not np.all(np.isfinite(factors)) or np.any(factors < 0) or not np.any(factors):
        raise ValueError("`rate_schedule` must be finite and >= 0, and above 0 at some step.")
    return factors
