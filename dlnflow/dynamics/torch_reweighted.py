"""Derivatives of a torch run at other item weights, with a network for each of them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap

from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics.torch_graphs import Graph
from dlnflow.dynamics.torch_steps import (
    Pair,
    Tensors,
    TorchProblem,
    copies,
    mapped,
    numbers,
    take,
)


def tangents(
    problem: TorchProblem,
    steps: IntArray,
    directions: FloatArray,
    weights: FloatArray,
    query: IntArray | None,
    matrix: str,
) -> FloatArray:
    """Derivatives of losses along directions (K, N) at item weights (K, N), (T, n_query, K).

    Raises
    ------
    DivergenceError
        If one of the K trainings diverges.
    """
    each = 2 * problem.numbers_per_network(derivatives=True)  # a network beside its derivative
    parts = [
        _tangents(problem, steps, directions[rows], weights[rows], query, matrix)
        for rows in problem.turns(len(directions), each, least=len(directions))
    ]
    return np.concatenate(parts, axis=-1)


def _tangents(
    problem: TorchProblem,
    steps: IntArray,
    directions: FloatArray,
    weights: FloatArray,
    query: IntArray | None,
    matrix: str,
) -> FloatArray:
    count, last = len(directions), int(steps[-1])
    state: Any = (copies(problem.initial, count), copies(problem.start(), count))
    moved = tuple(mapped(part, torch.zeros_like) for part in state)
    queried, wanted, kept = take(problem.queried, query), set(steps.tolist()), []

    def advance(state: Any, moved: Any, shares: Tensor, push: Tensor, pair: Pair) -> Any:
        network, own = state
        g, dg, losses = problem.gradient_tangent(network, shares, (moved[0], push), pair, matrix)
        new, change = jvp(problem.rule.update, (network, g, own), (moved[0], dg, moved[1]))
        return new, change, losses

    def along(network: Tensors, change: Tensors) -> Tensor:
        return jvp(lambda w: problem.measured(w, queried), (network,), (change,))[1]

    every = Graph(vmap(advance, in_dims=(0, 0, 0, 0, None)))
    with Progress(last, "training with derivatives") as progress:
        for now in range(last):
            if now in wanted:
                kept.append(vmap(along)(state[0], moved[0]))
            pair, items = problem.at_step(now)
            shares, push = (problem.shares(part, items) for part in (weights, directions))
            state, moved, losses = every(state, moved, shares, push, pair)
            problem.check(losses, now)
            progress.advance()
    problem.check(vmap(problem.measured, in_dims=(0, None))(state[0], problem.data), last)
    kept.append(vmap(along)(state[0], moved[0]))
    return np.moveaxis(numbers(torch.stack(kept)), 1, -1)
