"""Evidence of two-layer linear networks against quadrature, limits and the law of large n."""

import numpy as np
import pytest
from scipy import optimize, special

from dlnflow.theory import phases

PRIORS = [0.5, 2.0]
Z = 4.5
"""Standard errors allowed."""


def one_mode(s, hidden, large, tau, prior):
    """F and strength of one mode from the density of r = |a|^2, chi-squared under the prior."""
    log_r = np.linspace(-40, 8, 20_001)
    r = np.exp(log_r)
    left = prior / (prior + tau * r)
    log_weight = special.xlogy(hidden / 2, prior * r / 2) - prior * r / 2
    log_weight += large / 2 * np.log(left) - tau * s**2 / 2 * left - special.gammaln(hidden / 2)
    log_weight += np.log(log_r[1] - log_r[0])
    return -special.logsumexp(log_weight), special.softmax(log_weight) @ (1 - left)


def within(value, error, exact):
    assert np.all(np.abs(value - exact) < Z * error), (value, error, exact)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("hidden", "large"), [(1, 3), (4, 15)])
def test_one_mode_against_quadrature(prior, hidden, large):
    n = np.array([0.05, 1.0, 30.0])
    found = phases.evidence([2.5], [1, hidden, large], n, prior=prior, draws=20_000)
    energy, strength = np.array([one_mode(2.5, hidden, large, tau, prior) for tau in n]).T
    within(found.free_energy, found.free_energy_error, energy)
    within(found.strength[:, 0], found.strength_error[:, 0], strength)
    assert np.all(found.strength_error < 0.01)


def test_half_of_one_mode_against_quadrature():
    exact = optimize.brentq(lambda tau: one_mode(2.5, 3, 6, tau, 1.0)[1] - 0.5, 0.1, 30)
    found = [phases.half_learned([2.5], [1, 3, 6], draws=3000, seed=k) for k in range(8)]
    z = [(one.n - exact) / one.error for one in found]
    assert np.abs(z).max() < Z
    assert 0.4 < np.sqrt(np.mean(np.square(z))) < 1.7
    assert max(one.error for one in found) < 0.02 * exact


def test_it_does_not_matter_which_end_is_larger():
    """One output and three inputs: tau = n / 3 is what counts."""
    exact = np.array([one_mode(2.0, 2, 3, tau, 1.0) for tau in (0.5, 5.0)])
    found = phases.evidence([2.0], [3, 2, 1], [1.5, 15.0], draws=20_000)
    within(found.free_energy, found.free_energy_error, exact[:, 0])


@pytest.mark.parametrize("hidden", [1, 2])
def test_two_modes_against_a_grid(hidden):
    """A as it is, on a grid of all its entries, without the rotation that the estimator uses."""
    s, prior, tau, large = np.array([2.0, 1.2]), 1.0, 3.0, 3
    axis = np.linspace(-4.2, 4.2, 33 if hidden == 2 else 401)
    grid = np.stack(np.meshgrid(*[axis] * (2 * hidden), indexing="ij"), -1)
    a = grid.reshape(-1, hidden, 2)
    inner = prior * np.eye(hidden) + tau * a @ a.mT
    share = tau * np.einsum("bij,bij->bj", a, np.linalg.solve(inner, a))
    log_weight = -prior / 2 * (a**2).sum((1, 2)) - tau / 2 * (1 - share) @ s**2
    log_weight -= large / 2 * np.linalg.slogdet(inner / prior)[1]
    energy = -special.logsumexp(log_weight) - 2 * hidden * np.log(axis[1] - axis[0])
    energy -= hidden * np.log(prior / (2 * np.pi))
    found = phases.evidence(s, [2, hidden, large], 2 * tau, draws=60_000)
    within(found.free_energy, found.free_energy_error, energy)
    within(found.strength, found.strength_error, special.softmax(log_weight) @ share)


def test_without_data_nothing_is_learned_and_with_all_of_it_what_hidden_units_can():
    found = phases.evidence([3.0, 2.0, 1.0], [3, 2, 5], [1e-8, 5000.0], draws=20_000)
    within(found.free_energy[0], found.free_energy_error[0], 0)
    np.testing.assert_allclose(found.strength[0], 0, atol=1e-7)
    np.testing.assert_allclose(found.strength[1], [1, 1, 0], atol=0.02)


@pytest.mark.parametrize("prior", PRIORS)
def test_large_n_against_the_expansion(prior):
    """n s^2 (1 - strength) / N = m - 1 + kappa + sum_k s_k^2 / (s^2 - s_k^2) for one hidden unit.

    The density of rank-one maps is a Bessel function, so that kappa is exact.
    """
    s, unlearned, large, small, n = 2.0, np.array([1.0, 0.5]), 6, 3, 600.0
    order, argument = (large - small) / 2, prior * s
    slope = argument * special.kvp(order, argument) / special.kv(order, argument)
    kappa = (small + large - 2) / 2 - slope - (large - 1)
    exact = large - 1 + kappa + (unlearned**2 / (s**2 - unlearned**2)).sum()
    found = phases.evidence([s, *unlearned], [small, 1, large], n, prior=prior, draws=100_000)
    scale = n * s**2 / small
    # the next order is smaller by 1 / (n s^2 / N) = 1 / 800 times a number like the first
    within(scale * (1 - found.strength[0, 0]), scale * found.strength_error[0, 0] + 0.03, exact)
    assert 0 < kappa < prior * s
    assert scale * found.strength_error[0, 0] < 0.05 * exact


def test_strength_is_the_derivative_of_the_free_energy():
    """Identity (8): F(b) - F(a) = int (n / N) s (1 - strength) ds."""
    low, high, n = 1.0, 3.0, 6.0
    points, weights = np.polynomial.legendre.leggauss(4)
    points = (low + high) / 2 + (high - low) / 2 * points
    found = [phases.evidence([s, 1.0], [2, 2, 4], n, draws=10_000) for s in (low, high, *points)]
    slope = [n / 2 * s * (1 - one.strength[0, 0]) for s, one in zip(points, found[2:], strict=True)]
    fall = found[1].free_energy[0] - found[0].free_energy[0]
    assert fall > 1
    np.testing.assert_allclose((high - low) / 2 * weights @ slope, fall, atol=0.06)


def test_errors_are_those_of_many_seeds():
    exact = one_mode(2.5, 3, 6, 4.0, 1.0)
    found = [phases.evidence([2.5], [1, 3, 6], 4.0, draws=500, seed=k) for k in range(40)]
    for name, truth in zip(("free_energy", "strength"), exact, strict=True):
        value = np.ravel([getattr(one, name) for one in found])
        error = np.ravel([getattr(one, f"{name}_error") for one in found])
        assert 0.7 < np.sqrt((((value - truth) / error) ** 2).mean()) < 1.4


def test_same_seed_same_numbers():
    one, two = (phases.half_learned([2.0], [1, 2, 3], draws=1000, seed=3) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: phases.evidence([1.0], [2, 3], 1.0), "`widths` must be"),
        (lambda: phases.evidence([1.0, 1.0], [1, 2, 3], 1.0), "at most 1 singular"),
        (lambda: phases.evidence([-1.0], [1, 2, 3], 1.0), "`strengths`"),
        (lambda: phases.evidence([1.0], [1, 2, 3], [[1.0]]), "shape \\(1, 1\\)"),
        (lambda: phases.evidence([1.0], [1, 2, 3], 0.0), "`n`"),
        (lambda: phases.evidence([1.0], [1, 2, 3], 1.0, prior=0), "`prior`"),
        (lambda: phases.evidence([1.0], [1, 2, 3], 1.0, draws=0), "`draws`"),
        (lambda: phases.half_learned([2.0, 1.0], [2, 1, 3], 1), "1 hidden units learn"),
        (lambda: phases.half_learned([1.0, 1.0], [2, 1, 3]), "1 hidden units learn"),
        (lambda: phases.half_learned([1.0], [2, 1, 3], 1), "strength is above 0"),
        (lambda: phases.half_learned([1.0], [2, 1, 3], 2), "from 0 to 1"),
        *(
            (lambda m=m: phases.half_learned([2.0, 1.0], [2, 2, 3], m), "`modes` must")
            for m in (True, "0", None, [], [0, 0], [[0]], 1.5, -1)
        ),
        *(
            (lambda f=f, m=m, p=p: f([2.0], [1, 2, 3], *m, prior=p), "`prior` must be a precision")
            for f, m in ((phases.evidence, [1.0]), (phases.half_learned, []))
            for p in (1e-300, 1e300)
        ),
        (lambda: phases.half_learned([0.1], [1, 1, 3], prior=1e5), "holds them back"),
        (lambda: phases.half_learned([1e6], [1, 1, 1]), "n = 1.*e-08, where n s.2 / N is 10000"),
        (lambda: phases.evidence([1e200], [1, 1, 1], 1.0), "finite squares"),
        (lambda: phases.evidence([1e8], [1, 1, 1], 1.0), "take smaller `n` or `strengths`"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_strong_modes_are_half_learned_where_their_loss_outweighs_their_prior():
    """With s large, n s^2 / (2 N) = prior s, the least of prior (a^2 + b^2) / 2 with a b = s."""
    found = phases.half_learned([100.0], [1, 1, 1], draws=5000)
    assert found.n == pytest.approx(2 / 100, rel=0.02)
    assert found.effective_draws > 1000
    assert type(found.n) is float


def test_few_effective_draws_are_said():
    with pytest.warns(RuntimeWarning, match="draws are effective"):
        phases.evidence([3.0, 2.0], [2, 2, 9], 50.0, draws=40)
