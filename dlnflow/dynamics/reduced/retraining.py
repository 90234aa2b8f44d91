"""Losses of trainings in each of which one item has another weight, in reduced coordinates."""

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import loops, network
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.reduced.subspace import Reduced, Shrink
from dlnflow.dynamics.schedule import Schedule

SLAB_NUMBERS = 2**14
"""Networks are trained together until their weights are about this many numbers (128 kB)."""


def losses_without(
    reduced: Reduced, steps: IntArray, query: IntArray, changed: IntArray, weight: float = 0.0
) -> FloatArray:
    """Losses of the query items without one item each, or with its weight changed.

    Parameters
    ----------
    reduced : Reduced
    steps : array of int, shape (T,)
    query : array of int, shape (Q,)
    changed : array of int, shape (B,)
        Item of which network b has the given weight.
    weight : float
        Weight of that item.

    Returns
    -------
    array, shape (B, T, Q)
    """
    values = np.empty((len(changed), len(steps), len(query)))
    for part in _slabs(reduced, changed):
        values[part] = _slab(reduced, steps, query, changed[part], weight)
    return values


def base_losses(reduced: Reduced, steps: IntArray, query: IntArray) -> FloatArray:
    """Losses of the query items with all weights 1, shape (T, Q)."""
    x, y = reduced.query(query)
    unit = Schedule.constant(np.ones(reduced.items.shape[1]))
    return loops.run(reduced, steps, unit, lambda w: network.losses(w, x, y))


def _slabs(reduced: Reduced, changed: IntArray) -> list[slice]:
    each = sum(w.size for w in reduced.weights)
    size = max(1, SLAB_NUMBERS // each)
    return [slice(k, k + size) for k in range(0, len(changed), size)]


def _slab(
    reduced: Reduced, steps: IntArray, query: IntArray, changed: IntArray, weight: float
) -> FloatArray:
    problem, shrink = reduced.without(changed), Shrink.of(reduced.items, changed)
    weights = np.ones((len(changed), problem.y.shape[-1]))
    weights[:, 0] = weight
    q = reduced.items[query].T
    own, column = np.nonzero(changed[:, None] == query)

    def record(layers: Weights) -> FloatArray:
        residual = problem.y - network.outputs(layers, problem.x)[-1]
        # E q_j = (E P)(P^T e_j): the other items through S^-1, the changed one is the first column
        errors = shrink.divide(residual[..., 1:]) @ q
        errors[own, :, column] = residual[own, :, 0]
        return 0.5 * np.einsum("bdq,bdq->bq", errors, errors)

    losses = loops.run(problem, steps, Schedule.constant(weights), record)
    return np.swapaxes(losses, 0, 1)
