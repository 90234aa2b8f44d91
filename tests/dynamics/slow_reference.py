"""Every item, input and hidden unit followed one step at a time: what the fast paths must equal."""

import numpy as np

from dlnflow.dynamics import loops, network
from dlnflow.dynamics.schedule import Schedule


def _problem(run):
    x = None if run.task.one_hot else run.task.x
    rule = type(run.problem.optimizer)(run.learning_rate)
    weights = list(run.initial_weights())
    return loops.Problem(weights, x, run.task.y, rule, run.stable_learning_rate, run.batches)


def losses(run, steps, weights):
    """Losses (B, T, N) under item weights (B, N) or a batched Schedule."""
    problem, y = _problem(run), run.task.y
    schedule = weights if isinstance(weights, Schedule) else Schedule.constant(weights)
    found = loops.run(problem, steps, schedule, lambda w: network.losses(w, problem.x, y))
    return np.moveaxis(found, 0, -2)


def tangents(run, steps, directions, *, gauss_newton=False):
    """Derivatives of the losses, shape (T, N, K)."""
    problem, y = _problem(run), run.task.y
    return loops.run_tangents(
        problem,
        steps,
        Schedule.constant(np.ones(run.task.n_items)),
        directions,
        lambda w, dw: network.loss_tangents(w, dw, problem.x, y).T,
        gauss_newton=gauss_newton,
    )
