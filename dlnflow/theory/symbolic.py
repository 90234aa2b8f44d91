"""Derivations with sympy of the closed forms that the numeric modules evaluate.

Each function starts from an equation of motion, lets sympy solve it and returns the result with
`residuals`: the equations with the result inserted, which simplify to zero. Symbols are module
constants (`t, s, a0, tau`; `s_j, s_k, f_j, f_k`; `a_j, a_k, g_j, g_k`), so that results can be
substituted into and lambdified. Needs sympy; no other module imports this one.

Contents: `mode_strength`, `mode_time` (mode dynamics), `pair_response` (perturbed singular
vectors), `coupled_response` (the exact response of a pair of modes).
"""

from typing import NamedTuple

import sympy as sp

t, s, a0, tau = sp.symbols("t s a_0 tau", positive=True)
s_j, s_k = sp.symbols("s_j s_k", positive=True)
f_j, f_k, E_jk, E_kj = sp.symbols("f_j f_k E_jk E_kj", real=True)
a_j, a_k, g_j, g_k = sp.symbols("a_j a_k g_j g_k", positive=True)
B_s, B_w = sp.symbols("B_s B_w", real=True)


class ModeSolution(NamedTuple):
    """Strength a(t; s, a0, tau) of one mode and its derivatives.

    Attributes
    ----------
    a, ds, da0, dt : sympy expressions
        a and its derivatives with respect to s, a0 and t.
    residuals : tuple of sympy expressions
        Equation of motion, initial condition; zero.
    """

    a: sp.Expr
    ds: sp.Expr
    da0: sp.Expr
    dt: sp.Expr
    residuals: tuple[sp.Expr, ...]


class PairResponse(NamedTuple):
    """First-order response of two singular modes j != k to M -> M + eps U E V^T.

    Attributes
    ----------
    rotation_u, rotation_v : sympy expressions
        (U^T dU)_jk and (V^T dV)_jk.
    symmetric, antisymmetric : sympy expressions
        Gamma and Delta in (U^T dW V)_jk = Gamma (E_jk + E_kj)/2 + Delta (E_jk - E_kj)/2 for
        W = U f(S) V^T: the divided differences (f_j - f_k)/(s_j - s_k), (f_j + f_k)/(s_j + s_k).
    residuals : tuple of sympy expressions
        Both off-diagonal entries of U^T dM V = E, and of dW; zero.
    """

    rotation_u: sp.Expr
    rotation_v: sp.Expr
    symmetric: sp.Expr
    antisymmetric: sp.Expr
    residuals: tuple[sp.Expr, ...]

    def in_block(self, f: sp.Function) -> tuple[sp.Expr, sp.Expr]:
        """Limits (f'(s), f(s)/s) of Gamma and Delta as s_k -> s_j = s, for W = U f(S) V^T.

        Parameters
        ----------
        f : sympy Function
            A function class, e.g. ``sympy.Function("f")`` or ``sympy.sin``, or a Lambda.

        Returns
        -------
        tuple of two sympy expressions
        """
        h = sp.Symbol("h", positive=True)
        nearby = f(s) + h * sp.diff(f(s), s)  # f(s + h) up to O(h^2), which the limit ignores
        at = {s_j: s, s_k: s + h, f_j: f(s), f_k: nearby}
        gamma, delta = (sp.limit(x.subs(at), h, 0) for x in (self.symmetric, self.antisymmetric))
        return gamma, delta


class CoupledResponse(NamedTuple):
    """Response sigma, omega (symmetric, antisymmetric part) of a pair of modes to a reweighting.

    ``tau sigma' = (a_j + a_k) B_s + rate_symmetric sigma``, and the same for omega with B_w. With
    an integrating factor, ``tau Phi' = rate Phi``, the solution from rest is ``sigma(t) =
    Phi(t)/tau int_0^t (a_j + a_k) B_s / Phi dt'``.

    Attributes
    ----------
    source : sympy expression
        Factor a_j + a_k of the forcing.
    rate_symmetric, rate_antisymmetric : sympy expressions
        Growth rates of sigma and omega.
    factor_symmetric, factor_antisymmetric : sympy expressions
        Integrating factors Phi.
    residuals : tuple of sympy expressions
        That sigma and omega decouple, and that both solutions obey their equation; zero.
    """

    source: sp.Expr
    rate_symmetric: sp.Expr
    rate_antisymmetric: sp.Expr
    factor_symmetric: sp.Expr
    factor_antisymmetric: sp.Expr
    residuals: tuple[sp.Expr, ...]


def mode_strength() -> ModeSolution:
    """Solve tau a' = 2 a (s - a), a(0) = a0: 1/a obeys a linear equation.

    Returns
    -------
    ModeSolution

    Examples
    --------
    >>> mode_strength().a.equals(s / (1 + (s / a0 - 1) * sp.exp(-2 * s * t / tau)))
    True
    """
    b = sp.Function("b")
    inverse = sp.dsolve(  # b = 1/a: tau b' = -tau a' / a^2 = 2 - 2 s b
        sp.Eq(tau * b(t).diff(t), 2 - 2 * s * b(t)), b(t), ics={b(0): 1 / a0}
    )
    a = sp.simplify(1 / inverse.rhs)
    residuals = (tau * a.diff(t) - 2 * a * (s - a), a.subs(t, 0) - a0)
    return ModeSolution(a, a.diff(s), a.diff(a0), a.diff(t), residuals)


def mode_time(depth: int) -> tuple[sp.Symbol, sp.Expr]:
    """Integrate the time that a mode of a network of any depth takes.

    With a = s v^L, ``tau a' = L a^(2 - 2/L) (s - a)`` becomes ``dt = tau s^(2/L - 2) v^(1 - L) /
    (1 - v^L) dv``: time from v0 to v is ``tau s^(2/L - 2) [G(v) - G(v0)]``.

    Parameters
    ----------
    depth : int
        Number of weight matrices L >= 2; elementary for 2, 3, 4 and 6.

    Returns
    -------
    tuple of a sympy Symbol and a sympy expression
        v and G(v), real for 0 < v < 1.

    Raises
    ------
    ValueError
        If the depth is not one of these.
    """
    if depth not in (2, 3, 4, 6):
        raise ValueError(f"`depth` must be 2, 3, 4 or 6, where G is elementary; got {depth!r}.")
    v = sp.Symbol("v", positive=True)
    integral = sp.integrate(sp.apart(v ** (1 - depth) / (1 - v**depth)), v)
    # sympy writes log(v - 1); log(1 - v) differs by a constant and is real below 1
    return v, integral.replace(
        sp.log, lambda x: sp.log(-x) if x.subs(v, sp.Rational(1, 2)) < 0 else sp.log(x)
    )


def pair_response() -> PairResponse:
    """Solve U^T dM V = A S + dS - S B for the rotations A = U^T dU, B = V^T dV of two modes.

    A and B are antisymmetric because U and V stay orthonormal. W = U f(S) V^T then changes by
    ``U (A f(S) + d f(S) - f(S) B) V^T``. Off-diagonal entries only: the diagonal gives ds_j = E_jj.

    Returns
    -------
    PairResponse

    Examples
    --------
    >>> pair_response().in_block(sp.Function("f"))
    (Derivative(f(s), s), f(s)/s)
    """
    a, b = sp.symbols("A B")
    equations = _off_diagonal(a, b, s_j, s_k)
    solution = sp.solve([equations[0] - E_jk, equations[1] - E_kj], [a, b], dict=True)[0]
    dw = [x.subs(solution) for x in _off_diagonal(a, b, f_j, f_k)]
    symmetric = sp.factor(dw[0].subs({E_jk: 1, E_kj: 1}))
    antisymmetric = sp.factor(dw[0].subs({E_jk: 1, E_kj: -1}))
    even, odd = symmetric * (E_jk + E_kj) / 2, antisymmetric * (E_jk - E_kj) / 2
    residuals = (
        equations[0].subs(solution) - E_jk,
        equations[1].subs(solution) - E_kj,
        dw[0] - (even + odd),
        dw[1] - (even - odd),
    )
    rotations = (sp.factor(solution[x]) for x in (a, b))
    return PairResponse(*rotations, symmetric, antisymmetric, residuals)


def _off_diagonal(a: sp.Expr, b: sp.Expr, d_j: sp.Expr, d_k: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    # Entries jk and kj of A D - D B for antisymmetric A, B and diagonal D.
    skew = sp.Matrix([[0, 1], [-1, 0]])
    diagonal = sp.diag(d_j, d_k)
    product = a * skew * diagonal - b * diagonal * skew
    return product[0, 1], product[1, 0]


def coupled_response() -> CoupledResponse:
    """Linearise tau W' = (W W^T)^(1/2) G + G (W^T W)^(1/2) about aligned modes, and integrate.

    G = Y - W for whitened inputs; reweighting one item changes it by B - dW, B the forcing. In the
    modes' bases W = diag(a), G = diag(g), g = s - a, and a pair of modes is a 2 x 2 problem.

    Returns
    -------
    CoupledResponse

    Examples
    --------
    >>> coupled_response().factor_symmetric
    sqrt(a_j)*sqrt(a_k)*sqrt(g_j)*sqrt(g_k)
    """
    sigma, omega = sp.symbols("sigma omega", real=True)
    m = sp.Matrix([[0, sigma + omega], [sigma - omega, 0]])
    forcing = sp.Matrix([[0, B_s + B_w], [B_s - B_w, 0]])
    a, g = sp.diag(a_j, a_k), sp.diag(g_j, g_k)
    d_left = _root_change(m * a + a * m.T)  # of (W W^T)^(1/2)
    d_right = _root_change(m.T * a + a * m)  # of (W^T W)^(1/2)
    motion = d_left * g + a * (forcing - m) + (forcing - m) * a + g * d_right
    even, odd = (motion[0, 1] + motion[1, 0]) / 2, (motion[0, 1] - motion[1, 0]) / 2
    rates = [sp.factor(sp.simplify(x.diff(y))) for x, y in ((even, sigma), (odd, omega))]
    source = sp.simplify(even.diff(B_s))
    factors = [_integrating_factor(rate) for rate in rates]
    residuals = (
        even - (source * B_s + rates[0] * sigma),
        odd - (source * B_w + rates[1] * omega),
        *(_solution_residual(*pair, source) for pair in zip(rates, factors, strict=True)),
    )
    return CoupledResponse(source, *rates, *factors, residuals)


def _root_change(change: sp.Matrix) -> sp.Matrix:
    # First-order change of a root X = diag(a) when X^2 changes: a dX + dX a = d(X^2).
    upper = [change[0, 0] / (2 * a_j), change[0, 1] / (a_j + a_k)]
    lower = [change[1, 0] / (a_j + a_k), change[1, 1] / (2 * a_k)]
    return sp.Matrix([upper, lower])


def _integrating_factor(rate: sp.Expr) -> sp.Expr:
    # Phi with tau (log Phi)' = rate, sought as (a_j a_k)^x (g_j g_k)^y (a_j + a_k)^z.
    x, y, z = sp.symbols("x y z")
    log_factor = x * sp.log(a_j * a_k) + y * sp.log(g_j * g_k) + z * sp.log(a_j + a_k)
    difference = sp.numer(sp.together(_tau_derivative(log_factor) - rate))
    powers = sp.solve(sp.Poly(difference, a_j, a_k, g_j, g_k).coeffs(), [x, y, z], dict=True)[0]
    return sp.simplify(sp.exp(sp.expand_log(log_factor.subs(powers))))


def _tau_derivative(expression: sp.Expr) -> sp.Expr:
    # tau d/dt along the motion of both modes: tau a' = 2 a g, tau g' = -2 a g.
    return sum(
        2 * a * g * (expression.diff(a) - expression.diff(g)) for a, g in ((a_j, g_j), (a_k, g_k))
    )


def _solution_residual(rate: sp.Expr, factor: sp.Expr, source: sp.Expr) -> sp.Expr:
    # tau y' - source b - rate y for y = Phi I, I = int source b / (tau Phi), any forcing b.
    integral, b = sp.symbols("I b")
    motion = _tau_derivative(factor) * integral + factor * (source * b / factor)
    return motion - source * b - rate * factor * integral
