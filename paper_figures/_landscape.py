"""A sweep as a landscape: what the score of a setting says about those of its neighbours."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dlnflow._support import FloatArray, IntArray

Grid = Mapping[str, Sequence[float]]
"""Option -> its values, in order."""
SHUFFLES = 400


class Smoothness(NamedTuple):
    """How alike neighbouring settings score.

    Attributes
    ----------
    correlation : float
        Pearson over pairs of settings that differ by one step in one option.
    by_chance : float
        Largest |correlation| in 95 % of shuffled landscapes.
    ratio : float
        Mean |difference| of neighbours over that of random pairs.
    pairs : int
        Number of pairs.
    error : float
        Standard error of the correlation, by drawing anew which values of the first two options
        there are.
    """

    correlation: float
    by_chance: float
    ratio: float
    pairs: int
    error: float


def smoothness(table: pd.DataFrame, grid: Grid, score: str) -> Smoothness:
    """Compare the scores of neighbours; settings without a score are no neighbours."""
    rows = table[table[score].notna()]
    values = rows[score].to_numpy(float)
    a, b = _neighbours(rows, grid).T
    rng = np.random.default_rng(0)
    shuffled = [_pearson(x[a], x[b]) for x in (rng.permutation(values) for _ in range(SHUFFLES))]
    apart = abs(values[:, None] - values)[np.triu_indices(len(values), 1)].mean()
    block = rows.groupby(list(grid)[:2]).ngroup().to_numpy()[a]
    return Smoothness(
        _pearson(values[a], values[b]),
        float(np.quantile(np.abs(shuffled), 0.95)),
        float(abs(values[a] - values[b]).mean() / apart),
        len(a),
        _bootstrap(values[a], values[b], block, rng),
    )


def sensitivity(table: pd.DataFrame, grid: Grid, option: str, score: str) -> tuple[float, float]:
    """Return the mean range of the score over the values of one option, and its standard error.

    Of settings that agree in all others, where at least two values have a score.
    """
    rows = table[table[score].notna()].astype({score: float})
    scores = rows.groupby([name for name in grid if name != option])[score]
    spread = (scores.max() - scores.min())[scores.count() > 1]
    return float(spread.mean()), float(spread.sem())


def _bootstrap(a: FloatArray, b: FloatArray, block: IntArray, rng: np.random.Generator) -> float:
    """Return the standard error of the correlation of pairs that come in blocks."""
    places = [np.flatnonzero(block == k) for k in np.unique(block)]
    drawn = [
        np.concatenate([places[k] for k in rng.integers(0, len(places), len(places))])
        for _ in range(SHUFFLES)
    ]
    return float(np.std([_pearson(a[which], b[which]) for which in drawn]))


def _neighbours(rows: pd.DataFrame, grid: Grid) -> IntArray:
    """Return pairs of rows (P, 2) that differ by one step of the grid in one option."""
    index = [
        np.abs(rows[name].to_numpy(float)[:, None] - np.asarray(values)).argmin(1)
        for name, values in grid.items()
    ]
    place = {at: row for row, at in enumerate(zip(*index, strict=True))}
    pairs = []
    for at, row in place.items():
        for axis in range(len(grid)):
            other = place.get((*at[:axis], at[axis] + 1, *at[axis + 1 :]))
            if other is not None:
                pairs.append((row, other))
    return np.array(pairs)


def _pearson(a: FloatArray, b: FloatArray) -> float:
    """Return the correlation over pairs whose order does not matter."""
    return float(np.corrcoef(np.r_[a, b], np.r_[b, a])[0, 1])
