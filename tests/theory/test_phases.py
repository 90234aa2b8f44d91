"""Phase competition against solvable posteriors, 50-digit roots and brute-force mixtures."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special

from dlnflow.theory import phases
from dlnflow.theory.phases import Phase, Transition, transition
from tests import tolerances

FLAT, STEEP = 3, 1
"""Orders k of two phases with loss L_k + w^2k: the flat one is the simpler."""
HALF_MAXIMUM_D = 2 * np.arccosh(np.sqrt(2))


def power_phase(k, loss, prior=0.5):
    """Phase with loss L + w^2k on the whole line: Z = e^-nL Gamma(1/2k)/k n^(-1/2k), exactly."""
    return Phase(loss, 1 / (2 * k), 1, -np.log(prior * special.gamma(1 / (2 * k)) / k))


def power_evidence(k, loss, n, prior=0.5):
    """The same by the trapezoidal rule, which is exact to rounding for a decaying analytic peak."""
    w = np.linspace(-1, 1, 4001) * (40 / n) ** (1 / (2 * k))
    return prior * np.trapezoid(np.exp(-n * (loss + w ** (2 * k))), w)


# ---------------------------------------------------------------- free energies


@pytest.mark.parametrize("n", [1.0, 7.5, 200.0])
def test_free_energy_and_weights_of_an_exact_family(n):
    pair = [(FLAT, 0.02), (STEEP, 0.0), (2, 0.01)]
    evidence = np.array([power_evidence(k, loss, n) for k, loss in pair])
    family = [power_phase(k, loss) for k, loss in pair]
    energies = np.array([phase.free_energy(n) for phase in family])
    np.testing.assert_allclose(energies, -np.log(evidence), atol=1e-9)
    np.testing.assert_allclose(phases.weights(family, n), evidence / evidence.sum(), atol=1e-9)


def test_multiplicity_of_a_crossing():
    """Loss (x y)^2 on the unit square: lambda = 1/2, m = 2, remainder of order 1 / log n."""
    phase = Phase(0.0, 0.5, 2, -np.log(np.sqrt(np.pi) / 4))
    log_n = np.array([20.0, 40.0, 80.0])
    # y integrated out: Z = sqrt(pi)/2 int_0^1 erf(r x)/(r x) dx, r = sqrt(n); x = e^t by trapezoid
    t = np.linspace(-100, 0, 200_001)
    r = np.exp(log_n / 2)[:, None]
    inner = special.erf(r * np.exp(t)) / r
    exact = np.sqrt(np.pi) / 2 * np.trapezoid(inner, t, axis=1)
    remainder = phase.free_energy(np.exp(log_n)) + np.log(exact)
    np.testing.assert_allclose(remainder[:-1] / remainder[1:], 2, rtol=0.1)


def test_weights_of_many_phases_over_a_grid():
    family = [Phase(0.2, 0.5), Phase(0.1, 1.0, 2), Phase(0.0, 2.0, 1, -1.0)]
    n = np.geomspace(2, 1e4, 12).reshape(3, 4)
    weights = phases.weights(family, n)
    assert weights.shape == (3, 3, 4)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    np.testing.assert_array_equal(weights.argmax(axis=0)[-1, -1], 2)


def test_adding_a_constant_to_all_free_energies_changes_no_weight():
    n = np.geomspace(1, 1e3, 7)
    pair = [Phase(0.1, 0.5), Phase(0.0, 1.0)]
    shifted = [Phase(p.loss, p.learning_coefficient, 1, 800.0) for p in pair]
    np.testing.assert_allclose(phases.weights(pair, n), phases.weights(shifted, n))


# ---------------------------------------------------------------- transitions


def test_type_a_against_the_exact_family():
    change = transition(power_phase(STEEP, 0.0, 1e-3), power_phase(FLAT, 0.02))
    assert change.kind == "A"
    assert change.before.loss == 0.02

    def log_odds(n):
        return np.log(power_evidence(FLAT, 0.02, n) / power_evidence(STEEP, 0.0, n, 1e-3))

    critical = optimize.brentq(log_odds, 20, 1000, xtol=1e-10)
    assert change.n == pytest.approx(critical, rel=1e-8)
    for n, level in zip(change.half_maximum, (HALF_MAXIMUM_D, -HALF_MAXIMUM_D), strict=True):
        assert log_odds(n) == pytest.approx(level, abs=1e-8)
        w = change.weight(n)
        assert w * (1 - w) == pytest.approx(0.125, rel=1e-10)


@pytest.mark.parametrize("excess", [1e-9, 1e-3, 0.5, 3.0, 50.0, 2000.0])
def test_type_a_against_fifty_digits(excess):
    """Both sides of the point where e^-y underflows, down to the edge y = 1 of existence."""
    d_loss, d_lambda = 0.01, -1.5
    y = 1 + excess
    d_c = d_lambda * (y - np.log(-d_lambda / d_loss))
    change = transition(Phase(d_loss, 0.5, 1, d_c), Phase(0.0, 2.0))
    with mpmath.workdps(50):
        k = mpmath.mpf(-d_lambda) / mpmath.mpf(d_loss)
        exact_y = mpmath.log(k) + mpmath.mpf(d_c) / mpmath.mpf(d_lambda)
        ratio = -mpmath.lambertw(-mpmath.exp(-exact_y), -1).real
        exact = k * ratio
        amplified = float(1 / (ratio - 1))  # of the rounding of y: dn/n = dy / (w - 1)
    assert change.n == pytest.approx(float(exact), rel=1e-14 + 1e-15 * amplified)


def test_type_a_stops_existing_at_the_edge():
    """k = |dlambda| / dL; the minimum of D is at n = k, D(k) = |dlambda| (1 - log k) + dc."""
    edge = -1.5 * (1 - np.log(150.0))
    just = transition(Phase(0.01, 0.5, 1, edge - 1e-6), Phase(0.0, 2.0))
    assert just.n == pytest.approx(150, rel=2e-3)
    assert np.isnan(just.half_maximum[0])
    assert just.half_maximum[1] > just.n
    with pytest.raises(ValueError, match=r"no transition: Phase\(loss=0.0.*every n"):
        transition(Phase(0.01, 0.5, 1, edge + 1e-6), Phase(0.0, 2.0))


def test_type_b_is_a_power_law():
    change = transition(Phase(0.3, 1.5, 1, -4.0), Phase(0.3, 0.5, 1, 2.0))
    assert change.kind == "B"
    assert change.n == pytest.approx(np.exp(6.0), rel=1e-14)
    n = np.geomspace(1, 1e6, 9)
    np.testing.assert_allclose(change.weight(n), 1 / (1 + n / change.n), rtol=1e-12)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Phase(0.0, 1.5, 3, -6.0), Phase(0.0, 0.5)),  # type B, log log against log
        (Phase(0.0, 1.5, 1, -6.0), Phase(0.0, 0.5, 2)),
        (Phase(0.0, 0.5, 1, -2.0), Phase(0.0, 0.5, 3)),  # only the multiplicity differs
        (Phase(0.1, 0.5), Phase(0.0, 0.5, 1, 3.0)),  # only constants hold the worse phase up
        (Phase(0.1, 0.5, 2), Phase(0.0, 0.5, 1, 3.0)),
        (Phase(0.1, 2.0), Phase(0.0, 0.5, 1, 5.0)),  # lower loss *and* lower lambda win later
        (Phase(0.01, 0.5, 3), Phase(0.0, 2.0)),  # type A, log log delays
        (Phase(0.01, 0.5), Phase(0.0, 2.0, 3)),
        (Phase(1.0, 0.5), Phase(0.0, 0.6, 2, 3.0)),  # D has no minimum
        (Phase(1.0, 0.5, 1, -2.0), Phase(0.0, 40.0, 2)),
        (Phase(1e-12, 0.5, 2), Phase(0.0, 2.0)),
    ],
)
def test_every_kind_of_crossing(before, after):
    change = transition(after, before)
    assert (change.before, change.after) == (before, after)
    scale = change.n * before.loss + before.free_energy(change.n)
    assert change.difference(change.n) == pytest.approx(0, abs=1e-12 * max(1, abs(scale)))
    later = change.n * np.geomspace(1 + 1e-9, 1e3, 1000)
    assert np.all(change.difference(later) > 0)


def test_a_worse_phase_can_lose_before_the_first_sample():
    """With dm < 0, D comes from -infinity at n = 1: the last root can sit right above 1."""
    change = transition(Phase(0.1, 0.5, 1, 6.0), Phase(0.0, 2.0, 2))
    assert 1 < change.n < 1.01
    with pytest.raises(ValueError, match="no transition"):
        transition(Phase(0.1, 0.5, 1, 1e4), Phase(0.0, 2.0, 2))


@st.composite
def pairs(draw):
    """Phases ordered so that the first loses; every branch of the solution is reachable."""
    m = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    d_loss = draw(st.sampled_from([0.0, 1e-6, 0.01, 0.5]))
    after = draw(st.sampled_from([0.5, 1.0, 3.0]))
    d_lambda = draw(st.sampled_from([-0.5, -0.25, 0.0, 0.25, 2.0]) if d_loss else st.just(0.75))
    constant = draw(st.floats(-8, 8))
    return Phase(d_loss, after + d_lambda, m[0], constant), Phase(0.0, after, m[1])


@given(pairs(), st.sampled_from([0.01, 0.2, 0.5, 0.9]))
def test_sample_size_inverts_weight(pair, weight):
    change = Transition(*pair)
    n = change.sample_size(weight)
    lowest = 1 + 1e-9 if pair[0].multiplicity != pair[1].multiplicity else 1e-9
    grid = np.geomspace(lowest, 1e14, 4001)
    above = change.weight(grid) > weight
    if np.isnan(n):
        assert not above.any()
        return
    assert not above[grid > n * (1 + 1e-6)].any()
    if lowest < n < 1e300:
        assert change.weight(n) == pytest.approx(weight, abs=1e-6)


def test_sample_size_keeps_the_shape_and_passes_nan():
    change = transition(Phase(0.1, 1.0), Phase(0.0, 2.0))
    n = change.sample_size([[0.5, np.nan], [0.1, 0.2]])
    assert n.shape == (2, 2)
    assert np.isnan(n[0, 1])
    assert n[0, 0] == change.n < n[1, 1] < n[1, 0]


def test_a_transition_beyond_floats_is_infinite():
    assert transition(Phase(0.0, 1.5, 1, -1000.0), Phase(0.0, 0.5)).n == np.inf
    assert transition(Phase(0.0, 0.5, 1, -2000.0), Phase(0.0, 0.5, 2)).n == np.inf
    assert transition(Phase(1e-320, 0.5, 2, -700.0), Phase(0.0, 0.6)).n == np.inf


# ---------------------------------------------------------------- mixtures


def discrete_posterior(rng, n_phases=3, n_points=40, n_items=4):
    probability = rng.dirichlet(np.ones(n_points))
    losses = rng.normal(size=(n_items, n_points))
    phase = np.arange(n_points) % n_phases
    return probability, losses, phase


def moments(probability, losses):
    probability = probability / probability.sum()
    mean = losses @ probability
    centred = losses - mean[:, None]
    return mean, (centred * probability) @ centred.T


def test_mixture_covariance_equals_the_covariance_of_the_whole():
    probability, losses, phase = discrete_posterior(np.random.default_rng(0))
    parts = [moments(probability[phase == k], losses[:, phase == k]) for k in range(3)]
    weights = [probability[phase == k].sum() for k in range(3)]
    split = phases.mixture_covariance(weights, [p[0] for p in parts], [p[1] for p in parts])
    whole = moments(probability, losses)[1]
    np.testing.assert_allclose(split.total, whole, atol=tolerances.ALGEBRA)


def test_two_phases_add_a_rank_one_part():
    mu, c = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 0.5]]), np.zeros((2, 3, 3))
    pi = np.array([0.1, 0.5, 0.9])
    split = phases.mixture_covariance([pi, 1 - pi], mu, c)
    d = mu[0] - mu[1]
    expected = (pi * (1 - pi))[:, None, None] * np.outer(d, d)
    np.testing.assert_allclose(split.between, expected, atol=tolerances.ALGEBRA)
    assert not split.within.any()


def test_covariance_along_n_of_an_exact_posterior():
    """Two items, l_i = L_ik + a_ik w^2k: u = w^2k is Gamma(1/2k, n), so all moments are known."""
    base = {FLAT: np.array([0.06, -0.02]), STEEP: np.zeros(2)}
    slope = {FLAT: np.array([0.5, 1.5]), STEEP: np.array([1.2, 0.8])}
    prior = {FLAT: 1.0, STEEP: 1e-8}  # late transition, so that the moments of w are small by then
    family = [power_phase(k, base[k].mean(), prior[k]) for k in (FLAT, STEEP)]
    change = transition(*family)

    def total(n):
        shape = np.array([1 / (2 * k) for k in (FLAT, STEEP)])
        means = np.array([base[k] + slope[k] / (2 * k * n) for k in (FLAT, STEEP)])
        outer = np.array([np.outer(slope[k], slope[k]) for k in (FLAT, STEEP)])
        covariances = outer * (shape / n**2)[:, None, None]
        return phases.mixture_covariance(phases.weights(family, n), means, covariances).total

    n = change.n
    evidence, first, second = 0.0, np.zeros(2), np.zeros((2, 2))
    for k in (FLAT, STEEP):
        w = np.linspace(-1.5, 1.5, 20001)
        density = prior[k] * np.exp(-n * (base[k].mean() + w ** (2 * k)))
        losses = base[k][:, None] + slope[k][:, None] * w ** (2 * k)
        evidence = evidence + density.sum()
        first = first + losses @ density
        second = second + (losses * density) @ losses.T
    mean = first / evidence
    np.testing.assert_allclose(total(n), second / evidence - np.outer(mean, mean), atol=1e-11)

    grid = np.geomspace(20, 4 * change.n, 2000)
    cross = np.array([total(n)[0, 1] for n in grid])
    jump = base[FLAT] - base[STEEP]
    trough = phases.covariance_peak(0.0, 0.0, jump[0] * jump[1])
    assert cross.min() == pytest.approx(trough.covariance, rel=0.01)
    assert grid[cross.argmin()] == pytest.approx(change.sample_size(trough.weight), rel=0.005)


ENTRY = st.floats(-1, 1).map(lambda x: round(x, 3))


@given(ENTRY, ENTRY, ENTRY)
def test_peak_zeros_and_flips_against_a_scan(c1, c2, d):
    pi = np.linspace(0, 1, 4001)
    values = pi * c1 + (1 - pi) * c2 + pi * (1 - pi) * d
    peak = phases.covariance_peak(c1, c2, d)
    if np.isnan(peak.weight):
        assert min(c1, c2) - 1e-12 <= values.min() <= values.max() <= max(c1, c2) + 1e-12
    else:
        extreme = values.max() if d > 0 else values.min()
        assert peak.covariance == pytest.approx(extreme, abs=1e-6)
        best = values.argmax() if d > 0 else values.argmin()
        assert peak.covariance == pytest.approx(values[best], abs=1e-6)
        assert 0 < peak.weight < 1

    zeros = phases.zero_weights(c1, c2, d)
    found = zeros[~np.isnan(zeros)]
    at_zeros = found * c1 + (1 - found) * c2 + found * (1 - found) * d
    np.testing.assert_allclose(at_zeros, 0, atol=1e-14)
    if c1 * c2 < 0:
        assert len(found) == 1
    inner = values[1:-1]
    flips = bool(phases.flips_sign(c1, c2, d))
    if np.any(c1 * inner < -1e-12) and c1 * c2 > 0:
        assert flips
    if flips:
        assert len(found) == 2
        assert c1 * peak.covariance < 0


def test_flip_condition_is_sharp_on_both_sides():
    threshold = (np.sqrt(0.04) + np.sqrt(0.09)) ** 2
    assert phases.flips_sign(0.04, 0.09, -threshold * 1.0001)
    assert not phases.flips_sign(0.04, 0.09, -threshold * 0.9999)
    assert np.isnan(phases.zero_weights(0.04, 0.09, -threshold * 0.9999)).all()
    assert np.isfinite(phases.zero_weights(0.04, 0.09, -threshold * 1.0001)).all()
    middle = 2 * (0.04 + 0.09)  # the stronger condition at pi = 1/2
    assert middle > threshold


def test_peak_is_at_equal_weights_only_for_equal_covariances():
    peak = phases.covariance_peak([0.2, 0.2, 0.0], [0.2, 0.1, 0.9], [0.5, 0.5, 0.5])
    np.testing.assert_allclose(peak.weight[:2], [0.5, 0.6])
    assert np.isnan(peak.weight[2])
    assert np.isnan(phases.covariance_peak(0.1, 0.1, 0.0).weight)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.nan, 1.0), "`loss` must be a finite number, got nan"),
        ((0.0, -1.0), "`learning_coefficient` must be >= 0, got -1.0"),
        ((0.0, "1"), "`learning_coefficient` must be a finite number, got '1'"),
        ((0.0, 1.0, 0), "`multiplicity` must be a whole number >= 1, got 0"),
        ((0.0, 1.0, 1.5), "`multiplicity` must be a whole number"),
        ((0.0, 1.0, 1, np.inf), "`constant` must be a finite number, got inf"),
    ],
)
def test_impossible_phases_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Phase(*arguments)


@pytest.mark.parametrize("n", [0.0, -1.0, np.nan, np.inf, [5.0, 0.0]])
def test_sample_sizes_must_be_positive(n):
    with pytest.raises(ValueError, match=r"`n` must be (finite|> 0)"):
        Phase(0.0, 1.0).free_energy(n)


def test_log_log_needs_more_than_one_sample():
    with pytest.raises(ValueError, match="`n` must be > 1 because log log n"):
        Phase(0.0, 1.0, 2).free_energy(1.0)
    with pytest.raises(ValueError, match="> 1 because"):
        transition(Phase(0.0, 1.0, 2, -3.0), Phase(0.0, 0.5)).weight(0.5)


def test_phases_that_differ_in_the_constant_only_never_trade_places():
    with pytest.raises(ValueError, match="differ at most in `constant`"):
        transition(Phase(0.1, 1.0, 1, 0.0), Phase(0.1, 1.0, 1, 5.0))


def test_transition_built_by_hand_must_be_ordered():
    with pytest.raises(ValueError, match="let `transition` order them"):
        Transition(Phase(0.0, 2.0), Phase(0.1, 1.0))


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1, [0.5, 2.0]])
def test_unreachable_weights_are_refused(weight):
    with pytest.raises(ValueError, match="`weight` must lie strictly between 0 and 1"):
        transition(Phase(0.1, 1.0), Phase(0.0, 2.0)).sample_size(weight)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "message"),
    [
        ([0.5, 0.6], np.zeros((2, 2)), np.zeros((2, 2, 2)), "add up to one"),
        ([1.5, -0.5], np.zeros((2, 2)), np.zeros((2, 2, 2)), "minimum -0.5"),
        ([np.nan, 0.5], np.zeros((2, 2)), np.zeros((2, 2, 2)), "`weights` must be"),
        ([1.0], np.zeros((2, 2)), np.zeros((2, 2, 2)), r"got shapes \(1,\), \(2, 2\)"),
        ([0.5, 0.5], np.zeros((2, 2)), np.zeros((2, 2)), "got shapes"),
        ([0.5, 0.5], [[0.0, np.nan]] * 2, np.zeros((2, 2, 2)), "`means` must be finite"),
        ([0.5, 0.5], np.zeros((2, 2)), np.full((2, 2, 2), np.inf), "`covariances` must be"),
    ],
)
def test_malformed_mixtures_are_refused(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        phases.mixture_covariance(weights, means, covariances)


def test_no_phase_has_no_weights():
    with pytest.raises(ValueError, match="at least one Phase"):
        phases.weights([], 10.0)


def test_only_phases_compete():
    phase = Phase(0.1, 1.0)
    for call in (
        lambda: transition(None, phase),
        lambda: transition(phase, 5.0),
        lambda: phases.weights([phase, None], 5.0),
    ):
        with pytest.raises(TypeError, match=r"a dlnflow.phases.Phase is needed"):
            call()
    for several in (phase, 5):
        with pytest.raises(ValueError, match="`phases` must be a list"):
            phases.weights(several, 5.0)
    with pytest.raises(ValueError, match="real numbers are needed, got text"):
        phases.weights([phase], "a")
