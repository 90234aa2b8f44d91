"""Derived expressions solve their equations, and agree with the numeric code."""

import mpmath
import numpy as np
import pytest
import sympy as sp
from scipy import integrate, linalg

from dlnflow import flow
from dlnflow.theory import saxe, symbolic
from dlnflow.theory.perturbation import divided_differences
from dlnflow.theory.symbolic import a_j, a_k, g_j, g_k, s_j, s_k
from tests import tolerances

S, T = np.array([3.0, 3.0, 1.2, 0.4]), np.array([0.0, 0.3, 0.9, 1.7, 4.0])
"""Singular values with a degenerate block, and times over the whole of training."""


def zero(expression):
    return sp.simplify(expression) == 0


# ---------------------------------------------------------------- mode strength


@pytest.fixture(scope="module")
def mode():
    return symbolic.mode_strength()


def test_mode_solves_its_equation(mode):
    assert all(zero(residual) for residual in mode.residuals)


def test_mode_is_homogeneous(mode):
    """Scaling s, a0 and 1/t together scales a: s a_s + a0 a_a0 - t a_t = a."""
    scaled = symbolic.s * mode.ds + symbolic.a0 * mode.da0 - symbolic.t * mode.dt
    assert zero(scaled - mode.a)


@pytest.mark.parametrize("a0", [1e-6, 0.3, 5.0])
@pytest.mark.parametrize("tau", [1.0, 8.0])
def test_numeric_mode_strength_and_derivatives(mode, a0, tau):
    arguments = (symbolic.t, symbolic.s, symbolic.a0, symbolic.tau)
    exact = sp.lambdify(arguments, [mode.a, mode.ds, mode.da0, mode.dt], "mpmath")
    for t in T:
        for s in np.unique(S):
            numeric = saxe.mode_strength_derivatives(t, s, a0, tau)
            with mpmath.workdps(40):
                expected = [float(x) for x in exact(*map(mpmath.mpf, (t, s, a0, tau)))]
            got = [numeric.a, numeric.ds, numeric.da0, numeric.dt]
            np.testing.assert_allclose(got, expected, rtol=tolerances.ALGEBRA)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
def test_time_integral_of_deeper_networks(depth):
    v, integral = symbolic.mode_time(depth)
    assert zero(integral.diff(v) - v ** (1 - depth) / (1 - v**depth))
    g = sp.lambdify(v, integral)
    s, a0, tau = 1.7, 1e-3, 2.0
    t = np.array([0.05, 0.5, 1.0, 1.02]) * saxe.half_time(s, a0, tau, depth)
    a = saxe.mode_strength(t, s, a0, tau, depth)
    elapsed = tau * s ** (2 / depth - 2) * (g((a / s) ** (1 / depth)) - g((a0 / s) ** (1 / depth)))
    np.testing.assert_allclose(elapsed, t, rtol=1e-9)


@pytest.mark.parametrize("depth", [1, 5, 2.5, "3"])
def test_depths_without_an_elementary_integral_are_refused(depth):
    with pytest.raises(ValueError, match="`depth` must be 2, 3, 4 or 6"):
        symbolic.mode_time(depth)


# ---------------------------------------------------------------- perturbed singular vectors


@pytest.fixture(scope="module")
def pair():
    return symbolic.pair_response()


def test_pair_response_solves_its_equations(pair):
    assert all(zero(residual) for residual in pair.residuals)
    assert zero(pair.symmetric - (symbolic.f_j - symbolic.f_k) / (s_j - s_k))
    assert zero(pair.antisymmetric - (symbolic.f_j + symbolic.f_k) / (s_j + s_k))


def generalised_power(m, power):
    """U S^(2 power + 1) V^T, with no singular vectors: M (M^T M)^power."""
    return m * (m.T * m) ** power


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("degenerate", [False, True])
def test_pair_and_block_response_of_odd_powers(pair, power, degenerate):
    """Differentiating M (M^T M)^n needs no basis, so it judges both branches independently."""
    eps = sp.Symbol("eps")
    e = sp.Matrix(2, 2, sp.symbols("E_jj E_jk E_kj E_kk"))
    upper = s_j if degenerate else s_k
    m = sp.diag(s_j, upper) + eps * e
    exact = generalised_power(m, power).diff(eps).subs(eps, 0)

    def f(x):
        return x ** (2 * power + 1)

    if degenerate:
        gamma, delta = (x.subs(symbolic.s, s_j) for x in pair.in_block(f))
    else:
        at = {symbolic.f_j: f(s_j), symbolic.f_k: f(s_k)}
        gamma, delta = pair.symmetric.subs(at), pair.antisymmetric.subs(at)
    even, odd = (e + e.T) / 2, (e - e.T) / 2
    assert zero(exact[0, 1] - gamma * even[0, 1] - delta * odd[0, 1])
    assert zero(exact[1, 0] - gamma * even[1, 0] - delta * odd[1, 0])
    assert zero(exact[0, 0] - sp.diff(f(s_j), s_j) * e[0, 0])


def test_direction_outside_the_range_responds_like_a_mode_of_strength_zero():
    """Rows outside the range of U pick up f(s)/s: Delta, and Gamma, with s_k = f_k = 0."""
    eps, e = sp.symbols("eps e")
    m = sp.Matrix([[s_j], [eps * e]])
    assert zero(generalised_power(m, 2).diff(eps).subs(eps, 0)[1] - e * s_j**5 / s_j)


def test_block_limits_for_any_function(pair):
    f = sp.Function("f")
    s = symbolic.s
    assert pair.in_block(f) == (f(s).diff(s), f(s) / s)
    assert pair.in_block(sp.sin) == (sp.cos(s), sp.sin(s) / s)


def test_pair_response_of_mode_strengths_against_finite_differences(pair, mode):
    """f = a(t; s) on a random frame with a degenerate block; the direction is generic."""
    rng = np.random.default_rng(1)
    u, v = linalg.qr(rng.normal(size=(4, 4)))[0], linalg.qr(rng.normal(size=(4, 4)))[0]
    e = rng.normal(size=(4, 4))
    a0, t = 1e-2, 0.9

    def learned(eps):
        left, s, right = linalg.svd(u @ (np.diag(S) + eps * e) @ v.T)
        return left @ np.diag(saxe.mode_strength(t, s, a0)) @ right

    f = saxe.mode_strength(t, S, a0)
    derivative = sp.lambdify((symbolic.t, symbolic.s, symbolic.a0, symbolic.tau), mode.ds)
    arguments = (s_j, s_k, symbolic.f_j, symbolic.f_k)
    gamma_of, delta_of = (sp.lambdify(arguments, x) for x in (pair.symmetric, pair.antisymmetric))
    gamma, delta = np.empty((4, 4)), np.empty((4, 4))
    for j in range(4):
        for k in range(4):
            equal = S[j] == S[k]
            gamma[j, k] = (
                derivative(t, S[j], a0, 1.0) if equal else gamma_of(S[j], S[k], f[j], f[k])
            )
            delta[j, k] = delta_of(S[j], S[k], f[j], f[k])
    response = u @ (gamma * (e + e.T) / 2 + delta * (e - e.T) / 2) @ v.T
    h = 1e-5
    difference = (learned(h) - learned(-h)) / (2 * h)
    np.testing.assert_allclose(
        response, difference, atol=tolerances.TANGENT_VS_DIFFERENCE * abs(response).max()
    )


@pytest.mark.parametrize("t", T[1:])
def test_numeric_divided_differences_of_pairs_and_blocks(pair, mode, t):
    """The code of `perturbation` entry by entry, in 40 digits, degenerate block included."""
    a0, f = sp.Rational(1, 100), sp.Lambda(symbolic.s, mode.a)
    at = {symbolic.t: sp.Float(t, 40), symbolic.a0: a0, symbolic.tau: 1}
    gamma, delta = divided_differences(S, t, float(a0))
    exact = np.empty((2, len(S), len(S)))
    for j, k in np.ndindex(len(S), len(S)):
        upper, lower = sp.Float(S[j], 40), sp.Float(S[k], 40)
        if S[j] == S[k]:
            limits = (mode.ds, mode.a / symbolic.s)  # what `in_block` gives for any function
            exact[:, j, k] = [x.subs(symbolic.s, upper).subs(at).evalf(40) for x in limits]
            continue
        values = {s_j: upper, s_k: lower, symbolic.f_j: f(upper), symbolic.f_k: f(lower)}
        parts = (pair.symmetric, pair.antisymmetric)
        exact[:, j, k] = [x.subs(values).subs(at).evalf(40) for x in parts]
    np.testing.assert_allclose([gamma, delta], exact, rtol=tolerances.ALGEBRA)


# ---------------------------------------------------------------- coupled response


@pytest.fixture(scope="module")
def coupled():
    return symbolic.coupled_response()


def test_coupled_response_solves_its_equations(coupled):
    assert all(zero(residual) for residual in coupled.residuals)


def test_coupled_rates_and_factors(coupled):
    assert zero(coupled.rate_symmetric - (g_j + g_k - a_j - a_k))
    expected = (g_j - g_k) * (a_j - a_k) / (a_j + a_k) - (a_j + a_k)
    assert zero(coupled.rate_antisymmetric - expected)
    assert zero(coupled.factor_symmetric - sp.sqrt(a_j * g_j * a_k * g_k))
    ratio = (a_j + a_k) * sp.sqrt(g_j * g_k / (a_j * a_k))
    assert zero(coupled.factor_antisymmetric - ratio)


def test_response_of_equal_modes_is_a_rescaling_of_time(coupled, mode):
    """One-hot item, j = k: B_s = g gives sigma = t da/dt, and B_w = 0 gives omega = 0."""
    t, tau = symbolic.t, symbolic.tau
    both = {a_k: a_j, g_k: g_j}
    ratio = sp.simplify((coupled.source * g_j / coupled.factor_symmetric).subs(both))
    sigma = coupled.factor_symmetric.subs(both) / tau * sp.integrate(ratio, (t, 0, t))
    at = {a_j: mode.a, g_j: symbolic.s - mode.a}
    assert zero(sp.simplify(sigma).subs(at) - t * mode.dt)


def test_coupled_response_against_the_exact_tangent(coupled):
    """Reweighting one item of an aligned two-layer network: closed form against the Gram flow."""
    rng = np.random.default_rng(2)
    u, v = (
        linalg.qr(rng.normal(size=(5, 4)), mode="economic")[0],
        linalg.qr(rng.normal(size=(4, 4)))[0],
    )
    frame = linalg.qr(rng.normal(size=(6, 4)), mode="economic")[0]
    y, start, item = u @ np.diag(S) @ v.T, 1e-2, 1
    w1, w2 = np.sqrt(start) * frame @ v.T, np.sqrt(start) * u @ frame.T
    change = np.zeros((4, 4))
    change[item, item] = 1.0
    _, tangent = flow.gram_tangent(w1, w2, (y, np.eye(4)), (y @ change, change), T)

    symmetric, antisymmetric = responses(coupled, start)
    weight = np.outer(v[item], v[item])  # B_jk = g_j v_j v_k
    expected = u @ (weight * (symmetric + antisymmetric)) @ v.T
    np.testing.assert_allclose(
        tangent.map, expected, atol=tolerances.CLOSED_FORM_VS_ODE * abs(expected).max()
    )


def responses(coupled, start):
    """sigma and omega for unit v_j v_k, shape (T, 4, 4), by quadrature of the closed form."""
    arguments = (a_j, a_k, g_j, g_k)
    source = sp.lambdify(arguments, coupled.source)
    parts = []
    for factor, sign in ((coupled.factor_symmetric, 1), (coupled.factor_antisymmetric, -1)):
        phi = sp.lambdify(arguments, factor)

        def strengths(t, j, k):
            modes = saxe.mode_strength_derivatives(t, S[[j, k]], start)
            return *modes.a, *modes.gap

        def forcing(t, j, k, phi=phi, sign=sign):
            x = strengths(t, j, k)
            return source(*x) * (x[2] + sign * x[3]) / 2 / phi(*x)

        values = np.zeros((len(T), 4, 4))
        for n, j, k in np.ndindex(values.shape):
            integral, _ = integrate.quad(forcing, 0, T[n], (j, k), epsrel=1e-12, epsabs=1e-13)
            values[n, j, k] = phi(*strengths(T[n], j, k)) * integral
        parts.append(values)
    return parts
