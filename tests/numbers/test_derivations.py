"""Tables of the derivations are what their scripts compute."""

import warnings

import pytest

from tests.numbers import derivations
from tests.numbers.pages import differences, table

pytestmark = pytest.mark.slow
SENSITIVE = 0.01
"""Where H + damping is indefinite, or a segment leaves a saddle, libraries may move this share."""


def page(name):
    return f"derivations/{name}.md"


@pytest.mark.parametrize("width", ["50", "100", "200", "400"])
def test_windows(width):
    shown = table(page("unrolling"), "width (steps)")[width]
    assert differences(shown, derivations.windows(int(width))) == []


@pytest.mark.parametrize("count", ["1", "3", "6", "12", "25", "50", "200"])
def test_segments_of_source(count):
    shown = table(page("unrolling"), "segments")[count]
    assert differences(shown, derivations.segments(int(count)), relative=SENSITIVE) == []


@pytest.mark.parametrize("damping", ["0.01", "0.1", "0.5", "1", "2", "10"])
def test_dampings(damping):
    shown = table(page("damped"), "damping", "share indefinite")[damping]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of indefinite checkpoints
        values = derivations.damped(float(damping))
    assert differences(shown, values, relative=SENSITIVE) == []


@pytest.mark.parametrize(
    ("row", "query"), [("itself", "dog"), ("cat", "cat"), ("sparrow", "sparrow"), ("pine", "pine")]
)
def test_terms_of_the_gaussian_posterior(row, query):
    shown = table(page("laplace_bif"), "on", "largest first term")[row]
    assert differences(shown, derivations.terms(query)) == []


@pytest.mark.parametrize("ratio", ["0.25", "0.5", "1", "1.5", "2", "3", "10"])
def test_orders_of_the_gaussian_posterior(ratio):
    shown = table(page("laplace_bif"), r"$\lambda N / s_{\max}$")[ratio]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checkpoints that are left
        values = derivations.order_of(float(ratio))
    assert differences(shown, values) == []
