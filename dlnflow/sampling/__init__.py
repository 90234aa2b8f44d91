"""Samplers of the localised posterior, and what says whether they can be trusted.

Kernels (`sgld`, `rmsprop_sgld`, `mala`, `underdamped`) need torch and are loaded on first use.
What reads the loss traces that come out is in `dlnflow.traces`, which needs only numpy and xarray.
"""

from dlnflow._support.lazy import on_request

_WHERE = {
    "KERNELS": "dlnflow.sampling.chains",
    "Settings": "dlnflow.sampling.settings",
    "labelled": "dlnflow.traces.format",
    "llc": "dlnflow.traces.learning_coefficient",
    "sample": "dlnflow.sampling.model",
    "suggest": "dlnflow.sampling.suggested",
    "sweep": "dlnflow.sampling.grid_sweep",
    "trace_run": "dlnflow.sampling.runs",
}
"""Public name -> the module that defines it."""
_MODULES = {
    "chains": "dlnflow.sampling.chains",
    "kernels": "dlnflow.sampling.kernels",
    "known_targets": "dlnflow.sampling.known_targets",
    "noise": "dlnflow.sampling.noise",
    "posterior": "dlnflow.sampling.posterior",
    "selftest": "dlnflow.sampling.selftest",
    "toy": "dlnflow.sampling.toy",
}

__all__ = sorted([*_WHERE, *_MODULES])
__getattr__ = on_request(__name__, _WHERE, _MODULES)
