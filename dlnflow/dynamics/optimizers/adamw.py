"""AdamW: Adam with decoupled weight decay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dlnflow.dynamics.optimizers.adam import Adam
from dlnflow.dynamics.optimizers.base import Base, State, Weights

WEIGHT_DECAY = 1e-2
"""As in torch.optim.AdamW."""


@dataclass(frozen=True, slots=True)
class DecayedAdam(Adam):
    """W <- (1 - learning_rate * weight_decay) W, then the step of Adam; as torch.optim.AdamW.

    ``weight_decay`` is one number, or one per weight in the order of the weights.
    """

    weight_decay: float | Sequence[float] = WEIGHT_DECAY
    name: ClassVar[str] = "adamw"

    # Python finds no super() in a class with slots that a decorator has made anew.

    def step(self, weights: Weights, gradients: Weights, state: State) -> None:
        """Take one step in place."""
        self._shrink(weights)
        Adam.step(self, weights, gradients, state)

    def update(self, weights: Weights, gradients: Weights, state: State) -> tuple[Weights, State]:
        """Return what `step` makes of weights and state, without changing them."""
        kept = [w * factor for w, factor in zip(weights, self._kept(weights), strict=True)]
        return Adam.update(self, kept, gradients, state)

    def step_tangent(
        self, tangents: Weights, gradient_tangents: Weights, state_tangent: State, *, base: Base
    ) -> None:
        """Take the derivative of one step in place."""
        self._shrink(tangents)
        Adam.step_tangent(self, tangents, gradient_tangents, state_tangent, base=base)

    def step_adjoint(self, adjoint: Weights, state_adjoint: State, *, base: Base) -> Weights:
        """Return the derivative with respect to the gradient; the others move back in place."""
        result = Adam.step_adjoint(self, adjoint, state_adjoint, base=base)
        self._shrink(adjoint)
        return result

    def _kept(self, weights: Weights) -> list[float]:
        """Factor that decay leaves of every weight."""
        decay = self.weight_decay
        each = list(decay) if isinstance(decay, Sequence) else [decay] * len(weights)
        return [1 - self.learning_rate * one for one in each]

    def _shrink(self, weights: Weights) -> None:
        for w, factor in zip(weights, self._kept(weights), strict=True):
            w *= factor


RULE = DecayedAdam
