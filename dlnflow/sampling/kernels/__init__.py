"""Markov kernels on the localised posterior, one file each.

A new kernel is one new file in this folder that defines ``KERNEL``; `spec` says what a kernel is.
"""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from dlnflow import checks
from dlnflow.sampling.kernels.spec import Kernel, KernelSpec, KernelTraits, Law, Noise, Option

_FILES = [import_module(f"{__name__}.{m.name}") for m in iter_modules(__path__) if m.name != "spec"]
KERNELS: dict[str, KernelSpec] = {file.KERNEL.name: file.KERNEL for file in _FILES}
"""Kernels by name; each is called as (posterior, step_size=..., **options)."""

__all__ = ["KERNELS", "Kernel", "KernelSpec", "KernelTraits", "Law", "Noise", "Option"]


def named(kernel: str) -> KernelSpec:
    """Return a kernel by its name.

    Returns
    -------
    KernelSpec

    Raises
    ------
    ValueError
        If there is none, with the nearest name.
    """
    return KERNELS[checks.one_of("kernel", kernel, list(KERNELS))]


def check_values(options: Mapping[str, Any], burn_in: int) -> None:
    """Refuse values that no kernel with such an option takes.

    Raises
    ------
    ValueError
        If a value is out of range; the message names the option.
    """
    for kernel in KERNELS.values():
        kernel.check_values(options, burn_in)
