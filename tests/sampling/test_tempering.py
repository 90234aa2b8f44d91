"""Tempered ladders against quadrature: one hidden unit and two items leave a plane to integrate."""

from functools import cache

import numpy as np
import pytest

from dlnflow.sampling.tempering import Lengths, ladder
from dlnflow.traces import influence, summary

Y = np.array([[2.0, 1.0], [0.5, -1.0], [1.0, 0.0]])
"""Targets of two items, (d_out, N)."""
N_BETA = np.geomspace(0.05, 30, 9)
LENGTHS = Lengths(ladders=10, draws=300, burn_in=400, thin=8)
GRID = np.linspace(-8, 8, 321)


def free_energy_by_quadrature(pressure, y=Y, prior=1.0):
    """F up to a constant; the second layer is integrated by hand, the first (2,) on a grid.

    int exp(-sum_i c_i |y_i - w b_i|^2 / 2 - prior |w|^2 / 2) dw
        = (2 pi / a)^(d/2) exp(|v|^2 / 2a - sum_i c_i |y_i|^2 / 2),
    a = prior + sum_i c_i b_i^2,  v = sum_i c_i b_i y_i.
    """
    b = np.stack(np.meshgrid(GRID, GRID), -1) / np.sqrt(prior)  # (G, G, 2)
    a = prior + b**2 @ pressure
    v = (b * pressure) @ y.T
    log = 0.5 * ((v**2).sum(-1) / a - prior * (b**2).sum(-1) - len(y) * np.log(a))
    log -= 0.5 * pressure @ (y**2).sum(0)
    return -np.log(np.exp(log - log.max()).sum()) - log.max()


def derivatives(pressure, step=1e-3):
    """E[l] (2,) and Cov(l) (2, 2), from differences of the free energy."""
    unit = step * pressure.max() * np.eye(2)

    def f(change):
        return free_energy_by_quadrature(pressure + change)

    mean = np.array([f(u) - f(-u) for u in unit]) / (2 * unit[0, 0])
    corners = [[f(a + b) - f(a - b) - f(b - a) + f(-a - b) for b in unit] for a in unit]
    return mean, -np.array(corners) / (4 * unit[0, 0] ** 2)


@cache
def sampled():
    return ladder(Y, 1, N_BETA, lengths=LENGTHS)


def test_free_energies_are_those_of_quadrature():
    found = sampled().free_energy()
    exact = np.array([free_energy_by_quadrature(c) for c in sampled().pressure])
    z = (found.free_energy.values - exact + exact[0])[1:] / found.standard_error.values[1:]
    assert abs(z).max() < 4 and found.standard_error.max() < 0.1


@pytest.mark.parametrize("rung", [1, 4, 7])
def test_losses_and_influence_are_derivatives_of_the_free_energy(rung):
    """Identity (8): -(n/N) Cov is the second derivative in the item weights, times N/n."""
    traces = sampled().traces(rung, ["p", "q"])
    assert str(summary(traces).verdict.values[0]) == "mixed"
    mean, covariance = derivatives(sampled().pressure[rung])
    each = sampled().losses[rung].mean(1)  # (C, N)
    error = each.std(0, ddof=1) / np.sqrt(len(each))
    assert abs((each.mean(0) - mean) / error).max() < 4
    found = influence(traces)[0]
    exact = -N_BETA[rung] / 2 * covariance
    assert abs((found - exact) / found.standard_error).max() < 4


def test_weights_of_a_rung_are_those_of_its_posterior():
    weights = np.array([[1.0, 1.0], [0.5, 1.5], [0.0, 2.0]])
    tilted = ladder(Y, 1, np.full(3, 6.0), weights=weights, lengths=LENGTHS)
    found = tilted.free_energy()
    exact = np.array([free_energy_by_quadrature(c) for c in 3 * weights])
    z = (found.free_energy.values - exact + exact[0])[1:] / found.standard_error.values[1:]
    assert abs(z).max() < 4
    assert tilted.traces(1).weight.values.tolist() == [0.5, 1.5]
    assert "weight" not in tilted.traces(0).coords


def test_inputs_that_are_not_one_hot_are_taken():
    """An orthogonal change of inputs is one of the first layer, and leaves the prior alone."""
    x = np.array([[0.6, 0.8], [-0.8, 0.6]])
    few = Lengths(ladders=10, draws=150, burn_in=300, thin=8)
    turned = ladder(Y, 1, N_BETA[4:6], x=x, lengths=few)
    a, b = (each[0].mean(1) for each in (turned.losses, sampled().losses[4:5]))
    error = np.hypot(a.std(0), b.std(0)) / np.sqrt(len(a))
    assert abs((a.mean(0) - b.mean(0)) / error).max() < 4.5


@pytest.mark.parametrize("prior", [0.1, 1.0, 10.0])
def test_free_energies_of_stages_with_their_constants_never_cross(prior):
    """F(n; W_1) <= n (L_0 - L_1) + F(n; W_0) for every n and every prior (phases.md)."""
    u, s, vt = np.linalg.svd(Y, full_matrices=False)
    first = s[0] * np.outer(u[:, 0], vt[0])
    for n in (0.1, 1.0, 10.0, 100.0):
        c = np.full(2, n / 2)
        none, one, both = (free_energy_by_quadrature(c, y, prior) for y in (0 * Y, first, Y))
        assert both < one + n * s[1] ** 2 / 4 + 1e-9 < none + n * (s**2).sum() / 4 + 1e-9


def test_what_is_observed_belongs_to_the_draws():
    """The losses follow from the maps that are observed."""
    few = Lengths(ladders=2, draws=5, burn_in=20, thin=2)
    found = ladder(Y, 2, [0.5, 2.0], lengths=few, observe=lambda w: w.reshape(len(w), -1))
    maps = found.observed.reshape(2, 2, 5, 3, 2)
    np.testing.assert_allclose(0.5 * ((maps - Y) ** 2).sum(3), found.losses, rtol=1e-12)
    again = ladder(Y, 2, [0.5, 2.0], lengths=few)
    np.testing.assert_array_equal(again.losses, found.losses)
    assert again.observed is None and np.all((found.acceptance > 0) & (found.exchanged <= 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_beta": [1.0, 0.0]}, "`n_beta` must list numbers > 0"),
        ({"weights": np.ones(2)}, "`weights` must have shape"),
        ({"weights": -np.ones((2, 2))}, "`weights` must be >= 0"),
        ({"localization": 0}, "`localization` must be a finite number > 0"),
        ({"x": np.ones((2, 3))}, "`x` must have one column per item"),
        ({"hidden": 0}, "`hidden` must be"),
        ({"y": np.ones(3)}, "`y` must be a non-empty matrix"),
        ({"n_beta": []}, "`n_beta` must list numbers > 0"),
        ({"lengths": {"draws": 3}}, "`lengths` must be a Lengths"),
        ({"observe": 3}, "`observe` must be a function"),
        ({"observe": lambda maps: 1.0}, "`observe` must give one number.*got shape"),
        ({"observe": lambda maps: None}, "`observe` must give one number"),
        ({"observe": lambda maps: maps[:1]}, "`observe` must give one number"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"y": Y, "hidden": 1, "n_beta": [1.0, 2.0]} | change
    with pytest.raises(ValueError, match=message):
        ladder(given.pop("y"), given.pop("hidden"), given.pop("n_beta"), **given)


def test_one_number_may_be_observed_and_rungs_are_named():
    few = Lengths(ladders=2, draws=3, burn_in=4, thin=2)
    found = ladder(Y, 2, [0.5, 2.0], lengths=few, observe=lambda maps: maps[:, 0, 0])
    assert found.observed.shape == (2, 2, 3, 1)
    with pytest.raises(ValueError, match="`rung` must be at most 1"):
        found.traces(2)
    with pytest.raises(ValueError, match=r"`items` must name the last axis .* got 1 names"):
        found.traces(0, items=["a"])


def test_steps_before_draws_are_not_fewer_than_asked_for():
    """Of 9 steps before and exchanges after every 10, none were taken."""
    nine, ten = (Lengths(ladders=2, draws=2, burn_in=n, thin=10) for n in (9, 10))
    both = [ladder(Y, 1, [0.5, 2.0], lengths=lengths).losses for lengths in (nine, ten)]
    np.testing.assert_array_equal(*both)


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="`draws` must be"):
        Lengths(draws=0)
