"""What a run leaves behind: weights and losses at the recorded steps."""

from functools import cached_property

import numpy as np
import xarray as xr

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import network
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.protocol import Dynamics


class Trajectory:
    """Weights and losses of one run at the recorded steps.

    Attributes
    ----------
    run : Run
    steps : array of int, shape (T,)
    weights : list of arrays, shapes (T, out, in)
        In the reduced hidden basis where the run has one; `w1` and `w2` expand it.
    """

    def __init__(
        self, run: Dynamics, steps: IntArray, weights: Weights, basis: FloatArray | None
    ) -> None:
        self.run, self.steps, self.weights, self._basis = run, steps, weights, basis

    def __repr__(self) -> str:
        return f"Trajectory({len(self.steps)} steps of {self.run!r})"

    @cached_property
    def w1(self) -> FloatArray:
        """First layer, shape (T, hidden, n_in)."""
        first = self.weights[0]
        return first if self._basis is None else self._basis @ first

    @cached_property
    def w2(self) -> FloatArray:
        """Second layer, shape (T, d_out, hidden) for a network of two layers."""
        second = self.weights[1]
        return second if self._basis is None else second @ self._basis.T

    @cached_property
    def w(self) -> FloatArray:
        """End-to-end map W_L ... W_1, shape (T, d_out, n_in)."""
        return network.outputs(self.weights, None)[-1]

    @cached_property
    def hidden(self) -> FloatArray:
        """First-layer representations W_1 x_i, shape (T, k, N).

        In the reduced basis: lengths and distances are those of the full hidden layer.
        """
        task = self.run.task
        return self.weights[0] if task.one_hot else self.weights[0] @ task.x

    @cached_property
    def mode_strengths(self) -> FloatArray:
        """a_j(t) = u_j^T W v_j for the modes of the task, shape (T, r)."""
        modes = self.run.task.modes
        return np.einsum("dj,tdn,nj->tj", modes.u, self.w, modes.v, optimize=True)

    @cached_property
    def loss(self) -> xr.DataArray:
        """Per-item losses l_i = 1/2 |y_i - W x_i|^2, dims (time, item)."""
        task = self.run.task
        values = network.losses(self.weights, None if task.one_hot else task.x, task.y)
        flow_time = ("time", self.run.flow_time(self.steps))
        coords = {"time": self.steps, "flow_time": flow_time, "item": list(task.items)}
        return xr.DataArray(values, coords=coords, dims=("time", "item"), name="loss")
