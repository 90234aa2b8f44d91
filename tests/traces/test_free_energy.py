"""Free energies against a Gaussian, whose free energy is exact, and against bad input."""

import numpy as np
import pytest

from dlnflow.traces.free_energy import free_energy, jackknife

N = np.geomspace(0.1, 50, 12)
"""Strengths c of the rungs of one item."""
P = 6


def gaussian(seed, ladders=8, draws=200):
    """Draws of l = |theta|^2 / 2 under exp(-c l) and a standard normal prior, (K, C, draws, 1)."""
    rng = np.random.default_rng(seed)
    chi = rng.chisquare(P, (len(N), ladders, draws, 1))
    return chi / (2 * (1 + N)[:, None, None, None])


def exact(c):
    """F(c) - F(c_0), F = (P / 2) log(1 + c)."""
    return P / 2 * (np.log1p(c) - np.log1p(c[0]))


def test_a_gaussian_has_its_free_energy_within_its_errors():
    z = []
    for seed in range(30):
        found = free_energy(gaussian(seed), N[:, None])
        z.append((found.free_energy.values - exact(N))[1:] / found.standard_error.values[1:])
    z = np.array(z)
    assert abs(z.mean(0)).max() < 4.5 / 30**0.5 and 0.8 < np.sqrt((z**2).mean()) < 1.5
    assert found.free_energy[0] == found.standard_error[0] == 0 and found.dof == 7


def test_small_steps_are_the_integral_of_the_mean_loss():
    fine = np.linspace(1, 1.2, 3)
    rng = np.random.default_rng(0)
    losses = rng.chisquare(P, (3, 4, 400, 1)) / (2 * (1 + fine)[:, None, None, None])
    found = free_energy(losses, fine[:, None])
    integral = np.trapezoid(losses.mean((1, 2, 3)), fine)
    assert found.free_energy[-1] == pytest.approx(integral, rel=2e-3)
    assert found.overlap.values == pytest.approx([0.5, 0.5], abs=0.05)


def test_the_error_of_any_combination_follows_from_the_left_out_ladders():
    found = free_energy(gaussian(1), N[:, None])
    assert jackknife(found.left_out) == pytest.approx(found.standard_error.values)
    step = found.left_out[:, 5] - found.left_out[:, 4]
    assert jackknife(step) < found.standard_error[5]
    parts = np.random.default_rng(2).standard_normal((9, 1))
    means = np.array([np.delete(parts, k).mean() for k in range(9)])
    assert jackknife(means) == pytest.approx(parts.std(ddof=1) / 3)


def test_rungs_that_do_not_overlap_are_named():
    losses = gaussian(0)
    losses[:2] += 1e3
    with pytest.warns(UserWarning, match=r"do not overlap: between 1 and 2 \(`overlap`"):
        free_energy(losses, N[:, None])


def test_bad_input_is_refused():
    losses = gaussian(0)
    with pytest.raises(ValueError, match="`losses` must have the shape"):
        free_energy(losses[:, :1], N[:, None])
    with pytest.raises(ValueError, match="and a draw, got"):
        free_energy(losses[:, :, :0], N[:, None])
    for few in (3.0, [], [1.0]):
        with pytest.raises(ValueError, match="`left_out` must hold two"):
            jackknife(few)
    with pytest.raises(ValueError, match="`pressure` must have one row per rung"):
        free_energy(losses, N[:3, None])
    losses[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="`losses` must be finite"):
        free_energy(losses, N[:, None])


def test_products_that_overflow_are_refused():
    losses, pressure = np.full((2, 2, 3, 4), 1e300), np.outer([1, 2], np.full(4, 1e300))
    with pytest.raises(ValueError, match="`losses` times steps of `pressure` overflow"):
        free_energy(losses, pressure)
