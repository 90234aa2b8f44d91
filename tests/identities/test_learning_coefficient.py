"""Learning coefficient: Aoyagi = Aoyagi-Watanabe for one hidden layer, and its symmetries."""

from fractions import Fraction
from itertools import pairwise, permutations, product

from hypothesis import given
from hypothesis import strategies as st

from dlnflow.theory.rlct import learning_coefficient, reduced_rank_regression

WIDTHS = st.lists(st.integers(1, 30), min_size=2, max_size=8)


def test_equals_the_formula_for_one_hidden_layer():
    cases = [
        (widths, rank)
        for widths in product(range(1, 9), repeat=3)
        for rank in range(min(widths) + 1)
    ]
    assert len(cases) == 1808
    for widths, rank in cases:
        general = learning_coefficient(widths, rank, exact=True)
        assert general == reduced_rank_regression(widths, rank, exact=True), (widths, rank)
    assert {learning_coefficient(*case).multiplicity for case in cases} == {1, 2}


def test_rank_zero_part_does_not_depend_on_the_order_of_widths():
    for widths in [(1, 2, 3, 4), (2, 2, 3, 5, 5), (7, 1, 4, 4), (6, 6, 6, 5)]:
        values = {learning_coefficient(order, 0, exact=True) for order in permutations(widths)}
        assert len(values) == 1


@given(WIDTHS, st.data())
def test_splits_into_a_regular_and_a_rank_zero_part(widths, data):
    """lambda(H; r) = r (H_0 + H_L - r) / 2 + lambda(H - r; 0); the ends enter only the first."""
    rank = data.draw(st.integers(0, min(widths) - 1))
    order = data.draw(st.permutations(range(len(widths))))
    total = learning_coefficient(widths, rank, exact=True)
    rest = learning_coefficient([widths[i] - rank for i in order], 0, exact=True)
    regular = Fraction(rank * (widths[0] + widths[-1] - rank), 2)
    assert total == (regular + rest.coefficient, rest.multiplicity)


@given(WIDTHS, st.data())
def test_lies_between_zero_and_half_the_parameters(widths, data):
    rank = data.draw(st.integers(0, min(widths)))
    coefficient, multiplicity = learning_coefficient(widths, rank, exact=True)
    regular = Fraction(rank * (widths[0] + widths[-1] - rank), 2)
    parameters = sum(a * b for a, b in pairwise(widths))
    assert regular <= coefficient <= Fraction(parameters, 2)
    assert coefficient <= Fraction(widths[0] * widths[-1], 2)
    assert multiplicity >= 1


@given(WIDTHS, st.integers(0, 29), st.integers(1, 30))
def test_a_wider_layer_never_lowers_the_coefficient(widths, position, extra):
    position %= len(widths)
    wider = [width + extra * (i == position) for i, width in enumerate(widths)]
    before = learning_coefficient(widths, 0, exact=True).coefficient
    assert before <= learning_coefficient(wider, 0, exact=True).coefficient
