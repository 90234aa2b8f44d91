"""Targets whose answer is known, and what each kernel should measure on them.

Every target has a statistic with exact mean 1: a variance over its exact value, or a learning
coefficient over Aoyagi's. For target precision A and preconditioner G = diag(eps_hat) (eps I for
SGLD) the kernel's own stationary covariance is known:

    sgld, frozen rmsprop_sgld    C = A^-1 (I - A G / 4)^-1
    mala                         C = A^-1
    underdamped                  C = A^-1; on the quartic not known, O(eps^2) from exact
    rmsprop_sgld (Algorithm 1)   not known: no prediction

For the quartic, the SGLD law is the stationary vector of its transition matrix on a fine grid.
Networks sit at a global minimum, where the loss is quadratic in the normal directions:
E[n_beta (L - L_0)] = (1/2) tr(n_beta H C), localisation included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from dlnflow._support import FloatArray
from dlnflow.sampling.evaluators.linear import LinearEvaluator
from dlnflow.sampling.posterior import Evaluation, FullBatch, Posterior
from dlnflow.theory.rlct import learning_coefficient

Predict = Callable[[FloatArray], FloatArray]
"""eps_hat (C, P) -> expected statistic (C,)."""


@dataclass(frozen=True)
class Target:
    """A posterior with draws to start from.

    Attributes
    ----------
    name : str
    posterior : Posterior
    start : Tensor, shape (C, P)
        Draws from the exact (networks: Gaussian) law.
    statistic : callable
        state -> (C,), with mean 1 under the exact law.
    gradient_scale : array, shape (P,)
        Root mean square of the gradient of the mean loss.
    precision : array, shape (P, P)
        A (quartic: the curvature two standard deviations out; the tails set the stability).
    discretised : callable
        What SGLD with steps eps_hat should measure.
    ideal : float
        What a kernel without discretisation error should measure: 1 but for the localisation.
    quadratic : bool
        Whether U is quadratic (networks: nearly, at a large n_beta).
    """

    name: str
    posterior: Posterior
    start: Tensor
    statistic: Callable[..., Tensor]
    gradient_scale: FloatArray
    precision: FloatArray
    discretised: Predict
    ideal: float = 1.0
    quadratic: bool = True


def gaussian(name: str, precision: FloatArray, chains: int, seed: int) -> Target:
    """Return U = 1/2 theta^T A theta as n_beta = 100 times a mean loss, nothing localised."""
    n_beta = 100.0
    h = precision / n_beta
    hessian = torch.as_tensor(h, dtype=torch.float32)

    def evaluate(theta: Tensor) -> Evaluation:
        gradient = theta @ hessian
        return Evaluation(0.5 * (theta * gradient).sum(-1), gradient)

    start = _gaussian_draws(precision, chains, seed)
    posterior = Posterior(
        FullBatch(evaluate, len(precision)), torch.zeros_like(start), n_beta, 1e-9
    )
    p = len(precision)
    values, vectors = np.linalg.eigh(precision)
    to_unit = torch.as_tensor(vectors * np.sqrt(values / p), dtype=torch.float32)
    return Target(
        name,
        posterior,
        start,
        lambda state: (state.theta @ to_unit).square().sum(-1),
        np.sqrt(np.diag(h @ np.linalg.inv(precision) @ h)),
        precision,
        lambda steps: _linear_response(precision, precision / p, steps),
    )


def quartic(chains: int, seed: int, p: int = 4) -> Target:
    """Return U = sum theta^4 / 4: E theta^2 = 2 Gamma(3/4) / Gamma(1/4)."""
    variance = 2 * special.gamma(0.75) / special.gamma(0.25)
    grid = np.linspace(-3.2, 3.2, 1281)
    cdf = np.cumsum(np.exp(-(grid**4) / 4))
    u = np.random.default_rng(seed).uniform(size=(chains, p))
    start = torch.as_tensor(np.interp(u, cdf / cdf[-1], grid), dtype=torch.float32)

    def evaluate(theta: Tensor) -> Evaluation:
        return Evaluation(theta.pow(4).sum(-1) / 4, theta.pow(3))

    trial = np.geomspace(2e-3, 0.2, 12)
    ratios = [_quartic_sgld_variance(eps) / variance for eps in trial]
    sixth = 4 ** (6 / 4) * special.gamma(7 / 4) / special.gamma(0.25)
    return Target(
        "quartic",
        Posterior(FullBatch(evaluate, p), torch.zeros_like(start), 1.0, 1e-9),
        start,
        lambda state: state.theta.square().mean(-1) / variance,
        np.full(p, np.sqrt(sixth)),
        12 * variance * np.eye(p),
        lambda steps: np.interp(steps, trial, ratios).mean(-1),
        quadratic=False,
    )


def network(n_in: int, hidden: int, d_out: int, rank: int, chains: int, seed: int) -> Target:
    """Return a two-layer network at a balanced global minimum, n_beta / N = 1e5."""
    kappa, gamma = 1e5, 100.0
    rng = np.random.default_rng([n_in, hidden, d_out, rank])
    u = np.linalg.qr(rng.standard_normal((d_out, d_out)))[0][:, :rank]
    v = np.linalg.qr(rng.standard_normal((n_in, n_in)))[0][:, :rank]
    root = np.sqrt(np.linspace(2, 1, rank))
    w1t, w2 = np.zeros((n_in, hidden)), np.zeros((d_out, hidden))
    w1t[:, :rank], w2[:, :rank] = v * root, u * root
    jacobian = np.concatenate(
        [np.einsum("kn,dh->khdn", np.eye(n_in), w2), np.einsum("kd,nh->khdn", np.eye(d_out), w1t)]
    ).reshape((n_in + d_out) * hidden, -1)  # d W / d theta
    stiff = kappa * jacobian @ jacobian.T  # n_beta H
    precision = stiff + gamma * np.eye(len(stiff))
    center = torch.as_tensor(np.concatenate([w1t, w2]).ravel(), dtype=torch.float32)
    start = center + _gaussian_draws(precision, chains, seed)
    evaluate = LinearEvaluator(None, torch.as_tensor(w2 @ w1t.T, dtype=torch.float32), hidden)
    n_beta = kappa * n_in
    exact = learning_coefficient((n_in, hidden, d_out), rank).coefficient
    h = stiff / n_beta
    covariance = np.linalg.inv(precision)
    return Target(
        f"network {n_in}-{hidden}-{d_out}, rank {rank}",
        Posterior(evaluate, center.expand_as(start).contiguous(), n_beta, gamma),
        start,
        lambda state: n_beta * state.value.loss / exact,
        np.sqrt(np.diag(h @ covariance @ h)),
        precision,
        lambda steps: _linear_response(precision, 0.5 * stiff / exact, steps),
        ideal=float(0.5 * np.trace(stiff @ covariance) / exact),
    )


def targets(chains: int, seed: int) -> list[Target]:
    """Return the targets of the self-test."""
    correlated = 100 * np.linalg.inv(0.9 * np.ones((4, 4)) + 0.1 * np.eye(4))
    return [
        gaussian("isotropic", 100 * np.eye(4), chains, seed),
        gaussian("ill-conditioned", np.diag([1.0, 4.6, 21.5, 100.0]), chains, seed),
        gaussian("correlated", correlated, chains, seed),
        quartic(chains, seed),
        *[network(6, r, 6, r, max(chains // 8, 1), seed) for r in (1, 2, 3)],
    ]


def _gaussian_draws(precision: FloatArray, chains: int, seed: int) -> Tensor:
    """Return draws from N(0, precision^-1), shape (C, P)."""
    z = np.random.default_rng(seed).standard_normal((len(precision), chains))
    draws = np.linalg.solve(np.linalg.cholesky(precision).T, z).T
    return torch.as_tensor(np.ascontiguousarray(draws), dtype=torch.float32)


def _linear_response(precision: FloatArray, weight: FloatArray, steps: FloatArray) -> FloatArray:
    """Return tr(weight C) with C = A^-1 (I - A G / 4)^-1 for every row of eps_hat."""
    inner = np.eye(len(precision)) - 0.25 * precision * steps[:, None, :]
    # tr(weight A^-1 inner^-1) = tr(inner^-1 weight A^-1)
    right = weight @ np.linalg.inv(precision)
    return np.trace(np.linalg.solve(inner, np.broadcast_to(right, inner.shape)), axis1=1, axis2=2)


def _quartic_sgld_variance(eps: float) -> float:
    """Return the variance of the stationary law of theta - (eps/2) theta^3 + sqrt(eps) xi."""
    grid = np.linspace(-3.2, 3.2, 321)
    mean = grid - 0.5 * eps * grid**3
    step = np.exp(-((grid - mean[:, None]) ** 2) / (2 * eps))
    step /= step.sum(1, keepdims=True)
    for _ in range(13):  # 2^13 steps of the chain
        step = step @ step
        step /= step.sum(1, keepdims=True)
    return float(step[160] @ grid**2)
