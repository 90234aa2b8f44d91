"""Losses without items, and responses to their weights, by gradient flow in modal coordinates."""

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics.loops import FLOW_ATOL, FLOW_RTOL
from dlnflow.dynamics.reduced import modal
from dlnflow.dynamics.reduced.modal_response import Outside, Response
from dlnflow.dynamics.reduced.response import OUTSIDE_ATOL, Directions
from dlnflow.dynamics.reduced.subspace import Reduced
from dlnflow.theory.runge_kutta import Solver

SLAB_NUMBERS = 2**14
"""Flows are integrated together until their states are about this many numbers: a cache's."""
DIRECTION_NUMBERS = 2**15
"""Likewise directions, of which each slab needs the flow itself once more."""
TANGENT_RTOL = 1e-10
"""Of a flow with tangents, whose error is measured to be smaller than that of losses at 1e-11:
tangents obey a linear equation, and their small entries count as much as the large ones."""


def applies(reduced: Reduced) -> bool:
    """Whether the run is a flow with one-hot inputs."""
    return reduced.continuous and reduced.x is None


def losses_without(
    reduced: Reduced, steps: IntArray, query: IntArray, removed: IntArray
) -> FloatArray:
    """Losses of the query items without one item each, shape (B, T, Q)."""
    values = np.empty((len(removed), len(steps), len(query)))
    with Progress(len(removed), "gradient flow without an item") as progress:
        for part in _slabs(reduced, len(removed), SLAB_NUMBERS):
            values[part] = _losses(reduced, modal.without(reduced, removed[part], query), steps)
            progress.advance(len(removed[part]))
    return values


def base_losses(reduced: Reduced, steps: IntArray, query: IntArray) -> FloatArray:
    """Losses of the query items with all of them, shape (T, Q)."""
    return _losses(reduced, modal.base(reduced, query), steps)[0]


def influence(reduced: Reduced, steps: IntArray, query: IntArray, train: IntArray) -> FloatArray:
    """K[t, q, i] = d l_q / d w_i, shape (T, Q, I)."""
    flow = modal.base(reduced, query)
    of_query, of_train = flow.items[0], modal.base(reduced, train).items[0]
    directions = Directions.of(of_train)
    values = np.zeros((len(steps), len(query), len(train)))
    with Progress(len(directions.a), "gradient flow with derivatives") as progress:
        for part in _slabs(reduced, len(directions.a), DIRECTION_NUMBERS):
            found = _driven(reduced, flow, directions[part], steps)
            if directions.mix is None:
                values[..., part] = found
            else:
                values += found @ directions.mix[part]
            progress.advance(len(directions.a[part]))
    outside = (query[:, None] == train) - of_query @ of_train.T
    if np.abs(outside).max() > OUTSIDE_ATOL:
        shared = Outside(flow)
        values += _solve(
            reduced, shared, steps, lambda z: shared.products(z, of_query, of_train) * outside
        )
    return values


def _driven(
    reduced: Reduced, flow: modal.Modal, directions: Directions, steps: IntArray
) -> FloatArray:
    """Response along each of some directions, shape (T, Q, K)."""
    driven = Response(flow, directions.a, directions.b)
    return _solve(reduced, driven, steps, lambda z: driven.loss_tangents(z, flow.items[0]))


def _losses(reduced: Reduced, flow: modal.Modal, steps: IntArray) -> FloatArray:
    shape = flow.start.shape
    solver = Solver(
        "gradient flow",
        lambda z, out: flow.velocity(z.reshape(shape), out.reshape(shape)),
        flow.start.reshape(len(flow.start), -1),
        rtol=FLOW_RTOL,
        atol=FLOW_ATOL * reduced.weight_unit,
    )
    kept = solver.run(_times(reduced, steps), lambda z: flow.losses(z.reshape(shape)))
    return np.stack(kept, axis=1)


def _solve(reduced: Reduced, driven: Response | Outside, steps: IntArray, record) -> FloatArray:
    atol = FLOW_ATOL * reduced.weight_unit
    solver = Solver("gradient flow", driven.velocity, driven.start, rtol=TANGENT_RTOL, atol=atol)
    return np.stack(solver.run(_times(reduced, steps), record))


def _times(reduced: Reduced, steps: IntArray) -> FloatArray:
    """Times in units of dW1/dt = W2^T (Y - W)."""
    return steps * (reduced.learning_rate / reduced.total)


def _slabs(reduced: Reduced, count: int, numbers: int) -> list[slice]:
    w1, w2 = reduced.weights
    size = max(1, numbers // (w1.size + w2.size))
    return [slice(k, k + size) for k in range(0, count, size)]
