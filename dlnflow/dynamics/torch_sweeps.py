"""Forward and backward through the steps of a torch run, and branches that leave it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import torch_products
from dlnflow.dynamics import windows as branching
from dlnflow.dynamics.schedule import Windows
from dlnflow.dynamics.torch_steps import (
    AT_ONCE,
    Tensors,
    TorchProblem,
    TorchState,
    copies,
    mapped,
    numbers,
    take,
)


@dataclass(frozen=True, eq=False)
class TorchMoment:
    """One step of training with all item weights 1.

    ``weights`` and ``state`` are those before the step, ``after`` and ``new_state`` those after.
    """

    problem: TorchProblem
    step: int
    weights: Tensors
    state: TorchState
    after: Tensors
    new_state: TorchState

    @cached_property
    def rate(self) -> float | Tensors:
        """Eta P, what the optimizer makes of a gradient: one number, or one per parameter."""
        return self.problem.rule.displacement(self.new_state)

    @cached_property
    def shares(self) -> FloatArray:
        """Factor of every item in the objective of the step, shape (N,)."""
        _, items = self.problem.at_step(self.step)
        shares = np.zeros(self.problem.n_items)
        shares[items] = 1 / len(items)
        return shares

    def gradients(self, train: IntArray) -> Tensors:
        """Return share_i grad l_i; items outside the minibatch have none."""
        problem, used = self.problem, np.flatnonzero(self.shares[train])
        result = [w.new_zeros(len(train), *w.shape) for w in self.weights]
        if len(used):
            share = torch.as_tensor(self.shares[train[used]]).to(result[0])
            found = problem.train_gradients(self.weights, train[used])
            for whole, g in zip(result, found, strict=True):
                whole[used] = g * share.reshape(-1, *[1] * (g.ndim - 1))
        return result

    def displacements(self, train: IntArray) -> Tensors:
        """Return eta P (share_i grad l_i) of the chosen items."""
        gradients = self.gradients(train)
        if not self.shares[train].any():
            return gradients
        factors = self.rate if isinstance(self.rate, list) else [self.rate] * len(gradients)
        return [factor * g for factor, g in zip(factors, gradients, strict=True)]

    def kernel(self, query: IntArray, train: IntArray) -> FloatArray:
        """Grad l_q^T (eta P) (share_i grad l_i), shape (n_query, n_train)."""
        problem, used = self.problem, np.flatnonzero(self.shares[train])
        result = np.zeros((len(query), len(train)))
        if not len(used):
            return result
        if not isinstance(self.rate, list):  # one rate for all: the products are enough
            pairs = take(problem.queried, query), take(problem.data, train[used])
            dots = numbers(torch_products.products(problem, self.weights, *pairs))
            result[:, used] = float(self.rate) * dots * self.shares[train[used]]
            return result
        gradients = problem.query_gradients(self.weights, query)
        for rows in problem.turns(len(used), problem.n_parameters, least=AT_ONCE):
            some = used[rows]
            pairs = zip(gradients, self.displacements(train[some]), strict=True)
            result[:, some] = numbers(sum(g.flatten(1) @ d.flatten(1).T for g, d in pairs))
        return result

    def along(self, vectors: Tensors, query: IntArray) -> FloatArray:
        """Return grad l_q . vector_k at the weights before the step, shape (n_query, K)."""
        return self.problem.along(self.weights, vectors, query)


def forward(problem: TorchProblem, stop: int) -> Iterator[TorchMoment]:
    """Yield the steps 0, 1, ..., stop - 1.

    Raises
    ------
    DivergenceError
        As soon as losses exceed `dlnflow.dynamics.loops.DIVERGENCE_FACTOR` times the initial ones.
    """
    with Progress(stop, "training") as progress:
        for moment in _steps(problem, 0, stop, (problem.initial, problem.start())):
            yield moment
            progress.advance()


def backward(problem: TorchProblem, stop: int) -> Iterator[TorchMoment]:
    """Yield the steps stop - 1, ..., 0.

    Keeps sqrt(stop) states and repeats the stretch between two of them when it is reached, so that
    at most about 2 sqrt(stop) are in memory.
    """
    stride = int(np.ceil(np.sqrt(stop)))
    kept = [(m.step, m.weights, m.state) for m in forward(problem, stop) if m.step % stride == 0]
    with Progress(stop, "sweeping back") as progress:
        while kept:
            first, *point = kept.pop()
            stretch = list(_steps(problem, first, min(first + stride, stop), point))
            while stretch:
                yield stretch.pop()
                progress.advance()


def _steps(
    problem: TorchProblem, first: int, stop: int, start: Sequence[Any]
) -> Iterator[TorchMoment]:
    weights, state = start
    unit = np.ones(problem.n_items)
    for step in range(first, stop):
        pair, items = problem.at_step(step)
        after, new, losses = problem.quick.step(weights, state, problem.shares(unit, items), pair)
        problem.check(losses, step)
        yield TorchMoment(problem, step, weights, state, after, new)
        weights, state = after, new


class TorchAdjoint:
    """Derivatives of measured losses with respect to the weights and state after a step.

    Rows are (measurement, query), flattened; the counterpart of
    `dlnflow.dynamics.adjoint.LinearAdjoint`.
    """

    def __init__(self, problem: TorchProblem, query: IntArray) -> None:
        self._problem, self._queried = problem, take(problem.queried, query)
        self._rows = len(query)
        self._z: Tensors = copies(problem.initial, 0)
        self._state: TorchState = copies(problem.start(), 0)

    def open(self) -> None:
        """Start one more measurement, at the end."""
        self._select(lambda a: torch.cat([a, a.new_zeros(self._rows, *a.shape[1:])]))

    def close(self, positions: list[int]) -> None:
        """Drop measurements."""
        if not positions:
            return
        kept = np.ones((len(self._z[0]) // self._rows, self._rows), dtype=bool)
        kept[positions] = False
        self._select(lambda a: a[torch.as_tensor(kept.ravel(), device=a.device)])

    def add(self, weights: Tensors, scale: FloatArray) -> None:
        """Add scale[m] * grad l_q at these weights to measurement m."""
        gradients = self._problem.quick.item_gradients(weights, self._queried)
        factor = torch.as_tensor(scale).to(gradients[0])
        self._z = [
            z + torch.tensordot(factor, g[None], 0).reshape(z.shape)
            for z, g in zip(self._z, gradients, strict=True)
        ]

    def back(self, moment: TorchMoment) -> FloatArray:
        """Go back one step; return its effects, shape (rows, N)."""
        problem = self._problem
        pair, items = problem.at_step(moment.step)
        shares = problem.shares(np.ones(problem.n_items), items)

        base = moment.weights, moment.state, shares, pair
        after = self._z, self._state
        self._z, self._state, change = problem.quick.step_adjoint(base, after)
        effects = np.zeros((len(change), problem.n_items))
        effects[:, items] = numbers(change) / len(items)
        return effects

    def _select(self, change) -> None:
        self._z, self._state = mapped(self._z, change), mapped(self._state, change)


def branches(
    problem: TorchProblem, windows: Windows, item_weights: FloatArray, query: IntArray
) -> FloatArray:
    """Loss of the run minus loss of the branch, shape (S, I, n_query)."""
    cost = problem.numbers_per_network() * windows.most_open
    turns = problem.turns(len(item_weights), cost, least=AT_ONCE)
    parts = [item_weights[rows] for rows in turns]
    found = [
        branching.follow(TorchRows(problem, part), windows, len(part), query) for part in parts
    ]
    return np.concatenate(found, axis=1)


class TorchRows:
    """The run (row 0) and its open branches; see `dlnflow.dynamics.windows.LinearRows`."""

    def __init__(self, problem: TorchProblem, item_weights: FloatArray) -> None:
        self._problem, self._changed = problem, item_weights
        self._weights, self._state = copies(problem.initial, 1), copies(problem.start(), 1)
        self._items = np.ones((1, problem.n_items))
        self._advance, self._measure = problem.quick.steps, problem.quick.losses
        self.open: list[int] = []

    def propagate(self, step: int) -> int:
        """Return the step; networks are evaluated when something is asked of them."""
        return step

    def loss_differences(self, step: int, query: IntArray) -> FloatArray:
        """Losses of the run minus those of the branches, shape (open, I, n_query)."""
        losses = self._measure(self._weights, take(self._problem.queried, query))
        self._problem.check(self._measure(self._weights, self._problem.data), step)
        found = numbers(losses)
        return (found[0] - found[1:]).reshape(len(self.open), len(self._changed), -1)

    def step(self, step: int) -> None:
        """One step of all rows."""
        pair, items = self._problem.at_step(step)
        shares = self._problem.shares(self._items, items)
        self._weights, self._state, losses = self._advance(self._weights, self._state, shares, pair)
        self._problem.check(losses, step)

    def add(self, window: int) -> None:
        """Branch off the run, once for every change of item weights."""
        rows = np.concatenate([np.arange(len(self._items)), np.zeros(len(self._changed), int)])
        self._select(rows)
        self._items[-len(self._changed) :] = self._changed
        self.open.append(int(window))

    def drop(self, window: int) -> None:
        """Remove the branches of a window."""
        self._select(np.delete(np.arange(len(self._items)), self._of(window)))
        self.open.remove(window)

    def restore(self, window: int) -> None:
        """Give the items of a window's branches their weight 1 back."""
        self._items[self._of(window)] = 1.0

    def _of(self, window: int) -> slice:
        count = len(self._changed)
        first = 1 + count * self.open.index(window)
        return slice(first, first + count)

    def _select(self, rows: IntArray) -> None:
        def chosen(a: Tensor) -> Tensor:
            return a[torch.as_tensor(rows, device=a.device)]

        self._weights, self._state = mapped(self._weights, chosen), mapped(self._state, chosen)
        self._items = self._items[rows]
