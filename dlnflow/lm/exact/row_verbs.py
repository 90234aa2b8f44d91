"""Verbs of a language model's run that look at weights and gradients of rows; see `TrainingRun`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import torch_curvature, torch_segments

if TYPE_CHECKING:
    from dlnflow.dynamics.torch_steps import Tensors
    from dlnflow.lm.exact.points import Point
    from dlnflow.lm.exact.row_problem import RowMoment, RowProblem


class RowVerbs:
    """The verbs `moments`, `segments`, `curvature` and `traces` of a run that replays.

    They are those of a torch model (`dlnflow.dynamics.torch_model`) at the weights of the replay.
    """

    items: Sequence[str]
    queries: Sequence[str]
    n_steps: int
    problem: RowProblem

    def _forward(self, stop: int, weights: FloatArray | None = None) -> Iterator[Point]:
        """Yield the points 0, ..., stop."""
        raise NotImplementedError

    def moments(self, stop: int) -> Iterator[RowMoment]:
        """Replay the steps 0, ..., stop - 1; the one after the last step has no rows."""
        points = self._forward(min(stop, self.n_steps))
        return self.problem.moments(points, stop)

    def segments(
        self, bounds: IntArray, steps: IntArray, train: IntArray, *, matrix: str
    ) -> Iterator[torch_segments.TorchSegment]:
        """Averages of products and gradients between consecutive bounds, as of a `TorchRun`."""
        moments = self.moments(int(bounds[-1]))
        return torch_segments.segments(moments, bounds, steps, train, matrix)

    def curvature(self, steps: ArrayLike) -> torch_curvature.TorchCurvature:
        """Curvature of the mean loss of all rows of the run at checkpoints, as of a `TorchRun`."""
        torch_curvature.require_solver(self.problem)
        points = self._points(checks.recorded_steps(steps, self.n_steps))
        return torch_curvature.TorchCurvature(self.problem, list(points.values()))

    def traces(
        self,
        steps: ArrayLike,
        *,
        query: IntArray | None = None,
        train: IntArray | None = None,
        trained_weights: ArrayLike | None = None,
        **sampling: Any,
    ) -> xr.DataArray:
        """Traces of the posterior of all rows of the run, localised at checkpoints.

        Parameters
        ----------
        steps : sequence of int
        query, train : array of int, optional
            Queries and rows that are recorded. Default: all.
        trained_weights : array (N,), optional
            Weights of rows with which the checkpoints are trained. Default: all 1.
        **sampling
            As for a torch model: n_beta, localization and step_size have no default.

        Returns
        -------
        xarray.DataArray, dims (time, chain, draw, item)
            Mean losses of rows, and after them the queries.

        Raises
        ------
        ValueError
            If a setting is missing or out of range.
        """
        from dlnflow.dynamics.torch_traces import trace_problem

        points = self._points(checks.recorded_steps(steps, self.n_steps), trained_weights)
        query, train = (
            np.arange(len(names)) if chosen is None else chosen
            for chosen, names in ((query, self.queries), (train, self.items))
        )
        names = [*(self.items[i] for i in train), *(self.queries[q] for q in query)]
        watched = self.problem.watched(train, query)
        return trace_problem(self.problem, points, watched, names, **sampling)

    def _points(self, steps: IntArray, weights: ArrayLike | None = None) -> dict[int, Tensors]:
        wanted, changed = set(steps.tolist()), None if weights is None else np.asarray(weights)
        reached = self._forward(int(steps[-1]), changed)
        return {p.step: self.problem.weights_at(p) for p in reached if p.step in wanted}
