"""Learning coefficients against known values, geometry and the integral that defines them."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy import special

from dlnflow.theory.rlct import learning_coefficient, reduced_rank_regression

KNOWN = [
    ((1, 1), 0, Fraction(1, 2), 1),
    ((4, 7), 3, Fraction(14), 1),  # linear regression: half the number of parameters
    ((1, 1, 1), 0, Fraction(1, 2), 2),
    ((1, 1, 1, 1), 0, Fraction(1, 2), 3),
    ((2, 1, 2), 0, Fraction(1), 2),
    ((2, 2, 2), 0, Fraction(3, 2), 1),
    ((2, 2, 2), 1, Fraction(2), 2),
    ((5, 3, 5), 3, Fraction(21, 2), 1),
    *[((8, 50, 15), rank, Fraction(60), 1) for rank in range(9)],
    *[((8, 4, 15), rank, 16 + Fraction(11, 2) * rank, 1) for rank in range(5)],
]


@pytest.mark.parametrize(("widths", "rank", "coefficient", "multiplicity"), KNOWN)
def test_known_values(widths, rank, coefficient, multiplicity):
    assert learning_coefficient(widths, rank, exact=True) == (coefficient, multiplicity)
    assert learning_coefficient(widths, rank) == (float(coefficient), multiplicity)


@pytest.mark.parametrize("shape", [(2, 2), (5, 5), (2, 5), (6, 3)])
def test_a_hidden_layer_as_narrow_as_the_true_rank_is_regular(shape):
    """All excess widths of the bottleneck vanish: lambda = dim {W of rank r} / 2, m = 1."""
    n_in, n_out = shape
    for rank in range(1, min(shape) + 1):
        for depth in (2, 3, 4):
            widths = (n_in, *[rank] * (depth - 1), n_out)
            expected = (Fraction(rank * (n_in + n_out - rank), 2), 1)
            assert learning_coefficient(widths, rank, exact=True) == expected


def least_codimension(widths):
    """Codimension of {W_L ... W_1 = 0}, by enumerating the orbits of the chain of maps.

    An orbit is a multiset of intervals [i, j] (a vector born in layer i that dies after layer j)
    covering layer k exactly H_k times; the product vanishes if [0, L] does not occur. Its
    codimension is the number of pairs ([i, j], [k, l]) with i < k <= j + 1 <= l.
    """
    last = len(widths) - 1
    intervals = [(i, j) for i in range(last + 1) for j in range(i, last + 1) if (i, j) != (0, last)]

    def orbits(remaining, index):
        if index == len(intervals):
            if not any(remaining):
                yield {}
            return
        i, j = intervals[index]
        if any(remaining[:i]):  # intervals are ordered by birth: layer < i can no longer be filled
            return
        for count in range(min(remaining[i : j + 1]) + 1):
            left = [h - count * (i <= k <= j) for k, h in enumerate(remaining)]
            for rest in orbits(left, index + 1):
                yield {(i, j): count, **rest} if count else rest

    return min(
        sum(
            m * other
            for (i, j), m in orbit.items()
            for (k, l), other in orbit.items()
            if i < k <= j + 1 <= l
        )
        for orbit in orbits(list(widths), 0)
    )


def width_tuples():
    yield from product(range(1, 6), repeat=3)
    yield from product(range(1, 4), repeat=4)
    yield from product((1, 2), repeat=5)
    yield from [(4, 4, 4, 4), (2, 3, 3, 3, 2), (3, 3, 3, 3, 3)]


def test_is_half_the_codimension_of_the_zero_product():
    for widths in width_tuples():
        coefficient = learning_coefficient(widths, 0, exact=True).coefficient
        assert 2 * coefficient == least_codimension(widths), widths


def _log_grid(low=-160.0, high=6.0, step=0.125):
    return np.arange(low, high, step), step


def _wishart_pair(width):
    """Eigenvalues (x1 <= x2) of a 2 x 2 Wishart matrix with `width` degrees, and their weights.

    x1 = x2 e^-z with z = log(1 + e^q) resolves both the repulsion at z = 0 and the long tail.
    """
    q, step_q = _log_grid(-42.0, 160.0)
    y, step_y = _log_grid()
    z = np.logaddexp(0.0, q)
    x2, x1 = np.exp(y)[:, None], np.exp(y[:, None] - z)
    density = (x1 * x2) ** ((width - 3) / 2) * np.exp(-(x1 + x2) / 2) * x2 * -np.expm1(-z)
    return x1, x2, density * x1 * x2 * special.expit(q) * step_q * step_y


def _evidence(widths, log_n):
    """Z(n) = E exp(-n |W|^2) with standard normal weights, W_1 integrated out by hand."""
    n_in, n_out = widths[0], widths[-1]
    if widths[1:-1] == (2,):
        x1, x2, weight = _wishart_pair(n_out)
        factor = [(1 + 2 * np.exp(c) * x1) * (1 + 2 * np.exp(c) * x2) for c in log_n]
        return np.array([np.sum(weight * f ** (-n_in / 2)) for f in factor])
    y, step = _log_grid()
    chi_square = np.exp(n_out / 2 * y - np.exp(y) / 2) * step
    if widths[1:-1] == (1,):
        return np.array(
            [np.sum(chi_square * (1 + 2 * np.exp(c + y)) ** (-n_in / 2)) for c in log_n]
        )
    inner = np.exp(y / 2 - np.exp(y) / 2) * step  # the second weight of a (n_in, 1, 1, n_out) chain
    both, total = chi_square[:, None] * inner, y[:, None] + y
    return np.array([np.sum(both * (1 + 2 * np.exp(c + total)) ** (-n_in / 2)) for c in log_n])


@pytest.mark.parametrize(
    "widths",
    [(1, 1, 1), (2, 1, 2), (3, 1, 2), (2, 2, 2), (3, 2, 2), (3, 2, 3), (5, 2, 2)]
    + [(1, 1, 1, 1), (2, 1, 1, 2), (2, 1, 1, 1)],
)
def test_evidence_integral(widths):
    """n^lambda Z(n) is a polynomial in log n of degree exactly m - 1 (up to powers n^-1/2)."""
    coefficient, multiplicity = learning_coefficient(widths, 0)
    log_n = np.array([60.0, 66.0, 72.0, 78.0, 84.0])
    scaled = np.exp(coefficient * log_n) * _evidence(widths, log_n)
    vanishing = np.diff(scaled, multiplicity) / scaled[-1]
    leading = np.diff(scaled, multiplicity - 1) / scaled[-1]
    np.testing.assert_allclose(vanishing, 0, atol=1e-10)
    assert np.all(leading > 1e-3)


@pytest.mark.parametrize(
    ("widths", "rank", "message"),
    [
        ((2, 3), 3, r"`rank` must be at most the smallest width.*\(2, 3\).*3 > 2"),
        ((4, 1, 4), 2, "`rank` must be at most the smallest width"),
        ((2, 3), -1, "`rank` must be a whole number >= 0, got -1"),
        ((2, 3), 0.5, "`rank` must be a whole number"),
        ((2, 3), True, "`rank` must be a whole number"),
        ((2, 3), float("nan"), "`rank` must be a whole number"),
        ((2, 0, 3), 0, r"`widths\[1\]` must be a whole number >= 1, got 0"),
        ((2, 2.5), 0, r"`widths\[1\]`"),
        ("23", 0, r"`widths\[0\]`"),
        ((3,), 0, "`widths` needs at least"),
        ((), 0, "`widths` needs at least"),
        (3, 0, "`widths` must be a sequence"),
    ],
)
def test_impossible_networks_are_refused(widths, rank, message):
    with pytest.raises(ValueError, match=message):
        learning_coefficient(widths, rank)


def test_numpy_integers_are_accepted():
    assert learning_coefficient(np.array([2, 2, 2]), np.int64(1)) == (2.0, 2)


def test_reduced_rank_regression_is_for_one_hidden_layer():
    with pytest.raises(ValueError, match=r"`widths` must be \(inputs, hidden, outputs\), got 4"):
        reduced_rank_regression((2, 2, 2, 2), 1)
