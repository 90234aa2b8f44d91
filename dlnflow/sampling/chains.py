"""The driver of all kernels: burn in, thin, record losses."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import xarray as xr
from torch import Tensor

from dlnflow import checks
from dlnflow.sampling import stiffness
from dlnflow.sampling.kernels import mala, rmsprop_sgld, sgld, underdamped
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
    make = KERNELS[checks.one_of("kernel", kernel, list(KERNELS))]
    known = [name for name in inspect.signature(make).parameters if name != "posterior"]
    unknown = [name for name in options if name not in known]
    if unknown:
        told = ", ".join(name for name in known if name != "step_size") or "none"
        raise ValueError(
            f"kernel {kernel!r} does not take the option {unknown[0]!r}; its options: {told}."
            + checks.did_you_mean(str(unknown[0]), known)
        )
    return make(posterior, **options)


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


class Report(NamedTuple):
    """What the last state says of its chains, each (C,): `acceptance` of MALA, `relative_step`."""

    acceptance: Tensor | None
    relative_step: Tensor | None

    @classmethod
    def of(cls, kernel: Kernel, posterior: Posterior, state: Any) -> "Report":
        """Read a state; None where the kernel has no such number."""
        rates = getattr(state, "acceptance", None)
        return cls(rates, stiffness.relative_step(kernel, posterior, state))


def judged(traces: xr.DataArray, reports: list[Report]) -> xr.DataArray:
    """Add the coordinates `acceptance` and `relative_step` (time, chain) of kernels with them.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    reports : list of Report
        Of all chains, in the order of the traces.

    Returns
    -------
    DataArray
        The traces. Warns once if a step is so large that variances are 25 % off.
    """
    shape = traces.sizes["time"], traces.sizes["chain"]
    for name in Report._fields:
        found = [getattr(report, name) for report in reports]
        if all(value is not None for value in found):
            values = torch.cat(found).double().numpy().reshape(shape)
            traces = traces.assign_coords({name: (("time", "chain"), values)})
    stiffness.warn_if_biased(traces)
    return traces
