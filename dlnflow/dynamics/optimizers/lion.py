"""Lion, which steps by the sign of a momentum."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlnflow._support import FloatArray
from dlnflow.dynamics.optimizers.base import Base, State, Traits, Weights, zeros_like

WEIGHT_FRACTION = 1e-3
"""Default learning rate: the change per step relative to the final size of a weight,"""
N_STEPS = 5000
"""and the default length, five such sizes."""


@dataclass(frozen=True, slots=True)
class Lion:
    """c = beta1 m + (1 - beta1) g,  W <- W - learning_rate sign(c),  m <- beta2 m + (1 - beta2) g.

    Chen et al. 2023, "Symbolic discovery of optimization algorithms", without weight decay. The
    sign is constant almost everywhere, so that the derivative of a step with respect to a gradient
    is exactly 0 where it exists: `tangent` is 0 for this rule, however large finite effects are.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    name: ClassVar[str] = "lion"
    traits: ClassVar[Traits] = Traits(
        differentiable=True,
        learning_rate=lambda _, weight: WEIGHT_FRACTION * weight,
        n_steps=N_STEPS,
    )

    def start(self, weights: Weights) -> State:
        """Return zero momenta, before (`mean`) and inside (`mixed`) the sign."""
        return {"mean": zeros_like(weights), "mixed": zeros_like(weights)}

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""
        moments = zip(state["mean"], state["mixed"], strict=True)
        for w, g, (m, c) in zip(weights, gradients, moments, strict=True):
            np.add(self.beta1 * m, (1 - self.beta1) * g, out=c)
            w -= self.learning_rate * np.sign(c)
            m += (1 - self.beta2) * (g - m)

    def update(self, weights: Weights, gradients: Weights, state: State) -> tuple[Weights, State]:
        """Return what `step` makes of weights and state, without changing them."""
        pairs = zip(state["mean"], gradients, strict=True)
        mixed = [self.beta1 * m + (1 - self.beta1) * g for m, g in pairs]
        pairs = zip(state["mean"], gradients, strict=True)
        mean = [m + (1 - self.beta2) * (g - m) for m, g in pairs]
        pairs = zip(weights, mixed, strict=True)
        moved = [w - self.learning_rate * _sign(c) for w, c in pairs]
        return moved, {"mean": mean, "mixed": mixed}

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: Base
    ) -> None:
        """Take the derivative of one step in place: the momentum moves, its sign does not."""
        for m, g in zip(state_tangent["mean"], gradient_tangents, strict=True):
            m += (1 - self.beta2) * (g - m)

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: Base) -> Weights:
        """Return the derivative with respect to the gradient; move the state's back in place."""
        result = []
        for m in state_adjoint["mean"]:
            result.append((1 - self.beta2) * m)
            m *= self.beta2
        return result

    def displacement(self, state: State) -> Weights:
        """Return learning_rate / |c|, the step per unit of c with |c| held fixed.

        Over all later steps a gradient enters c with a total weight of 1. Where c is 0 nothing
        moves.
        """
        return [self.learning_rate / (abs(c) + 1.0 * (c == 0)) * (c != 0) for c in state["mixed"]]


def _sign(c: FloatArray) -> FloatArray:
    """Sign by comparisons, in the precision of `c`; its derivative is exactly 0."""
    one = 0 * c + 1
    return one * (c > 0) - one * (c < 0)


RULE = Lion
