"""Gradients and their derivatives against finite differences; the hidden reduction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.dynamics import network
from tests.tolerances import ALGEBRA, TANGENT_VS_DIFFERENCE


def _problem(depth, one_hot, seed=0, n_items=4, n_out=3, hidden=5):
    rng = np.random.default_rng(seed)
    n_in = n_items if one_hot else 2
    sizes = [n_in, *[hidden] * (depth - 1), n_out]
    weights = network.initial_weights(sizes, 0.7, seed)
    x = None if one_hot else rng.standard_normal((n_in, n_items))
    scaled = rng.uniform(0, 1, (1, n_items)) / n_items
    return weights, x, rng.standard_normal((n_out, n_items)), scaled, rng


def _objective(weights, x, y, scaled):
    """Sum of weighted losses, item by item, as in the definition."""
    inputs = np.eye(y.shape[1]) if x is None else x
    product = np.linalg.multi_dot(weights[::-1])
    return sum(
        c * 0.5 * np.sum((y[:, i] - product @ inputs[:, i]) ** 2) for i, c in enumerate(scaled[0])
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("one_hot", [True, False])
def test_gradient_and_its_tangent_match_central_differences(depth, one_hot):
    weights, x, y, scaled, rng = _problem(depth, one_hot)
    products = network.propagate(weights, x, y, scaled)
    gradient = network.gradients(products)
    direction = [rng.standard_normal((1, *w.shape)) for w in weights]
    forcing = rng.standard_normal((1, *scaled.shape))
    tangent = network.gradient_tangents(weights, direction, products, scaled, forcing)
    eps = 1e-5

    def moved(sign):
        return (
            [w + sign * eps * d[0] for w, d in zip(weights, direction, strict=True)],
            scaled + sign * eps * forcing[0],
        )

    slope = sum(np.vdot(g, d) for g, d in zip(gradient, direction, strict=True))
    plus, minus = ((_objective(moved(s)[0], x, y, scaled)) for s in (1, -1))
    assert slope == pytest.approx((plus - minus) / (2 * eps), rel=TANGENT_VS_DIFFERENCE)
    shifted = [
        network.gradients(network.propagate(moved(s)[0], x, y, moved(s)[1])) for s in (1, -1)
    ]
    for exact, up, down in zip(tangent, *shifted, strict=True):
        difference = (up - down) / (2 * eps)
        assert np.abs(exact[0] - difference).max() <= 1e-8 * max(1, np.abs(difference).max())


@pytest.mark.parametrize("one_hot", [True, False])
def test_loss_tangents_are_the_slope_of_losses(one_hot):
    weights, x, y, _, rng = _problem(3, one_hot)
    direction = [rng.standard_normal((2, *w.shape)) for w in weights]
    exact = network.loss_tangents(weights, direction, x, y)
    eps = 1e-5
    for k in range(2):
        up, down = (
            network.losses(
                [w + s * eps * d[k] for w, d in zip(weights, direction, strict=True)], x, y
            )
            for s in (1, -1)
        )
        assert np.abs(exact[k] - (up - down) / (2 * eps)).max() < 1e-7 * np.abs(exact).max()


@given(hidden=st.integers(1, 12), seed=st.integers(0, 50))
def test_reduction_keeps_the_map_and_the_gradients_on_both_sides_of_the_threshold(hidden, seed):
    weights, x, y, scaled, _ = _problem(2, True, seed, hidden=hidden)
    small, basis = network.reduced(weights)
    assert (basis is None) == (hidden <= 7)
    if basis is None:
        return
    assert np.abs(basis.T @ basis - np.eye(basis.shape[1])).max() < ALGEBRA
    full = network.gradients(network.propagate(weights, x, y, scaled))
    part = network.gradients(network.propagate(small, x, y, scaled))
    assert np.abs(basis @ small[0] - weights[0]).max() < ALGEBRA
    assert np.abs(small[1] @ basis.T - weights[1]).max() < ALGEBRA
    assert np.abs(basis @ part[0] - full[0]).max() < ALGEBRA
    assert np.abs(part[1] @ basis.T - full[1]).max() < ALGEBRA


def test_deep_networks_are_not_reduced():
    weights = network.initial_weights([2, 50, 50, 2], 1.0, 0)
    assert network.reduced(weights)[1] is None
