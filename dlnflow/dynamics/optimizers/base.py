"""What an update rule is, and the traits by which the package decides where it may be used.

A rule is a class with one argument, ``learning_rate``, a class attribute ``traits`` and

    start(weights) -> state             the state before the first step
    step(weights, gradients, state)     one step, in place
    step_tangent(...)                   the derivative of a step along directions, in place
    step_adjoint(...)                   its transpose: from new weights and state to the gradient,
                                        and back in place to the old ones where decay shrinks them
    update(weights, gradients, state)   the step as a function: new (weights, state)

`update` and `displacement` are written with operators (+, *, **, abs, comparisons), so that they
take torch tensors as well as arrays; `dlnflow.TorchRun` needs these two and `start` alone, and
differentiates `update` itself. Numbers in the state are then tensors without axes.

A trait that a rule does not declare is absent, and whatever needs it refuses the rule.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

from dlnflow._support import FloatArray

Weights = list[FloatArray]
State = dict[str, Weights | int]


@dataclass(frozen=True, slots=True)
class Base:
    """What a tangent or adjoint step needs of the step itself: its gradient and *new* state."""

    gradients: Weights
    state: State


@dataclass(frozen=True)
class Traits:
    """What holds for a rule; every default means "not known to hold".

    Parameters
    ----------
    rotation_invariant : bool
        Rotating the hidden layer rotates the step, so that a reduced basis is exact.
    linear : bool
        The step is linear in the gradient and the state, entry by entry alike, so that any change
        of basis is exact.
    differentiable : bool
        ``step_tangent`` and ``step_adjoint`` are derivatives of the step.
    plain : bool
        The step is - learning_rate * gradient and nothing else.
    continuous : bool
        There are no steps; the rule is the gradient flow, with time learning_rate * step.
    flow_time : float, optional
        Flow time per learning_rate * step, where small steps follow the gradient flow.
    momentum : float
        Fraction of a displacement that is repeated one step later.
    stability : float
        Largest stable learning rate, as a multiple of gradient descent's; NaN if unknown.
    learning_rate : function, optional
        (largest stable rate of gradient descent, size of a learned weight) -> the default.
    n_steps : int, optional
        Default length where the mode equation does not give one.
    """

    rotation_invariant: bool = False
    linear: bool = False
    differentiable: bool = False
    plain: bool = False
    continuous: bool = False
    flow_time: float | None = None
    momentum: float = 0.0
    stability: float = float("nan")
    learning_rate: Callable[[float, float], float] | None = None
    n_steps: int | None = None


class Rule(Protocol):
    """An update rule; see the module docstring."""

    traits: ClassVar[Traits]
    learning_rate: float

    def start(self, weights: Weights) -> State:
        """Return the state before the first step."""

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""

    def update(self, weights: Weights, gradients: Weights, state: State) -> tuple[Weights, State]:
        """Return what `step` makes of weights and state, without changing them."""

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: Base
    ) -> None:
        """Take the derivative of one step in place."""

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: Base) -> Weights:
        """Return the derivative with respect to the gradient; move the others back in place."""

    def displacement(self, state: State) -> float | Weights:
        """Return what a gradient moves the weights by in the end, per unit of gradient.

        `state` is the one that the step has updated; what it scales by is held fixed. One number,
        or one per weight.
        """


def change_state(state: State, change: Callable[[FloatArray], FloatArray]) -> State:
    """Apply a change of the leading axis, say a choice of rows, to every array of a state."""
    return {
        name: [change(a) for a in value] if isinstance(value, list) else value
        for name, value in state.items()
    }


def zeros_like(weights: Weights) -> Weights:
    """Return zeros of the same shapes."""
    return [0 * w for w in weights]  # of arrays and of tensors
