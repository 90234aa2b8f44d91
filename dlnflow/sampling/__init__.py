"""Samplers of the localised posterior, and what says whether they can be trusted.

Kernels (`sgld`, `rmsprop_sgld`, `mala`, `underdamped`) need torch and are loaded on first use;
`traces` and `diagnostics` need only numpy and xarray.
"""

from importlib import import_module
from typing import Any

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


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that traces can be read without torch."""
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
