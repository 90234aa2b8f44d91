"""Brute force over all parameters, and the networks it is compared on."""

import numpy as np
import torch
from scipy.optimize import minimize
from torch.autograd.functional import hessian, jacobian

import dlnflow as dln


def _task(seed, n_out, n_items, n_in=None):
    rng = np.random.default_rng(seed)
    x = None if n_in is None else rng.standard_normal((n_in, n_items))
    return dln.Task(rng.standard_normal((n_out, n_items)), x)


def _run(task, hidden, **options):
    return dln.Run(task, hidden=hidden, init_std=0.2, n_steps=400, seed=1, **options)


RUNS = {
    "wide": _run(_task(0, 4, 3), 12),
    "more inputs than outputs": _run(_task(1, 2, 4), 9),
    "narrow": _run(_task(2, 4, 3), 2),
    "a single hidden unit": _run(_task(3, 3, 3), 1),
    "more items than inputs": _run(_task(4, 3, 7, 4), 10),
    "unused input directions": _run(_task(5, 3, 3, 5), 4),
    "adam": _run(_task(6, 3, 4), 11, optimizer="adam"),
    "momentum, correlated inputs": _run(_task(7, 2, 6, 3), 8, optimizer="momentum"),
}
STEPS = [0, 60, 400]


class Dense:
    """Losses of a run as functions of one vector of all parameters, with derivatives by torch."""

    def __init__(self, run, weights=None):
        self.run, self.n_items = run, run.task.n_items
        self.x, self.y = (torch.tensor(a.copy()) for a in (run.task.x, run.task.y))
        self.sizes = [w.shape for w in run.initial_weights()]
        self.weights = torch.tensor(np.ones(self.n_items) if weights is None else weights)

    def losses(self, theta):
        """l_i, shape (N,)."""
        (h, n), (d, _) = self.sizes
        w1, w2 = theta[: h * n].reshape(h, n), theta[h * n :].reshape(d, h)
        return 0.5 * ((self.y - w2 @ (w1 @ self.x)) ** 2).sum(0)

    def values(self, theta):
        return self.losses(torch.tensor(theta)).numpy()

    def objective(self, theta):
        return (self.weights * self.losses(theta)).mean()

    def at(self, trajectory, time):
        """All parameters of one checkpoint."""
        return np.concatenate([w[time].ravel() for w in (trajectory.w1, trajectory.w2)])

    def gradients(self, theta):
        """Of every item, shape (N, P)."""
        return jacobian(self.losses, torch.tensor(theta)).numpy()

    def hessian(self, theta):
        return hessian(self.objective, torch.tensor(theta)).numpy()

    def item_hessians(self, theta):
        parts = [lambda t, i=i: self.losses(t)[i] for i in range(self.n_items)]
        return np.stack([hessian(part, torch.tensor(theta)).numpy() for part in parts])

    def gauss_newton(self, theta):
        (h, n), (d, _) = self.sizes

        def outputs(t):
            return t[h * n :].reshape(d, h) @ (t[: h * n].reshape(h, n) @ self.x)

        j = jacobian(outputs, torch.tensor(theta)).reshape(-1, len(theta)).numpy()
        return j.T @ j / self.n_items

    def influence(self, theta, lam, matrix=None):
        """-(1/N) g_q^T (H + lambda)^-1 g_i by a dense solve."""
        g = self.gradients(theta)
        matrix = self.hessian(theta) if matrix is None else matrix
        return -g @ np.linalg.solve(matrix + lam * np.eye(len(theta)), g.T) / self.n_items

    def proximal(self, theta_0, lam, start=None):
        """Minimise L + (lambda/2) |theta - theta_0|^2 from `start`; Newton for the last digits."""

        def value(t):
            t = torch.tensor(t, requires_grad=True)
            total = self.objective(t) + 0.5 * lam * ((t - torch.tensor(theta_0)) ** 2).sum()
            (gradient,) = torch.autograd.grad(total, t)
            return total.item(), gradient.numpy()

        start = theta_0 if start is None else start
        theta = minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-7}).x
        for _ in range(3):
            matrix = self.hessian(theta) + lam * np.eye(len(theta))
            theta = theta - np.linalg.solve(matrix, value(theta)[1])
        return theta, value(theta)[0]


def relative(found, expected):
    """Largest difference in units of the largest expected entry."""
    return np.abs(found - expected).max() / np.abs(expected).max()
