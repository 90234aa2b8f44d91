"""Do the items that help a token most belong to its class? k-nearest-neighbour recall (D.1.3).

    predicted(q) = argmax_c sum_{j in N_k(q)} 1[j in c] / f_c(q),   f_c(q) = |c minus q| / (K - 1)

N_k(q): the k items with the most negative influence on q (largest loss correlation), without q.
Recall of class c: the share of its tokens for which c is predicted. Since f_c(q) leaves q out, a
draw between classes goes to a class of q: chance is above 1/G, and is measured, not assumed.
"""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow._checks import one_of
from dlnflow._typing import FloatArray
from dlnflow.influence._entries import _checked_k, nearest, standardised
from dlnflow.influence._standard import membership, usable

TOO_RARE = 30
"""Classes with fewer tokens have intervals wider than 0.3 and are marked."""
Z95 = 1.959964
"""Two-sided 95 % quantile of the normal law."""


def neighbours(
    traces: xr.DataArray,
    classes: xr.DataArray | ArrayLike,
    *,
    k: int = 30,
    exclude: str = "item",
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
    exclude : {"item", "row", "token"}
        Never a neighbour: the token itself, all tokens of its sequence, or all of its vocabulary
        id (which tells whether a class is found by more than its members being the same id).
    differences : bool
        As in `groups`.
    seed : int
        Of the random neighbours that give the chance level.

    Returns
    -------
    Dataset
        `recall`, `low`, `high` (Wilson 95 % interval), dims (time, token_class); `chance`
        (token_class), the recall with k random neighbours; `count` (token_class) and
        `too_rare` where there are fewer than 30 tokens. NaN where fewer than two chains are left.

    Raises
    ------
    ValueError
        If a class has no tokens or `k` is not below the number of items.
    """
    one_of("exclude", exclude, ("item", "row", "token"))
    k = _checked_k(k, traces)
    members, names = membership(classes, traces.sizes["item"])
    group = np.arange(len(members)) if exclude == "item" else traces[exclude].values
    tokens = np.flatnonzero(members.any(1))
    recall = np.full((traces.sizes["time"], len(names)), np.nan)
    for t, chains in enumerate(usable(traces, differences)):
        if len(chains) == 0:
            continue
        z = standardised(traces, t, chains, normalised=True, differences=differences)
        hits = np.zeros((len(tokens), len(names)), bool)
        for part, best, _ in nearest(z, k, tokens, group):
            hits[part] = predicted(members, tokens[part], best)
        recall[t] = _recall(hits, members[tokens])
    count = members.sum(0).astype(int)
    low, high = wilson(recall, count)
    rare = ("token_class", count < TOO_RARE)
    dims = ("time", "token_class")
    return xr.Dataset(
        {
            "recall": (dims, recall), "low": (dims, low), "high": (dims, high),
            "chance": ("token_class", _chance(members, tokens, k, seed)),
            "count": ("token_class", count), "too_rare": rare,
        },
        coords={"time": traces.time.values, "token_class": names},
        attrs={"k": k, "exclude": exclude},
    )  # fmt: skip


def predicted(
    members: FloatArray, queries: NDArray[np.intp], best: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return the predicted class of every query as a (n, G) one-hot array; none without votes."""
    votes = members[best].sum(1)
    frequency = (members.sum(0) - members[queries]) / (len(members) - 1)
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


def _recall(hits: NDArray[np.bool_], members: FloatArray) -> FloatArray:
    """Return the share of every class's tokens that were predicted to be in it."""
    return (hits * members).sum(0) / members.sum(0)


def _chance(members: FloatArray, tokens: NDArray[np.intp], k: int, seed: int) -> FloatArray:
    """Return the recall when neighbours are drawn at random, over 20 draws per token."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(20):
        # k different items, none of them the token itself
        best = np.argpartition(rng.random((len(tokens), len(members) - 1)), k - 1, 1)[:, :k]
        best += best >= tokens[:, None]
        found.append(_recall(predicted(members, tokens, best), members[tokens]))
    return np.mean(found, axis=0)
