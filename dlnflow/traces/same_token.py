"""Sums over pairs of items of the same vocabulary token, for leaving such pairs out of class means.

With s_v[g] the sum of z over the items of class g whose id is v, and s_rv[g] that in row r,

    same id:                sum_v s_v[g] s_v[h]
    same id, without row r: sum_v (s_v - s_rv)[g] (s_v - s_rv)[h]

so a pass over the rows gives both, and a second one is needed for the jackknife.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.typing import FloatArray

Rows = Callable[[], Iterator[tuple[NDArray[np.intp], FloatArray]]]
"""Gives, again at every call, the items of each row and their z (chains, draws, items)."""


class Within(NamedTuple):
    """Sums over pairs to leave out: by chain (C, G, G), and those lost without a row (R, G, G)."""

    total: FloatArray
    by_row: FloatArray


def same_token(rows: Rows, members: FloatArray, ids: NDArray[np.intp], *, or_row: bool) -> Within:
    """Sum z_k z_l over k in g and l in h with the same id, or with the same id or row.

    Parameters
    ----------
    rows : callable
        See `Rows`.
    members : (K, G) array
        Which item is in which class.
    ids : (K,) int array
        Vocabulary ids, numbered from 0 without gaps.
    or_row : bool
        Add pairs of the same row.

    Returns
    -------
    Within
        The sums.
    """
    of_id = None
    for items, z in rows():
        if of_id is None:
            of_id = np.zeros((*z.shape[:2], ids.max() + 1, members.shape[1]))
        here, sums = _by_id(z, members[items], ids[items])
        of_id[:, :, here] += sums
    total = np.einsum("cdvg,cdvh->cgh", of_id, of_id, optimize=True)
    by_row = []
    for items, z in rows():
        here, sums = _by_id(z, members[items], ids[items])
        crossed = np.einsum("cdvg,cdvh->gh", of_id[:, :, here], sums, optimize=True)
        own = np.einsum("cdvg,cdvh->cgh", sums, sums, optimize=True)
        lost = crossed + crossed.T - own.sum(0)
        if or_row:
            row = sums.sum(2)
            # pairs that share both would count twice
            extra = np.einsum("cdg,cdh->cgh", row, row) - own
            total += extra
            lost += extra.sum(0)
        by_row.append(lost)
    return Within(total, np.stack(by_row))


def _by_id(
    z: FloatArray, members: FloatArray, ids: NDArray[np.intp]
) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the ids of a row and the sums (chains, draws, id, class) over their items."""
    here, number = np.unique(ids, return_inverse=True)
    spread = np.zeros((len(ids), len(here), members.shape[1]))
    spread[np.arange(len(ids)), number] = members
    return here, np.tensordot(z, spread, 1)
