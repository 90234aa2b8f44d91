"""Adam."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlnflow._support import FloatArray
from dlnflow.dynamics.optimizers.base import Base, State, Traits, Weights, zeros_like

WEIGHT_FRACTION = 2e-3
"""Default learning rate: the change per step relative to the final size of a weight,"""
N_STEPS = 5000
"""and the default length, ten such sizes."""


@dataclass(frozen=True, slots=True)
class Adam:
    """Bias-corrected Adam without weight decay, as torch.optim.Adam."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    name: ClassVar[str] = "adam"
    traits: ClassVar[Traits] = Traits(
        differentiable=True,
        learning_rate=lambda _, weight: WEIGHT_FRACTION * weight,
        n_steps=N_STEPS,
    )

    def start(self, weights: Weights) -> State:
        """Return zero moments and a step count of 0."""
        return {
            "mean": zeros_like(weights),
            "square": zeros_like(weights),
            "count": 0,
        }

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""
        state["count"] += 1
        step_size, root = self._corrections(state["count"])
        moments = zip(state["mean"], state["square"], strict=True)
        for w, g, (m, v) in zip(weights, gradients, moments, strict=True):
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            w -= step_size * m / (np.sqrt(v) / root + self.epsilon)

    def update(self, weights: Weights, gradients: Weights, state: State) -> tuple[Weights, State]:
        """Return what `step` makes of weights and state, without changing them."""
        count = state["count"] + 1
        step_size, root = self._corrections(count)
        pairs = zip(state["mean"], gradients, strict=True)
        mean = [m + (1 - self.beta1) * (g - m) for m, g in pairs]
        pairs = zip(state["square"], gradients, strict=True)
        square = [v + (1 - self.beta2) * (g * g - v) for v, g in pairs]
        moved = [
            w - step_size * m / (_root(v) / root + self.epsilon)
            for w, m, v in zip(weights, mean, square, strict=True)
        ]
        return moved, {"mean": mean, "square": square, "count": count}

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: Base
    ) -> None:
        """Take the derivative of one step in place.

        A coordinate whose gradients have all been exactly 0 has no derivative of sqrt(v); it is
        taken as 0, which is right when its gradient stays 0 for every data weight.
        """
        state_tangent["count"] += 1
        step_size, root = self._corrections(state_tangent["count"])
        for layer, (dw, dg) in enumerate(zip(tangents, gradient_tangents, strict=True)):
            g, m, v = base.gradients[layer], base.state["mean"][layer], base.state["square"][layer]
            dm, dv = state_tangent["mean"][layer], state_tangent["square"][layer]
            dm += (1 - self.beta1) * (dg - dm)
            dv += (1 - self.beta2) * (2 * g * dg - dv)
            scale = np.sqrt(v)
            scale_tangent = np.divide(dv, 2 * scale, out=np.zeros_like(dv), where=scale > 0)
            denominator = scale / root + self.epsilon
            dw -= step_size * (dm - m * scale_tangent / root / denominator) / denominator

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: Base) -> Weights:
        """Return the derivative with respect to the gradient; move the state's back in place."""
        # The transpose of step_tangent, with its convention where all gradients were 0.
        step_size, root = self._corrections(base.state["count"])
        result = []
        for layer, z in enumerate(adjoint):
            g, m, v = base.gradients[layer], base.state["mean"][layer], base.state["square"][layer]
            zm, zv = state_adjoint["mean"][layer], state_adjoint["square"][layer]
            scale = np.sqrt(v)
            denominator = scale / root + self.epsilon
            slope = np.divide(m, 2 * scale * root, out=np.zeros_like(m), where=scale > 0)
            zm -= step_size * z / denominator
            zv += step_size * z * slope / denominator**2
            result.append((1 - self.beta1) * zm + 2 * (1 - self.beta2) * g * zv)
            zm *= self.beta1
            zv *= self.beta2
        return result

    def displacement(self, state: State) -> Weights:
        """Return the step of every weight per unit of its mean gradient."""
        step_size, root = self._corrections(state["count"])
        return [step_size / (v**0.5 / root + self.epsilon) for v in state["square"]]

    def _corrections(self, count: int) -> tuple[float, float]:
        """Bias corrections: the corrected learning rate and sqrt(1 - beta2^k)."""
        return self.learning_rate / (1 - self.beta1**count), (1 - self.beta2**count) ** 0.5


def _root(v: FloatArray) -> FloatArray:
    """Square root with the derivative 0 at exactly 0, as in `Adam.step_tangent`."""
    zero = 1.0 * (v == 0)
    return (v + zero) ** 0.5 - zero


RULE = Adam
