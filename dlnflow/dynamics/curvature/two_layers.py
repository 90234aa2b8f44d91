"""The curvature verbs of a two-layer linear network; see `dlnflow.dynamics.protocol.Curvature`."""

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics.curvature.extremes import extreme_eigenvalues
from dlnflow.dynamics.curvature.gaussian import fluctuations
from dlnflow.dynamics.curvature.networks import Networks
from dlnflow.dynamics.curvature.proximal import proximal_points
from dlnflow.dynamics.curvature.resolvent import hessian_influence
from dlnflow.dynamics.network import Weights
from dlnflow.task import Task


class TwoLayerCurvature:
    """Curvature of (1/N) sum_i l_i at checkpoints, over all parameters of the full hidden width.

    ``points`` holds the networks in the bases they use.
    """

    def __init__(self, points: Networks) -> None:
        self.points = points

    @classmethod
    def of(cls, weights: Weights, task: Task, hidden: int) -> "TwoLayerCurvature":
        """Weights (T, out, in) of two layers, on a task."""
        return cls(Networks.of(weights, task, hidden))

    def __len__(self) -> int:
        return len(self.points)

    def extremes(self, *, largest: bool = True) -> tuple[FloatArray, FloatArray]:
        """Smallest and largest eigenvalue of the Hessian, each (T,)."""
        return extreme_eigenvalues(self.points, largest=largest)

    def influence(
        self, damping: FloatArray, query: IntArray, train: IntArray, *, matrix: str
    ) -> FloatArray:
        """-(1/N) grad l_q^T (matrix + damping)^-1 grad l_i, shape (M, T, n_query, n_train)."""
        solve = hessian_influence if matrix == "hessian" else gauss_newton_influence
        return solve(self.points, damping, query, train)

    def negative_curvature(self) -> FloatArray:
        """Return |G|, how far below zero the curvature of an unused hidden direction is, (T,)."""
        return np.linalg.norm(self.points.correlation, 2, axis=(1, 2))

    def fluctuations(self, damping: FloatArray, items: IntArray) -> FloatArray:
        """Traces tr (H_i R H_q R) with R = (H + damping)^-1, shape (T, n, n)."""
        return fluctuations(self.points, damping, items)

    def proximal(self, damping: FloatArray) -> "TwoLayerCurvature":
        """The curvature at the proximal points of damping (T,)."""
        return TwoLayerCurvature(proximal_points(self.points, damping))


def gauss_newton_influence(
    points: Networks, lam: FloatArray, query: IntArray, train: IntArray
) -> FloatArray:
    """-(1/N) g_q^T (F + lambda)^-1 g_i for dampings of shape (M, T).

    With F = J^T J and g = J^T f this is f_q^T M (M + lambda)^-1 f_i, where M = J J^T is
    S^(1/2) W1^T W1 S^(1/2) x I + S x W2 W2^T: in the eigenbasis of W2 W2^T, one n_in x n_in matrix
    per output direction.
    """
    root = points.input_scale
    inputs = root[:, None] * (points.w1.mT @ points.w1) * root
    b, u = np.linalg.eigh(points.w2 @ points.w2.mT)
    curvature, v = np.linalg.eigh(inputs[:, None] + b[..., None, None] * np.diag(root**2))
    curvature = np.maximum(curvature, 0.0).reshape(len(points), -1)  # rounding below zero

    def source(items: IntArray) -> FloatArray:
        r = u.mT @ points.residual[:, :, items]  # (T, d, n)
        x = v.mT @ (points.x[:, items] / root[:, None])  # (T, d, m, n)
        f = np.moveaxis(r[:, :, None] * x, 3, 1)
        return f.reshape(len(points), len(items), -1)

    f_q, f_i = source(query), source(train).mT
    shares = curvature / (curvature + lam[..., None])  # (M, T, d m)
    rows = [(f_q * share[:, None]) @ f_i for share in shares]
    return -np.stack(rows) / points.n_items
