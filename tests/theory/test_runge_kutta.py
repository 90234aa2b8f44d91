"""The in-place Runge-Kutta rule against scipy's and against exact solutions."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from dlnflow.theory.runge_kutta import Solver


def _solver(start, rate, rtol=1e-11):
    def velocity(z, out):
        np.multiply(z, rate - z, out=out)

    return Solver("growth", velocity, start, rtol=rtol, atol=1e-14)


def test_logistic_growth_at_any_times():
    start = np.array([[1e-3, 0.2], [0.5, 2.0]])
    times = np.array([0.0, 1e-6, 0.3, 0.31, 2.0, 7.0, 25.0])
    got = np.array(_solver(start, 1.5).run(times, lambda z: z.copy()))
    growth = np.exp(1.5 * times)[:, None, None]
    wanted = 1.5 * start * growth / (1.5 - start + start * growth)
    np.testing.assert_allclose(got, wanted, rtol=2e-10)


def test_the_rule_is_that_of_scipy():
    times, start = np.linspace(0, 6, 40), np.array([0.01, 0.3, 1.0])
    got = np.array(_solver(start[None], 2.0, 1e-8).run(times, lambda z: z[0].copy()))
    wanted = solve_ivp(
        lambda _, z: z * (2 - z), (0, 6), start, "DOP853", t_eval=times, rtol=1e-8, atol=1e-14
    ).y.T
    np.testing.assert_allclose(got, wanted, rtol=3e-7)


def test_a_pole_is_told():
    solver = Solver("growth", lambda z, out: np.square(z, out=out), np.ones((1, 1)),
                    rtol=1e-9, atol=1e-12)  # fmt: skip
    with pytest.raises(FloatingPointError, match="growth could not be integrated"):
        solver.run(np.array([2.0]), np.copy)
