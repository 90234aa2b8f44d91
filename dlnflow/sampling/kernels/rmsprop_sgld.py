"""RMSProp-preconditioned SGLD: Algorithm 1 of Lee et al. (2025), and its frozen form.

    V'      = b V + (1-b) g^2,                 g = grad L(theta), the gradient of the mean loss
    eps_hat = eps / (sqrt(V') + a)
    theta'  = theta - (eps_hat/2) [n_beta g + localization (theta - center)] + sqrt(eps_hat) xi

Bias of Algorithm 1 (`freeze_after=None`): eps_hat depends on theta through V, and the drift
(1/2) div eps_hat that would keep exp(-U) stationary is omitted. With minibatch noise much larger
than the gradient this hardly matters. In full batch it does: V follows g(theta)^2 as soon as the
chain moves slower than its memory 1/(1-b), and the stationary law of one coordinate tends to
(sqrt(g^2) + a) exp(-U) as eps -> 0, so that no step size is right.

`freeze_after=k` learns V in the first k steps and then holds it: a constant preconditioner is a
linear change of coordinates, and the kernel is SGLD in them (bias: that of `sgld`, with
eps A replaced by eps_hat A).

References: Li et al. (2016), "Preconditioned stochastic gradient Langevin dynamics"; Lee et al.
(2025), Algorithm 1.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.sampling.kernels.spec import (
    NOISE_SCALE,
    Kernel,
    KernelSpec,
    KernelTraits,
    Law,
    Noise,
    Option,
    changes,
)
from dlnflow.sampling.posterior import Evaluation, Posterior, Scale, checked_step_size

KICK_LIMIT = 4.0
"""eps_hat * localization beyond which the first step alone is unstable."""
STABILITY = 0.1
"""Default of a."""
RELATIVE_STABILITY = 0.01
"""a over the typical gradient in `at_relative_step`."""


class State(NamedTuple):
    """Positions, losses and gradients there, V, eps_hat and its root (all C, P), steps taken."""

    theta: Tensor
    value: Evaluation
    v: Tensor
    step_hat: Tensor
    kick: Tensor
    steps: int


def build(
    posterior: Posterior,
    *,
    step_size: Scale,
    decay: float = 0.99,
    stability: float = STABILITY,
    freeze_after: int | None = None,
    warm_start: bool = False,
    noise_scale: float = 1.0,
) -> Kernel:
    """Return the kernel.

    Parameters
    ----------
    posterior : Posterior
        The target.
    step_size : float or Tensor, shape (C, 1)
        eps.
    decay, stability : float
        b and a of Algorithm 1.
    freeze_after : int, optional
        Steps after which V is held; None is Algorithm 1 itself. Draws taken while V still changes
        are not from the posterior, so burn in for at least this long.
    warm_start : bool
        Start V at the squared gradient of the checkpoint instead of 0.
    noise_scale : float
        Factor on the noise. **Changes the target** to exp(-U / noise_scale^2).

    Returns
    -------
    Kernel
        `init` and `step`. `init` raises ValueError when the first step would be a kick.

    Raises
    ------
    ValueError
        If an option is out of range.
    """
    eps = checked_step_size(step_size)
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` must lie in [0, 1), got {decay}.")
    if not stability > 0:
        raise ValueError(f"`stability` must be > 0, got {stability}.")
    if freeze_after is not None and freeze_after < 1:
        raise ValueError(f"`freeze_after` must be at least one step, got {freeze_after}.")

    def init(theta: Tensor) -> State:
        value = posterior.evaluate(theta)
        v = value.gradient.square() if warm_start else torch.zeros_like(theta)
        first = torch.lerp(value.gradient.square(), v, decay)
        check_kick(eps / (first.sqrt() + stability) * posterior.localization, stability)
        return State(theta.clone(), value, v, first, torch.empty_like(v), 0)

    def adapts(state: State) -> bool:
        return freeze_after is None or state.steps < freeze_after

    def step(state: State, noise: Noise) -> State:
        theta, value, v, step_hat, kick, steps = state
        if adapts(state):
            v.mul_(decay).addcmul_(value.gradient, value.gradient, value=1 - decay)
            torch.sqrt(v, out=step_hat).add_(stability).reciprocal_().mul_(eps)
            torch.sqrt(step_hat, out=kick).mul_(noise_scale)
        drift = posterior.gradient(theta, value)
        theta.addcmul_(step_hat, drift, value=-0.5).addcmul_(kick, noise.normal())
        return State(theta, posterior.evaluate(theta), v, step_hat, kick, steps + 1)

    changed = changes((NOISE_SCALE,), {"noise_scale": noise_scale})
    law = Law.UNKNOWN if freeze_after is None else Law.DISCRETISED
    return Kernel("rmsprop_sgld", init, step, changed, law, lambda state: state.step_hat, adapts)


def check_kick(pull: Tensor, stability: float) -> None:
    """Refuse a first step whose eps_hat overshoots the localisation.

    Where the gradient vanishes at the checkpoint, V starts at 0 and the first eps_hat is
    eps / a however stiff the target is.

    Raises
    ------
    ValueError
        If eps_hat * localization reaches 4 anywhere.
    """
    worst = float(pull.nan_to_num(0.0).max())
    if worst >= KICK_LIMIT:
        raise ValueError(
            f"`stability` = {stability:g} makes the first step a kick: where the gradient is ~0 at "
            f"the checkpoint, eps_hat * localization = {worst:.3g} exceeds {KICK_LIMIT:g}. "
            "Raise `stability`, lower `step_size`, or use `sgld`."
        )


def at_relative_step(
    relative: float, precision: FloatArray, gradient_scale: FloatArray
) -> dict[str, Any]:
    """Return `step_size` and `stability` at which eps_hat times curvature is `relative`.

    V is taken at the mean square of the gradient, and the stability so small that it does not
    hide the bias of Algorithm 1.

    Returns
    -------
    dict
    """
    stability = RELATIVE_STABILITY * float(np.median(gradient_scale))
    root = np.sqrt(1 / (gradient_scale + stability))
    scaled = root[:, None] * precision * root
    return {
        "step_size": relative / float(np.linalg.eigvalsh(scaled)[-1]),
        "stability": stability,
    }


def preconditioner(mean_square: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return eps_hat / eps with V at the mean square of the minibatch gradients."""
    return 1 / (mean_square.sqrt() + options.get("stability", STABILITY))


KERNEL = KernelSpec(
    "rmsprop_sgld",
    build,
    KernelTraits(
        full_batch_only=False,
        compares_losses=False,
        effective_step="step_size / (sqrt(V) + stability)",
        stable_below=4.0,
        adapts_until="freeze_after",
        options=(
            Option("decay", checks.real_number),
            Option("stability", checks.real_number),
            Option("freeze_after", checks.positive_integer, optional=True),
            Option("warm_start", checks.flag),
            NOISE_SCALE,
        ),
        at_relative_step=at_relative_step,
        preconditioner=preconditioner,
        # V starts warm, so that only the stationary law is tested
        cases={"": {"warm_start": True}, "frozen": {"warm_start": True, "freeze_after": 200}},
    ),
)
