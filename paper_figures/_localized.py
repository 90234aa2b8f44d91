"""The localised posterior without sampling: what figures 6 and "bif_limits" compare with."""

import warnings
from functools import cache

import numpy as np
import xarray as xr

from dlnflow._support import FloatArray
from dlnflow.influence import damped_hessian, laplace_bif, tracin
from dlnflow.sampling import suggested
from paper_figures import _data

RATIOS = (0.3, 1.0, 3.0, 10.0, 100.0)
"""Localizations, in units of n beta times the largest |D_t| of the run."""
HELD = 2.0
"""Ratio from which the posterior stays at the saddles; at 1 the most negative curvature is only
just outweighed and hardly anything holds the chains."""
END = 6.0
"""Flow time of the last checkpoint; later nothing happens, and sampling it would be wasted."""
CHECKPOINTS = {_data.Scale.quick: 20, _data.Scale.paper: 60}
"""Much fewer miss the narrow peaks: correlations over training then change with the choice."""


def steps(scale: _data.Scale) -> np.ndarray:
    """Return evenly spaced ones of the recorded steps up to `END`."""
    every = _data.steps(scale)
    last = np.searchsorted(_data.run().flow_time(every), END)
    return every[np.linspace(0, last, CHECKPOINTS[scale] + 1).round().astype(int)[1:]]


@cache
def unit(scale: _data.Scale) -> float:
    """Return max_t |D_t|, which bounds the negative curvature of the loss along the run."""
    path = _data.trajectory(scale)
    return float(suggested.residual_norm(path.run, path.w1, path.w2).max())


def laplace(
    scale: _data.Scale, when: np.ndarray, n_beta: float, ratios: FloatArray
) -> xr.DataArray:
    """Return the closed form; the figures show, in place of a warning, where it leaves saddles."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="laplace_bif: localization", category=UserWarning)
        pulls = (ratios * n_beta * unit(scale)).tolist()
        return laplace_bif(_data.run(), when, n_beta=n_beta, localization=pulls)


@cache
def exact(scale: _data.Scale, n_beta: float) -> xr.DataArray:
    """Return the closed form at all checkpoints; its localization is the ratio."""
    found = laplace(scale, steps(scale), n_beta, np.array(RATIOS))
    return found.assign_coords(localization=list(RATIOS))


def damped(scale: _data.Scale, when: np.ndarray, ratios: FloatArray) -> xr.DataArray:
    """Return the response of the localised minimum itself, the limit of large n beta."""
    damping = (ratios * unit(scale)).tolist()
    return damped_hessian(_data.run(), when, damping=damping, damping_is="absolute", at="proximal")


@cache
def kernel(scale: _data.Scale) -> xr.DataArray:
    """Return the gradient kernel, the limit of large localization, up to a constant factor."""
    return tracin(_data.run(), steps(scale), cumulative=False)
