"""Sizes of numbers: gaps and absurd values are faults, features are centred and scaled."""

import warnings

import numpy as np
from numpy.typing import NDArray

from dlnflow._support import FloatArray
from dlnflow.tables.labels import SHOWN, quoted
from dlnflow.tables.options import CleanOptions, flag

LARGEST, SMALLEST = 1e50, 1e-50
"""Products of six entries stay within floating-point numbers, and estimates keep their digits."""
UNEVEN = 1e3
"""Ratio of feature sizes from which the largest decide nearly alone what is learned."""
FLAT = 1e-12
"""Spread relative to size below which a feature differs by rounding only."""


def faults(
    values: FloatArray,
    text: NDArray[np.bool_],
    features: list[str],
    items: list[str],
    *,
    scaled: bool,
) -> list[str]:
    """Return the features with gaps, infinities or absurd values, and where they are.

    Parameters
    ----------
    values : array, shape (n_features, N)
    text : array of bool, shape (n_features, N)
        Cells that are text, and no gaps.
    features, items : list of str
    scaled : bool
        Whether values are standardized afterwards, so that their size does not matter.

    Returns
    -------
    list of str
    """
    found = _gaps(~np.isfinite(values) & ~text, features, items)
    with np.errstate(invalid="ignore"):
        size = np.abs(values)
        absurd = np.isfinite(size) & ((size > LARGEST) | ((size > 0) & (size < SMALLEST)))
    if np.any(absurd) and not scaled:
        shown = []
        for k in np.flatnonzero(absurd.any(axis=1)):
            i = int(np.flatnonzero(absurd[k])[0])
            shown.append(f"{features[k]!r} ({items[i]!r} has {values[k, i]:g})")
        found.append(
            f"values are beyond {SMALLEST:g} to {LARGEST:g}, where influence cannot be computed: "
            f"{_listed(shown)}. Give such columns another unit, or use "
            f"{flag('standardize', 'True')}."
        )
    return found


def _gaps(gaps: NDArray[np.bool_], features: list[str], items: list[str]) -> list[str]:
    rows = np.flatnonzero(gaps.any(axis=1))
    if not len(rows):
        return []
    shown = []
    for k in rows:
        names = [items[i] for i in np.flatnonzero(gaps[k])]
        shown.append(f"feature {features[k]!r} has no finite value for {quoted(names)}")
    count = int(gaps.sum())
    cells = "the cell is" if count == 1 else f"{count} cells are"
    return [
        f"{_listed(shown)}: {cells} empty, NaN or infinite. Fill in, or leave such columns out: "
        f"{flag('drop')}."
    ]


def _listed(shown: list[str]) -> str:
    more = f"; and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return "; ".join(shown[:SHOWN]) + more


def scaled(
    values: FloatArray, features: list[str], options: CleanOptions, notes: list[str]
) -> FloatArray:
    """Center and standardize as asked, and note sizes that differ much.

    Returns
    -------
    array, shape (n_features, N)

    Raises
    ------
    ValueError
        If a feature to be standardized differs by rounding only.
    """
    if options.standardize:
        if options.center:
            warnings.warn("`center` has no effect: `standardize` centers too.", stacklevel=2)
        notes.append("features standardized: mean 0, standard deviation 1 over items")
        return _standardized(values, features)
    if options.center:
        mean = values.mean(axis=1, keepdims=True)
        if not np.any(np.abs(mean) > FLAT * np.abs(values).max(axis=1, keepdims=True)):
            warnings.warn("`center` has no effect: all means are 0.", stacklevel=2)
        values = values - mean
        notes.append("features centered: mean 0 over items")
    sizes = np.sqrt(np.mean(values**2, axis=1))
    small, large = int(np.argmin(sizes)), int(np.argmax(sizes))
    if sizes[large] > UNEVEN * sizes[small] > 0:
        notes.append(
            f"{features[large]!r} is {sizes[large] / sizes[small]:.1g} times as large as "
            f"{features[small]!r} and is learned first; {flag('standardize')} makes them alike"
        )
    return values


def _standardized(values: FloatArray, features: list[str]) -> FloatArray:
    largest = np.abs(values).max(axis=1, keepdims=True)
    largest[largest == 0] = 1.0  # divided out first, so that no square overflows
    values = values / largest
    values = values - values.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.mean(values**2, axis=1, keepdims=True))
    flat = [name for name, d in zip(features, deviation[:, 0], strict=True) if d <= FLAT]
    if flat:
        raise ValueError(
            f"features cannot be standardized: {quoted(flat)} differ by less than {FLAT:g} of "
            f"their size. Leave them out: {flag('drop')}."
        )
    return values / deviation
