"""What docs/measured.md says of the agreement of estimators is what its script computes."""

import warnings

import pytest

from tests.numbers import agreement
from tests.numbers.pages import differences, said

pytestmark = pytest.mark.slow
PAGE = "measured.md"


def test_closed_form_and_tangent():
    overall = said(PAGE, "correlate at a median of # and a minimum of # over all pairs of 8 seeds")
    each = said(PAGE, "Seed by seed the median is at least #.")
    assert differences([*overall, *each], agreement.closed_form()) == []


def test_tangent_and_removal():
    medians = said(PAGE, "correlate at a median of # to # over the pairs of a seed")
    least = said(PAGE, "The smallest correlation of any pair is #.")
    found = agreement.removal()
    assert differences([*medians, *least], found[:3]) == []
    momentum = agreement.removal("momentum")
    assert abs(momentum[0] - found[0]) < 0.01 and abs(momentum[1] - found[1]) < 0.01


def test_adam():
    medians = said(PAGE, "Under Adam at its default learning rate the same medians are # to #,")
    single = said(PAGE, "single pairs range from # to #.")
    assert differences([*medians, *single], agreement.removal("adam")) == []


def test_depth_three():
    shown = [
        *said(PAGE, "The medians over items are # to # for seeds 0 to 7."),
        *said(PAGE, "Cat alone has # to #,"),
        *said(PAGE, "the other items have # to #."),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of closed forms for deep networks
        assert differences(shown, agreement.deep()) == []
