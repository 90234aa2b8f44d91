"""Item weights that are changed for a while: many start times in one pass over the training run.

Row 0 of a batch is the run itself. When a window opens, copies of row 0 (weights and optimizer
state) are added with the changed item weights; when it closes, they leave the batch or, if they
are to be measured later, get their weights back. Every step is thus one batched step of all open
branches, nothing is trained from the beginning twice, and all rows share the step count.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import network
from dlnflow.dynamics.loops import Problem
from dlnflow.dynamics.network import Pass
from dlnflow.dynamics.optimizers import change_state
from dlnflow.dynamics.schedule import Windows

MAX_NUMBERS = 2**25
"""Weights of all branches that are held at once (256 MB); beyond it, items take turns."""


def differences(
    problem: Problem, windows: Windows, item_weights: FloatArray, query: IntArray
) -> FloatArray:
    """Loss of the run minus loss of the branch, for every window and change of weights.

    Parameters
    ----------
    problem : Problem
        With a discrete optimizer.
    windows : Windows
    item_weights : array, shape (I, N)
        Weights inside a window.
    query : array of int, shape (n_query,)
        Items whose losses are compared.

    Returns
    -------
    array, shape (S, I, n_query)

    Raises
    ------
    DivergenceError
        As soon as the error of one branch exceeds `dlnflow.dynamics.loops.DIVERGENCE_FACTOR` times
        the initial one.
    """
    numbers = sum(w.size for w in problem.weights) * windows.most_open
    per_pass = max(1, MAX_NUMBERS // numbers)
    parts = [item_weights[k : k + per_pass] for k in range(0, len(item_weights), per_pass)]
    found = [follow(LinearRows(problem, part), windows, len(part), query) for part in parts]
    return np.concatenate(found, axis=1)


def follow(rows: Any, windows: Windows, changes: int, query: IntArray) -> FloatArray:
    """Train the run and its branches, `rows` of any kind of run; shape (S, changes, n_query)."""
    result = np.zeros((len(windows.starts), changes, len(query)))
    with Progress(windows.last, "branching") as progress, np.errstate(all="ignore"):
        for step in range(windows.last + 1):
            products = rows.propagate(step)
            measured = windows.until is None or step == windows.last
            if rows.open and measured:
                scale = windows.widths[rows.open] if windows.until is None else np.ones(1)
                change = rows.loss_differences(products, query)
                result[rows.open] += change / scale[:, None, None]
            if step == windows.last:
                break
            close = rows.drop if windows.until is None else rows.restore
            closing, opening = windows.closing(step), windows.opening(step)
            for window in closing:
                close(window)
            for window in opening:
                rows.add(window)
            if len(closing) or len(opening):
                products = rows.propagate(step)
            rows.step(products)
            progress.advance()
    return result


class LinearRows:
    """The run (row 0) and its open branches, one batch of networks."""

    def __init__(self, problem: Problem, item_weights: FloatArray) -> None:
        self._problem = problem
        self._weights = problem.copies((1,))
        self._state = problem.optimizer.start(self._weights)
        self._scaled = problem.scaled(np.ones((1, problem.n_items)))
        self._changed = problem.scaled(item_weights)
        self.open: list[int] = []

    def propagate(self, step: int) -> Pass:
        """Forward and backward pass of all rows."""
        problem = self._problem
        shares = problem.at_step(self._scaled, step)
        products = network.propagate(self._weights, problem.x, problem.y, shares)
        problem.check(products.residual, step)
        return products

    def loss_differences(self, products: Pass, query: IntArray) -> FloatArray:
        """Losses of the run minus those of the branches, shape (open, I, n_query)."""
        losses = 0.5 * np.einsum("bdi,bdi->bi", products.residual, products.residual)
        change = (losses[0] - losses[1:]).reshape(len(self.open), len(self._changed), -1)
        return change[..., query]

    def step(self, products: Pass) -> None:
        """One step of all rows."""
        self._problem.optimizer.step(self._weights, network.gradients(products), self._state)

    def add(self, window: int) -> None:
        """Branch off the run, once for every change of item weights."""
        count = len(self._changed)
        self._select(lambda a: np.concatenate([a, np.repeat(a[:1], count, axis=0)]))
        self._scaled[-count:] = self._changed
        self.open.append(int(window))

    def drop(self, window: int) -> None:
        """Remove the branches of a window."""
        rows = self._rows(window)
        self._select(lambda a: np.delete(a, rows, axis=0))
        self.open.remove(window)

    def restore(self, window: int) -> None:
        """Give the items of a window's branches their weight 1 back."""
        self._scaled[self._rows(window)] = self._scaled[0]

    def _rows(self, window: int) -> slice:
        count = len(self._changed)
        first = 1 + count * self.open.index(window)
        return slice(first, first + count)

    def _select(self, change: Callable[[FloatArray], FloatArray]) -> None:
        self._weights = [change(w) for w in self._weights]
        self._scaled = change(self._scaled)
        self._state = change_state(self._state, change)
