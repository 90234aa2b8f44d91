"""Dense matrices of all pairs of parameters of a torch run, for small models."""

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from dlnflow._support import FloatArray
from dlnflow.dynamics.torch_steps import AT_ONCE, Tensors, TorchProblem, numbers

MAX_PARAMETERS = 4000
"""Largest number of parameters for which matrices are formed (128 MB each)."""
MAX_KEPT = 2**25
"""Numbers of the eigenvectors of all checkpoints that are kept (256 MB)."""


def is_small(problem: TorchProblem) -> bool:
    """Whether a matrix of all pairs of parameters is formed."""
    return problem.n_parameters <= MAX_PARAMETERS


def matrix_of(problem: TorchProblem, weights: Tensors, step: int | None, matrix: str) -> FloatArray:
    """Hessian or Gauss-Newton matrix of the objective, of a step's minibatch or of all items."""
    pair, items = problem.data, np.arange(problem.n_items)
    if step is not None:
        pair, items = problem.at_step(step)
    shares = problem.shares(np.ones(problem.n_items), items)

    def product(*vector: Tensor) -> Tensor:
        moved = list(vector), torch.zeros_like(shares)
        return problem.gradient_tangent(weights, shares, moved, pair, matrix)[1]

    size = problem.n_parameters
    dense = np.empty((size, size))
    cost = problem.numbers_per_network(derivatives=True)
    for rows in problem.turns(size, cost, least=AT_ONCE):
        directions = from_flat(np.eye(size)[rows], weights)
        dense[rows] = flat(vmap(product)(*directions))
    return (dense + dense.T) / 2


def flat(vectors: Tensors) -> FloatArray:
    """Vectors as rows over all parameters."""
    return numbers(torch.cat([part.flatten(1) for part in vectors], 1))


def from_flat(rows: FloatArray, like: Tensors) -> Tensors:
    """Inverse of `flat`, in the shapes of weights."""
    ends = np.cumsum([part.numel() for part in like])[:-1]
    parts = zip(np.split(rows, ends, axis=1), like, strict=True)
    return [torch.as_tensor(part).to(w).reshape(-1, *w.shape) for part, w in parts]
