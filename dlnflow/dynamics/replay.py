"""Forward and backward through the steps of a training run, with the optimizer's state."""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dlnflow._support.progress import Progress
from dlnflow.dynamics import network
from dlnflow.dynamics.loops import Problem
from dlnflow.dynamics.network import Pass, Weights
from dlnflow.dynamics.optimizers import Base, State


class Moment(NamedTuple):
    """One step of training with all item weights 1.

    ``weights``, ``state`` and ``products`` (of the objective, so that its errors carry the factor
    1/N) are those before the step; ``after`` are the weights and ``base`` holds the gradient and
    the optimizer state of the step taken.
    """

    step: int
    weights: Weights
    state: State
    products: Pass
    after: Weights
    base: Base


def forward(problem: Problem, stop: int, *, description: str = "training") -> Iterator[Moment]:
    """Yield the steps 0, 1, ..., stop - 1 of a discrete optimizer.

    Raises
    ------
    DivergenceError
        As soon as the error exceeds `dlnflow.dynamics.loops.DIVERGENCE_FACTOR` times its
        initial value.
    """
    with Progress(stop, description) as progress:
        for moment in _steps(problem, 0, stop, None):
            yield moment
            progress.advance()


def backward(problem: Problem, stop: int) -> Iterator[Moment]:
    """Yield the steps stop - 1, ..., 0.

    Keeps about sqrt(stop) states and repeats the stretch between two of them when it is reached,
    so that memory grows with the square root of the run at twice the cost of training.
    """
    stride = int(np.ceil(np.sqrt(stop)))
    kept = [moment for moment in forward(problem, stop) if moment.step % stride == 0]
    with Progress(stop, "sweeping back") as progress:
        for start in reversed(kept):
            last = min(start.step + stride, stop)
            for moment in reversed(list(_steps(problem, start.step, last, start))):
                yield moment
                progress.advance()


def _steps(problem: Problem, first: int, stop: int, start: Moment | None) -> Iterator[Moment]:
    """Steps first, ..., stop - 1 from the weights and state of `start`, or from the beginning."""
    weights = problem.weights if start is None else start.weights
    state = problem.optimizer.start(weights) if start is None else start.state
    scaled = problem.scaled(np.ones(problem.n_items))
    for step in range(first, stop):
        with np.errstate(all="ignore"):
            products = network.propagate(weights, problem.x, problem.y, scaled)
            problem.check(products.residual, step)
            gradients = network.gradients(products)
            moved, new_state = [w.copy() for w in weights], copy.deepcopy(state)
            problem.optimizer.step(moved, gradients, new_state)
        yield Moment(step, weights, state, products, moved, Base(gradients, new_state))
        weights, state = moved, new_state
