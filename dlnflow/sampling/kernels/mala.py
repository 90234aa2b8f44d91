"""Metropolis-adjusted Langevin: the SGLD step as a proposal, accepted or rejected.

    y = theta - (eps/2) grad U(theta) + sqrt(eps) xi
    accept with probability min(1, exp(U(theta) - U(y) + log q(theta | y) - log q(y | theta))),
    log q(y | theta) = -|y - theta + (eps/2) grad U(theta)|^2 / (2 eps)

Bias: none; exp(-U) is stationary exactly for every eps. Too large an eps shows as rejections
(the best acceptance is near 0.57). Needs the full-batch loss.

Reference: Roberts & Tweedie (1996), "Exponential convergence of Langevin distributions".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dlnflow.sampling.kernels.spec import (
    STEP_SIZE,
    Kernel,
    KernelSpec,
    KernelTraits,
    Law,
    Noise,
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


class State(NamedTuple):
    """Positions, losses and gradients there, U (C,), grad U (C, P), the acceptance so far (C,)."""

    theta: Tensor
    value: Evaluation
    potential: Tensor
    drift: Tensor
    accepted: Tensor
    steps: int

    @property
    def acceptance(self) -> Tensor:
        """Return the fraction of proposals accepted, shape (C,)."""
        return self.accepted / max(self.steps, 1)


def build(posterior: Posterior, *, step_size: Scale) -> Kernel:
    """Return the kernel.

    Parameters
    ----------
    posterior : Posterior
        The target; must be exact, since the acceptance compares losses.
    step_size : float or Tensor, shape (C, 1)
        eps.

    Returns
    -------
    Kernel
        `init` and `step`; the state has `acceptance`.
    """
    eps = checked_step_size(step_size)

    def init(theta: Tensor) -> State:
        value = posterior.evaluate(theta)
        potential, drift = posterior.potential(theta, value), posterior.gradient(theta, value)
        return State(theta.clone(), value, potential, drift, torch.zeros_like(potential), 0)

    def step(state: State, noise: Noise) -> State:
        xi = noise.normal()
        theta = axpy(axpy(state.theta.clone(), state.drift, -0.5 * eps), xi, root(eps))
        value = posterior.evaluate(theta)
        potential, drift = posterior.potential(theta, value), posterior.gradient(theta, value)
        # The way back, in units of sqrt(eps): theta_old = y - (eps/2) grad U(y) + sqrt(eps) back.
        back = axpy(-xi, state.drift + drift, 0.5 * root(eps))
        log_ratio = (
            state.potential - potential + 0.5 * (xi.square().sum(-1) - back.square().sum(-1))
        )
        accept = noise.uniform().log() < log_ratio  # False where log_ratio is NaN
        moved = accept.nonzero()[:, 0]
        for old, new in ((state.theta, theta), (state.drift, drift), (state.potential, potential)):
            old[moved] = new[moved]
        value = _merge(accept, value, state.value)
        return state._replace(value=value, accepted=state.accepted + accept, steps=state.steps + 1)

    return Kernel("mala", init, step, law=Law.EXACT)


def _merge(accept: Tensor, new: Evaluation, old: Evaluation) -> Evaluation:
    """Return the losses of `new` on the chains that accept and of `old` on the others."""
    # The gradient is not merged: the state keeps grad U.
    items = None if new.items is None else torch.where(accept[:, None], new.items, old.items)
    return Evaluation(torch.where(accept, new.loss, old.loss), new.gradient, items)


KERNEL = KernelSpec(
    "mala",
    build,
    KernelTraits(
        full_batch_only=True,  # the acceptance compares losses
        compares_losses=True,
        effective_step=STEP_SIZE,
        stable_below=math.inf,  # too large a step is rejected
        relative_step=0.2,  # accepts 0.9 of the proposals of a wide network
        adapts_until="",
        preconditioner=unpreconditioned,
    ),
)
