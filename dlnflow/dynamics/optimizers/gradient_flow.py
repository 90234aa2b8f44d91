"""Gradient flow, the limit of gradient descent for small steps."""

from dataclasses import dataclass
from typing import ClassVar

from dlnflow.dynamics.optimizers.base import State, Traits
from dlnflow.dynamics.optimizers.gradient_descent import STEP_FRACTION


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """dW/dt = - g; one step is a time of learning_rate, and there is nothing to step."""

    learning_rate: float
    name: ClassVar[str] = "flow"
    traits: ClassVar[Traits] = Traits(
        rotation_invariant=True,
        linear=True,
        differentiable=True,
        continuous=True,
        flow_time=1.0,
        stability=float("inf"),
        learning_rate=lambda stable, _: STEP_FRACTION * stable,
    )

    def displacement(self, state: State) -> float:
        """Return the learning rate: what a gradient moves the weights by within one step."""
        return self.learning_rate


RULE = GradientFlow
