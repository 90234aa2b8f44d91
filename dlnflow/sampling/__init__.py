"""Samplers of the localised posterior, and what says whether they can be trusted.

Kernels (`sgld`, `rmsprop_sgld`, `mala`, `underdamped`) need torch and are loaded on first use.
What reads the loss traces that come out is in `dlnflow.traces`, which needs only numpy and xarray.
"""

from dlnflow._support.lazy import on_request

_WHERE = {
    "KERNELS": "dlnflow.sampling.kernels",
    "Settings": "dlnflow.sampling.settings",
    "labelled": "dlnflow.traces.format",
    "llc": "dlnflow.traces.learning_coefficient",
    "sample": "dlnflow.sampling.torch_module",
    "suggest": "dlnflow.sampling.suggested",
    "sweep": "dlnflow.analysis.sweep",
    "trace_run": "dlnflow.sampling.linear_run",
}
"""Public name -> the module that defines it."""
_MODULES = {
    "chains": "dlnflow.sampling.chains",
    "kernels": "dlnflow.sampling.kernels",
    "known_targets": "dlnflow.sampling.known_targets",
    "linear_run": "dlnflow.sampling.linear_run",
    "noise": "dlnflow.sampling.noise",
    "posterior": "dlnflow.sampling.posterior",
    "selftest": "dlnflow.sampling.selftest",
    "tempering": "dlnflow.sampling.tempering",
    "torch_module": "dlnflow.sampling.torch_module",
}

__all__ = sorted([*_WHERE, *_MODULES])
__getattr__ = on_request(__name__, _WHERE, _MODULES)
