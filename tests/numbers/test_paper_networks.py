"""docs/nonlinear.md says of figures at paper scale what they claim when they are drawn anew."""

import pytest

from tests.numbers.figures import DIGITS, drawn, networks
from tests.numbers.pages import differences, rows, table

pytestmark = pytest.mark.slow
PAGE = "nonlinear.md"
MEASURES = ["flips", "flips_retrained", "stages", "order", "order_windows", "distance"]


def test_from_rich_to_lazy():
    claims = drawn("nonlinear")
    for network, strength, *cells in rows(PAGE, "network", "strength"):
        name = f"{network.lower()}.{float(strength):g}.32"
        keys = [f"{name}.{key}" for key in (*MEASURES, "size")]
        assert differences(cells, [claims[key] for key in keys]) == [], name


def test_widths_from_a_small_start():
    found = networks().sel(strength=1e-3).mean("seed")
    for network, width, *cells in rows(PAGE, "network", "width"):
        one = found.sel(activation=network.lower(), width=int(width))
        values = [float(one[key]) for key in (*MEASURES, "learned")]
        assert differences(cells, values) == [], (network, width)


def test_digits_at_paper_scale():
    claims, shown = drawn("digits"), table(PAGE, "measured over pairs of different classes")
    for row, keys in DIGITS.items():
        assert differences(shown[row][1:], [claims[key] for key in keys]) == [], row
