"""Update rules in the conventions of torch.optim, each with the exact derivative of its step.

Every rule has ``start(weights)``, the state before the first step, ``step(weights, gradients,
state)``, which updates both in place, ``step_tangent``, which does the same to derivatives of
weights and state along directions that stand on a leading axis, and its transpose
``step_adjoint``, which carries derivatives with respect to the new weights and state back to the
gradient and the old state.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dlnflow._support.typing import FloatArray
from dlnflow.dynamics.network import Weights

State = dict[str, Weights | int]


def change_state(state: State, change: Callable[[FloatArray], FloatArray]) -> State:
    """Apply a change of the leading axis, say a choice of rows, to every array of a state."""
    return {
        name: [change(a) for a in value] if isinstance(value, list) else value
        for name, value in state.items()
    }


@dataclass(frozen=True, slots=True)
class GradientDescent:
    """W <- W - learning_rate * g."""

    learning_rate: float

    def start(self, weights: Weights) -> State:
        """Return the state, which is empty."""
        return {}

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""
        for w, g in zip(weights, gradients, strict=True):
            g *= self.learning_rate
            w -= g

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: "Base"
    ) -> None:
        """Take the derivative of one step in place; the step is linear in the gradient."""
        self.step(tangents, gradient_tangents, state_tangent)

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: "Base") -> Weights:
        """Return the derivative with respect to the gradient; there is no state."""
        return [-self.learning_rate * z for z in adjoint]


@dataclass(frozen=True, slots=True)
class Momentum:
    """v <- momentum * v + g,  W <- W - learning_rate * v  (heavy ball, as torch.optim.SGD)."""

    learning_rate: float
    momentum: float = 0.9

    def start(self, weights: Weights) -> State:
        """Return zero velocities."""
        return {"velocity": [np.zeros_like(w) for w in weights]}

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""
        for w, g, v in zip(weights, gradients, state["velocity"], strict=True):
            v *= self.momentum
            v += g
            w -= self.learning_rate * v

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: "Base"
    ) -> None:
        """Take the derivative of one step in place; the step is linear in gradient and state."""
        self.step(tangents, gradient_tangents, state_tangent)

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: "Base") -> Weights:
        """Return the derivative with respect to the gradient; move the state's back in place."""
        result = []
        for z, v in zip(adjoint, state_adjoint["velocity"], strict=True):
            v -= self.learning_rate * z
            result.append(v.copy())
            v *= self.momentum
        return result


@dataclass(frozen=True, slots=True)
class Adam:
    """Bias-corrected Adam without weight decay, as torch.optim.Adam."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def start(self, weights: Weights) -> State:
        """Return zero moments and a step count of 0."""
        return {
            "mean": [np.zeros_like(w) for w in weights],
            "square": [np.zeros_like(w) for w in weights],
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

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: "Base"
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

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: "Base") -> Weights:
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

    def preconditioner(self, state: State) -> Weights:
        """Return what a gradient is multiplied by: the step of w per unit of the mean moment."""
        step_size, root = self._corrections(state["count"])
        return [step_size / (np.sqrt(v) / root + self.epsilon) for v in state["square"]]

    def _corrections(self, count: int) -> tuple[float, float]:
        """Bias corrections: the corrected learning rate and sqrt(1 - beta2^k)."""
        return self.learning_rate / (1 - self.beta1**count), np.sqrt(1 - self.beta2**count)


@dataclass(frozen=True, slots=True)
class Base:
    """What a tangent or adjoint step needs of the step itself: its gradient and *new* state."""

    gradients: list[FloatArray]
    state: State


Optimizer = GradientDescent | Momentum | Adam
