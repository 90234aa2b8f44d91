"""Agreement of two settings: noise of chains does not lower it, other influence does."""

import numpy as np
import pytest
import xarray as xr

from paper_figures._estimates import interval
from paper_figures.sampler_settings import CHANGES, USUAL, correlation, measure
from tests.traces import samples

TRUTH = 0.6
ALIKE, OTHER = list(CHANGES)[1:3]
NAMES = ["word_part", "word_end", "induction"]


def test_correlation_is_that_of_the_truth_and_its_interval_covers_it():
    """Noise as large as the signal would halve a plain correlation of single chains."""
    rng = np.random.default_rng(0)
    found, covered, n = [], 0, 400
    for _ in range(n):
        shared, own = rng.standard_normal((2, 60))
        own -= own @ shared / (shared @ shared) * shared
        shared, own = (x - x.mean() for x in (shared, own))
        own *= np.sqrt(shared @ shared / (own @ own))
        other = TRUTH * shared + np.sqrt(1 - TRUTH**2) * own
        exact = np.corrcoef(shared, other)[0, 1]
        a, b = (x + rng.standard_normal((4, 60)) for x in (shared, other))
        number = interval(correlation(a, b))
        found.append(number.value - exact)
        covered += number.low < exact < number.high
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / np.sqrt(n))
    assert covered / n == pytest.approx(0.95, abs=0.05)


@pytest.fixture(scope="module")
def sampled():
    """Three classes of ten tokens; causes move two at a time, others with `OTHER`, and by step."""
    rng = np.random.default_rng(4)
    members = np.arange(30)[:, None] // 10 == np.arange(3)
    mix = {USUAL: ((1, 1, 0), (0, 1, 1)), OTHER: ((0, 1, 1), (1, 0, 1))}
    mix[ALIKE] = mix[USUAL]
    found = {}
    for name in (USUAL, ALIKE, OTHER):
        causes = rng.standard_normal((2, 4, 60, 1)) * (
            np.array(mix[name])[:, None, None] @ members.T
        )
        array = samples.traces(
            causes + rng.standard_normal((2, 4, 60, 30)), 10.0, step_size=0.1, burn_in=10, thin=2
        )
        found[name] = array.assign_coords(
            time=[100, 200], row=("item", np.tile(np.arange(5), 6)), token=("item", np.arange(30))
        )
    classes = xr.DataArray(members, dims=("item", "token_class"), coords={"token_class": NAMES})
    return found, classes


def test_settings_agree_where_the_same_causes_move_the_losses(sampled):
    found = measure(*sampled)["settings"]
    assert "agreement" not in found[USUAL]
    for kind in ("influence", "changes"):
        alike, error, dof, slope = found[ALIKE]["agreement"][kind]
        assert abs(alike - 1) < 5 * error < 0.3 and 3 <= dof <= 6
        assert slope == pytest.approx(1, abs=0.2)
        assert found[OTHER]["agreement"][kind][0] < 0.6
