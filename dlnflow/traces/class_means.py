"""Means over classes of items of what every chain estimates for every item, with their errors.

Chains and rows of items are both samples, and every chain sees every row, so that the variance of
a mean is that of two crossed random effects, as in `groups`:

    standard_error^2 = chain_error^2 + max(row_error^2 - both^2, 0)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlnflow._support import FloatArray
from dlnflow.traces.groups import welch_satterthwaite


class Estimated(NamedTuple):
    """An estimate for every item or class, its standard error and degrees of freedom, each (K,)."""

    value: FloatArray
    standard_error: FloatArray
    dof: FloatArray


def class_means(
    pooled: FloatArray,
    single: FloatArray,
    members: FloatArray,
    rows: NDArray[np.intp] | None,
) -> Estimated:
    """Return means over classes with errors of chains and rows.

    Parameters
    ----------
    pooled, single : arrays, shape (K,), (C, K)
        Estimates for every item, from all chains and from each.
    members : array, shape (K, G)
        Which item is in which class.
    rows : array of int, shape (K,), optional
        Row of every item, from 0; without them the items count as known.

    Returns
    -------
    Estimated
        Means of the G classes; errors are NaN with one chain.
    """
    weights = members / members.sum(0)
    value, chains = pooled @ weights, len(single)
    spread = (single @ weights).var(0, ddof=1) / chains if chains > 1 else value * np.nan
    row = both = np.zeros(value.shape)
    n_rows = 1 if rows is None else int(rows.max()) + 1
    if n_rows > 1:
        row = _jackknife(_without_rows(pooled, members, rows))
        if chains > 1:
            alone = _without_rows(single - single.mean(0), members, rows)
            both = _jackknife(alone).sum(0) / (chains * (chains - 1))
    apart = np.maximum(row - both, 0.0)
    dof = welch_satterthwaite([(spread, chains - 1), (apart, n_rows - 1)])
    return Estimated(value, np.sqrt(spread + apart), dof)


def _without_rows(values: FloatArray, members: FloatArray, rows: NDArray[np.intp]) -> FloatArray:
    """Return class means of values (..., K), each without one row: (R, ..., G)."""
    total, count = values @ members, members.sum(0)
    found = np.full((int(rows.max()) + 1, *total.shape), np.nan)
    for r in range(len(found)):
        own = rows == r
        left = count - members[own].sum(0)
        some = left > 0
        rest = total - values[..., own] @ members[own]
        found[r][..., some] = rest[..., some] / left[some]
    return found


def _jackknife(without: FloatArray) -> FloatArray:
    """Return the jackknife variance of estimates that each lack one row, on the first axis."""
    apart = without - np.nanmean(without, axis=0)
    return (len(without) - 1) / len(without) * np.nansum(apart**2, axis=0)
