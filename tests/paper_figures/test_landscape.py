"""The smoothness of a sweep on landscapes whose smoothness is known."""

import itertools

import numpy as np
import pandas as pd
import pytest

from paper_figures._landscape import smoothness

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
