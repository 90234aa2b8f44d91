"""A language model's run as the problem of a torch run: its items are rows, used once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import torch_rules, torch_steps
from dlnflow.dynamics.optimizers import OPTIMIZERS
from dlnflow.dynamics.torch_steps import Pair, Tensors, TorchProblem, TorchState
from dlnflow.dynamics.torch_sweeps import TorchMoment
from dlnflow.lm.exact.points import split
from dlnflow.lm.runs.progression import BETAS, CLIP, WEIGHT_DECAY, learning_rate

if TYPE_CHECKING:
    from dlnflow.lm.exact.derivatives import Query, StepDerivatives
    from dlnflow.lm.exact.points import Point
    from dlnflow.lm.runs.model import RunSettings


class RowModel(nn.Module):
    """Ids -> logits; a function of a language model -> its value for this one."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, what: Tensor | Query) -> Tensor:
        """Return logits (n, T, V) of ids (n, T), or the value of a query."""
        if not isinstance(what, Tensor):
            return what(self.language_model)
        hidden = self.language_model.base_model(what).last_hidden_state
        return hidden @ self.language_model.get_output_embeddings().weight.T


def mean_cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean over a row's tokens of -log p, in nats, shape (n,)."""
    losses = nn.functional.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
    return losses.view(target.shape).mean(1)


@dataclass(frozen=True, eq=False)
class RowProblem(TorchProblem):
    """Rows as items, and functions of the model as queries; steps are those of the replay.

    ``asked`` evaluates ``queries`` and their gradients.
    """

    asked: StepDerivatives
    queries: Sequence[Query]

    @classmethod
    def of(
        cls,
        settings: RunSettings,
        rows: Callable[[int], Any],
        n_steps: int,
        asked: StepDerivatives,
        queries: Sequence[Query],
    ) -> RowProblem:
        """Describe the first `n_steps` of a run, whose steps have the ids `rows`(step)."""
        model = RowModel(asked.model)
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        like = next(iter(weights.values()))
        ids = np.concatenate([rows(step) for step in range(n_steps)])
        ids = torch.from_numpy(ids).long().to(like.device)
        data = ids[:, :-1], ids[:, 1:]
        make = partial(
            OPTIMIZERS["adamw"],
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=[WEIGHT_DECAY if w.ndim > 1 else 0.0 for w in weights.values()],
        )
        rates = np.array([learning_rate(settings, step) for step in range(n_steps)])
        rule = torch_rules.TunedRule(make, rates, CLIP)
        batches = np.arange(len(ids)).reshape(n_steps, -1)
        # queries are asked of the model, so that `queried` stays unused
        loss = mean_cross_entropy
        return cls(model, weights, loss, data, data, rule, batches, asked, queries)

    def numbers_per_network(self, *, derivatives: bool = False) -> int:
        """Numbers that one more direction costs: a step looks at its own rows alone."""
        rows = self.batches.shape[1]
        ways = 2 if derivatives else 1
        return ways * (6 * self.n_parameters + 4 * rows * self.activations)

    def query_gradients(self, weights: Tensors, query: IntArray) -> Tensors:
        """Gradients of what is measured, with a leading axis over queries."""
        flat = torch.cat([w.reshape(-1) for w in weights])
        each = [self.asked.query(self.queries[q], flat)[1] for q in query]
        return split(torch.stack(each), self.initial)

    def along(self, weights: Tensors, vectors: Tensors, query: IntArray | None) -> FloatArray:
        """Gradient of a query times vector k, shape (n_query, K)."""
        query = np.arange(len(self.queries)) if query is None else query
        gradients = self.query_gradients(weights, query)
        pairs = zip(gradients, vectors, strict=True)
        return torch_steps.numbers(sum(g.flatten(1) @ v.flatten(1).T for g, v in pairs))

    def weights_at(self, point: Point) -> Tensors:
        """Weights of a point as a list in the order of the parameters."""
        return split(point.weights, self.initial)

    def state_at(self, point: Point) -> TorchState:
        """State of the optimizer before the step from a point."""
        taken = torch.tensor(float(point.step), dtype=torch.float64, device=point.mean.device)
        moments = {name: split(getattr(point, name), self.initial) for name in ("mean", "square")}
        return {**moments, "count": taken, "taken": taken, "kept": torch.ones_like(taken)}

    def watched(self, train: IntArray, query: IntArray) -> Pair:
        """Rows, and after them a row of -1 - q for query q."""
        data = torch_steps.take(self.data, train)
        marks = -1 - torch.as_tensor(query).to(data[0])[:, None]
        return tuple(torch.cat([part, marks.expand(-1, part.shape[1])]) for part in data)

    def watched_losses(self, call: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        """Losses of rows and values of queries, as `watched` orders them."""
        first = batch[0][:, 0]
        rows = int((first >= 0).sum())
        found = [call(self.queries[-1 - int(mark)]).reshape(1) for mark in first[rows:]]
        if rows:
            found.insert(0, self.item_loss(call(batch[0][:rows]), batch[1][:rows]))
        return torch.cat(found)

    def moments(self, points: Iterator[Point], stop: int) -> Iterator[RowMoment]:
        """Yield the steps 0, ..., stop - 1 of a replay; the one after the last step takes none."""
        before = None
        for after in points:
            if before is not None:
                yield _moment(self, before, after)
            before = after
        if before.step < stop:
            yield _moment(self, before, before)

    def response(
        self,
        replay: Callable[[], Iterator[Point]],
        steps: IntArray,
        directions: FloatArray,
        query: IntArray,
    ) -> FloatArray:
        """Derivatives along directions (K, N) with Gauss-Newton matrices, (T, n_query, K)."""
        each = self.numbers_per_network(derivatives=True)
        turns = self.turns(len(directions), each, least=torch_steps.AT_ONCE)
        parts = (directions[rows] for rows in turns)
        found = [self._response(replay(), steps, part, query) for part in parts]
        return np.concatenate(found, axis=-1)

    def _response(
        self, points: Iterator[Point], steps: IntArray, directions: FloatArray, query: IntArray
    ) -> FloatArray:
        count, unit, kept, before = len(directions), np.ones(self.n_items), [], None
        moved, state_moved = (
            torch_steps.mapped(torch_steps.copies(value, count), torch.zeros_like)
            for value in (self.initial, self.start())
        )
        for point in points:
            if before is not None:
                pair, items = self.at_step(before.step)
                now, push = self.shares(unit, items), self.shares(directions, items)
                base = self.weights_at(before), self.state_at(before), now, pair
                changes = moved, state_moved, push
                step_tangent = self.quick.step_tangent["gauss_newton"]
                _, (moved, state_moved), _ = step_tangent(base, changes)
            if point.step in steps:
                kept.append(self.along(self.weights_at(point), moved, query))
            before = point
        return np.stack(kept)


class RowMoment(TorchMoment):
    """One step of a language model's run, at the weights before it."""

    @cached_property
    def shares(self) -> FloatArray:
        """Factor of every row in the objective of the step, shape (N,); 0 after the last step."""
        if self.step < len(self.problem.batches):
            return super().shares
        return np.zeros(self.problem.n_items)

    @cached_property
    def rate(self) -> Tensors:
        """What the optimizer makes of a gradient; the factor of the clipping is found again."""
        pair, items = self.problem.at_step(self.step)
        shares = self.problem.shares(np.ones(self.problem.n_items), items)
        gradient, _ = self.problem.gradient(self.weights, shares, pair)
        kept = torch_rules.clip_factor(gradient, CLIP)
        return self.problem.rule.displacement({**self.new_state, "kept": kept})


def _moment(problem: RowProblem, before: Point, after: Point) -> RowMoment:
    old, new = (problem.weights_at(point) for point in (before, after))
    states = problem.state_at(before), problem.state_at(after)
    return RowMoment(problem, before.step, old, states[0], new, states[1])
