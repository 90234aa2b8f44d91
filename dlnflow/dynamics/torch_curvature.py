"""Curvature of a torch run at checkpoints.

Up to `MAX_PARAMETERS` parameters by dense matrices, beyond by `dlnflow.dynamics.torch_operators`.
"""

from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from scipy import linalg

from dlnflow._support import FloatArray, IntArray, each
from dlnflow.dynamics import torch_matrices, torch_operators
from dlnflow.dynamics.torch_matrices import MAX_KEPT, flat, is_small, matrix_of

if TYPE_CHECKING:
    from dlnflow.dynamics.torch_steps import Tensors, TorchProblem


def require_solver(problem: "TorchProblem") -> None:
    """Refuse a model that is too large for a matrix where nothing else can solve.

    Raises
    ------
    ModuleNotFoundError
        If curvlinops is not installed.
    """
    if not is_small(problem):
        torch_operators.library()


class TorchCurvature:
    """Curvature of (1/N) sum_i l_i at checkpoints, all item weights 1.

    Parameters
    ----------
    problem : TorchProblem
    points : list
        Weights of every checkpoint.
    """

    def __init__(self, problem: "TorchProblem", points: list["Tensors"]) -> None:
        self._problem, self._points = problem, points
        self._kept: dict[tuple[int, str], tuple[FloatArray, FloatArray]] = {}

    def __len__(self) -> int:
        return len(self._points)

    @property
    def _dense(self) -> bool:
        return is_small(self._problem)

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
                f"{torch_matrices.MAX_PARAMETERS} parameters, so that conjugate gradients have to "
                "solve. Use a larger `damping`, or `damped_gauss_newton`."
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
        found = problem.query_gradients(weights, query), problem.train_gradients(weights, train)
        return flat(found[0]), flat(found[1])

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
        if len(self) * found[1].size <= MAX_KEPT:
            self._kept[t, matrix] = found
        return found
