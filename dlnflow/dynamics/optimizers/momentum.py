"""Gradient descent with momentum."""

from dataclasses import dataclass
from typing import ClassVar

from dlnflow.dynamics.optimizers.base import Base, State, Traits, Weights, zeros_like
from dlnflow.dynamics.optimizers.gradient_descent import STEP_FRACTION

BETA = 0.9


@dataclass(frozen=True, slots=True)
class Momentum:
    """v <- momentum * v + g,  W <- W - learning_rate * v  (heavy ball, as torch.optim.SGD)."""

    learning_rate: float
    momentum: float = BETA
    name: ClassVar[str] = "momentum"
    traits: ClassVar[Traits] = Traits(
        rotation_invariant=True,
        linear=True,
        differentiable=True,
        flow_time=1 / (1 - BETA),
        momentum=BETA,
        stability=1 + BETA,
        # Smaller by 1 - beta, so that runs take as many steps as descent.
        learning_rate=lambda stable, _: STEP_FRACTION * stable * (1 - BETA),
    )

    def start(self, weights: Weights) -> State:
        """Return zero velocities."""
        return {"velocity": zeros_like(weights)}

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""
        for w, g, v in zip(weights, gradients, state["velocity"], strict=True):
            v *= self.momentum
            v += g
            w -= self.learning_rate * v

    def update(self, weights: Weights, gradients: Weights, state: State) -> tuple[Weights, State]:
        """Return what `step` makes of weights and state, without changing them."""
        pairs = zip(state["velocity"], gradients, strict=True)
        velocity = [self.momentum * v + g for v, g in pairs]
        moved = [w - self.learning_rate * v for w, v in zip(weights, velocity, strict=True)]
        return moved, {"velocity": velocity}

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: Base
    ) -> None:
        """Take the derivative of one step in place; the step is linear in gradient and state."""
        self.step(tangents, gradient_tangents, state_tangent)

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: Base) -> Weights:
        """Return the derivative with respect to the gradient; move the state's back in place."""
        result = []
        for z, v in zip(adjoint, state_adjoint["velocity"], strict=True):
            v -= self.learning_rate * z
            result.append(v.copy())
            v *= self.momentum
        return result

    def displacement(self, state: State) -> float:
        """Return learning_rate / (1 - momentum), the sum of all displacements a gradient causes."""
        return self.learning_rate / (1 - self.momentum)


RULE = Momentum
