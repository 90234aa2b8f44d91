"""What every estimator starts and ends with: validated times and items, and a labelled result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, result
from dlnflow._support.typing import FloatArray, IntArray
from dlnflow.dynamics.linear import Run

Items = str | Sequence[str] | None


@dataclass(frozen=True)
class Grid:
    """Times and items at which influence is wanted.

    ``query`` and ``train`` are positions of items; ``run`` is the run they belong to.
    """

    run: Run
    steps: IntArray
    query: IntArray
    train: IntArray

    @classmethod
    def of(cls, run: Run, steps: ArrayLike, query: Items = None, train: Items = None) -> "Grid":
        """Check steps against the run and item names against its task.

        Raises
        ------
        ValueError
            If steps are unsorted, not whole or beyond the run, or an item is unknown.
        """
        require_run(run)
        steps = checks.recorded_steps(steps, run.n_steps)
        return cls(run, steps, _positions(run, "query", query), _positions(run, "train", train))

    @property
    def flow_time(self) -> FloatArray:
        """Dimensionless times, shape (T,)."""
        return self.run.flow_time(self.steps)

    def result(
        self,
        values: FloatArray,
        estimator: str,
        *,
        attrs: Mapping[str, object] | None = None,
        leading: Mapping[str, ArrayLike] | None = None,
    ) -> xr.DataArray:
        """Label `values`, shape (..., T, n_query, n_train); ``retrainings`` is 0 if not given."""
        names = np.asarray(self.run.task.items, dtype=str)
        return result.influence(
            values,
            self.steps,
            names[self.query],
            names[self.train],
            estimator=estimator,
            flow_time=self.flow_time,
            attrs={"retrainings": 0} | dict(attrs or {}),
            leading=leading,
        )


def require_run(run: Run) -> None:
    """Refuse anything else.

    Raises
    ------
    TypeError
        If `run` is not a Run.
    """
    if not isinstance(run, Run):
        raise TypeError(f"`run` must be a dlnflow.Run, got {type(run).__name__}.")


def _positions(run: Run, argument: str, names: Items) -> IntArray:
    try:
        return run.task.indices(names)
    except ValueError as error:
        raise ValueError(f"`{argument}`: {error}") from error
