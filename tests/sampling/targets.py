"""Targets whose moments are known, and noise that a test can hold fixed."""

import torch

from dlnflow.sampling.posterior import Evaluation, FullBatch, Posterior


class Fixed:
    """Noise from a list, for one step written out by hand."""

    def __init__(self, *normals, uniform=None):
        self.normals, self.u = list(normals), uniform

    def normal(self):
        return self.normals.pop(0)

    def uniform(self):
        return self.u


class Shared:
    """Noise for all chains from one generator."""

    def __init__(self, shape, seed=0, dtype=torch.float64):
        self.generator = torch.Generator().manual_seed(seed)
        self.shape, self.dtype = shape, dtype

    def normal(self):
        # float32 draws: five times faster, and a test cannot see the difference.
        return torch.randn(self.shape, generator=self.generator).to(self.dtype)

    def uniform(self):
        return torch.rand(self.shape[0], generator=self.generator, dtype=self.dtype)


def quadratic(hessian, chains, *, n_beta=1.0, localization=1e-12, center=0.0):
    """L = 1/2 theta^T H theta: U is Gaussian with precision n_beta H + localization."""
    hessian = torch.as_tensor(hessian, dtype=torch.float64)

    def evaluate(theta):
        gradient = theta @ hessian
        loss = 0.5 * (theta * gradient).sum(-1)
        return Evaluation(loss, gradient, loss[:, None])

    start = torch.full((chains, len(hessian)), float(center), dtype=torch.float64)
    return Posterior(FullBatch(evaluate, len(hessian)), start, n_beta, localization)


def exact_draws(precision, chains, seed=1):
    """Draws from N(0, precision^-1), shape (chains, P)."""
    noise = Shared((chains, len(precision)), seed).normal()
    factor = torch.linalg.cholesky(torch.as_tensor(precision, dtype=torch.float64))
    return torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT.contiguous()
