"""Underdamped Langevin dynamics, BAOAB splitting, unit mass.

    with h = sqrt(eps), c = persistence = exp(-friction h):
    B  v <- v - (h/2) grad U(theta)
    A  theta <- theta + (h/2) v
    O  v <- c v + sqrt(1 - c^2) xi
    A  theta <- theta + (h/2) v
    B  v <- v - (h/2) grad U(theta)

h = sqrt(eps) makes the stability bound eps A < 4 the same as for `sgld`.

Bias: none in the positions on Gaussian targets (for every stable eps); O(eps^2) in general.
Noise of variance S in grad U, as of minibatches, heats a direction: its variance is too large by

    the share    eps S (1 + c) / (4 (1 - c))

which is eps S / 4 at c = 0, as for `sgld`. `gradient_noise` = S keeps it below `NOISE_SHARE`.

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
    unpreconditioned,
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
NOISE_SHARE = 0.25
"""By how much noise of the gradient may enlarge a variance."""


class State(NamedTuple):
    """Positions, losses and gradients there, grad U (C, P), velocities (C, P) or None."""

    theta: Tensor
    value: Evaluation
    drift: Tensor
    velocity: Tensor | None


def build(
    posterior: Posterior,
    *,
    step_size: Scale,
    persistence: float | Tensor | None = None,
    gradient_noise: float = 0.0,
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
    gradient_noise : float
        S: the variance of grad U from minibatches in its noisiest direction, n_beta^2 times that
        of the gradient of the mean loss. The default persistence is lowered until friction covers
        it; where even c = 0 does not, only a smaller step does.

    Returns
    -------
    Kernel
        `init` and `step`.

    Raises
    ------
    ValueError
        If `persistence` is outside [0, 1), or `gradient_noise` is negative or beside it.
    """
    eps = checked_step_size(step_size)
    h = root(eps)
    if not gradient_noise >= 0 or (gradient_noise and persistence is not None):
        raise ValueError(
            "`gradient_noise` must be >= 0, and lowers the default of `persistence`; give one of "
            f"the two, got {gradient_noise} and {persistence}."
        )
    c = _covering(eps, posterior, gradient_noise) if persistence is None else persistence
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

    def moves(state: State) -> bool:
        return state.velocity is not None

    return Kernel("underdamped", init, step, law=Law.EXACT_ON_GAUSSIANS, form=moves)


def _covering(eps: Scale, posterior: Posterior, gradient_noise: float) -> Scale:
    """Return the critical persistence, less where the share of the noise would be too large."""
    critical = _critical(eps, posterior.localization)
    if not gradient_noise:
        return critical
    ratio = 4 * NOISE_SHARE / (eps * gradient_noise)  # (1 + c) / (1 - c)
    most = (ratio - 1) / (ratio + 1)
    if isinstance(most, Tensor) or isinstance(critical, Tensor):
        return torch.minimum(torch.as_tensor(critical), torch.as_tensor(most).clamp(min=0.0))
    return min(critical, max(most, 0.0))


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
        preconditioner=unpreconditioned,
        options=(
            Option("persistence", checks.real_number, optional=True),
            Option("gradient_noise", checks.real_number),
        ),
        cases={"": {"persistence": 0.5}},
    ),
)
