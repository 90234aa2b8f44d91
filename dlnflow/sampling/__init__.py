"""Samplers of the localised posterior, and what says whether they can be trusted.

Kernels (`sgld`, `rmsprop_sgld`, `mala`, `underdamped`) need torch and are loaded on first use;
`traces` and `diagnostics` need only numpy and xarray.
"""

from dlnflow._lazy import on_request

_WHERE = {
    "KERNELS": "chains",
    "Settings": "settings",
    "labelled": "traces",
    "llc": "learning_coefficient",
    "sample": "model",
    "suggest": "defaults",
    "sweep": "grid_sweep",
    "trace_run": "runs",
}
"""Public name -> the module that defines it."""
_MODULES = (
    "chains", "diagnostics", "known_targets", "mala", "model", "noise", "posterior", "rmsprop_sgld",
    "selftest", "sgld", "toy", "traces", "underdamped",
)  # fmt: skip

__all__ = sorted([*_WHERE, *_MODULES])
__getattr__ = on_request(__name__, _WHERE, _MODULES)
