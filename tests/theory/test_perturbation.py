"""The derivative of W(t) = f_t(S) against differences in 50-digit arithmetic."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp

from dlnflow.theory.modes import Modes, modes_of
from dlnflow.theory.perturbation import derivative, divided_differences
from dlnflow.theory.saxe import mode_strength, mode_strength_derivatives
from tests.reference import DIGITS, derivative_by_difference, precise_strength
from tests.strategies import orthonormal, spectra, spectrum
from tests.tolerances import CLOSED_FORM, TANGENT_VS_DIFFERENCE

times = st.one_of(st.just(0.0), st.floats(-6, 2).map(lambda e: 10.0**e))
starts = st.floats(-8, 0).map(lambda e: 10.0**e)


def matrix_of(u, s, v):
    return (u * s) @ v.T


def allowed_direction(rng, u, v):
    """A random direction without a part between the two null spaces."""
    shape = len(u), len(v)
    d = rng.standard_normal(shape)
    return d - (d - u @ (u.T @ d)) @ (np.eye(len(v)) - v @ v.T)


def precise_quotient(first, second, t, a0, depth):
    with mp.workdps(DIGITS):
        first, second = mpmath.mpf(first), mpmath.mpf(second)
        if first == second:
            return precise_strength(t, first, a0, depth)[2]
        strengths = [precise_strength(t, s, a0, depth)[0] for s in (first, second)]
        return (strengths[0] - strengths[1]) / (first - second)


@given(
    s=st.floats(0.05, 4),
    gap=st.one_of(st.just(0.0), st.floats(-16, 0.5).map(lambda e: 10.0**e)),
    t=times,
    a0=starts,
)
@settings(max_examples=300)
def test_two_layer_divided_differences(s, gap, t, a0):
    """Through every gap, exponents s t on both sides of 1."""
    pair = np.array([s + gap, s])
    gam, _ = divided_differences(pair, t, a0)
    exact = precise_quotient(*pair, t, a0, 2)
    # over a gap of 1e-16 the reference itself is rounded at 1e-59
    assert abs(gam[0, 1] - exact) <= 2e-13 * abs(exact) + 1e-50
    np.testing.assert_array_equal(gam, gam.T)
    np.testing.assert_allclose(
        np.diag(gam), mode_strength_derivatives(t, pair, a0).ds, rtol=2e-13, atol=1e-290
    )


@given(
    s=st.floats(0.2, 4),
    gap=st.one_of(st.just(0.0), st.floats(-16, 0.5).map(lambda e: 10.0**e)),
    t=st.floats(-4, 1.7).map(lambda e: 10.0**e),
    a0=st.floats(-5, 0).map(lambda e: 10.0**e),
    depth=st.integers(3, 6),
)
@settings(max_examples=12)
def test_deep_divided_differences(s, gap, t, a0, depth):
    pair = np.array([s + gap, s])
    gam, _ = divided_differences(pair, t, a0, depth=depth)
    exact = precise_quotient(*pair, t, a0, depth)
    m = mode_strength_derivatives(t, pair, a0, depth=depth)
    condition = max(1.0, float((t * m.dt / m.a).max()))
    assert abs(gam[0, 1] - exact) <= 1e-11 * condition * max(exact, float(m.ds.max()) * 1e-3)


@given(parts=spectra(), t=st.floats(0.05, 10), a0=st.floats(-6, -1), seed=st.integers(0, 99))
@settings(max_examples=12)
def test_derivative_against_differences(parts, t, a0, seed):
    target, a0 = matrix_of(*parts), 10.0**a0
    modes = modes_of(target)
    direction = allowed_direction(np.random.default_rng(seed), modes.u, modes.v)
    found = derivative(modes, direction, t, a0)
    with mp.workdps(DIGITS):
        exact = derivative_by_difference(
            mp.matrix(target.tolist()),
            mp.matrix(direction.tolist()),
            lambda value: precise_strength(t, value, a0, 2)[0],
        )
    exact = np.array(exact.tolist(), dtype=float)
    assert np.abs(found - exact).max() <= CLOSED_FORM * np.abs(exact).max()


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("gap", [0.0, 1e-9, 0.1])
def test_derivative_against_float_differences(depth, gap):
    rng = np.random.default_rng(3)
    s = spectrum([2, 1, 3], gap)
    u, v = orthonormal(rng, 8, 6), orthonormal(rng, 7, 6)
    target = matrix_of(u, s, v)
    modes = modes_of(target)
    direction = allowed_direction(rng, u, v)

    def path(eps):
        left, values, right = np.linalg.svd(target + eps * direction)
        strengths = mode_strength(0.8, values[:6], 0.05, depth=depth)
        return (left[:, :6] * strengths) @ right[:6]

    h = 1e-5
    difference = (path(h) - path(-h)) / (2 * h)
    found = derivative(modes, direction, 0.8, 0.05, depth=depth)
    assert np.abs(found - difference).max() <= TANGENT_VS_DIFFERENCE * np.abs(difference).max()


@given(seed=st.integers(0, 99), t=st.floats(0, 10))
def test_rotations_inside_blocks_change_nothing(seed, t):
    rng = np.random.default_rng(seed)
    modes = modes_of(
        matrix_of(orthonormal(rng, 6, 5), spectrum([2, 3], 0.3), orthonormal(rng, 5, 5))
    )
    rotation = np.zeros((5, 5))
    for block in modes.blocks:
        rotation[np.ix_(block, block)] = orthonormal(rng, len(block), len(block))
    turned = Modes(modes.u @ rotation, modes.s, modes.v @ rotation, modes.blocks, modes.rtol)
    direction = rng.standard_normal((6, 5))
    one, other = (derivative(m, direction, t, 0.01) for m in (modes, turned))
    assert np.abs(one - other).max() <= 1e-12 * max(1.0, np.abs(one).max())


def test_limits_and_stacks():
    rng = np.random.default_rng(0)
    modes = modes_of(rng.standard_normal((4, 4)))
    directions = rng.standard_normal((3, 4, 4))
    np.testing.assert_allclose(derivative(modes, directions, 1e4, 0.01), directions, atol=1e-9)
    stack = derivative(modes, directions, 1.0, 0.01)
    np.testing.assert_allclose(stack[1], derivative(modes, directions[1], 1.0, 0.01), rtol=1e-12)
    # Along the target itself every mode moves by s da/ds.
    target = matrix_of(modes.u, modes.s, modes.v)
    ds = mode_strength_derivatives(1.0, modes.s, 0.01).ds
    expected = matrix_of(modes.u, modes.s * ds, modes.v)
    np.testing.assert_allclose(derivative(modes, target, 1.0, 0.01), expected, atol=1e-13)


def test_transposition():
    rng = np.random.default_rng(1)
    target = rng.standard_normal((5, 2)) @ rng.standard_normal((2, 4))
    modes = modes_of(target)
    direction = allowed_direction(rng, modes.u, modes.v)
    one = derivative(modes, direction, 0.9, 0.02)
    other = derivative(modes_of(target.T), direction.T, 0.9, 0.02)
    np.testing.assert_allclose(one, other.T, atol=1e-13)


def test_errors_say_what_is_wrong():
    modes = modes_of(np.diag([2.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="has no derivative"):
        derivative(modes, np.eye(3), 1.0, 0.01)
    with pytest.raises(ValueError, match="`direction` must have the shape"):
        derivative(modes, np.eye(2), 1.0, 0.01)
    with pytest.raises(ValueError, match="`a0`"):
        derivative(modes, np.diag([1.0, 1.0, 0.0]), 1.0, 0.0)
    with pytest.raises(ValueError, match="`s` must be > 0"):
        divided_differences(np.array([1.0, 0.0]), 1.0, 0.1)
