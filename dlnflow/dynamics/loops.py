"""The loops that train: discrete steps or gradient flow, with or without derivatives.

Everything here works on plain weights; `dlnflow.dynamics.linear` gives it names and units. A
*record* function turns the weights at a requested step into what is kept, so that a discrete run
of any length stores only what was asked for. The ODE solver of gradient flow holds its state at
all requested steps of a stretch of constant item weights until that stretch is solved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import network
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.optimizers import Base, Rule
from dlnflow.dynamics.schedule import Schedule
from dlnflow.theory import ode

Record = Callable[[Weights], FloatArray]
TangentRecord = Callable[[Weights, Weights], FloatArray]

DIVERGENCE_FACTOR = 1e4
"""Training has diverged when the summed squared error exceeds its initial value this many times.

A stable run never gets near it: its error starts near its maximum.
"""
FLOW_RTOL, FLOW_ATOL = 1e-11, 1e-14
"""Tolerances of the Runge-Kutta solver (DOP853) for gradient flow; the latter in units of
`Problem.weight_unit`."""


class DivergenceError(FloatingPointError):
    """Training left the region where the learning rate is stable."""


@dataclass(frozen=True)
class Problem:
    """What is trained and how: initial weights, data, update rule.

    ``stable_bound`` is the largest stable learning rate at the solution, NaN where none is known.
    ``batches`` (n_steps, B) holds the items of every step's minibatch; None is the full batch.
    """

    weights: Weights
    x: FloatArray | None
    y: FloatArray
    optimizer: Rule
    stable_bound: float
    batches: IntArray | None = None

    @property
    def learning_rate(self) -> float:
        """Of the update rule."""
        return self.optimizer.learning_rate

    @property
    def continuous(self) -> bool:
        """Whether the rule is the gradient flow, which has no steps."""
        return self.optimizer.traits.continuous

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return self.y.shape[1]

    @cached_property
    def weight_unit(self) -> float:
        """The size of weights, initial ones and those that are learned, whatever the data's unit.

        A map from inputs to targets has the size |y| / |x|, and each of L layers its root.
        """
        inputs = 1.0 if self.x is None else np.abs(self.x).max()
        learned = (np.abs(self.y).max() / inputs) ** (1 / len(self.weights))
        return float(max(learned, *(np.abs(w).max() for w in self.weights)))

    def copies(self, batch: tuple[int, ...]) -> Weights:
        """Initial weights repeated along the batch axes, writable."""
        return [np.broadcast_to(w, batch + w.shape).copy() for w in self.weights]

    def scaled(self, item_weights: FloatArray) -> FloatArray:
        """w_i / N with an axis for the output dimension, shape (..., 1, N)."""
        return item_weights[..., None, :] / self.n_items

    def at_step(self, scaled: FloatArray, step: int) -> FloatArray:
        """What `scaled` is at one step: w_i / B for the items of its minibatch, 0 for others."""
        if self.batches is None:
            return scaled
        share = np.zeros(self.n_items)
        share[self.batches[step]] = self.n_items / self.batches.shape[1]
        return scaled * share

    @cached_property
    def error_limit(self) -> float:
        """Summed squared error of one network beyond which it has diverged."""
        residual = self.y - network.outputs(self.weights, self.x)[-1]
        return DIVERGENCE_FACTOR * float(np.vdot(residual, residual))

    def check(self, residual: FloatArray, step: int) -> None:
        """Raise if the squared error of one of the networks in `residual` is beyond the limit.

        `residual` has shape (..., d_out, N). Written so that NaN fails. The one test of divergence
        for every discrete loop.

        Raises
        ------
        DivergenceError
            If it is.
        """
        flat = residual.ravel()
        if flat @ flat <= self.error_limit:  # all together are within what one may have
            return
        errors = np.einsum("...di,...di->...", residual, residual)
        if not np.all(errors <= self.error_limit):
            raise self._diverged(step)

    def check_end(self, weights: Weights, step: int) -> None:
        """Apply `check` to weights after the last step."""
        self.check(self.y - network.outputs(weights, self.x)[-1], step)

    def _diverged(self, step: int) -> DivergenceError:
        bound = (
            "A stable value at the solution, from the largest singular value, is below "
            f"{self.stable_bound:.4g}; "
        )
        return DivergenceError(
            f"training diverged at step {step}: learning_rate={self.learning_rate:g} is too large. "
            f"{bound if np.isfinite(self.stable_bound) else ''}`learning_rate=None` chooses one. "
            "An item weight above 1 acts like a larger one."
        )


def run(problem: Problem, steps: IntArray, schedule: Schedule, record: Record) -> FloatArray:
    """Train and record at the requested steps; batched over the schedule's networks.

    Returns
    -------
    array, shape (T, ...)
        ``record(weights)`` at every requested step.

    Raises
    ------
    DivergenceError
        As soon as the error of a network exceeds `DIVERGENCE_FACTOR` times its initial value.
    FloatingPointError
        If gradient flow cannot be integrated.
    """
    if problem.continuous:
        return _flow(problem, steps, schedule, record)
    weights = problem.copies(schedule.batch)
    wanted, kept = set(steps.tolist()), []
    with Progress(int(steps[-1]), "training") as progress, np.errstate(all="ignore"):
        state = problem.optimizer.start(weights)
        for first, last, item_weights in schedule.segments(int(steps[-1])):
            scaled = problem.scaled(item_weights)
            for step in range(first, last):
                if step in wanted:
                    kept.append(record(weights))
                now = problem.at_step(scaled, step)
                products = network.propagate(weights, problem.x, problem.y, now)
                problem.check(products.residual, step)
                problem.optimizer.step(weights, network.gradients(products), state)
                progress.advance()
        problem.check_end(weights, int(steps[-1]))
    kept.append(record(weights))
    return np.stack(kept)


def run_tangents(
    problem: Problem,
    steps: IntArray,
    schedule: Schedule,
    directions: FloatArray,
    record: TangentRecord,
    *,
    gauss_newton: bool = False,
) -> FloatArray:
    """Train together with derivatives along changes of the item weights.

    Parameters
    ----------
    problem : Problem
    steps : array of int, shape (T,)
    schedule : Schedule
        Item weights at which derivatives are taken, shape (N,) at every step for all directions
        or (K, N) with a network for each.
    directions : array, shape (K, N)
        Directions in item-weight space: the derivative of w along direction k, at all times.
    record : function of (weights, tangents)
        Tangents have a leading axis K.
    gauss_newton : bool
        Leave out the term of the Hessian in which residuals multiply the curvature of the
        outputs. The result is then no derivative of the run.

    Returns
    -------
    array, shape (T, ...)

    Raises
    ------
    DivergenceError, FloatingPointError
        As in `run`.
    """
    moved_gradients = network.gradient_tangents
    if gauss_newton:
        moved_gradients = network.gauss_newton_tangents
    if problem.continuous:
        return _flow_tangents(problem, steps, schedule, directions, record, moved_gradients)
    weights = problem.copies(schedule.batch)
    tangents = [np.zeros(directions.shape[:1] + w.shape) for w in problem.weights]
    forcing = problem.scaled(directions)
    optimizer = problem.optimizer
    wanted, kept = set(steps.tolist()), []
    with (
        Progress(int(steps[-1]), "training with derivatives") as progress,
        np.errstate(all="ignore"),
    ):
        state, state_tangent = optimizer.start(weights), optimizer.start(tangents)
        for first, last, item_weights in schedule.segments(int(steps[-1])):
            scaled = problem.scaled(item_weights)
            for step in range(first, last):
                if step in wanted:
                    kept.append(record(weights, tangents))
                now, push = (problem.at_step(part, step) for part in (scaled, forcing))
                products = network.propagate(weights, problem.x, problem.y, now)
                problem.check(products.residual, step)
                gradients = network.gradients(products)
                moved = moved_gradients(weights, tangents, products, now, push)
                optimizer.step(weights, gradients, state)
                optimizer.step_tangent(tangents, moved, state_tangent, base=Base(gradients, state))
                progress.advance()
        problem.check_end(weights, int(steps[-1]))
    kept.append(record(weights, tangents))
    return np.stack(kept)


def _flow(problem: Problem, steps: IntArray, schedule: Schedule, record: Record) -> FloatArray:
    """Gradient flow dW/dstep = - learning_rate * gradient, all networks as one ODE."""

    def velocity(weights: Weights, scaled: FloatArray) -> Weights:
        products = network.propagate(weights, problem.x, problem.y, scaled)
        return network.gradients(products)

    start = problem.copies(schedule.batch)
    return integrate(problem, steps, schedule, start, velocity, record)


def _flow_tangents(
    problem: Problem,
    steps: IntArray,
    schedule: Schedule,
    directions: FloatArray,
    record: TangentRecord,
    moved_gradients: Callable[..., Weights],
) -> FloatArray:
    """Gradient flow together with its variational equation."""
    depth, forcing = len(problem.weights), problem.scaled(directions)

    def velocity(stacked: Weights, scaled: FloatArray) -> Weights:
        weights, tangents = stacked[:depth], stacked[depth:]
        products = network.propagate(weights, problem.x, problem.y, scaled)
        moved = moved_gradients(weights, tangents, products, scaled, forcing)
        return network.gradients(products) + moved

    start = problem.copies(schedule.batch)
    start += [np.zeros(directions.shape[:1] + w.shape) for w in problem.weights]
    return integrate(
        problem, steps, schedule, start, velocity, lambda s: record(s[:depth], s[depth:])
    )


def integrate(
    problem: Problem,
    steps: IntArray,
    schedule: Schedule,
    start: Weights,
    velocity: Callable[[Weights, FloatArray], Weights],
    record: Record,
) -> FloatArray:
    """Solve d(state)/dstep = - learning_rate * velocity, restarting where item weights jump."""
    shapes = [w.shape for w in start]

    def flat(parts: Weights) -> FloatArray:
        return np.concatenate([part.ravel() for part in parts])

    state = flat(start)
    kept = [record(network.unflatten(state, shapes))] if steps[0] == 0 else []
    for first, last, item_weights in schedule.segments(int(steps[-1])):
        scaled = problem.scaled(item_weights)

        def slope(_: float, z: FloatArray, scaled: FloatArray = scaled) -> FloatArray:
            return -problem.learning_rate * flat(velocity(network.unflatten(z, shapes), scaled))

        inside = steps[(steps > first) & (steps <= last)]
        path = ode.solve(
            "gradient flow",
            slope,
            state,
            np.union1d(inside, [last]),
            begin=first,
            rtol=FLOW_RTOL,
            atol=FLOW_ATOL * problem.weight_unit,
        )
        kept += [record(network.unflatten(path[:, k], shapes)) for k in range(len(inside))]
        state = path[:, -1]
    return np.stack(kept)
