"""What docs/events.md says of events in nothing is what its script computes."""

import pytest

from tests.numbers import event_rates
from tests.numbers.pages import differences, said, table

pytestmark = pytest.mark.slow
PAGE = "events.md"
SAMPLED = 0.05
"""Share that the rounding of a library may move in what is counted in sampled curves."""


@pytest.mark.parametrize("floor", list(event_rates.FLOORS))
def test_events_in_shuffled_targets(floor):
    shown = table(PAGE, "floor", "peak: shuffled")
    (row,) = [row for row in shown if row.startswith(floor)]
    found = event_rates.shuffled()
    for kind, cells in (("peak", shown[row][:2]), ("sign_flip", shown[row][2:])):
        values = event_rates.rate(found, event_rates.FLOORS[floor], kind)
        assert differences(cells, values) == [], kind


@pytest.mark.parametrize("floor", ["default", "1", "2", "3", "4", "5"])
def test_flips_in_noise(floor):
    cells = table(PAGE, "floor", "199 checkpoints")[floor]
    at = 0.0 if floor == "default" else float(floor)
    for every, shown in ((1, cells[:2]), (10, cells[2:])):
        values = event_rates.rate(event_rates.noise(every), at, "sign_flip")
        assert differences(shown, values, relative=SAMPLED) == [], every


def test_peaks_in_noise():
    shown = said(PAGE, "still in # % (199 checkpoints) or # % (20) at three standard errors")
    values = [100 * event_rates.rate(event_rates.noise(k), 3.0, "peak")[0] for k in (1, 10)]
    assert differences(shown, values, relative=SAMPLED) == []
