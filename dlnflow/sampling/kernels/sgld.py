"""Stochastic gradient Langevin dynamics (the unadjusted Langevin algorithm in full batch).

    theta' = theta - (eps/2) grad U(theta) + sqrt(eps) xi,      xi ~ N(0, I)

Bias: on a Gaussian target of precision A the stationary covariance is exactly
A^-1 (I - eps A / 4)^-1; the chain is stable for eps A < 4. Minibatches add the variance of their
gradient on top.

Reference: Welling & Teh (2011), "Bayesian learning via stochastic gradient Langevin dynamics".
"""

from typing import NamedTuple

from torch import Tensor

from dlnflow.sampling.kernels.spec import (
    BOX,
    NOISE_SCALE,
    STEP_SIZE,
    Kernel,
    KernelSpec,
    KernelTraits,
    Law,
    Noise,
    changes,
    unpreconditioned,
)
from dlnflow.sampling.posterior import (
    Evaluation,
    Posterior,
    Scale,
    axpy,
    checked_step_size,
    combine,
    root,
)


class State(NamedTuple):
    """Positions (C, P) and the losses and gradients there."""

    theta: Tensor
    value: Evaluation


def build(
    posterior: Posterior,
    *,
    step_size: Scale,
    noise_scale: float = 1.0,
    box: float | None = None,
) -> Kernel:
    """Return the kernel.

    Parameters
    ----------
    posterior : Posterior
        The target.
    step_size : float or Tensor, shape (C, 1)
        eps.
    noise_scale : float
        Factor on the noise. **Changes the target** to exp(-U / noise_scale^2).
    box : float, optional
        Clamp every coordinate to center +- box. **Changes the target**: mass piles up on the
        faces of the box.

    Returns
    -------
    Kernel
        `init` and `step`.
    """
    eps = checked_step_size(step_size)
    keep = 1 - 0.5 * eps * posterior.localization
    pull = (1 - keep) * posterior.center
    half_drift = -0.5 * eps * posterior.n_beta
    kick = noise_scale * root(eps)

    def init(theta: Tensor) -> State:
        return State(theta.clone(), posterior.evaluate(theta))

    def step(state: State, noise: Noise) -> State:
        # theta - (eps/2) gamma (theta - center) = keep theta + pull
        theta = combine(pull, state.theta, keep)
        theta = axpy(axpy(theta, state.value.gradient, half_drift), noise.normal(), kick)
        theta = clamp(theta, posterior.center, box)
        return State(theta, posterior.evaluate(theta))

    changed = changes((NOISE_SCALE, BOX), {"noise_scale": noise_scale, "box": box})
    return Kernel("sgld", init, step, changed, Law.DISCRETISED, lambda _: eps, lambda _: "")


def clamp(theta: Tensor, center: Tensor, box: float | None) -> Tensor:
    """Return theta with every coordinate within `box` of the center; None leaves it alone."""
    return theta if box is None else theta.clamp(center - box, center + box)


KERNEL = KernelSpec(
    "sgld",
    build,
    KernelTraits(
        full_batch_only=False,
        compares_losses=False,
        effective_step=STEP_SIZE,
        stable_below=4.0,
        relative_step=0.2,  # inflates no variance by more than 5 %
        adapts_until="",
        preconditioner=unpreconditioned,
        options=(NOISE_SCALE, BOX),
    ),
)
