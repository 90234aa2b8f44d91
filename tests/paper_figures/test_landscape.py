"""The smoothness of a sweep on landscapes whose smoothness is known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from paper_figures import _landscape
from paper_figures._landscape import sensitivity, smoothness

GRID = {"step": (1e-3, 1e-2, 1e-1, 1.0), "beta": (1.0, 10.0, 100.0, 1e3, 1e4), "decay": (0.8, 0.9)}


def table(score):
    """One row per setting; `score` of the numbers of its values."""
    rows = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    index = itertools.product(*(range(len(v)) for v in GRID.values()))
    return pd.DataFrame(rows).assign(score=[score(*at) for at in index])


def test_neighbours_on_a_slope_are_alike():
    found = smoothness(table(lambda i, j, k: 10.0 * i + j), GRID, "score")
    assert found.pairs == 3 * 5 * 2 + 4 * 4 * 2 + 4 * 5
    differences = [10.0] * 30 + [1.0] * 32 + [0.0] * 20
    values = np.array([10 * i + j for i in range(4) for j in range(5) for _ in range(2)])
    apart = np.abs(values[:, None] - values)[np.triu_indices(40, 1)].mean()
    assert found.ratio == pytest.approx(np.mean(differences) / apart)
    assert found.correlation > 0.7 > 2 * found.by_chance


def test_noise_has_no_neighbours_and_a_checkerboard_has_opposite_ones():
    rng = np.random.default_rng(0)
    noise = smoothness(table(lambda *_: rng.standard_normal()), GRID, "score")
    assert abs(noise.correlation) < 2 * noise.by_chance and noise.ratio == pytest.approx(1, abs=0.3)
    board = smoothness(table(lambda *at: float(sum(at) % 2)), GRID, "score")
    assert board.correlation == pytest.approx(-1)


def test_settings_without_a_score_are_no_neighbours():
    rows = table(lambda i, j, k: float(i))
    rows.loc[rows.step == 1e-2, "score"] = np.nan  # 1e-3 has lost its neighbour, 1e-1 one of two
    rows = rows[rows.decay == 0.8]
    found = smoothness(rows, GRID, "score")
    assert found.pairs == 5 + 3 * 4


def test_the_range_over_an_option_is_that_of_settings_that_agree_in_the_others():
    rows = table(lambda i, j, k: 10.0 * i + k * (j + 1.0))
    mean, error = sensitivity(rows, GRID, "decay", "score")
    assert mean == pytest.approx(3.0)  # j + 1 for j = 0 ... 4
    assert error == pytest.approx(np.std([1, 2, 3, 4, 5] * 4, ddof=1) / 20**0.5)
    rows.loc[(rows.decay == 0.9) & (rows.beta == 1e4), "score"] = None
    assert sensitivity(rows, GRID, "decay", "score")[0] == pytest.approx(2.5)


def test_the_error_of_a_correlation_is_its_spread_over_landscapes(monkeypatch):
    monkeypatch.setattr(_landscape, "SHUFFLES", 60)
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        slope = table(lambda i, j, k: i + 0.5 * j + rng.standard_normal())
        found.append(smoothness(slope, GRID, "score"))
    spread = np.std([one.correlation for one in found])
    assert 0.5 < np.mean([one.error for one in found]) / spread < 2
