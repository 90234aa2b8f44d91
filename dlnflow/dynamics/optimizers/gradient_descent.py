"""Gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

from dlnflow.dynamics.optimizers.base import Base, State, Traits, Weights

STEP_FRACTION = 0.01
"""Default learning rate, as a fraction of the largest stable one."""


@dataclass(frozen=True, slots=True)
class GradientDescent:
    """W <- W - learning_rate * g."""

    learning_rate: float
    name: ClassVar[str] = "gd"
    traits: ClassVar[Traits] = Traits(
        rotation_invariant=True,
        linear=True,
        differentiable=True,
        plain=True,
        flow_time=1.0,
        stability=1.0,
        learning_rate=lambda stable, _: STEP_FRACTION * stable,
    )

    def start(self, weights: Weights) -> State:
        """Return the state, which is empty."""
        return {}

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""
        for w, g in zip(weights, gradients, strict=True):
            g *= self.learning_rate
            w -= g

    def update(self, weights: Weights, gradients: Weights, state: State) -> tuple[Weights, State]:
        """Return what `step` makes of weights and state, without changing them."""
        pairs = zip(weights, gradients, strict=True)
        return [w - self.learning_rate * g for w, g in pairs], state

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: Base
    ) -> None:
        """Take the derivative of one step in place; the step is linear in the gradient."""
        self.step(tangents, gradient_tangents, state_tangent)

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: Base) -> Weights:
        """Return the derivative with respect to the gradient; there is no state."""
        return [-self.learning_rate * z for z in adjoint]

    def displacement(self, state: State) -> float:
        """Return the learning rate."""
        return self.learning_rate


RULE = GradientDescent
