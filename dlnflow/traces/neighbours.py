"""Do the items that help a token most belong to its class? k-nearest-neighbour recall (D.1.3).

    predicted(q) = argmax_c sum_{j in N_k(q)} 1[j in c] / f_c(q),   f_c(q) = |c in A(q)| / |A(q)|

A(q): the items that may be neighbours of q, at least all but q. N_k(q): the k of them with the
most negative influence on q (largest loss correlation). Recall of class c: the share of its tokens
for which c is predicted. Since f_c(q) leaves q out, a draw between classes goes to a class of q:
chance is above 1/G, and is measured with neighbours drawn from the same A(q), not assumed.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow._support import FloatArray
from dlnflow.checks import whole_number
from dlnflow.traces.columns import BLOCK, about, standardised
from dlnflow.traces.diagnostics import checkpoints
from dlnflow.traces.excluded_pairs import ExcludedPairs, excluded, numbered
from dlnflow.traces.format import enough_draws
from dlnflow.traces.membership import members_of
from dlnflow.traces.pairs import ENTRIES, checked_k, nearest

TOO_RARE = 30
"""Classes with fewer tokens have intervals wider than 0.3 and are marked."""
Z95 = 1.959964
"""Two-sided 95 % quantile of the normal law."""


def neighbours(
    traces: xr.DataArray,
    classes: xr.DataArray | ArrayLike,
    *,
    k: int = 30,
    exclude: str | Sequence[str] = "item",
    differences: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    """Recall of every class from nearest neighbours in influence, against chance.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    classes : DataArray or (K, G) bool array
        As in `groups`.
    k : int
        Number of neighbours.
    exclude : {"item", "row", "token"} or several of them
        Never a neighbour: the token itself, all tokens of its sequence, or all of its vocabulary
        id (which tells whether a class is found by more than its members being the same id).
    differences : bool
        As in `groups`.
    seed : int
        Seed of the random neighbours that give the chance level.

    Returns
    -------
    Dataset
        `recall`, `low`, `high` (Wilson 95 % interval), dims (time, token_class); `chance`
        (token_class), the recall with k random neighbours; `purity` (time, token_class), the mean
        share of a class's own tokens among the k neighbours, its `purity_error` (tokens that share
        a row or an id are not independent), the degrees of freedom of that, `purity_dof`
        (token_class), and `purity_chance` (token_class), the class's share of possible neighbours;
        `count` (token_class) and `too_rare` where there are fewer than 30 tokens. NaN where fewer
        than two chains are left.

    Raises
    ------
    ValueError
        If a class has no tokens, `traces` lack the rows or ids to exclude, or a token has fewer
        than `k` possible neighbours.
    """
    kinds = sorted(excluded(exclude))
    traces = enough_draws(traces, differences)
    k, seed = checked_k(k, traces), whole_number("seed", seed)
    members, names = members_of(classes, traces)
    without = ExcludedPairs.of(traces, kinds)
    tokens = np.flatnonzero(members.any(1))
    frequency = _frequencies(members, without, tokens, k)
    own = members[tokens]
    recall, purity, spread = np.full((3, traces.sizes["time"], len(names)), np.nan)
    alike = [numbered(traces, n)[tokens] for n in ("row", "token") if n in traces.coords]
    alike = alike or [np.arange(len(tokens))]
    for t, one in enumerate(checkpoints(traces)):
        if len(losses := one.kept) == 0:
            continue
        z = standardised(losses, normalised=True, differences=differences)
        hits, share = np.zeros((len(tokens), len(names)), bool), np.zeros(own.shape)
        for part, best, _ in nearest(z, k, tokens, without):
            hits[part] = predicted(members, frequency[part], best)
            share[part] = members[best].mean(1)
        recall[t] = _recall(hits, own)
        purity[t], spread[t] = _recall(share, own), shared_error(share, own, alike)
        del one, losses, z
    chance = _chance(members, frequency, tokens, without, k=k, seed=seed)
    count = members.sum(0).astype(int)
    low, high = wilson(recall, count)
    rare = ("token_class", count < TOO_RARE)
    dims = ("time", "token_class")
    return xr.Dataset(
        {
            "recall": (dims, recall),
            "low": (dims, low),
            "high": (dims, high),
            "chance": ("token_class", chance),
            "purity": (dims, purity),
            "purity_error": (dims, spread),
            "purity_dof": ("token_class", np.min([_units(own, one) for one in alike], 0) - 1),
            "purity_chance": ("token_class", _recall(frequency, own)),
            "count": ("token_class", count),
            "too_rare": rare,
        },
        coords={"time": traces.time.values, "token_class": names},
        attrs=about(traces, True) | {"k": k, "exclude": ", ".join(kinds)},
    )


def predicted(
    members: FloatArray, frequency: FloatArray, best: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return the predicted class of n queries as a (n, G) one-hot array; none without votes."""
    votes = members[best].sum(1)
    score = np.where(frequency > 0, votes / np.where(frequency > 0, frequency, 1.0), 0.0)
    winner = score.argmax(1)
    voted = score[np.arange(len(score)), winner] > 0
    return (np.arange(members.shape[1]) == winner[:, None]) & voted[:, None]


def wilson(share: FloatArray, count: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Return the Wilson 95 % interval of a share of `count` independent tokens."""
    # Tokens of one text are not independent: the interval is a lower bound on the uncertainty.
    n = np.maximum(count, 1)
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return middle - half, middle + half


def _recall(hits: NDArray, members: FloatArray) -> FloatArray:
    """Return the share of every class's tokens that were predicted to be in it."""
    return (hits * members).sum(0) / members.sum(0)


def shared_error(
    share: FloatArray, members: FloatArray, alike: Sequence[NDArray[np.intp]]
) -> FloatArray:
    """Return the standard error of a mean over the tokens of every class.

    error^2 = n / (n - 1) sum_{i, j that share a row or an id} e_i e_j / K^2,  e_i = share_i - mean,
    with the n of whichever is fewer, and at least what rows or ids alone give.
    """
    apart = (share - _recall(share, members)) * members
    parts = [_sum_of_squares(apart, one) for one in alike]
    if len(alike) == 2:
        both = np.unique(np.stack(alike), axis=1, return_inverse=True)[1].ravel()
        parts.append(parts[0] + parts[1] - _sum_of_squares(apart, both))
    n = np.min([_units(members, one) for one in alike], 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # NaN with a single row or id
        return np.sqrt(np.max(parts, 0) * n / (n - 1)) / members.sum(0)


def _sum_of_squares(values: FloatArray, unit: NDArray[np.intp]) -> FloatArray:
    """Return the sum over units of squared sums of values (n, G)."""
    sums = np.zeros((unit.max() + 1, values.shape[1]))
    np.add.at(sums, unit, values)
    return (sums**2).sum(0)


def _units(members: FloatArray, unit: NDArray[np.intp]) -> FloatArray:
    """Return how many units have tokens of every class."""
    sums = np.zeros((unit.max() + 1, members.shape[1]))
    np.add.at(sums, unit, members)
    return (sums > 0).sum(0)


def _frequencies(
    members: FloatArray, without: ExcludedPairs, tokens: NDArray[np.intp], k: int
) -> FloatArray:
    """Return f_c(q) for the tokens, (n, G)."""
    ones = np.ones((len(members), 1))
    left = len(members) - without.total(ones)[tokens]
    if left.min() < k:
        raise ValueError(
            f"`k` must be at most {int(left.min())}, the fewest possible neighbours of a token "
            f"under this `exclude`; got {k}. Ask for fewer or exclude less."
        )
    return (members.sum(0) - without.total(members)[tokens]) / left


def _chance(
    members: FloatArray,
    frequency: FloatArray,
    tokens: NDArray[np.intp],
    without: ExcludedPairs,
    *,
    k: int,
    seed: int,
) -> FloatArray:
    """Return the recall when neighbours are drawn at random, over 20 draws per token."""
    rng = np.random.default_rng(seed)
    hits = np.zeros((len(tokens), members.shape[1]))
    width = max(1, min(BLOCK, ENTRIES // len(members)))
    for start in range(0, len(tokens), width):
        part = slice(start, start + width)
        no_pair = without.pairs(tokens[part])
        for _ in range(20):
            order = rng.random(no_pair.shape, np.float32)
            order[no_pair] = 2.0  # after all that may be drawn
            best = np.argpartition(order, k - 1, 1)[:, :k]
            hits[part] += predicted(members, frequency[part], best)
    return _recall(hits / 20, members[tokens])
