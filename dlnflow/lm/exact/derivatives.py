"""Derivatives of one training step of a language model: backward, forward, and of what is measured.

With w the weights of the n rows of step k and l_i the mean loss of row i,

    g(theta, w) = (1/n) sum_i w_i grad l_i(theta),    theta, m, v <- update(theta, g, m, v),

where update clips g, moves the moments and shrinks the weights. For z, the derivative of something
later with respect to theta, m and v after the step, and gamma = (d update / dg)^T z,

    d / dw_i = (1/n) gamma . grad l_i,      d / dtheta = (d update / dtheta)^T z + H gamma,

both from one backward pass through the graph of g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlnflow.dynamics.optimizers import OPTIMIZERS
from dlnflow.dynamics.torch_rules import TunedRule
from dlnflow.lm.exact.points import Point, split
from dlnflow.lm.runs.model import RunSettings, build
from dlnflow.lm.runs.progression import BETAS, CLIP, WEIGHT_DECAY, learning_rate

Query = Callable[[torch.nn.Module], Tensor]
"""Model -> one number that can be differentiated."""


@dataclass
class Moved:
    """Derivatives by, or of, weights and moments: three vectors (rows, P)."""

    weights: Tensor
    mean: Tensor
    square: Tensor

    def join(self, other: Moved) -> Moved:
        """Return the rows of both."""
        pairs = zip(self.parts(), other.parts(), strict=True)
        return Moved(*(torch.cat(pair) for pair in pairs))

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three vectors."""
        return self.weights, self.mean, self.square


class StepDerivatives:
    """Derivatives at points of a run, in the precision of the points or in single precision.

    Parameters
    ----------
    settings : RunSettings
    n_steps : int
    double : bool
        Differentiate in double precision.
    device : str
    """

    def __init__(
        self, settings: RunSettings, n_steps: int, *, double: bool = False, device: str = "cpu"
    ) -> None:
        self._settings = settings
        self.model = build(settings).to(device)
        # fused attention has no second derivative, and plain attention rounds to single precision
        self.model.set_attn_implementation("sdpa")
        if double:
            self.model.double()
        self._parameters, self._loaded = list(self.model.parameters()), None
        decay = [
            torch.full((p.numel(),), WEIGHT_DECAY if p.ndim > 1 else 0.0).to(p)
            for p in self._parameters
        ]
        rates = np.array([learning_rate(settings, step) for step in range(n_steps)])
        make = partial(
            OPTIMIZERS["adamw"], beta1=BETAS[0], beta2=BETAS[1], weight_decay=[torch.cat(decay)]
        )
        self._rule = TunedRule(make, rates, CLIP)

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """Return weights (P,) as a state dict."""
        names = [name for name, _ in self.model.named_parameters()]
        return dict(zip(names, split(weights, self._parameters), strict=True))

    def none(self, rows: int) -> Moved:
        """Return derivatives that are 0."""
        size = sum(p.numel() for p in self._parameters)
        return Moved(*(self._parameters[0].new_zeros(rows, size) for _ in range(3)))

    def query(self, query: Query, weights: Tensor) -> tuple[float, Tensor]:
        """Return what is measured at some weights and its gradient (P,)."""
        self._load(weights)
        with sdpa_kernel(SDPBackend.MATH):
            value = query(self.model)
            gradient = torch.autograd.grad(value, self._parameters, allow_unused=True)
        return float(value.detach()), self._flat(gradient)

    def values(self, queries: list[Query], weights: Tensor) -> list[float]:
        """Return what is measured at some weights."""
        self._load(weights)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return [float(query(self.model)) for query in queries]

    def back(self, point: Point, rows: np.ndarray, z: Moved) -> tuple[Tensor, Moved]:
        """Return derivatives by the weights of the rows, (R, n), and by the point before."""
        # rows of a step that was taken in several backward passes take turns here, too
        chunks = self._chunks(rows)
        kept, gradient, effects = None, 0, []
        for chunk in chunks:
            share, graph, _ = self._gradient(point.weights, chunk, len(rows))
            gradient = gradient + self._flat(graph).detach()
            if len(chunks) == 1:
                kept = share, graph
        _, pull = vjp(self._update(point), point.weights, gradient, point.mean, point.square)
        before, gamma, mean, square = vmap(lambda *v: pull(v))(*z.parts())
        for chunk in chunks:
            share, graph = kept or self._gradient(point.weights, chunk, len(rows))[:2]
            found = [self._pulled(graph, share, row) for row in gamma]
            before = before + torch.stack([curved for curved, _ in found])
            effects.append(torch.stack([effect for _, effect in found]))
        return torch.cat(effects, 1), Moved(before, mean, square)

    def ahead(self, point: Point, rows: np.ndarray, moved: Moved, push: Tensor) -> Moved:
        """Return derivatives after a step along directions: `push` (K, n) moves weights of rows."""
        gradient, change, first = 0, 0, 0
        for chunk in self._chunks(rows):
            _, graph, losses = self._gradient(point.weights, chunk, len(rows))
            own = push[:, first : first + len(chunk)] / len(rows)
            gradient = gradient + self._flat(graph).detach()
            change = change + torch.stack(
                [
                    self._pushed(graph, losses, one, by)
                    for one, by in zip(moved.weights, own, strict=True)
                ]
            )
            first += len(chunk)
        base = point.weights, gradient, point.mean, point.square
        update = self._update(point)
        along = vmap(lambda *v: jvp(update, base, v)[1])
        return Moved(*along(moved.weights, change, moved.mean, moved.square))

    def _update(self, point: Point) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """Return the step of the optimizer as a function of weights, gradient and moments."""
        count = torch.tensor(float(point.step), dtype=torch.float64, device=point.weights.device)

        def update(
            weights: Tensor, gradient: Tensor, mean: Tensor, square: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            state = {"mean": [mean], "square": [square], "count": count}
            state |= {"taken": count, "kept": torch.ones_like(count)}
            moved, state = self._rule.update([weights], [gradient], state)
            return moved[0], state["mean"][0], state["square"][0]

        return update

    def _chunks(self, rows: np.ndarray) -> list[np.ndarray]:
        size = self._settings.rows
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    def _gradient(
        self, weights: Tensor, rows: np.ndarray, count: int
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Return row weights, the part of g that is due to some rows, and their losses; a graph."""
        self._load(weights)
        shares = torch.ones_like(weights[: len(rows)], requires_grad=True)
        with sdpa_kernel(SDPBackend.MATH):
            losses = row_losses(self.model, torch.from_numpy(rows).long().to(weights.device))
            total = (shares * losses).sum() / count
            graph = torch.autograd.grad(total, self._parameters, create_graph=True)
        return shares, graph, losses

    def _pulled(
        self, graph: tuple[Tensor, ...], shares: Tensor, gamma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return H gamma (P,), and gamma . grad l_i / n of every row."""
        parts = split(gamma, self._parameters)
        with sdpa_kernel(SDPBackend.MATH):
            *curved, effects = torch.autograd.grad(
                graph, [*self._parameters, shares], parts, retain_graph=True
            )
        return self._flat(curved), effects

    def _pushed(
        self, graph: tuple[Tensor, ...], losses: Tensor, moved: Tensor, push: Tensor
    ) -> Tensor:
        """Return H moved + sum_i push_i grad l_i, (P,)."""
        parts = split(moved, self._parameters)
        with sdpa_kernel(SDPBackend.MATH):
            found = torch.autograd.grad(
                [*graph, losses], self._parameters, [*parts, push], retain_graph=True
            )
        return self._flat(found)

    def _load(self, weights: Tensor) -> None:
        if weights is self._loaded:  # an older graph stays valid
            return
        self._loaded = weights
        with torch.no_grad():
            for p, part in zip(self._parameters, split(weights, self._parameters), strict=True):
                p.copy_(part)

    def _flat(self, parts: tuple[Tensor | None, ...] | list[Tensor]) -> Tensor:
        pairs = zip(parts, self._parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])


def row_losses(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """Return the mean loss of every row (n, T), in nats, differentiable twice."""
    hidden = model.base_model(ids[:, :-1]).last_hidden_state
    logits = hidden @ model.get_output_embeddings().weight.T
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return losses.view(len(ids), -1).mean(1)
