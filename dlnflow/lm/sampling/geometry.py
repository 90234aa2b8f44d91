"""How steep and how noisy the loss of a language model is around a checkpoint.

    g_b             gradient of the mean loss of minibatch b
    G               diag of `preconditioner`, from the mean of g_b^2 over minibatches
    curvature       largest eigenvalue of A = G^(1/2) H G^(1/2), with eigenvector v
    negative        smallest eigenvalue of A
    stiff_noise     Var_b(v . G^(1/2) g_b)
    noise           trace of Cov_b(g_b)

H is the Hessian of the mean loss of a few minibatches, by its products: differences of gradients
at theta +- s d with |s d| = `REACH` |theta|, in single precision. Eigenvalues come from power
iteration and are found from below, to a few per cent; those of few minibatches lie above those of
the whole text. The direction v comes from other minibatches than the noise along it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlnflow import lm
from dlnflow.lm.named_components import moving
from dlnflow.lm.runs.device import threads
from dlnflow.lm.sampling.evaluator import LanguageModelEvaluator
from dlnflow.sampling import chains, kernels
from dlnflow.sampling.power_iteration import power_iteration

if TYPE_CHECKING:
    from dlnflow.lm.data.batches import GradientData
    from dlnflow.lm.runs.checkpoints import Checkpoints
    from dlnflow.lm.sampling.unit import Sampler

REACH = 2e-4
"""Distance of the two gradients of a difference, over the length of all weights."""
MINIBATCHES = 16
"""From which the noise is taken: its error is about a third."""
CURVED = 4
"""Minibatches whose Hessian is taken."""
ITERATIONS = 8
"""Products with the Hessian for each end of its spectrum."""
GRADIENTS = 2 * MINIBATCHES + 2 * CURVED * (2 * ITERATIONS)
"""Gradients that one checkpoint costs."""
NO_CHAIN = 1 << 30
"""Names minibatches that no chain sees."""
FEWEST = 0.01
"""Share of the coordinates that may be slower than `slow`."""


@dataclass(frozen=True)
class Geometry:
    """What was measured at one checkpoint; gradients and curvature are of the mean loss, in nats.

    Attributes
    ----------
    step : int
        Step of the checkpoint.
    loss : float
        Mean over the minibatches.
    curvature, negative, stiff_noise, noise : float
        As above; the first three are multiplied by G.
    stiffest, lowest : float
        Second derivatives of the mean loss along these directions, in units of the weights.
    length : float
        |theta|.
    fast, slow : float
        Largest entry of G, and the one that 99 of 100 coordinates exceed.
    tokens : int
        Targets of a minibatch.
    n_parameters : int
        Number of those that move.
    """

    step: int
    loss: float
    curvature: float
    negative: float
    stiff_noise: float
    noise: float
    stiffest: float
    lowest: float
    length: float
    fast: float
    slow: float
    tokens: int
    n_parameters: int


def measure(
    checkpoints: Checkpoints,
    step: int,
    gradient: GradientData,
    sampler: Sampler,
    advance: Callable[[], None] = lambda: None,
) -> Geometry:
    """Measure one checkpoint.

    Parameters
    ----------
    checkpoints, step : Checkpoints, int
        Where.
    gradient : GradientData
        Text of the sampled loss.
    sampler : Sampler
        Its kernel and options say G, and which parameters move; its step is not used.
    advance : callable
        Called after every gradient, `GRADIENTS` times.

    Returns
    -------
    Geometry
    """
    with threads(sampler.threads):
        return _measured(checkpoints, step, gradient, sampler, advance)


def _measured(
    checkpoints: Checkpoints,
    step: int,
    gradient: GradientData,
    sampler: Sampler,
    advance: Callable[[], None],
) -> Geometry:
    """Do the work of `measure`."""
    model = checkpoints.load(step, device=sampler.device).requires_grad_(False)
    names, entries = moving(model, sampler.restrict)
    evaluator = LanguageModelEvaluator(
        model,
        gradient,
        lm.Observed(gradient.ids[None, :2]),  # nothing is
        (0, step, NO_CHAIN),
        parameters=names or sampler.parameters,
    )
    kernel, settings = sampler.kernel, sampler.settings
    posterior = chains.around(evaluator, evaluator.center, kernel, settings, entries)[1]
    center = posterior.center

    def at(theta: Tensor, number: int) -> tuple[Tensor, float]:
        evaluator.step = number
        value = posterior.evaluate(theta)
        advance()
        return value.gradient[0], float(value.loss)

    mean, square, losses = torch.zeros_like(center[0]), torch.zeros_like(center[0]), []
    for number in range(MINIBATCHES):
        g, loss = at(center, number)
        mean.add_(g, alpha=1 / MINIBATCHES)
        square.addcmul_(g, g, value=1 / MINIBATCHES)
        losses.append(loss)
    noise = float(square.sum() - mean.square().sum()) * MINIBATCHES / (MINIBATCHES - 1)
    preconditioner = kernels.named(kernel).declared("preconditioner", "the curvature it meets")
    G = preconditioner(square, settings.kernel_options)
    del mean, square
    root = G.sqrt()
    reach = REACH * float(center.norm())

    def product(v: Tensor) -> Tensor:
        direction = root * v
        s = reach / float(direction.norm())
        total = torch.zeros_like(v)
        for number in range(CURVED):
            for sign in (1, -1):
                total.add_(at(center + sign * s * direction, number)[0], alpha=sign)
        return total.mul_(root / (2 * s * CURVED))

    (negative, w), (curvature, v) = _ends(product, center[0])
    along = root * v
    projections = torch.tensor(
        [float(at(center, MINIBATCHES + k)[0] @ along) for k in range(MINIBATCHES)]
    )
    return Geometry(
        step=step,
        loss=sum(losses) / MINIBATCHES,
        curvature=curvature,
        negative=negative,
        stiff_noise=float(projections.var()),
        noise=noise,
        stiffest=curvature / float(along.square().sum()),
        lowest=negative / float((root * w).square().sum()),
        length=float(center.norm()),
        fast=float(G.max()),
        slow=float(G.kthvalue(max(1, round(FEWEST * len(G)))).values),
        tokens=gradient.rows * gradient.length,
        n_parameters=center.shape[1],
    )


def _ends(product: Callable[[Tensor], Tensor], like: Tensor) -> list[tuple[float, Tensor]]:
    """Return the smallest and the largest eigenvalue, each with its direction."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(like.shape, generator=generator).to(like)
    v, image = power_iteration(product, start, ITERATIONS)
    first = float(v @ image)
    # the other end of the spectrum is the largest one of the matrix moved by the first
    w, image = power_iteration(lambda w: product(w).sub_(w, alpha=first), start, ITERATIONS)
    second = first + float(w @ image)
    return [(first, v), (second, w)] if first <= second else [(second, w), (first, v)]
