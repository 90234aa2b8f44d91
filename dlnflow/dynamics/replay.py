"""Forward and backward through the steps of a training run, with the optimizer's state."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import item_gradients, network
from dlnflow.dynamics.loops import Problem, run
from dlnflow.dynamics.network import Pass, Weights
from dlnflow.dynamics.optimizers import Base, State
from dlnflow.dynamics.schedule import Schedule


@dataclass(frozen=True)
class LinearMoment:
    """One step of training with all item weights 1.

    ``weights``, ``state`` and ``products`` (of the objective, so that its errors carry the share
    of every item) are those before the step; ``after`` are the weights and ``base`` holds the
    gradient and the optimizer state of the step taken. ``shares`` (1, N) are 1/N, or 1/B for the
    items of a minibatch of B and 0 for the others.
    """

    problem: Problem
    step: int
    weights: Weights
    state: State
    products: Pass
    shares: FloatArray
    after: Weights
    base: Base

    @cached_property
    def single(self) -> Pass:
        """The pass of every item's own loss, without its share."""
        if self.problem.batches is not None:
            return item_gradients.item_pass(self.weights, self.problem.x, self.problem.y)
        n_items = self.problem.n_items
        errors = [n_items * error for error in self.products.errors]
        return Pass(self.products.inputs, errors, self.products.residual)

    def kernel(self, query: IntArray, train: IntArray) -> FloatArray:
        """Grad l_q^T (eta P) (share_i grad l_i), shape (n_query, n_train).

        eta P is what the optimizer makes of a gradient, `Rule.displacement`.
        """
        rate = self.problem.optimizer.displacement(self.base.state)
        share = self.shares[..., train]
        if isinstance(rate, float):
            return rate * share * item_gradients.gram(self.single, query, train)
        return share * item_gradients.weighted_gram(self.single, rate, query, train)

    def displacements(self, train: IntArray) -> Weights:
        """Return eta P (share_i grad l_i) of the chosen items, shapes (n_train, out, in)."""
        gradients = item_gradients.of_items(self.products, train)
        return [rate * gradient for rate, gradient in zip(self.rates, gradients, strict=True)]

    @property
    def rates(self) -> list[float] | Weights:
        """Eta P for every layer."""
        rate = self.problem.optimizer.displacement(self.base.state)
        return [rate] * len(self.weights) if isinstance(rate, float) else rate

    def along(self, vectors: Weights, query: IntArray) -> FloatArray:
        """Return grad l_q . vector_k at the weights before the step, shape (n_query, K)."""
        return item_gradients.dot(vectors, self.single)[:, query].T


def forward(
    problem: Problem, stop: int, *, description: str = "training"
) -> Iterator[LinearMoment]:
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


def along_flow(problem: Problem, stop: int) -> Iterator[LinearMoment]:
    """Yield the states of gradient flow at the times of the steps 0, ..., stop - 1."""
    shapes = [w.shape for w in problem.weights]
    unit = Schedule.constant(np.ones(problem.n_items))
    shares = problem.scaled(np.ones(problem.n_items))
    for step, flat in enumerate(run(problem, np.arange(stop), unit, network.flatten)):
        weights = network.unflatten(flat, shapes)
        products = network.propagate(weights, problem.x, problem.y, shares)
        base = Base(network.gradients(products), {})
        yield LinearMoment(problem, step, weights, {}, products, shares, weights, base)


def backward(problem: Problem, stop: int) -> Iterator[LinearMoment]:
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


def _steps(
    problem: Problem, first: int, stop: int, start: LinearMoment | None
) -> Iterator[LinearMoment]:
    """Steps first, ..., stop - 1 from the weights and state of `start`, or from the beginning."""
    weights = problem.weights if start is None else start.weights
    state = problem.optimizer.start(weights) if start is None else start.state
    scaled = problem.scaled(np.ones(problem.n_items))
    for step in range(first, stop):
        shares = problem.at_step(scaled, step)
        with np.errstate(all="ignore"):
            products = network.propagate(weights, problem.x, problem.y, shares)
            problem.check(products.residual, step)
            gradients = network.gradients(products)
            moved, new_state = [w.copy() for w in weights], copy.deepcopy(state)
            problem.optimizer.step(moved, gradients, new_state)
        yield LinearMoment(
            problem, step, weights, state, products, shares, moved, Base(gradients, new_state)
        )
        weights, state = moved, new_state
