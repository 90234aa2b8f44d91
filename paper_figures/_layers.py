"""Posteriors of single layers of the toy network, sampled and in closed form."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from dlnflow import sampling
from dlnflow._support import FloatArray
from dlnflow.theory.one_layer import LayerPosterior, layer_posterior
from paper_figures import _data

CHECKPOINTS = {_data.Scale.quick: 40, _data.Scale.paper: 80}
"""Of the recorded steps up to flow time 8."""
LAST = 8.0
"""Flow time."""


def steps(scale: _data.Scale) -> np.ndarray:
    """Return the checkpoints."""
    run, recorded = _data.run(), _data.steps(scale)
    recorded = recorded[run.flow_time(recorded) <= LAST]
    chosen = np.linspace(0, len(recorded) - 1, CHECKPOINTS[scale]).round().astype(int)
    return recorded[chosen]


class Chosen(NamedTuple):
    """n_beta, and localization over n_beta."""

    n_beta: float
    ratio: float

    def settings(self) -> dict[str, Any]:
        """Return what the sampler takes."""
        return {"n_beta": self.n_beta, "localization": self.ratio * self.n_beta}


@cache
def sampled(
    scale: _data.Scale, restrict: str | None, chosen: Chosen, draws: int = 400
) -> xr.DataArray:
    """Return loss traces of a layer, of the whole for None."""
    options = chosen.settings() | {"draws": draws, "dtype": "float64"}
    return sampling.trace_run(_data.run(), steps(scale), restrict=restrict, **options)


@cache
def exact(scale: _data.Scale, layer: int, chosen: Chosen) -> list[LayerPosterior]:
    """Return the exact losses of a layer at every checkpoint."""
    run = _data.run()
    path = run.train(steps(scale))
    return [
        layer_posterior(pair, layer, run.task.x, run.task.y, **chosen.settings())
        for pair in zip(path.w1, path.w2, strict=True)
    ]


def by_kinship(values: FloatArray, item: str = "dog") -> dict[str, FloatArray]:
    """Return the mean over the relatives of an item, values (..., N)."""
    kin = np.array([_data.kinship(item, other) for other in _data.run().task.items])
    return {
        name: values[..., kin == name].mean(-1) for name in ("self", "sibling", "cousin", "far")
    }
