"""Effect of an item's weight at single steps on a later loss, by one sweep back through training.

Training is theta_{k+1} = F(theta_k, state_k, g_k) with g_k = (1/N) sum_i w_i grad l_i(theta_k).
With z the derivative of the measured loss with respect to theta_{k+1} (and state_{k+1}), and
gamma = (dF/dg)^T z,

    e_k[q, i] = d l_q / d w_i(k) = (1/N) gamma_q . grad l_i(theta_k),      z <- z + H_k gamma.

Gradient descent has gamma = -eta z, so that z_k = (I - eta H_k) z_{k+1}.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import item_gradients, network, replay
from dlnflow.dynamics.loops import Problem
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.optimizers import State, change_state
from dlnflow.dynamics.replay import LinearMoment
from dlnflow.dynamics.schedule import Windows


def step_effects(problem: Problem, stop: int, query: IntArray) -> Iterator[tuple[int, FloatArray]]:
    """Yield (k, e_k) for k = stop - 1, ..., 0: effects on the losses at `stop`.

    e_k has shape (n_query, N). Their sum over k is the derivative along constant weights.
    """
    return effects_at(replay.backward(problem, stop), LinearAdjoint(problem, query))


def effects_at(moments: Iterator[Any], sweep: Any) -> Iterator[tuple[int, FloatArray]]:
    """Go through steps from the last on with the adjoint of a kind of run; yield (k, e_k)."""
    begun = False
    for moment in moments:
        if not begun:
            begun = True
            sweep.open()
            sweep.add(moment.after, np.ones(1))
        yield moment.step, sweep.back(moment)


def window_effects(problem: Problem, windows: Windows, query: IntArray) -> FloatArray:
    """First-order counterpart of `dlnflow.dynamics.windows.differences` per unit of weight.

    Returns
    -------
    array, shape (S, n_query, N)
    """
    moments = replay.backward(problem, windows.last)
    shape = len(windows.starts), len(query), problem.n_items
    return effects_in(windows, moments, LinearAdjoint(problem, query), shape)


def effects_in(
    windows: Windows, moments: Iterator[Any], sweep: Any, shape: tuple[int, int, int]
) -> FloatArray:
    """Sum effects over windows, shape (S, n_query, N), from steps in reverse order."""
    result = np.zeros(shape)
    if windows.until is not None:
        for step, effect in effects_at(moments, sweep):
            result[(windows.starts <= step) & (step < windows.stops)] += effect
        return result
    open_windows: list[int] = []
    for moment in moments:
        step = moment.step
        for w in windows.closing(step + 1):
            sweep.open()
            open_windows.append(w)
        if open_windows:
            sweep.add(moment.after, 1 / windows.widths[open_windows])
            effect = sweep.back(moment).reshape(len(open_windows), *shape[1:])
            result[open_windows] += effect
        closing = [k for k, w in enumerate(open_windows) if windows.starts[w] == step]
        sweep.close(closing)
        open_windows = [w for k, w in enumerate(open_windows) if k not in closing]
    return result


class LinearAdjoint:
    """Derivatives of measured losses with respect to the weights and state after a step.

    Rows are (measurement, query), flattened.
    """

    def __init__(self, problem: Problem, query: IntArray) -> None:
        self._problem, self._query = problem, query
        self._z = [np.zeros((0, *w.shape)) for w in problem.weights]
        self._state: State = problem.optimizer.start(self._z)

    def open(self) -> None:
        """Start one more measurement, at the end."""
        self._select(lambda a: np.concatenate([a, np.zeros((len(self._query), *a.shape[1:]))]))

    def close(self, positions: list[int]) -> None:
        """Drop measurements."""
        if positions:
            count = len(self._query)
            rows = np.concatenate([k * count + np.arange(count) for k in positions])
            self._select(lambda a: np.delete(a, rows, axis=0))

    def add(self, weights: Weights, scale: FloatArray) -> None:
        """Add scale[m] * grad l_q at these weights to measurement m."""
        products = item_gradients.item_pass(weights, self._problem.x, self._problem.y)
        for z, gradient in zip(
            self._z, item_gradients.of_items(products, self._query), strict=True
        ):
            z += (scale[:, None, None, None] * gradient).reshape(z.shape)

    def back(self, moment: LinearMoment) -> FloatArray:
        """Go back one step; return e_k, shape (rows, N)."""
        products = moment.products
        gamma = self._problem.optimizer.step_adjoint(self._z, self._state, base=moment.base)
        still = np.zeros((len(gamma[0]), 1, self._problem.n_items))
        curved = network.gradient_tangents(moment.weights, gamma, products, moment.shares, still)
        for z, change in zip(self._z, curved, strict=True):
            z += change
        return item_gradients.dot(gamma, products)

    def _select(self, change: Callable[[FloatArray], FloatArray]) -> None:
        self._z = [change(z) for z in self._z]
        self._state = change_state(self._state, change)
