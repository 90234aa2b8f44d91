"""Whether rows of ids occur somewhere in a text, found with a hash of all its windows.

h(w) = sum_j w_j p^j mod 2^64,  of the window at i:  p^-i (P_{i+T} - P_i),  P_i = sum_{k<i} w_k p^k
"""

import numpy as np
from numpy.typing import NDArray

P = 0x9E3779B97F4A7C15
"""An odd number, so that it has an inverse modulo 2^64."""
LEAST = 32
"""Ids of a row that is looked for; shorter ones occur in text that is independent, too."""
WINDOWS = 1 << 20
"""Windows hashed at a time."""


def occurring(rows: NDArray[np.integer], ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Say which rows are a contiguous stretch of a text.

    Parameters
    ----------
    rows : (n, T) int array
        Rows.
    ids : (N,) int array
        Text.

    Returns
    -------
    (n,) bool array
        True where a row occurs; every hit is compared in full.
    """
    n, length = rows.shape
    found = np.zeros(n, bool)
    hashes, which = np.unique([_hashes(row, length)[0] for row in rows], return_inverse=True)
    for start in range(0, len(ids) - length + 1, WINDOWS):
        part = ids[start : start + WINDOWS + length - 1]
        windows = _hashes(part, length)
        at = np.minimum(np.searchsorted(hashes, windows), len(hashes) - 1)
        places = np.flatnonzero(hashes[at] == windows)
        # one place of each is enough
        for k, first in zip(*np.unique(at[places], return_index=True), strict=True):
            window = part[places[first] : places[first] + length]
            found |= (which == k) & (rows == window).all(axis=1)
    return found


def _hashes(ids: NDArray[np.integer], length: int) -> NDArray[np.uint64]:
    """Return the hash of every window; sums and products are modulo 2^64."""
    powers = np.cumprod(np.full(len(ids), P, np.uint64))
    inverse = np.cumprod(np.full(len(ids), pow(P, -1, 1 << 64), np.uint64))
    sums = np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * powers)
    windows = sums[length - 1 :].copy()
    windows[1:] -= sums[: len(ids) - length]
    return windows * inverse[: len(windows)]
