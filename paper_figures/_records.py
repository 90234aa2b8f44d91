"""Files of numbers that a store was read into: one for each run, in ``expected/``."""

import json
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from dlnflow.traces.intervals import t_quantile
from paper_figures import _style
from paper_figures._claims import EXPECTED


@cache
def records(kind: str) -> tuple[dict[str, Any], ...]:
    """Return what ``expected/KIND_*.json`` hold, one for each run."""
    return tuple(json.loads(f.read_text()) for f in sorted(EXPECTED.glob(f"{kind}_*.json")))


def source(record: dict[str, Any]) -> str:
    """Return model and seed."""
    return f"{record['configuration']}, seed {record['seed']}"


def rows(value: Any, *others: Any) -> list[list[float]]:
    """Return arrays as rows of numbers with five significant digits, [value, ...] of each."""
    columns = np.broadcast_arrays(*map(np.asarray, (value, *others)))
    return [[float(f"{x:.5g}") for x in row] for row in np.stack(columns, -1)]


def estimated(found: xr.Dataset | xr.DataArray, value: xr.DataArray) -> list[list[float]]:
    """Return [value, standard error, degrees of freedom] at every step."""
    return rows(value, found["standard_error"], found["dof"])


def ends(estimates: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values and the ends of their 95 % t intervals from rows of `estimated`."""
    value, error, dof = np.array(estimates, float)[..., :3].T
    half = t_quantile(dof) * error
    return value.T, (value - half).T, (value + half).T


def curve(axis: Axes, steps: Any, estimates: Any, color: str, **style: Any) -> None:
    """Draw estimates with dots at the checkpoints and a band of 95 %."""
    value, low, high = ends(estimates)
    axis.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    axis.plot(steps, value, color=color, **({"marker": "o", "markersize": 2.5} | style))


def finish(figure: SubFigure, axes: np.ndarray, start: str) -> None:
    """Set the legend of the first panel above all panels, and letters from `start` on."""
    handles, labels = axes[0, 0].get_legend_handles_labels()
    place = {"loc": "outside upper center", "ncols": len(labels)}
    figure.legend(handles, labels, **place, **_style.LEGEND)
    _style.letters(axes.flat, start)
