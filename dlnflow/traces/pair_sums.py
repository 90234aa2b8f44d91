"""Sums over pairs of items of two classes, chain by chain, without the item x item matrix.

With d the deviation of a loss from the chain's mean, w_kg the weight of item k in class g, and
s_g = sum_k w_kg d_k at a draw, pairs of the same item are taken out by

    sum_{k != l} w_kg d_k w_lh d_l = s_g s_h - sum_k w_kg w_kh d_k^2,

so one pass over the losses gives every entry. With s_v[g] the sum over the items whose vocabulary
id is v, and s_rv[g] that in row r, pairs of the same id are taken out by

    same id:                sum_v s_v[g] s_v[h]
    same id, without row r: sum_v (s_v - s_rv)[g] (s_v - s_rv)[h]

so a pass over the rows gives both, and a second one is needed for the jackknife over rows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support import FloatArray
from dlnflow.traces.excluded_pairs import numbered

BLOCK = 1024
"""Items that are held in float64 at the same time."""
BYTES = 1 << 28
"""Sums of ids that are held at the same time; if there are more, the draws are taken in parts."""
ITEM, ROW, TOKEN = (frozenset({kind}) for kind in ("item", "row", "token"))
EXCLUDED = (ITEM, ROW, TOKEN, ROW | TOKEN)
"""What `dlnflow.traces.excluded_pairs.excluded` can return."""

Part = slice | NDArray[np.intp]
Deviations = Callable[[Sequence[Part] | None], Iterator[tuple[Part, FloatArray]]]
"""Gives parts of the items, by default stretches of `BLOCK`, and their d (draws, part)."""


class Sums(NamedTuple):
    """Sums over kept pairs: by chain (C, G, G), and without each row (R, C, G, G)."""

    by_chain: FloatArray
    without_row: FloatArray

    def times(self, factor: float) -> "Sums":
        """Return them, multiplied by a factor."""
        return Sums(factor * self.by_chain, factor * self.without_row)

    def part(self, classes: Sequence[int]) -> "Sums":
        """Return those of some classes."""
        square = np.ix_(classes, classes)
        return Sums(self.by_chain[:, *square], self.without_row[:, :, *square])

    @classmethod
    def of_chains(cls, found: Sequence["Sums"]) -> "Sums":
        """Put those of single chains side by side."""
        return cls(
            np.concatenate([one.by_chain for one in found]),
            np.concatenate([one.without_row for one in found], axis=1),
        )


def deviations(
    losses: NDArray, differences: bool, parts: Sequence[Part] | None = None
) -> Iterator[tuple[Part, FloatArray]]:
    """Yield d of losses (draws, K) of a chain, or of their draw-to-draw differences."""
    if parts is None:
        starts = range(0, losses.shape[-1], BLOCK)
        parts = [slice(start, min(start + BLOCK, losses.shape[-1])) for start in starts]
    for part in parts:
        d = losses[:, part].astype(np.float64)
        if differences:
            d = np.diff(d, axis=0)
        d -= d.mean(axis=0)  # nearly constant losses would lose their digits otherwise
        yield part, d


def squares(losses: NDArray, differences: bool) -> FloatArray:
    """Return the sum over draws of d^2 for every item, (K,)."""
    return np.concatenate([np.einsum("dk,dk->k", d, d) for _, d in deviations(losses, differences)])


class Layout(NamedTuple):
    """Who is in which class (K, G) and row (K,), and the id of every item, if that is known."""

    members: FloatArray
    row_of: NDArray[np.intp]
    ids: NDArray[np.intp] | None
    has_rows: bool

    @classmethod
    def of(
        cls, traces: xr.DataArray, members: FloatArray, excludes: Sequence[frozenset[str]] = ()
    ) -> "Layout":
        """Number rows and ids from 0; one row if there are none.

        Raises
        ------
        ValueError
            If rows or ids are asked for and not known.
        """
        asked = frozenset().union(*excludes)
        has_rows = "row" in asked or "row" in traces.coords
        row_of = numbered(traces, "row") if has_rows else np.zeros(len(members), np.intp)
        has_ids = "token" in asked
        return cls(members, row_of, numbered(traces, "token") if has_ids else None, has_rows)

    @property
    def rows(self) -> list[Part]:
        """Return the items of every row; of rows that are stretches, slices, which give views."""
        found: list[Part] = []
        order = np.argsort(self.row_of, kind="stable")
        for mine in np.split(order, np.cumsum(np.bincount(self.row_of))[:-1]):
            whole = len(mine) == mine[-1] - mine[0] + 1
            found.append(slice(mine[0], mine[-1] + 1) if whole else mine)
        return found

    def pairs(self, exclude: frozenset[str]) -> Sums:
        """Count the pairs that are kept; a chain axis of 1."""
        ones = np.ones((1, len(self.members)))

        def each(parts: Sequence[Part] | None) -> Iterator[tuple[Part, FloatArray]]:
            return ((part, ones[:, part]) for part in parts or [slice(None)])

        return self.of_chain(each, [self.members], [exclude])[0][exclude]

    def of_chain(
        self, d: Deviations, weights: Sequence[FloatArray], excludes: Sequence[frozenset[str]]
    ) -> list[dict[frozenset[str], Sums]]:
        """Sum over pairs for every kind of weights (K, G) and of excluded pairs, of one chain."""
        first = _by_rows(d(None), weights, self.row_of)
        tokens = [None] * len(weights)
        if any("token" in one for one in excludes):
            tokens = same_token(lambda: d(self.rows), weights, self.ids)
        return [
            {e: _kept(*sums, token, e) for e in excludes}
            for sums, token in zip(first, tokens, strict=True)
        ]


class Within(NamedTuple):
    """Sums over pairs to leave out (G, G), and those lost without a row (R, G, G)."""

    total: FloatArray
    by_row: FloatArray


def _by_rows(
    blocks: Iterator[tuple[Part, FloatArray]],
    weights: Sequence[FloatArray],
    row_of: NDArray[np.intp],
) -> list[tuple[FloatArray, FloatArray]]:
    """Return s[r] (R, draws, G) and own[r] (R, G, G), the sum over k of w_kg w_kh d_k^2."""
    found: list[tuple[FloatArray, FloatArray]] = []
    for part, d in blocks:
        if not found:
            n_rows, n_classes = row_of.max() + 1, weights[0].shape[1]
            shapes = (n_rows, len(d), n_classes), (n_rows, n_classes, n_classes)
            found = [(np.zeros(shapes[0]), np.zeros(shapes[1])) for _ in weights]
        square = np.einsum("dk,dk->k", d, d)
        for r in np.unique(row_of[part]):
            mine = np.flatnonzero(row_of[part] == r)
            # rows are stretches of items, so these are views and not copies
            mine = slice(mine[0], mine[-1] + 1) if len(mine) == np.ptp(mine) + 1 else mine
            for (sums, own), weight in zip(found, weights, strict=True):
                w = weight[part][mine]
                sums[r] += d[:, mine] @ w
                own[r] += (w * square[mine, None]).T @ w
    return found


def _kept(by_row: FloatArray, own: FloatArray, tokens: tuple | None, exclude: frozenset) -> Sums:
    """Subtract from the sums over all pairs those that are left out."""
    total = by_row.sum(0)
    every = total.T @ total
    rest = total - by_row
    every_rest = rest.swapaxes(1, 2) @ rest
    if "token" in exclude:
        within, lost = tokens["row" in exclude]
    else:
        lost = by_row.swapaxes(1, 2) @ by_row if "row" in exclude else own
        within = lost.sum(0)
    return Sums((every - within)[None], (every_rest - (within - lost))[:, None])


Rows = Callable[[], Iterator[tuple[Part, FloatArray]]]
"""Gives, again at every call, the items of each row and their d (draws, items)."""


def same_token(
    rows: Rows, weights: Sequence[FloatArray], ids: NDArray[np.intp]
) -> list[tuple[Within, Within]]:
    """Sum over pairs with the same id, and over those with the same id or row.

    Parameters
    ----------
    rows : callable
        See `Rows`.
    weights : sequence of (K, G) arrays
        Which item is in which class, and how it counts.
    ids : (K,) int array
        Vocabulary ids, numbered from 0 without gaps.

    Returns
    -------
    list of (Within, Within)
        The sums, for every kind of weights.
    """
    draws = len(next(iter(rows()))[1])
    width = max(1, BYTES // (8 * len(weights) * (ids.max() + 1) * weights[0].shape[1]))
    parts = [
        _same_token(lambda k=k: _some_draws(rows, slice(k, k + width)), weights, ids)
        for k in range(0, draws, width)
    ]
    return [
        tuple(Within(*map(sum, zip(*(one[k] for one in same), strict=True))) for k in (0, 1))
        for same in zip(*parts, strict=True)
    ]


def _some_draws(rows: Rows, draws: slice) -> Iterator[tuple[Part, FloatArray]]:
    """Give rows with a part of their draws; sums of products add up over the parts."""
    return ((items, d[draws]) for items, d in rows())


def _same_token(
    rows: Rows, weights: Sequence[FloatArray], ids: NDArray[np.intp]
) -> list[tuple[Within, Within]]:
    """Do the work of `same_token` with sums of every id at every draw in memory."""
    of_id: list[FloatArray] = []
    for items, d in rows():
        if not of_id:  # draws last: what is gathered is contiguous
            shape = ids.max() + 1, weights[0].shape[1], len(d)
            of_id = [np.zeros(shape) for _ in weights]
        for whole, weight in zip(of_id, weights, strict=True):
            here, sums = _by_id(d, weight[items], ids[items])
            whole[here] += sums
    lost: list[list[tuple[FloatArray, FloatArray]]] = [[] for _ in weights]
    extras = [0.0] * len(weights)
    for items, d in rows():
        for k, (whole, weight) in enumerate(zip(of_id, weights, strict=True)):
            here, sums = _by_id(d, weight[items], ids[items])
            crossed, own = _products(whole[here], sums), _products(sums, sums)
            row = sums.sum(0, keepdims=True)
            extra = _products(row, row) - own  # pairs that share both would count twice
            extras[k] = extras[k] + extra
            mine = crossed + crossed.T - own
            lost[k].append((mine, mine + extra))
    found = []
    for whole, extra, by_row in zip(of_id, extras, lost, strict=True):
        total = _products(whole, whole)
        of_token, of_both = (np.stack(one) for one in zip(*by_row, strict=True))
        found.append((Within(total, of_token), Within(total + extra, of_both)))
    return found


def _products(a: FloatArray, b: FloatArray) -> FloatArray:
    """Sum products of classes over ids and draws, (V, G, D) and the same to (G, G)."""
    return np.matmul(a, b.swapaxes(-1, -2)).sum(0)


def _by_id(
    d: FloatArray, weights: FloatArray, ids: NDArray[np.intp]
) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the ids of a row and the sums (id, class, draws) over their items."""
    here, number = np.unique(ids, return_inverse=True)
    spread = np.zeros((len(here), weights.shape[1], len(ids)))
    spread[number, :, np.arange(len(ids))] = weights
    sums = spread.reshape(-1, len(ids)) @ d.T
    return here, sums.reshape(len(here), weights.shape[1], -1)
