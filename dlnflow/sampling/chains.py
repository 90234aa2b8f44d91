"""The driver of all kernels: burn in, thin, record losses."""

from collections.abc import Callable
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from dlnflow import _checks
from dlnflow.sampling import mala, rmsprop_sgld, sgld, underdamped
from dlnflow.sampling.posterior import Kernel, Noise, Posterior

KERNELS: dict[str, Callable[..., Kernel]] = {
    "sgld": sgld.build,
    "rmsprop_sgld": rmsprop_sgld.build,
    "mala": mala.build,
    "underdamped": underdamped.build,
}
"""Kernel builders by name."""


def build(kernel: str, posterior: Posterior, options: dict[str, Any]) -> Kernel:
    """Return the named kernel on a posterior.

    Returns
    -------
    Kernel

    Raises
    ------
    ValueError
        If the name or an option is unknown.
    """
    _checks.one_of("kernel", kernel, list(KERNELS))
    try:
        return KERNELS[kernel](posterior, **options)
    except TypeError as error:
        raise ValueError(f"kernel {kernel!r} does not take these options: {error}.") from error


def run(
    kernel: Kernel,
    theta: Tensor,
    noise: Noise,
    *,
    draws: int,
    burn_in: int = 0,
    thin: int = 1,
    observe: Callable[[Any], Tensor] | None = None,
) -> tuple[Tensor, Any]:
    """Advance all chains and record the losses of the observed items.

    Parameters
    ----------
    kernel : Kernel
        What moves the chains.
    theta : Tensor, shape (C, P)
        Where they start.
    noise : Noise
        Their random numbers.
    draws, burn_in, thin : int
        Record `draws` times, every `thin` steps, after `burn_in` steps.
    observe : callable, optional
        state -> (C, K) losses; default: the losses that came with the gradient.

    Returns
    -------
    losses : Tensor, shape (C, draws, K)
        Non-finite where a chain diverged; nothing is hidden.
    state
        The last state.
    """
    observe = observe or (lambda state: state.value.items)
    state = kernel.init(theta)
    for _ in range(burn_in):
        state = kernel.step(state, noise)
    recorded = []
    for _ in range(draws):
        for _ in range(thin):
            state = kernel.step(state, noise)
        recorded.append(observe(state))
    return torch.stack(recorded, dim=1), state


def with_acceptance(traces: xr.DataArray, states: list[Any]) -> xr.DataArray:
    """Add the coordinate `acceptance` (time, chain) where the kernel reports one."""
    if not all(hasattr(state, "acceptance") for state in states):
        return traces
    rates = torch.cat([state.acceptance for state in states]).double().numpy()
    shape = traces.sizes["time"], traces.sizes["chain"]
    return traces.assign_coords(acceptance=(("time", "chain"), rates.reshape(shape)))
