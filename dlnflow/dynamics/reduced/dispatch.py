"""Losses and responses by the smallest exact problem that has them, or the loops themselves."""

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import loops, network
from dlnflow.dynamics.loops import Problem
from dlnflow.dynamics.reduced import modal_flow, response, retraining
from dlnflow.dynamics.reduced.subspace import Reduced, applies, reduce
from dlnflow.dynamics.schedule import Schedule


def losses(
    problem: Problem, steps: IntArray, schedule: Schedule, query: IntArray | None
) -> FloatArray:
    """Losses of the query items (None: all) under item weights, shape (..., T, Q).

    Networks that differ from weight 1 in at most one item each are trained in problems that hold
    one item apart; others in one that holds all items apart whose weight is ever another.
    """
    query = np.arange(problem.n_items) if query is None else query
    if applies(problem):
        base = _worthwhile(problem)
        single = None if base is None else _single(schedule)
        if single is not None:
            return _one_apart(base, steps, query, single)
        apart = np.flatnonzero(
            np.any(schedule.values != 1, axis=tuple(range(schedule.values.ndim - 1)))
        )
        small = _smaller(problem, apart)
        if small is not None:
            values = np.ones((*schedule.values.shape[:-1], small.items.shape[1]))
            values[..., : len(apart)] = schedule.values[..., apart]
            return _by_loops(small, steps, Schedule(schedule.starts, values), small.query(query))
    return _by_loops(problem, steps, schedule, _data(problem, query))


def tangents(
    problem: Problem,
    steps: IntArray,
    directions: FloatArray,
    query: IntArray | None,
    *,
    gauss_newton: bool = False,
    weights: FloatArray | None = None,
) -> FloatArray:
    """Derivatives of the losses along directions (K, N) of item weights, shape (T, Q, K).

    Row k of `weights` (K, N) has the item weights at which derivative k is taken, else 1.
    """
    query = np.arange(problem.n_items) if query is None else query
    if weights is not None:
        return _tangents_at(problem, steps, directions, query, weights, gauss_newton)
    if applies(problem):
        base = None if gauss_newton else _worthwhile(problem)
        if base is not None and np.all(np.count_nonzero(directions, axis=1) == 1):
            train = np.argmax(directions != 0, axis=1)
            by = modal_flow if modal_flow.applies(base) else response
            factor = directions[np.arange(len(train)), train]
            return by.influence(base, steps, query, train) * factor
        apart = np.flatnonzero(np.any(directions != 0, axis=0))
        small = _smaller(problem, apart)
        if small is not None:
            inside = np.zeros((len(directions), small.items.shape[1]))
            inside[:, : len(apart)] = directions[:, apart]
            return _tangents_by_loops(small, steps, inside, small.query(query), gauss_newton)
    return _tangents_by_loops(problem, steps, directions, _data(problem, query), gauss_newton)


def _tangents_at(
    problem: Problem,
    steps: IntArray,
    directions: FloatArray,
    query: IntArray,
    weights: FloatArray,
    gauss_newton: bool,
) -> FloatArray:
    """Derivatives at other item weights, with a network for each direction."""
    apart = np.flatnonzero(np.any(directions != 0, axis=0) | np.any(weights != 1, axis=0))
    small = _smaller(problem, apart) if applies(problem) else None
    if small is None:
        data = _data(problem, query)
        return _tangents_by_loops(problem, steps, directions, data, gauss_newton, weights)
    inside, at = (np.full((len(weights), small.items.shape[1]), fill) for fill in (0.0, 1.0))
    inside[:, : len(apart)], at[:, : len(apart)] = directions[:, apart], weights[:, apart]
    return _tangents_by_loops(small, steps, inside, small.query(query), gauss_newton, at)


def _tangents_by_loops(
    problem: Problem,
    steps: IntArray,
    directions: FloatArray,
    data: tuple[FloatArray, FloatArray],
    gauss_newton: bool,
    weights: FloatArray | None = None,
) -> FloatArray:
    weights = np.ones(directions.shape[1]) if weights is None else weights
    return loops.run_tangents(
        problem,
        steps,
        Schedule.constant(weights),
        directions,
        lambda w, dw: network.loss_tangents(w, dw, *data).T,
        gauss_newton=gauss_newton,
    )


def _one_apart(
    base: Reduced, steps: IntArray, query: IntArray, single: tuple[IntArray, FloatArray]
) -> FloatArray:
    """Losses of networks of which each has another weight for one item (-1: for none)."""
    changed, weights = single
    flow = modal_flow.applies(base)
    values = np.empty((len(changed), len(steps), len(query)))
    none = changed < 0
    if np.any(none):
        values[none] = (modal_flow if flow else retraining).base_losses(base, steps, query)
    for weight in np.unique(weights[~none]):
        part = np.flatnonzero(~none & (weights == weight))
        if flow and weight == 0:
            values[part] = modal_flow.losses_without(base, steps, query, changed[part])
        else:
            values[part] = retraining.losses_without(base, steps, query, changed[part], weight)
    return values


def _single(schedule: Schedule) -> tuple[IntArray, FloatArray] | None:
    """Return the one item whose weight each network changes for all time, and that weight."""
    if len(schedule.values) > 1 or not schedule.batch:
        return None
    other = schedule.values[0] != 1
    if np.any(np.count_nonzero(other, axis=1) > 1):
        return None
    changed = np.where(np.any(other, axis=1), np.argmax(other, axis=1), -1)
    return changed, schedule.values[0][np.arange(len(changed)), changed]


def _worthwhile(problem: Problem) -> Reduced | None:
    """Return the reduced problem where it saves work: fewer items, or a flow in modal form."""
    base = reduce(problem)
    fewer = (
        base.items.shape[1] + 1 < problem.n_items or base.weights[0].size < problem.weights[0].size
    )
    return base if fewer or modal_flow.applies(base) else None


def _smaller(problem: Problem, apart: IntArray) -> Reduced | None:
    """Return the problem with some items apart, if it is smaller."""
    if len(apart) >= problem.n_items:
        return None
    small = reduce(problem, apart)
    return small if small.items.shape[1] < problem.n_items else None


def _data(problem: Problem, query: IntArray) -> tuple[FloatArray, FloatArray]:
    """Inputs and targets of the queried items."""
    x = problem.x
    if x is None:
        x = np.zeros((problem.n_items, len(query)))
        x[query, np.arange(len(query))] = 1.0
        return x, problem.y[:, query]
    return x[:, query], problem.y[:, query]


def _by_loops(
    problem: Problem, steps: IntArray, schedule: Schedule, data: tuple[FloatArray, FloatArray]
) -> FloatArray:
    found = loops.run(problem, steps, schedule, lambda w: network.losses(w, *data))
    return np.moveaxis(found, 0, -2)
