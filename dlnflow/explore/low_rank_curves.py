"""Curves of all pairs as integers times a few functions of time, from which a page draws them.

    K[t, p] ~ sum_r basis[r, t] q[r, p],     q = round(V^T K / width),  basis = width V^T,

with V the eigenvectors of K K^T (times x times), so that the first few functions hold nearly all
of every curve: influence follows modes, of which few are learned at a time. Functions whose
integers are all 0 are dropped. Columns of V are orthonormal, so that rounding moves no value by
more than (width / 2) sum_r |V_tr|, and by far less mostly. `width` is chosen so that the largest
difference over all pairs and times is below a tolerance. That difference is measured, not
estimated.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support import FloatArray, IntArray
from dlnflow.explore import document

READ_NUMBERS = 2**23
"""Numbers of curves that are read at once."""
PEAK = 1.5
"""First guess of the largest error over `width`: 5.2 standard deviations of width / sqrt(12)."""
SHRINK = 0.8
"""Factor on `width` where the error was too large."""
SYMMETRIC_RTOL = 1e-9
"""Influence is symmetric if both directions of all pairs agree to this."""

Blocks = Callable[[], Iterator[tuple[slice, FloatArray]]]
"""Gives places of pairs and their curves (T, p), block after block, as often as it is called."""


@dataclass(frozen=True)
class LowRankCurves:
    """Curves of P pairs at T times.

    Parameters
    ----------
    basis : (R, T) float32 array
    values : (R, P) int32 array
    error : float
        Largest |difference| from the exact curves.
    """

    basis: NDArray[np.float32]
    values: NDArray[np.int32]
    error: float

    def curves(self, places: slice = slice(None)) -> FloatArray:
        """Return the curves of some pairs, as the page computes them.

        Returns
        -------
        (T, p) array
        """
        return self.basis.T.astype(np.float64) @ self.values[:, places]

    def reordered(self, rows: IntArray, columns: IntArray, symmetric: bool) -> "LowRankCurves":
        """Return the same curves with pairs in another order.

        Parameters
        ----------
        rows, columns : arrays of int
            Old places of queries and of train items, in their new order; the same if `symmetric`.
        symmetric : bool
            Whether there are pairs (q, i) with i >= q only.

        Returns
        -------
        LowRankCurves
        """
        count = len(columns)
        if symmetric:
            q, i = (rows[places] for places in np.triu_indices(count))
            q, i = np.minimum(q, i), np.maximum(q, i)
            places = q * count - q * (q + 1) // 2 + i
        else:
            places = (rows[:, None] * count + columns).ravel()
        return LowRankCurves(self.basis, self.values.take(places, axis=1), self.error)

    def content(self) -> dict[str, object]:
        """Return what a page holds, as JSON has it.

        Returns
        -------
        dict
            `rank`, `basis` (float32) and `values` (int32, see `document.packed`), in base64.
        """
        values = document.text_of(document.packed(self.values))
        return {"rank": len(self.basis), "basis": document.floats(self.basis), "values": values}


def fit(blocks: Blocks, pairs: int, tolerance: float) -> LowRankCurves:
    """Turn curves into integers, as coarsely as a tolerance allows.

    Parameters
    ----------
    blocks : callable
        Gives all curves; finite.
    pairs : int
        How many there are.
    tolerance : float
        Largest error, in the unit of the curves; above 0.

    Returns
    -------
    LowRankCurves
    """
    gram = sum(curves @ curves.T for _, curves in blocks())
    squares, v = np.linalg.eigh(gram)
    width = tolerance / PEAK
    # A function with a smaller norm than this has integers that are all 0.
    v = v[:, np.sqrt(np.maximum(squares, 0.0)) >= width / 4][:, ::-1]
    exact = np.empty((v.shape[1], pairs), dtype=np.float32)
    for places, curves in blocks():
        exact[:, places] = v.T @ curves
    while True:
        values = np.rint(exact / width).astype(np.int32)
        moves = values.any(axis=1)
        basis = (width * v.T[moves]).astype(np.float32)
        found = LowRankCurves(basis, values[moves], 0.0)
        error = _largest_error(blocks, found)
        if error <= tolerance:
            return LowRankCurves(basis, found.values, error)
        width *= SHRINK


def _largest_error(blocks: Blocks, found: LowRankCurves) -> float:
    return max(
        float(np.abs(curves - found.curves(places)).max(initial=0.0)) for places, curves in blocks()
    )


def of_pairs(curves: xr.DataArray, *, symmetric: bool) -> tuple[Blocks, int]:
    """Return the curves of pairs in blocks of queries, and how many pairs there are.

    Parameters
    ----------
    curves : DataArray, dims (time, query, train)
        In memory or opened from a store; read some queries at a time.
    symmetric : bool
        Pairs (q, i) with i >= q only.

    Returns
    -------
    blocks : callable
        Pairs in the order of queries, then of train items.
    pairs : int
    """
    times, queries, trains = curves.shape
    length = max(1, READ_NUMBERS // (times * trains))
    counts = trains - np.arange(queries) if symmetric else np.full(queries, trains)
    ends = np.concatenate([[0], np.cumsum(counts)])

    def blocks() -> Iterator[tuple[slice, FloatArray]]:
        for first in range(0, queries, length):
            rows = curves.isel(query=slice(first, first + length)).values.astype(np.float64)
            last = first + rows.shape[1]
            kept = np.ones(rows.shape[1:], dtype=bool)
            if symmetric:
                kept = np.arange(trains) >= np.arange(first, last)[:, None]
            yield slice(int(ends[first]), int(ends[last])), rows[:, kept]

    return blocks, int(ends[-1])


@dataclass(frozen=True)
class CurveSizes:
    """What curves are like: see `measure`."""

    largest: float
    different: float
    typical: float
    peak: int
    symmetric: bool


def measure(curves: xr.DataArray) -> CurveSizes:
    """Read curves once, and say how large they are and whether they are symmetric.

    Symmetry is that of u^T K v and v^T K u for random u and v, at all times: equal for all of
    them only if K is symmetric, up to coincidences of probability 0.

    Parameters
    ----------
    curves : DataArray, dims (time, query, train)
        Finite.

    Returns
    -------
    CurveSizes
        `largest` |value|; the same of pairs of `different` items; their `typical` size, the 99th
        percentile over pairs of the largest |value| over time; the place of the `peak`, the median
        time of those values; and whether the curves are the same in both directions.
    """
    names = [curves[dim].values for dim in ("query", "train")]
    square = np.array_equal(*names)
    u, v = np.random.default_rng(0).standard_normal((2, max(map(len, names))))
    blocks, _ = of_pairs(curves, symmetric=False)
    trains = len(names[1])
    tops, peaks, there, back, size = [], [], 0.0, 0.0, 0.0
    for places, part in blocks():
        rows = slice(places.start // trains, places.stop // trains)
        tops.append(np.abs(part).max(axis=0))
        peaks.append(np.abs(part).argmax(axis=0))
        if square:
            table = part.reshape(len(part), -1, trains)
            there = there + np.einsum("tqi,q,i->t", table, u[rows], v[:trains], optimize=True)
            back = back + np.einsum("tqi,q,i->t", table, v[rows], u[:trains], optimize=True)
            size = size + np.einsum("tqi,tqi->t", table, table)
    top = np.concatenate(tops).reshape(len(names[0]), trains)
    others = names[0][:, None] != names[1]
    different, when = top[others], np.concatenate(peaks).reshape(top.shape)[others]
    apart = np.abs(there - back)
    symmetric = square and bool(np.all(apart <= SYMMETRIC_RTOL * trains * np.sqrt(size)))
    return CurveSizes(
        float(top.max()),
        float(different.max(initial=0.0)) or float(top.max()),
        float(np.quantile(different, 0.99)) if different.size else float(top.max()),
        int(np.median(when)) if different.size else 0,
        symmetric,
    )
