"""What spoils a chain although R-hat and effective sample size say that it mixes.

    float32, u = 1.2e-7:  sqrt(step_size) >= 2 u max |theta|, or moves are rounded away
                          n_beta u L < 0.1 where losses are compared, or U is rounding noise
    stability:            step times largest curvature below the kernel's bound
    bias of variances:    x = largest eigenvalue of G^(1/2) (d^2 U / d theta^2) G^(1/2),
                          G = diag(steps)

Where float32 is too coarse, covariances are twofold off at sqrt(step_size) = 0.4 u max |theta|.
On a Gaussian target SGLD inflates the variance of the stiffest direction by 1 / (1 - x/4), and is
unstable at x = 4; so is RMSProp-SGLD with V held. Algorithm 1 itself, whose steps follow the
gradient, adds its own bias to this. Biased chains agree, so no verdict sees it. x is found by power
iteration on differences of the exact gradient at the last draw.
"""

import warnings
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from dlnflow.sampling import kernels
from dlnflow.sampling.posterior import Posterior
from dlnflow.sampling.power_iteration import power_iteration
from dlnflow.sampling.settings import Settings

UNIT = float(np.finfo(np.float32).eps)
LEAST_MOVE = 2.0
"""sqrt(step_size) / (u max |theta|); covariances are 15 % off at 1.2 and right at 3.7."""
MOST_NOISE = 0.1
"""Rounding of n_beta L that changes an acceptance by less than a tenth."""
ITERATIONS = 12
"""x is then found to a few per cent, from below."""
LIMIT = 0.8
"""x above which the bias exceeds 25 %."""
FIVE_PER_CENT = 0.19
"""x at which the bias is 5 %."""


def check_precision(kernel: str, settings: Settings, theta: Tensor, loss: float) -> None:
    """Refuse or warn about float32 where it is too coarse.

    Parameters
    ----------
    kernel : str
        Name of a kernel: does it compare losses, is its step `step_size`?
    settings : Settings
        Step, temperature and precision.
    theta : Tensor
        Weights of the checkpoints.
    loss : float
        Largest mean loss of a checkpoint.

    Raises
    ------
    ValueError
        If a kernel would compare losses that are rounding noise, or does not declare whether it
        compares them.
    """
    if settings.dtype != "float32":
        return
    spec, noise = kernels.named(kernel), settings.n_beta * UNIT * abs(loss)
    if spec.declared("compares_losses", "the precision it needs") and noise >= MOST_NOISE:
        raise ValueError(
            f"`dtype` 'float32' is too coarse for {kernel!r} at `n_beta` = "
            f"{settings.n_beta:g}: the rounding of n_beta * loss is {noise:.2g}, and the kernel "
            "compares such numbers. Use dtype='float64', or a kernel that does not, e.g. "
            "'underdamped'."
        )
    largest = float(theta.abs().max())
    move = settings.step_size**0.5 / (UNIT * max(largest, np.finfo(np.float32).tiny))
    if spec.has_fixed_step("the precision it needs") and move < LEAST_MOVE:
        warnings.warn(
            f"`dtype` 'float32' is too coarse: one step moves a weight by sqrt(step_size) = "
            f"{settings.step_size**0.5:.2g}, which is {move:.2g} times the rounding of the largest "
            f"weight ({largest:.3g}). Covariances come out too large; use dtype='float64'.",
            stacklevel=4,
        )


def check_stable(kernel: str, settings: Settings, curvature: float) -> None:
    """Refuse a step at which the linearised chain grows.

    Parameters
    ----------
    kernel : str
        Name of a kernel. A step that is not `step_size` is judged by the kernel itself.
    settings : Settings
        `step_size`.
    curvature : float
        Largest curvature of U at a checkpoint.

    Raises
    ------
    ValueError
        If step_size * curvature reaches the kernel's bound, or it declares none.
    """
    spec, product = kernels.named(kernel), settings.step_size * curvature
    if not spec.has_fixed_step("its stability"):
        return
    bound = spec.declared("stable_below", "its stability")
    if product >= bound:
        advised = spec.traits.relative_step or bound / 4
        raise ValueError(
            f"`step_size` = {settings.step_size:g} is beyond stability: step_size * curvature = "
            f"{product:.3g} >= {bound:g}. Use at most {advised / curvature:.2g}, or lower `n_beta`."
        )


def relative_step(kernel: kernels.Kernel, posterior: Posterior, state: Any) -> Tensor | None:
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
    start = torch.randn(theta.shape[1], generator=generator, dtype=theta.dtype).expand_as(theta)

    def product(v: Tensor) -> Tensor:
        # About as far as one step of the chain, so that float32 resolves it.
        moved = theta + root * v
        taken = (moved - theta) / root
        return root * (gradient(moved) - here) / taken.norm(dim=-1, keepdim=True)

    return power_iteration(product, start, ITERATIONS)[1].norm(dim=-1)


def warn_if_biased(traces: xr.DataArray) -> None:
    """Warn where the coordinate `relative_step` says that variances are 25 % off."""
    if "relative_step" not in traces.coords:
        return
    # One draw of one chain may be at a stiffer place than is typical; diverged chains are NaN.
    largest = max(
        (
            float(np.median(x[np.isfinite(x)]))
            for x in traces.relative_step.values
            if np.isfinite(x).any()
        ),
        default=0.0,
    )
    if largest > LIMIT:
        bias = f"{100 * largest / (4 - largest):.0f} % too large" if largest < 4 else "unbounded"
        step = traces.attrs["step_size"]
        warnings.warn(
            f"`step_size` = {step:g} is too large: step times largest curvature is {largest:.3g} "
            f"(unstable at 4), so that variances in the stiffest direction are {bias}, whatever "
            f"the verdict says. For 5 % use about {step * FIVE_PER_CENT / largest:.2g}.",
            stacklevel=4,
        )
