"""Is the step small enough where the chain is? Kernels whose bias depends on it are warned about.

    x = largest eigenvalue of G^(1/2) (d^2 U / d theta^2) G^(1/2),    G = diag(steps)

On a Gaussian target SGLD inflates the variance of the stiffest direction by 1 / (1 - x/4), and is
unstable at x = 4; so is RMSProp-SGLD with V held. Algorithm 1 itself, whose steps follow the
gradient, adds its own bias to this. Neither R-hat nor the effective sample size can see it: biased
chains agree. x is found by power iteration on differences of the exact gradient at the last draw.
"""

import warnings
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dlnflow.sampling.posterior import Kernel, Posterior

ITERATIONS = 12
"""x is then found to a few per cent, from below."""
LIMIT = 0.8
"""x above which the bias exceeds 25 %."""
FIVE_PER_CENT = 0.19
"""x at which the bias is 5 %."""


def relative_step(kernel: Kernel, posterior: Posterior, state: Any) -> Tensor | None:
    """Return x (C,) at a state; None where the kernel has no such bias or gradients are noisy.

    Parameters
    ----------
    kernel : Kernel
        Its `steps` says what multiplies the drift.
    posterior : Posterior
        The target.
    state : state of the kernel
        Carries `theta` (C, P).

    Returns
    -------
    Tensor, shape (C,), or None
    """
    if kernel.steps is None or not posterior.exact:
        return None
    theta = state.theta
    root = torch.as_tensor(kernel.steps(state), dtype=theta.dtype).sqrt()

    def gradient(at: Tensor) -> Tensor:
        return posterior.gradient(at, posterior.evaluate(at))

    here = gradient(theta)
    # One direction for all chains: the answer must not depend on what else is in the batch.
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(theta.shape[1], generator=generator, dtype=theta.dtype).expand_as(theta)
    for _ in range(ITERATIONS):
        # About as far as one step of the chain, so that float32 resolves it.
        moved = theta + root * v / v.norm(dim=-1, keepdim=True)
        taken = (moved - theta) / root
        v = root * (gradient(moved) - here)
    return v.norm(dim=-1) / taken.norm(dim=-1)


def warn_if_biased(traces: xr.DataArray) -> None:
    """Warn where the coordinate `relative_step` says that variances are 25 % off."""
    if "relative_step" not in traces.coords:
        return
    # One draw of one chain may be at a stiffer place than is typical; diverged chains are NaN.
    largest = max((float(np.median(x[np.isfinite(x)])) for x in traces.relative_step.values
                   if np.isfinite(x).any()), default=0.0)  # fmt: skip
    if largest > LIMIT:
        bias = f"{100 * largest / (4 - largest):.0f} % too large" if largest < 4 else "unbounded"
        step = traces.attrs["step_size"]
        warnings.warn(
            f"`step_size` = {step:g} is too large: step times largest curvature is {largest:.3g} "
            f"(unstable at 4), so that variances in the stiffest direction are {bias}, whatever "
            f"the verdict says. For 5 % use about {step * FIVE_PER_CENT / largest:.2g}.",
            stacklevel=4,
        )
