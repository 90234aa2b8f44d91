"""Curvature of a torch run, at checkpoints and averaged over steps.

Up to `MAX_PARAMETERS` parameters by dense matrices, beyond by `dlnflow.dynamics.torch_operators`.
"""

from collections.abc import Iterator
from functools import cached_property, partial
from typing import NoReturn

import numpy as np
import torch
from scipy import linalg
from torch import Tensor
from torch.func import vmap

from dlnflow._support import FloatArray, IntArray, each
from dlnflow.dynamics import torch_operators, torch_sweeps
from dlnflow.dynamics.torch_steps import AT_ONCE, MAX_NUMBERS, Tensors, TorchProblem, numbers, take

MAX_PARAMETERS = 4000
"""Largest number of parameters for which matrices are formed (128 MB each)."""


def require_small(problem: TorchProblem, verb: str) -> None:
    """Refuse models whose matrices would be too large.

    Raises
    ------
    ValueError
        If there are more than `MAX_PARAMETERS` parameters.
    """
    if problem.n_parameters > MAX_PARAMETERS:
        raise ValueError(
            f"`run.{verb}` forms the matrix of all pairs of parameters, for at most "
            f"{MAX_PARAMETERS} of them; `model` has {problem.n_parameters}. Freeze some with "
            "requires_grad_(False), or use `tangent` or `tracin`, which form none."
        )


def require_solver(problem: TorchProblem) -> None:
    """Refuse a model that is too large for a matrix where nothing else can solve.

    Raises
    ------
    ModuleNotFoundError
        If curvlinops is not installed.
    """
    if problem.n_parameters > MAX_PARAMETERS:
        torch_operators.library()


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


class TorchCurvature:
    """Curvature of (1/N) sum_i l_i at checkpoints, all item weights 1.

    Parameters
    ----------
    problem : TorchProblem
    points : list
        Weights of every checkpoint.
    """

    def __init__(self, problem: TorchProblem, points: list[Tensors]) -> None:
        self._problem, self._points = problem, points
        self._kept: dict[tuple[int, str], tuple[FloatArray, FloatArray]] = {}

    def __len__(self) -> int:
        return len(self._points)

    @property
    def _dense(self) -> bool:
        return self._problem.n_parameters <= MAX_PARAMETERS

    def extremes(self, *, largest: bool = True) -> tuple[FloatArray, FloatArray]:
        """Smallest and largest eigenvalue of the Hessian, each (T,)."""
        values = np.stack([self._ends[t] for t in range(len(self))])
        return values[:, 0], values[:, 1] if largest else np.full(len(self), np.nan)

    @cached_property
    def _ends(self) -> list[tuple[float, float]]:
        if self._dense:
            every = (self._eigen(t, "hessian")[0] for t in range(len(self)))
            return [(values[0], values[-1]) for values in every]
        every = each(self._points, "extreme eigenvalues")
        return [torch_operators.Operator(self._problem, w, "hessian").extremes() for w in every]

    def influence(
        self, damping: FloatArray, query: IntArray, train: IntArray, *, matrix: str
    ) -> FloatArray:
        """-(1/N) grad l_q^T (matrix + damping)^-1 grad l_i, shape (M, T, n_query, n_train).

        Besides the matrices of the protocol there is "ekfac".

        Raises
        ------
        ValueError
            If a Hessian is not positive definite and too large to be factorised, conjugate
            gradients do not converge, or the model has no EK-FAC.
        """
        by_factor = self._dense and matrix != "ekfac"
        found = self._by_factor if by_factor else self._by_solves
        times = each(range(len(self)), "solving")
        result = [found(t, damping[:, t], query, train, matrix) for t in times]
        return -np.stack(result, axis=1) / self._problem.n_items

    def _by_factor(
        self, t: int, damping: FloatArray, query: IntArray, train: IntArray, matrix: str
    ) -> FloatArray:
        """Products of gradients in the eigenbasis, shape (M, n_query, n_train)."""
        values, vectors = self._eigen(t, matrix)
        if matrix == "gauss_newton":
            values = np.maximum(values, 0.0)  # rounding below zero
        queried, trained = (part @ vectors for part in self._gradients(t, query, train))
        scale = 1 / (values + damping[:, None])
        return (queried * scale[:, None]) @ trained.T

    def _by_solves(
        self, t: int, damping: FloatArray, query: IntArray, train: IntArray, matrix: str
    ) -> FloatArray:
        """The same with one solve per damping and gradient of the smaller side."""
        if matrix == "hessian" and self._ends[t][0] + damping.min() <= 0:
            raise ValueError(
                f"the Hessian + damping is not positive definite at a checkpoint (least eigenvalue "
                f"{self._ends[t][0] + damping.min():.3g}), and `model` has more than "
                f"{MAX_PARAMETERS} parameters, so that conjugate gradients have to solve. Use a "
                "larger `damping`, or `damped_gauss_newton`."
            )
        if matrix == "ekfac":
            operator = torch_operators.Ekfac(self._problem, self._points[t])
        else:
            operator = torch_operators.Operator(self._problem, self._points[t], matrix)
        queried, trained = self._gradients(t, query, train)
        if len(query) <= len(train):
            return np.stack([operator.solve(float(one), queried) @ trained.T for one in damping])
        return np.stack([queried @ operator.solve(float(one), trained).T for one in damping])

    def _gradients(self, t: int, query: IntArray, train: IntArray) -> tuple[FloatArray, FloatArray]:
        """Gradients of queries and items as rows over all parameters."""
        problem, weights = self._problem, self._points[t]
        items = take(problem.data, train)
        return flat(problem.query_gradients(weights, query)), flat(
            problem.quick.item_gradients(weights, items)
        )

    def proximal(self, damping: FloatArray) -> NoReturn:
        """Refuse: proximal points are known for two-layer linear networks only.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            "`at='proximal'` needs a closed form of the proximal point, which a torch model does "
            "not have; use at='checkpoint', with a larger `damping` where the Hessian is "
            "indefinite."
        )

    def _eigen(self, t: int, matrix: str) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues, in ascending order, and eigenvectors (columns)."""
        if (t, matrix) in self._kept:
            return self._kept[t, matrix]
        found = linalg.eigh(matrix_of(self._problem, self._points[t], None, matrix), driver="evd")
        if len(self) * found[1].size <= MAX_NUMBERS:
            self._kept[t, matrix] = found
        return found


def segments(
    problem: TorchProblem, bounds: IntArray, steps: IntArray, train: IntArray, matrix: str
) -> Iterator["TorchSegment"]:
    """Yield averages between consecutive bounds; see `dlnflow.dynamics.segment.segments`."""
    wanted, number = set(steps.tolist()), 0
    segment = TorchSegment(problem, int(bounds[0]), train)
    for moment in torch_sweeps.forward(problem, int(bounds[-1])):
        segment.add(moment, matrix)
        if moment.step + 1 in wanted:
            segment.kept[moment.step + 1] = moment.after
        if moment.step + 1 == bounds[number + 1]:
            yield segment
            number += 1
            segment = TorchSegment(problem, moment.step + 1, train)


class TorchSegment:
    """Mean matrix and mean gradients of single items, accumulated over steps."""

    def __init__(self, problem: TorchProblem, first: int, train: IntArray) -> None:
        self.first, self.steps, self.kept = first, 0, {}
        self._problem, self._train = problem, train
        self._matrix = np.zeros((problem.n_parameters, problem.n_parameters))
        self._gradients = np.zeros((len(train), problem.n_parameters))
        self.flat = flat
        self.vectors = partial(from_flat, like=problem.initial)

    def add(self, moment: torch_sweeps.TorchMoment, matrix: str) -> None:
        """Include one step."""
        problem = self._problem
        self.steps += 1
        self._matrix += matrix_of(problem, moment.weights, moment.step, matrix)
        gradients = problem.quick.item_gradients(moment.weights, take(problem.data, self._train))
        self._gradients += moment.shares[self._train, None] * flat(gradients)

    @property
    def gradients(self) -> Tensors:
        """Mean of share_i grad l_i, one row per train item."""
        return self.vectors(self._gradients / self.steps)

    def hessian_product(self, vectors: Tensors) -> Tensors:
        """Mean matrix times every vector."""
        return self.vectors(flat(vectors) @ self._matrix / self.steps)

    @cached_property
    def eigen(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and eigenvectors (columns) of the mean matrix."""
        return linalg.eigh(self._matrix / self.steps, driver="evd")

    def along(self, step: int, vectors: Tensors, query: IntArray) -> FloatArray:
        """Return grad l_q . vector_k at a kept step, shape (n_query, K)."""
        return self._problem.along(self.kept[step], vectors, query)
