"""Training steps of a torch module as pure functions, and the loops that take them.

With c_i = w_i / N the shares of the items, 0 outside a minibatch (where N is its size),

    g = sum_i c_i grad l_i(theta),    theta, state <- update(theta, g, state).

Weights are lists of tensors in the order of the module's parameters, a state is a dict of such
lists and of tensors without axes. Batches of networks and directions go through vmap.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import torch_memory
from dlnflow.dynamics.loops import DIVERGENCE_FACTOR, DivergenceError
from dlnflow.dynamics.schedule import Schedule
from dlnflow.dynamics.torch_graphs import Graph
from dlnflow.dynamics.torch_kernels import differentiable

Tensors = list[Tensor]
TorchState = dict[str, Any]
Pair = tuple[Tensor, Tensor]
AT_ONCE = 16
"""Directions and branches that share a step of the run itself, also beyond the cache."""


@dataclass(frozen=True, eq=False)
class TorchProblem:
    """What is trained and how: a module, its initial weights, data, per-item loss, update rule.

    ``data`` are the training items and ``queried`` those whose losses are measured, both
    (inputs, targets); ``batches`` (steps, B) holds the items of every minibatch.
    """

    model: nn.Module
    weights: dict[str, Tensor]
    item_loss: Callable[[Tensor, Tensor], Tensor]
    data: Pair
    queried: Pair
    rule: Any
    batches: IntArray | None

    @property
    def n_items(self) -> int:
        """Number of training items N."""
        return len(self.data[0])

    @property
    def n_parameters(self) -> int:
        """Number of parameters P."""
        return sum(w.numel() for w in self.weights.values())

    @property
    def initial(self) -> Tensors:
        """Initial weights; not to be changed."""
        return list(self.weights.values())

    def start(self) -> TorchState:
        """State before the first step."""
        return started(self.rule, self.initial)

    def at_step(self, step: int) -> tuple[Pair, IntArray]:
        """Training data of a step, and which items they are."""
        if self.batches is None:
            return self.data, np.arange(self.n_items)
        items = self.batches[step]
        return take(self.data, items), items

    def shares(self, item_weights: FloatArray, items: IntArray) -> Tensor:
        """c_i of the items of a step for weights (..., N), shape (..., B)."""
        return torch.as_tensor(item_weights[..., items] / len(items)).to(self.initial[0])

    def outputs(self, weights: Tensors, x: Tensor) -> Tensor:
        """Outputs of the module."""
        named = dict(zip(self.weights, weights, strict=True))
        with differentiable():
            return functional_call(self.model, named, (x,))

    def losses(self, weights: Tensors, pair: Pair) -> Tensor:
        """One loss per item, shape (n,)."""
        return self.item_loss(self.outputs(weights, pair[0]), pair[1])

    def measured(self, weights: Tensors, pair: Pair) -> Tensor:
        """One loss per item, in portions that fit the memory; for no way back."""
        parts = [self.losses(weights, part) for part in self.portions(pair)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def gradient(self, weights: Tensors, shares: Tensor, pair: Pair) -> tuple[Tensors, Tensor]:
        """Gradient of sum_i c_i l_i, and the losses."""

        def objective(weights: Tensors) -> tuple[Tensor, Tensor]:
            losses = self.losses(weights, pair)
            return (shares * losses).sum(), losses

        return grad(objective, has_aux=True)(weights)

    def gradient_tangent(
        self,
        weights: Tensors,
        shares: Tensor,
        moved: tuple[Tensors, Tensor],
        pair: Pair,
        matrix: str,
    ) -> tuple[Tensors, Tensors, Tensor]:
        """Gradient g, its derivative along a change (v, d) of (weights, shares), and the losses l.

        Since the Hessian H is symmetric, H v + sum_i d_i grad l_i = grad (g . v + d . l). The
        Gauss-Newton matrix holds the Jacobian J of the outputs fixed: with e the gradient of the
        objective in the outputs, the derivative is J^T (de).
        """
        if matrix == "hessian":

            def product(weights: Tensors) -> tuple[Tensor, tuple[Tensors, Tensor]]:
                gradient, losses = self.gradient(weights, shares, pair)
                parts = [(g * v).sum() for g, v in zip(gradient, moved[0], strict=True)]
                return sum(parts, (moved[1] * losses).sum()), (gradient, losses)

            change, (gradient, losses) = grad(product, has_aux=True)(weights)
            return gradient, change, losses

        def errors(outputs: Tensor, shares: Tensor) -> Tensor:
            return grad(lambda o: (shares * self.item_loss(o, pair[1])).sum())(outputs)

        def forward(weights: Tensors) -> Tensor:
            return self.outputs(weights, pair[0])

        outputs, change = jvp(forward, (weights,), (moved[0],))
        error, error_change = jvp(errors, (outputs, shares), (change, moved[1]))
        _, pull = vjp(forward, weights)
        return pull(error)[0], pull(error_change)[0], self.item_loss(outputs, pair[1])

    def step(
        self, weights: Tensors, state: TorchState, shares: Tensor, pair: Pair
    ) -> tuple[Tensors, TorchState, Tensor]:
        """New weights and state, and the losses before the step."""
        gradient, losses = self.gradient(weights, shares, pair)
        return *self.rule.update(weights, gradient, state), losses

    def step_tangent(
        self,
        base: tuple[Tensors, TorchState, Tensor, Pair],
        changes: tuple[Tensors, TorchState, Tensor],
        matrix: str,
    ) -> tuple[tuple[Tensors, TorchState], tuple[Tensors, TorchState], Tensor]:
        """A step and its derivatives, one row per direction, of weights and state; the losses.

        ``base`` are weights, state, shares and data, ``changes`` those of the first three.
        """
        weights, state, shares, pair = base

        def one(moved: Tensors, state_moved: TorchState, push: Tensor) -> tuple[Any, Any, Tensor]:
            gradient, change, losses = self.gradient_tangent(
                weights, shares, (moved, push), pair, matrix
            )
            point, along = (weights, gradient, state), (moved, change, state_moved)
            return *jvp(self.rule.update, point, along), losses

        return vmap(one, out_dims=(None, 0, None))(*changes)

    def step_adjoint(
        self,
        base: tuple[Tensors, TorchState, Tensor, Pair],
        after: tuple[Tensors, TorchState],
    ) -> tuple[Tensors, TorchState, Tensor]:
        """From derivatives by weights and state after a step to those before and by the shares.

        Rows are what is differentiated.
        """
        *point, pair = base

        def step(weights: Tensors, state: TorchState, shares: Tensor) -> tuple[Any, Any]:
            return self.step(weights, state, shares, pair)[:2]

        _, pull = vjp(step, *point)
        return vmap(lambda *z: pull(z))(*after)

    def item_gradients(self, weights: Tensors, pair: Pair) -> Tensors:
        """Gradients of single losses, with a leading axis over items."""

        def single(weights: Tensors, x: Tensor, y: Tensor) -> Tensor:
            return self.losses(weights, (x[None], y[None]))[0]

        return vmap(grad(single), in_dims=(None, 0, 0))(weights, *pair)

    def train_gradients(self, weights: Tensors, train: IntArray) -> Tensors:
        """Gradients of single training items, with a leading axis over them.

        Raises
        ------
        ValueError
            If they do not fit the memory; so for queries.
        """
        torch_memory.require_gradients(len(train), self.n_parameters, self.initial[0])
        return self.quick.item_gradients(weights, take(self.data, train))

    def query_gradients(self, weights: Tensors, query: IntArray) -> Tensors:
        """Gradients of what is measured, with a leading axis over queries."""
        torch_memory.require_gradients(len(query), self.n_parameters, self.initial[0])
        return self.quick.item_gradients(weights, take(self.queried, query))

    def watched(self, train: IntArray, query: IntArray) -> Pair:
        """Items whose losses a sampler records, and after them the queries if they are others."""
        items = take(self.data, train)
        if self.queried is self.data:
            return items
        others = take(self.queried, query)
        return tuple(torch.cat(pair) for pair in zip(items, others, strict=True))

    def watched_losses(self, call: Callable[..., Tensor], batch: tuple[Tensor, ...]) -> Tensor:
        """What is recorded of a part of `watched`; `call` is called like the module."""
        return self.item_loss(call(batch[0]), batch[1])

    def derivatives(self, weights: Tensors, vectors: Tensors, pair: Pair) -> Tensor:
        """Grad l . vector_k of the losses of a pair, shape (n, K)."""

        def one(*vector: Tensor) -> Tensor:
            return jvp(lambda w: self.measured(w, pair), (weights,), (list(vector),))[1]

        return vmap(one, out_dims=1)(*vectors)

    def along(self, weights: Tensors, vectors: Tensors, query: IntArray | None) -> FloatArray:
        """Grad l_q . vector_k, shape (n_query, K)."""
        return numbers(self.quick.derivatives(weights, vectors, take(self.queried, query)))

    @cached_property
    def quick(self) -> "Quick":
        """What is called at every step, without what derivatives and batching cost beside it."""
        return Quick(self)

    @cached_property
    def loss_limit(self) -> float:
        """Sum of losses beyond which a network has diverged."""
        start = float(self.measured(self.initial, self.data).abs().sum())
        return DIVERGENCE_FACTOR * (start or 1.0)

    def check(self, losses: Tensor, step: int) -> None:
        """Raise if the summed losses (..., n) of a network are beyond the limit, or NaN.

        Raises
        ------
        DivergenceError
            If they are.
        """
        if not bool((losses.sum(-1) <= self.loss_limit).all()):
            raise DivergenceError(
                f"training diverged at step {step}: learning_rate={self.rule.learning_rate:g} is "
                "too large for this model; choose a smaller one. An item weight above 1 acts like "
                "a larger one."
            )

    @cached_property
    def activations(self) -> int:
        """Numbers that one item leaves behind for the way back through the model and the loss."""
        own, held = {w.data_ptr() for w in self.initial}, {}

        def keep(part: Tensor) -> Tensor:
            held[part.data_ptr()] = part.numel()  # what two operations share counts once
            return part

        weights = [w.detach().requires_grad_() for w in self.initial]
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
            loss = self.losses(weights, take(self.data, np.arange(1)))
        del loss
        return sum(size for place, size in held.items() if place not in own)

    @property
    def numbers_per_item(self) -> int:
        """Numbers that one item costs: what it leaves behind, and its input."""
        return max(1, self.activations + self.data[0][0].numel())

    def portions(self, pair: Pair, copies: int = 1) -> list[Pair]:
        """Cut items into portions, of which so many copies fit what is held at once."""
        size = torch_memory.at_once(copies * self.numbers_per_item)
        return list(zip(*(part.split(size) for part in pair), strict=True))

    def require_room(self, rows: int) -> None:
        """Refuse more items in a step than fit the memory.

        Raises
        ------
        ValueError
            If they do not fit; how many do is said.
        """
        like = self.initial[0]
        torch_memory.require_step(rows, self.numbers_per_item, self.n_parameters, like)

    def numbers_per_network(self, *, derivatives: bool = False) -> int:
        """About how many numbers one more network costs, or one more direction of derivatives.

        Per item of a step what is left behind, its gradient, and room for the next step; twice
        that for derivatives. Losses of all items need one way forward.
        """
        rows = self.n_items if self.batches is None else self.batches.shape[1]
        measured = min(self.n_items, torch_memory.at_once(self.numbers_per_item))
        most = max(torch_memory.COPIES * rows, measured)
        network = torch_memory.WEIGHTS * self.n_parameters + self.numbers_per_item * most
        return 2 * network if derivatives else network

    def turns(self, count: int, numbers_each: int, *, least: int = 1) -> Iterator[slice]:
        """Portions of so many networks or directions that fit the memory, on a CPU the cache.

        Those below `least` are not made for the cache.
        """
        on_cpu = self.initial[0].device.type == "cpu"
        most = max(least, torch_memory.IN_CACHE // numbers_each) if on_cpu else count
        return torch_memory.turns(count, numbers_each, most=most)


class Quick:
    """The functions of a problem that loops call, as graphs of operations.

    Parameters
    ----------
    problem : TorchProblem
    """

    def __init__(self, problem: TorchProblem) -> None:
        self.step = Graph(problem.step)
        self.steps = Graph(vmap(problem.step, in_dims=(0, 0, 0, None)))
        self.losses = Graph(vmap(problem.measured, in_dims=(0, None)))
        self.step_tangent = {
            matrix: Graph(partial(problem.step_tangent, matrix=matrix))
            for matrix in ("hessian", "gauss_newton")
        }
        self.step_adjoint = Graph(problem.step_adjoint)
        self.item_gradients = Graph(problem.item_gradients)
        self.derivatives = Graph(problem.derivatives)


def started(rule: Any, weights: Tensors) -> TorchState:
    """State of a rule before the first step; numbers become tensors in double precision."""
    device = weights[0].device
    return {
        name: value
        if isinstance(value, list | Tensor)
        else torch.tensor(value, dtype=torch.float64, device=device)
        for name, value in rule.start(weights).items()
    }


def take(pair: Pair, items: IntArray | None) -> Pair:
    """Inputs and targets of chosen items."""
    if items is None:
        return pair
    index = torch.as_tensor(items, device=pair[0].device)
    return pair[0][index], pair[1][index]


def numbers(tensor: Tensor) -> FloatArray:
    """Return a tensor as an array in double precision."""
    return tensor.detach().cpu().double().numpy()


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a change to every tensor of weights or a state."""
    if isinstance(value, dict):
        return {name: mapped(part, change) for name, part in value.items()}
    return [change(part) for part in value] if isinstance(value, list) else change(value)


def copies(value: Any, count: int) -> Any:
    """Repeat weights or a state along a new leading axis."""
    return mapped(value, lambda a: a.expand(count, *a.shape).contiguous())


def retrain(
    problem: TorchProblem, steps: IntArray, schedule: Schedule, query: IntArray | None
) -> FloatArray:
    """Losses of networks that differ in item weights (S, B, N), shape (B, T, n_query).

    Raises
    ------
    DivergenceError
        As soon as one network's losses exceed `DIVERGENCE_FACTOR` times the initial ones.
    """
    turns = list(problem.turns(schedule.values.shape[1], problem.numbers_per_network()))
    with Progress(int(steps[-1]) * len(turns), "training") as progress:
        parts = [
            _retrain(problem, steps, Schedule(schedule.starts, values), query, progress)
            for values in (schedule.values[:, rows] for rows in turns)
        ]
    return np.concatenate(parts)


def _retrain(
    problem: TorchProblem,
    steps: IntArray,
    schedule: Schedule,
    query: IntArray | None,
    progress: Progress,
) -> FloatArray:
    count, last, quick = schedule.values.shape[1], int(steps[-1]), problem.quick
    weights, state = copies(problem.initial, count), copies(problem.start(), count)
    wanted, kept, queried = set(steps.tolist()), [], take(problem.queried, query)
    for step in range(last):
        if step in wanted:
            kept.append(quick.losses(weights, queried))
        pair, items = problem.at_step(step)
        shares = problem.shares(schedule.at(step), items)
        weights, state, losses = quick.steps(weights, state, shares, pair)
        problem.check(losses, step)
        progress.advance()
    problem.check(quick.losses(weights, problem.data), last)
    kept.append(quick.losses(weights, queried))
    return numbers(torch.stack(kept, 1))


def trained(
    problem: TorchProblem, steps: IntArray, schedule: Schedule | None = None
) -> list[Tensors]:
    """Weights of one network at steps, with item weights (S, N), or 1."""
    wanted, kept = set(steps.tolist()), []
    weights, state, last = problem.initial, problem.start(), int(steps[-1])
    schedule = Schedule.of(schedule, problem.n_items)
    with Progress(last, "training") as progress:
        for step in range(last):
            if step in wanted:
                kept.append(weights)
            pair, items = problem.at_step(step)
            shares = problem.shares(schedule.at(step), items)
            weights, state, losses = problem.quick.step(weights, state, shares, pair)
            problem.check(losses, step)
            progress.advance()
    problem.check(problem.measured(weights, problem.data), last)
    return [*kept, weights]


def tangents(
    problem: TorchProblem,
    steps: IntArray,
    directions: FloatArray,
    query: IntArray | None,
    matrix: str,
) -> FloatArray:
    """Derivatives of losses along directions (K, N) in item-weight space, (T, n_query, K).

    Raises
    ------
    DivergenceError
        As `retrain`.
    """
    cost = problem.numbers_per_network(derivatives=True)
    turns = list(problem.turns(len(directions), cost, least=AT_ONCE))
    with Progress(int(steps[-1]) * len(turns), "training with derivatives") as progress:
        step_tangent = problem.quick.step_tangent[matrix]
        parts = [
            _tangents(problem, steps, directions[rows], query, step_tangent, progress)
            for rows in turns
        ]
    return np.concatenate(parts, axis=-1)


def _tangents(
    problem: TorchProblem,
    steps: IntArray,
    directions: FloatArray,
    query: IntArray | None,
    step_tangent: Graph,
    progress: Progress,
) -> FloatArray:
    weights, state, last = problem.initial, problem.start(), int(steps[-1])
    count, unit = len(directions), np.ones(problem.n_items)
    moved, state_moved = (
        mapped(copies(value, count), torch.zeros_like) for value in (weights, state)
    )
    wanted, kept = set(steps.tolist()), []
    for step in range(last):
        if step in wanted:
            kept.append(problem.along(weights, moved, query))
        pair, items = problem.at_step(step)
        base = weights, state, problem.shares(unit, items), pair
        changes = moved, state_moved, problem.shares(directions, items)
        (weights, state), (moved, state_moved), losses = step_tangent(base, changes)
        problem.check(losses, step)
        progress.advance()
    problem.check(problem.measured(weights, problem.data), last)
    kept.append(problem.along(weights, moved, query))
    return np.stack(kept)
