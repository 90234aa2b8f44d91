"""Leave-one-out is minus the integral of the tangent along the path that takes the item away.

    l(w_i = 1) - l(w_i = 0) = int_0^1 (d l / d w_i)(w_i = w) dw

with the tangent taken of the training *at that weight*. The integrand behaves like sqrt(w) at 0,
so the quadrature is in u = sqrt(w).
"""

import numpy as np
import pytest

from dlnflow import flow


def removal_path(w1, w2, y, times, item, n_nodes):
    """Integrate the tangent of all losses over the weight of `item`, one-hot inputs; (T, N)."""
    n = y.shape[1]
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    u, du = (nodes + 1) / 2, weights / 2
    one = np.zeros((n, n))
    one[item, item] = 1.0
    s_xx = np.eye(n) - (1 - u**2)[:, None, None] * one
    base, moved = flow.gram_tangent(w1, w2, (y @ s_xx, s_xx), (y @ one, one), times)
    slopes = -np.sum((y - base.map) * moved.map, axis=-2)  # (nodes, T, N)
    return np.tensordot(2 * u * du, slopes, axes=1)


def removal(w1, w2, y, times, item):
    s_xx = np.eye(y.shape[1])
    s_xx[item, item] = 0
    losses = [
        0.5 * np.sum((y - flow.gram(w1, w2, y @ x, x, times).map) ** 2, axis=-2)
        for x in (np.eye(y.shape[1]), s_xx)
    ]
    return losses[0] - losses[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_tangent_along_the_removal_path_adds_up_to_leave_one_out(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(3, 4))
    w1, w2 = 0.1 * rng.normal(size=(5, 4)), 0.1 * rng.normal(size=(3, 5))
    times = np.array([0.5, 1.5, 4.0])
    exact = removal(w1, w2, y, times, item=1)
    errors = [
        np.abs(removal_path(w1, w2, y, times, 1, n) - exact).max() / np.abs(exact).max()
        for n in (6, 12, 24)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5
