"""Underdamped Langevin dynamics, BAOAB splitting, unit mass.

    with h = sqrt(eps), c = persistence = exp(-friction h):
    B  v <- v - (h/2) grad U(theta)
    A  theta <- theta + (h/2) v
    O  v <- c v + sqrt(1 - c^2) xi
    A  theta <- theta + (h/2) v
    B  v <- v - (h/2) grad U(theta)

h = sqrt(eps) makes the stability bound eps A < 4 the same as for `sgld`.

Bias: none in the positions on Gaussian targets (for every stable eps); O(eps^2) in general.

Reference: Leimkuhler & Matthews (2013), "Rational construction of stochastic numerical methods
for molecular sampling".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dlnflow import checks
from dlnflow.sampling.kernels.spec import (
    STEP_SIZE,
    Kernel,
    KernelSpec,
    KernelTraits,
    Law,
    Noise,
    Option,
)
from dlnflow.sampling.posterior import (
    Evaluation,
    Posterior,
    Scale,
    axpy,
    checked_step_size,
    root,
)

LONGEST_MEMORY = 0.9
"""Largest default persistence."""


class State(NamedTuple):
    """Positions, losses and gradients there, grad U (C, P), velocities (C, P) or None."""

    theta: Tensor
    value: Evaluation
    drift: Tensor
    velocity: Tensor | None


def build(
    posterior: Posterior, *, step_size: Scale, persistence: float | Tensor | None = None
) -> Kernel:
    """Return the kernel.

    Parameters
    ----------
    posterior : Posterior
        The target.
    step_size : float or Tensor, shape (C, 1)
        eps = h^2.
    persistence : float or Tensor, shape (C, 1), optional
        c: the fraction of the velocity kept in a step. 0 forgets it every step. By default
        exp(-2 sqrt(eps localization)), which damps directions without loss curvature critically,
        but at most 0.9: the stiff directions, which the losses feel, exchange energy in 1/(1-c)
        steps.

    Returns
    -------
    Kernel
        `init` and `step`.

    Raises
    ------
    ValueError
        If `persistence` is outside [0, 1).
    """
    eps = checked_step_size(step_size)
    h = root(eps)
    c = _critical(eps, posterior.localization) if persistence is None else persistence
    if not bool(torch.all((torch.as_tensor(c) >= 0) & (torch.as_tensor(c) < 1))):
        raise ValueError(f"`persistence` must lie in [0, 1), got {persistence}.")
    refresh = root(1 - c**2)

    def init(theta: Tensor) -> State:
        value = posterior.evaluate(theta)
        return State(theta.clone(), value, posterior.gradient(theta, value), None)

    def step(state: State, noise: Noise) -> State:
        # The chain starts with a velocity from its stationary law, N(0, I).
        v = noise.normal().clone() if state.velocity is None else state.velocity
        theta = axpy(state.theta, axpy(v, state.drift, -0.5 * h), 0.5 * h)
        theta = axpy(theta, axpy(v.mul_(c), noise.normal(), refresh), 0.5 * h)
        value = posterior.evaluate(theta)
        drift = posterior.gradient(theta, value)
        return State(theta, value, drift, axpy(v, drift, -0.5 * h))

    return Kernel("underdamped", init, step, law=Law.EXACT_ON_GAUSSIANS)


def _critical(eps: Scale, localization: Scale) -> Scale:
    """Return exp(-2 sqrt(eps localization)), at most LONGEST_MEMORY."""
    exponent = -2 * root(eps * localization)
    if isinstance(exponent, Tensor):
        return exponent.exp().clamp(max=LONGEST_MEMORY)
    return min(math.exp(exponent), LONGEST_MEMORY)


KERNEL = KernelSpec(
    "underdamped",
    build,
    KernelTraits(
        full_batch_only=False,
        compares_losses=False,
        effective_step=STEP_SIZE,
        stable_below=4.0,
        relative_step=1.0,  # BAOAB has no error of first order
        adapts_until="",
        options=(Option("persistence", checks.real_number, optional=True),),
        cases={"": {"persistence": 0.5}},
    ),
)
