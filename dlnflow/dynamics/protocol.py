"""What an estimator may ask of a run, whatever is trained.

Every training item i has a weight w_i(s) at every step s, 1 by default; the objective of step s is
(1/N) sum_i w_i(s) l_i, or the mean over the items of its minibatch. A run is described before it
is trained, replays deterministically, and answers the verbs below. An estimator states which verbs
and which traits it needs (`dlnflow.influence.estimator`) and never looks at the network.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics.optimizers.base import Traits
from dlnflow.dynamics.schedule import Schedule

Vectors = list[Any]
"""Directions in weight space: arrays or tensors with a leading axis over directions."""


class Moment(Protocol):
    """One step of a replay, at the weights before it."""

    step: int

    def kernel(self, query: IntArray, train: IntArray) -> FloatArray:
        """Return grad l_q^T P (share_i grad l_i), shape (n_query, n_train).

        P is what the optimizer makes of a gradient, share_i the factor of l_i in the objective of
        the step: 1/N, or 1/B in a minibatch and 0 outside it.
        """

    def displacements(self, train: IntArray) -> Vectors:
        """Return P (share_i grad l_i) of the chosen items."""

    def along(self, vectors: Vectors, query: IntArray) -> FloatArray:
        """Return grad l_q . vector_k, shape (n_query, K)."""


class Segment(Protocol):
    """Averages over a stretch of training: ``steps`` steps from ``first`` on."""

    first: int
    steps: int
    displacements: Vectors
    """Means of P (share_i grad l_i), one row per train item."""

    def pull(self, vectors: Vectors) -> Vectors:
        """Return P H times every vector, P and the Hessian (or Gauss-Newton matrix) H averaged."""

    @property
    def eigen(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and eigenvectors (columns) of the mean matrix."""

    def flat(self, vectors: Vectors) -> FloatArray:
        """Return vectors as rows, in the order of `eigen`."""

    def vectors(self, flat: FloatArray) -> Vectors:
        """Return the inverse of `flat`."""

    def along(self, step: int, vectors: Vectors, query: IntArray) -> FloatArray:
        """Return grad l_q . vector_k at a recorded step, shape (n_query, K)."""


class Curvature(Protocol):
    """Curvature of the objective at T checkpoints, all item weights 1."""

    def __len__(self) -> int:
        """Return T."""

    def extremes(self, *, largest: bool = True) -> tuple[FloatArray, FloatArray]:
        """Return the smallest and the largest eigenvalue of the Hessian, each (T,)."""

    def influence(
        self, damping: FloatArray, query: IntArray, train: IntArray, *, matrix: str
    ) -> FloatArray:
        """Return - (1/N) grad l_q^T (matrix + damping)^-1 grad l_i.

        `damping` (M, T); `matrix` "hessian" or "gauss_newton"; shape (M, T, n_query, n_train).
        """

    def proximal(self, damping: FloatArray) -> "Curvature":
        """Return the curvature at argmin L + (damping/2) |theta - theta_t|^2, damping (T,)."""


@runtime_checkable
class Dynamics(Protocol):
    """A training run: its items, its length, the traits of its update rule, and the verbs.

    ``items`` are the names of the training items, ``queries`` those of the losses that are
    measured (for a run without separate queries the same). A verb that a kind of run does not have
    raises AttributeError when it is looked up, and `dlnflow.influence.estimator` says so in words.
    """

    items: Sequence[str]
    queries: Sequence[str]
    n_steps: int
    learning_rate: float
    batch: int | None
    traits: Traits
    kind: str
    """What is trained, in words."""
    linear: bool
    """Whether it is a deep linear network, for which closed forms exist."""

    def grid(self, points: int = 200) -> IntArray:
        """Return about so many steps, half evenly spaced, half at equal ratios."""

    def flow_time(self, steps: ArrayLike) -> FloatArray:
        """Return the dimensionless time of steps, NaN where there is none."""

    def losses(
        self, steps: ArrayLike, weights: ArrayLike | Schedule, *, query: IntArray | None = None
    ) -> FloatArray:
        """Retrain under item weights, many networks at once; losses (B, T, n_query)."""

    def tangents(
        self,
        steps: ArrayLike,
        directions: FloatArray,
        *,
        query: IntArray | None = None,
        matrix: str = "hessian",
        weights: FloatArray | None = None,
    ) -> FloatArray:
        """Return derivatives of the losses along directions (K, N), shape (T, n_query, K).

        Row k of `weights` (K, N) has the item weights at which derivative k is taken, else 1.
        """

    def adjoint(self, at: int, query: IntArray) -> Iterator[tuple[int, FloatArray]]:
        """Yield (k, d l_q(theta_at) / d w_i(k)), shape (n_query, N), for k = at - 1, ..., 0."""

    def branches(self, windows: Any, weights: FloatArray, query: IntArray) -> FloatArray:
        """Return loss of the run minus loss with weights (I, N) in each window, (S, I, n_query)."""

    def window_adjoint(self, windows: Any, query: IntArray) -> FloatArray:
        """Return the first-order counterpart of `branches`, shape (S, n_query, N)."""

    def moments(self, stop: int) -> Iterator[Moment]:
        """Replay the steps 0, ..., stop - 1."""

    def segments(
        self, bounds: IntArray, steps: IntArray, train: IntArray, *, matrix: str
    ) -> Iterator[Segment]:
        """Yield averages between consecutive bounds; losses can be measured at `steps`."""

    def curvature(self, steps: ArrayLike) -> Curvature:
        """Return the curvature at checkpoints."""

    def traces(
        self,
        steps: ArrayLike,
        *,
        query: IntArray | None = None,
        train: IntArray | None = None,
        **sampling: Any,
    ) -> xr.DataArray:
        """Return loss traces of the posterior localised at checkpoints.

        At least the losses of `query` and `train` are recorded, by default all.
        Among the options are ``weights`` (N,), the item weights of the posterior, and
        ``trained_weights`` (N,), those with which the checkpoints are trained; both 1 by default.
        """
