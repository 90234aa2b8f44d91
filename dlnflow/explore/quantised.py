"""Standardised loss traces as small integers, from which a page computes influence itself.

With z the losses of the kept chains, centred per chain and of norm 1 (`dlnflow.traces`),

    r_ij = - sum_k z_ki z_kj                       minus the Pearson correlation
         ~ - sum_k q_ki q_kj / (|q_i| |q_j|),      q = round(U^T z / width).

Draws are cut into batches of one chain each, and U rotates each batch to its principal axes:
rotations change no sum over a batch, but leave most axes so small that they round to 0 and are
dropped. Sums over q are exact in integers, so browser and numpy agree to the last rounding.

The standard error is that of batch means. With p_b the share of batch b in the estimate
(correlations: of z_i z_j - (r/2)(z_i^2 + z_j^2), the delta method, see `traces.influence`),

    standard_error^2 = B / (B - 1) sum_b (p_b - mean p)^2,    B - 1 degrees of freedom.

`width` is chosen so that the largest difference from the exact r, over all pairs of a checkpoint,
is below `SHARE` of its noise floor. That difference is measured, not estimated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow._support import FloatArray
from dlnflow.traces import check_traces
from dlnflow.traces.columns import BLOCK, standardised
from dlnflow.traces.diagnostics import ESS_LIMIT, checkpoints

SHARE = 0.25
"""Largest error of a correlation, as a share of the noise floor."""
BATCH_DRAWS = 50
"""Draws of a batch where there are enough: long against the correlation time of mixed chains."""
BATCHES = (2, 8)
"""Least and most batches of a chain."""
PEAK = 2.5
"""First guess of the largest error over `width`: 5.5 standard deviations, each width / sqrt(6)."""
SHRINK = 0.7
"""Factor on `width` where the error was too large."""


class Row(NamedTuple):
    """Influence of all items on one, minus the correlation, and its standard error; (K,) each."""

    influence: FloatArray
    standard_error: FloatArray


@dataclass(frozen=True)
class QuantisedTraces:
    """The traces of one checkpoint.

    Parameters
    ----------
    values : (R, K) int16 array
        q; empty (R = 0) where no chains are left.
    edges : (B + 1,) int array
        Batch b has the rows edges[b] to edges[b + 1].
    spread : (K,) array
        Standard deviations of the losses: the covariance is the correlation times two of them.
    error, floor : float
        Largest |difference| of a correlation from the exact one, over all pairs of different
        items; and the noise floor that it is compared with.
    """

    values: NDArray[np.int16]
    edges: NDArray[np.intp]
    spread: FloatArray
    error: float
    floor: float

    def row(self, item: int, *, normalised: bool = True) -> Row:
        """Compute influence of, or on, one item as the page does.

        Parameters
        ----------
        item : int
            Its position; sampled influence is symmetric.
        normalised : bool
            Minus the correlation, else minus the covariance, without n_beta / N.

        Returns
        -------
        Row
            Influence and standard error of all items; NaN where there are no chains.
        """
        if len(self.values) == 0:
            return Row(*np.full((2, self.values.shape[1]), np.nan))
        q = self.values.astype(np.int64)
        products = np.add.reduceat(q * q[:, item, None], self.edges[:-1], axis=0)
        squares = np.add.reduceat(q * q, self.edges[:-1], axis=0)
        scale = inverse(np.sqrt(squares.sum(0)))
        share = products * (scale * scale[item])
        value = share.sum(0)
        if normalised:
            own = squares * scale**2
            share = share - value / 2 * (own + own[:, item, None])
        count = len(share)
        error = np.sqrt(np.sum((share - share.mean(0)) ** 2, axis=0) * count / (count - 1))
        unit = 1.0 if normalised else self.spread * self.spread[item]
        return Row(-value * unit, error * unit)


def quantise(
    traces: xr.DataArray, floors: ArrayLike, done: Callable[[], None] = lambda: None
) -> list[QuantisedTraces]:
    """Turn loss traces into integers, checkpoint by checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    floors : (T,) array
        `noise_floor` of `dlnflow.traces.summary`.
    done : callable
        Called after every checkpoint.

    Returns
    -------
    list of QuantisedTraces
        One per time.
    """
    # An effective size below the limit says little about itself.
    floors = np.minimum(np.asarray(floors), ESS_LIMIT**-0.5).tolist()

    def one(losses: NDArray, floor: float) -> QuantisedTraces:
        found = _checkpoint(losses, floor)
        done()
        return found

    kept = map(attrgetter("kept"), checkpoints(check_traces(traces)))
    return list(map(one, kept, floors))


def inverse(values: FloatArray) -> FloatArray:
    """Return 1 / values, and 0 for 0: an item that never moves has no influence."""
    return np.divide(1.0, values, out=np.zeros_like(values, dtype=np.float64), where=values > 0)


def batches(chains: int, draws: int) -> NDArray[np.intp]:
    """Return where batches of draws begin and end, chain after chain."""
    each = int(np.clip(draws // BATCH_DRAWS, *BATCHES))
    inside = np.arange(each) * draws // each
    starts = (np.arange(chains)[:, None] * draws + inside).ravel()
    return np.append(starts, chains * draws)


def _checkpoint(losses: NDArray, floor: float) -> QuantisedTraces:
    """Quantise losses (chains, draws, K) as coarsely as the noise floor allows."""
    chains, draws, count = losses.shape
    if chains == 0:
        empty = np.zeros((0, count), np.int16)
        return QuantisedTraces(empty, np.zeros(1, np.intp), np.full(count, np.nan), np.nan, floor)
    z = standardised(losses, normalised=False, differences=False)
    spread = np.sqrt(np.einsum("kj,kj->j", z, z))
    z *= inverse(spread)
    edges = batches(chains, draws)
    rotated = np.concatenate([_principal(z[a:b]) for a, b in pairwise(edges)])
    width = SHARE * floor / PEAK
    while True:
        values, kept = _rounded(rotated, edges, width)
        error = _largest_error(z, values)
        if error <= SHARE * floor:
            return QuantisedTraces(values, kept, spread, error, floor)
        width *= SHRINK


def _principal(z: FloatArray) -> FloatArray:
    """Return z (draws, K) in its principal axes, the longest first."""
    _, axes = np.linalg.eigh(z @ z.T)
    return axes[:, ::-1].T @ z


def _rounded(
    rotated: FloatArray, edges: NDArray[np.intp], width: float
) -> tuple[NDArray[np.int16], NDArray[np.intp]]:
    """Return integers without axes that are 0, and the edges of the batches among the rest."""
    values = np.rint(rotated / width).astype(np.int16)
    moves = values.any(axis=1)
    moves[edges[:-1]] = True  # a batch has at least one axis
    kept = np.concatenate([[0], np.cumsum(moves)])[edges]
    return values[moves], kept


def _largest_error(z: FloatArray, values: NDArray[np.int16]) -> float:
    """Return the largest |difference| of a correlation, over all pairs of different items."""
    q = values.astype(np.float64)  # sums stay exact below 2^53
    q *= inverse(np.sqrt(np.einsum("kj,kj->j", q, q)))
    largest = 0.0
    for start in range(0, z.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        apart = z[:, part].T @ z - q[:, part].T @ q
        apart[np.arange(len(apart)), np.arange(start, start + len(apart))] = 0.0
        largest = max(largest, float(np.abs(apart).max()))
    return largest
