"""Mode strengths against 50-digit arithmetic, their equation and their identities."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.theory.saxe import half_time, mode_strength, mode_strength_derivatives
from tests.reference import precise_strength
from tests.tolerances import ALGEBRA

TINY = 1e-290
"""Absolute floor: below it float64 has no full relative accuracy."""

strengths = st.one_of(st.just(0.0), st.floats(-8, 3).map(lambda e: 10.0**e))
starts = st.one_of(st.just(0.0), st.floats(-12, 3).map(lambda e: 10.0**e))
times = st.one_of(st.just(0.0), st.floats(-9, 4).map(lambda e: 10.0**e))
depths = st.integers(2, 8)


def relative_errors(t, s, a0, depth):
    """Error of (a, gap, ds, da0, dt) in units of the condition number of a(t)."""
    found = mode_strength_derivatives(t, s, a0, depth=depth)
    with mpmath.workdps(50):
        start = (float(found.a), float(found.gap))
        truth = precise_strength(t, s, a0, depth, start)
        # How much one rounding of the input time changes each result, measured, not assumed.
        moved = precise_strength(mpmath.mpf(t) * (1 + mpmath.mpf(2) ** -52), s, a0, depth, start)
        errors = []
        for value, exact, shifted in zip(found, truth, moved, strict=True):
            scale = max(abs(exact), mpmath.mpf(TINY))
            condition = abs(shifted - exact) / scale * 2**52
            error = abs(mpmath.mpf(float(value)) - exact) / scale
            errors.append(float(error / max(1, condition)))
    return errors


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("s", [0.0, 1e-6, 1.0, 15.0**0.5, 1e3])
@pytest.mark.parametrize("a0", [1e-8, 2.5e-5, 1e-2, 0.999999, 1.0, 1.5, 400.0])
def test_grid_against_50_digits(depth, s, a0):
    for t in [0.0, 1e-7, 1e-2, 0.3, 1.0, 7.0, 60.0, 350.0]:
        assert max(relative_errors(t, s, a0, depth)) < ALGEBRA, t


def test_reference_is_the_solution_of_the_equation():
    """The reference's formulas for derivatives, by differences, and its path, by quadrature."""
    with mpmath.workdps(50):
        for t, s, a0, depth in [(0.4, 1.3, 0.2, 3), (0.7, 0.8, 2.0, 4), (1.1, 2.0, 0.01, 5)]:
            arguments = [mpmath.mpf(v) for v in (t, s, a0)]
            a, gap, ds, da0, dt = precise_strength(*arguments, depth)
            p = 2 - mpmath.mpf(2) / depth
            clock = mpmath.quad(lambda b, s=s, p=p: 1 / (b**p * (s - b)), [a0, a]) / depth
            assert abs(clock - t) < 1e-14
            assert abs(a + gap - s) < 1e-40
            for k, derivative in enumerate([dt, ds, da0]):
                h = mpmath.mpf("1e-16")
                up, down = (
                    [*arguments[:k], arguments[k] + e, *arguments[k + 1 :]] for e in (h, -h)
                )
                change = precise_strength(*up, depth)[0] - precise_strength(*down, depth)[0]
                assert abs(change / (2 * h) - derivative) < 1e-25


@given(t=times, s=strengths, a0=starts, depth=depths)
def test_anywhere_against_50_digits(t, s, a0, depth):
    if depth == 2 and a0 == 0 and 2 * s * t > 700:
        return  # da/da0 = e^u overflows; covered below
    assert max(relative_errors(t, s, a0, depth)) < ALGEBRA


@given(s=st.floats(0.1, 10), nudge=st.floats(-16, -1), above=st.booleans(), depth=depths)
def test_start_beside_the_fixed_point(s, nudge, above, depth):
    a0 = s * (1 + 10**nudge if above else 1 - 10**nudge)
    assert max(relative_errors(0.7, s, a0, depth)) < ALGEBRA


@given(t=st.floats(0, 50), s=strengths, a0=starts, depth=depths)
def test_homogeneity(t, s, a0, depth):
    """s a_s + a0 a_a0 - (2 - 2/L) t a_t = a, since scaling s and a0 rescales time."""
    m = mode_strength_derivatives(t, s, a0, depth=depth)
    by_start = a0 * m.da0 if a0 else 0.0  # from zero da0 may be beyond the largest float
    terms = np.array([s * m.ds, by_start, -(2 - 2 / depth) * t * m.dt])
    scale = max(np.abs(terms).max(), m.a, TINY)
    assert abs(terms.sum() - m.a) <= 1e-12 * scale


@given(t=times, s=st.floats(1e-3, 1e3), a0=st.floats(1e-12, 1e3), depth=depths)
def test_semigroup(t, s, a0, depth):
    """Going on from a(t/2) for another t/2 arrives at a(t)."""
    whole = mode_strength_derivatives(t, s, a0, depth=depth)
    middle = mode_strength(t / 2, s, a0, depth=depth)
    condition = max(1.0, abs(t * whole.dt / whole.a))
    assert mode_strength(t / 2, s, middle, depth=depth) == pytest.approx(
        whole.a, rel=1e-12 * condition
    )


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_extreme_arguments_stay_finite(depth):
    t, s, a0 = np.meshgrid(
        [0.0, 1e-300, 1.0, 1e6, 1e300], [0.0, 1e-300, 1e-3, 1.0, 1e6], [1e-300, 1e-5, 1.0, 1e6]
    )
    m = mode_strength_derivatives(t, s, a0, depth=depth)
    for name, values in m._asdict().items():
        assert np.all(np.isfinite(values)), name
    assert np.all(m.a >= np.minimum(s, a0) * (1 - 1e-12))
    assert np.all(m.a <= np.maximum(s, a0) * (1 + 1e-12))


def test_unlearned_and_learned_limits():
    m = mode_strength_derivatives([0.5, 400.0], 1.0, 0.0)
    np.testing.assert_array_equal(m.a, 0.0)
    np.testing.assert_array_equal(m.gap, 1.0)
    np.testing.assert_allclose(m.da0, [np.e, np.inf])
    assert mode_strength_derivatives(1.0, 1.0, 0.0, depth=3).da0 == 1.0
    np.testing.assert_array_equal(mode_strength_derivatives(3.0, 2.0, 2.0, depth=4).a, 2.0)
    assert mode_strength(0.0, 1.0, 0.3) == 0.3


@given(s=st.floats(1e-3, 1e3), fraction=st.floats(-8, -0.31), depth=depths)
def test_half_time(s, fraction, depth):
    a0 = s * 10**fraction
    t = half_time(s, a0, depth=depth)
    m = mode_strength_derivatives(t, s, a0, depth=depth)
    assert m.a == pytest.approx(s / 2, rel=1e-12 * max(1.0, t * m.dt / m.a))


def test_half_time_outside_its_range():
    np.testing.assert_array_equal(
        half_time([1.0, 1.0, 1.0, 0.0], [0.5, 0.8, 0.0, 0.0]), [0.0, 0.0, np.inf, 0.0]
    )
    np.testing.assert_array_equal(
        half_time([1.0, 1.0, 0.0], [0.8, 0.0, 0.0], depth=3), [0.0, np.inf, 0.0]
    )


def test_broadcasts_over_every_argument():
    t = np.linspace(0, 3, 4)[:, None, None, None]
    s = np.array([1.0, 2.0])[:, None, None]
    tau = np.array([1.0, 3.0])[:, None]
    depth = np.array([2, 3, 5])
    a = mode_strength(t, s, 0.01, tau, depth)
    assert a.shape == (4, 2, 2, 3)
    assert a[2, 1, 1, 2] == mode_strength(2.0, 2.0, 0.01, 3.0, 5)
    assert mode_strength(np.zeros((0, 3)), 1.0, 0.1).shape == (0, 3)
    assert np.isscalar(mode_strength(1.0, 1.0, 0.1))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("t", dict(t=-1.0, s=1.0, a0=0.1)),
        ("s", dict(t=1.0, s=[1.0, -2.0], a0=0.1)),
        ("a0", dict(t=1.0, s=1.0, a0=float("nan"))),
        ("tau", dict(t=1.0, s=1.0, a0=0.1, tau=0.0)),
        ("depth", dict(t=1.0, s=1.0, a0=0.1, depth=1)),
        ("depth", dict(t=1.0, s=1.0, a0=0.1, depth=2.5)),
        ("t", dict(t="soon", s=1.0, a0=0.1)),
    ],
)
def test_bad_arguments_are_named(name, arguments):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        mode_strength(**arguments)
