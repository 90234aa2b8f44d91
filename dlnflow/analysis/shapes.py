"""Which shapes influence curves have: groups of like curves, and one pair that stands for each."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import cdist, pdist

from dlnflow import checks, result
from dlnflow._support import FloatArray, IntArray

EARLY = 0.1
"""Time counts on a log scale if half of the curves peak before this share of the record."""
FAINT = 0.01
"""Curves whose largest |value| is below this fraction of the largest of all have no shape."""
UNEXPLAINED = 0.05
"""Groups are added until this share of the variance of all shapes is left, or there are `most`."""
POINTS = 64
"""Times at which shapes are compared, evenly spaced on the axis."""
CLUSTERED = 2000
"""Curves that are clustered; the others go to the nearest group."""
TYPICAL = 0.1
"""Share of a group, nearest to its mean, whose largest curve stands for it."""
ROUNDING = 1e-9
"""Distances and sizes that differ by less are equal, so that rounding chooses nothing."""
CHUNK_NUMBERS = 2**20
"""Values of curves that are held at once."""


class CurveShapes(NamedTuple):
    """Groups of curves of like shape.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per group, in the order of the time at which the pair that stands for it is
        largest. Columns: ``train``, ``query``: that pair; ``count``: pairs in the group, itself
        included; ``size``: its largest |value|.
    group : xarray.DataArray
        dims (query, train): row of `table`; -1 for an item on itself and for faint curves.
    log : bool
        Whether time counted on a log scale.
    """

    table: pd.DataFrame
    group: xr.DataArray
    log: bool


def shapes(influence: xr.DataArray, most: int = 8) -> CurveShapes:
    """Group the curves of pairs of different items by shape; name a typical pair of each.

    The shape of a curve is K(t) / max |K| at evenly spaced points of the time axis, linear or
    logarithmic. CurveShapes are clustered by Ward's method into as few groups as leave 5 % of their
    variance about the group means, at most `most`; up to `most` pairs are a group each. Of many
    curves, 2,000 drawn at random (always the same) are clustered, and the others go to the group
    with the nearest mean. The pair that stands for a group is the one with the largest |value|
    among the tenth of the group nearest to its mean.

    Parameters
    ----------
    influence : xarray.DataArray
        Of several estimators the first counts, of several seeds the mean.
    most : int
        Largest number of groups.

    Returns
    -------
    CurveShapes

    Raises
    ------
    TypeError, ValueError
        If `influence` is not an influence result, has a sweep dim other than ``estimator`` and
        ``seed``, or `most` is not positive.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3)
    >>> found = shapes(dln.influence.analytic(run), most=3)
    >>> sorted(found.table["count"])  # siblings, cousins, animals and plants
    [8, 16, 32]
    """
    most = checks.positive_integer("most", most)
    curves = primary(influence)
    values = curves.values.reshape(curves.sizes["time"], -1)
    own = _own(curves)
    size, when = _largest(values)
    size[~np.isfinite(size)] = 0.0
    counted = ~own & (size > 0) & (size >= FAINT * size[~own].max(initial=0.0))
    pairs = np.flatnonzero(counted)
    time = time_axis(curves)
    log = _is_early(time, when[pairs])
    label, away = _grouped(values, pairs, size, grid=_points(time, log), most=most)
    chosen = [_typical(pairs, label == k, away, size) for k in range(label.max(initial=-1) + 1)]
    order = np.argsort(when[chosen], kind="stable") if chosen else np.zeros(0, int)
    group = np.full(own.shape, -1)
    group[pairs] = np.argsort(order, kind="stable")[label] if len(pairs) else label
    query, train = np.unravel_index(np.array(chosen, int)[order], curves.shape[1:])
    table = pd.DataFrame(
        {
            "train": curves["train"].values[train].astype(object),
            "query": curves["query"].values[query].astype(object),
            "count": np.bincount(label, minlength=len(order))[order],
            "size": size[np.array(chosen, int)[order]],
        }
    )
    coords = {name: curves[name].values for name in ("query", "train")}
    named = xr.DataArray(group.reshape(curves.shape[1:]), coords, dims=("query", "train"))
    return CurveShapes(table, named, log)


def primary(influence: xr.DataArray) -> xr.DataArray:
    """Return the first estimator's curves, dims (time, query, train), mean over seeds.

    Parameters
    ----------
    influence : xarray.DataArray

    Returns
    -------
    xarray.DataArray

    Raises
    ------
    ValueError
        As `shapes`.
    """
    curves = result.check(influence)
    if extra := tuple(d for d in curves.dims[:-3] if d not in {"estimator", "seed"}):
        raise ValueError(f"select one value of {extra} before.")
    curves = curves.isel(estimator=0) if "estimator" in curves.dims else curves
    return curves.mean("seed", keep_attrs=True) if "seed" in curves.dims else curves


def time_axis(curves: xr.DataArray) -> FloatArray:
    """Return flow time, or steps where a run has none, shape (T,)."""
    flow = curves["flow_time"].values
    return flow if np.all(np.isfinite(flow)) else curves["time"].values.astype(np.float64)


def log_time(influence: xr.DataArray) -> bool:
    """Whether half of the curves of pairs are largest before a tenth of the record.

    On a linear axis they would be squeezed at its beginning.

    Parameters
    ----------
    influence : xarray.DataArray

    Returns
    -------
    bool
    """
    curves = primary(influence)
    size, when = _largest(curves.values.reshape(curves.sizes["time"], -1))
    return _is_early(time_axis(curves), when[(size > 0) & ~_own(curves)])


def _own(curves: xr.DataArray) -> NDArray[np.bool_]:
    """Which of the pairs, flattened, are an item on itself."""
    return (curves["query"] == curves["train"]).transpose("query", "train").values.ravel()


def _is_early(time: FloatArray, largest: IntArray) -> bool:
    return len(largest) > 0 and bool(np.median(time[largest]) < EARLY * time[-1])


def by_similarity(rows: FloatArray) -> IntArray:
    """Return an order of rows in which similar ones are neighbours.

    Parameters
    ----------
    rows : array, shape (P, n)
        Where there are more than 1,500 rows or 256 columns, as many at even spacing decide; the
        other rows stand behind the nearest of them.

    Returns
    -------
    array of int, shape (P,)
    """
    if len(rows) < 3:
        return np.arange(len(rows))
    rows = rows[:, :: -(-rows.shape[1] // 256)]
    some = np.arange(0, len(rows), -(-len(rows) // 1500))
    tree = linkage(pdist(rows[some]), "average", optimal_ordering=len(some) <= 200)
    order = leaves_list(tree)
    if len(some) == len(rows):
        return order
    distance = cdist(rows, rows[some])
    nearest = distance.argmin(axis=1)
    place = np.argsort(order, kind="stable")[nearest]
    return np.lexsort((distance[np.arange(len(rows)), nearest], place))


def _largest(values: FloatArray) -> tuple[FloatArray, IntArray]:
    """Largest |value| of curves (T, P), and at which sample it stands."""
    high, low = values.argmax(axis=0), values.argmin(axis=0)
    columns = np.arange(values.shape[1])
    above, below = values[high, columns], -values[low, columns]
    return np.maximum(above, below), np.where(above >= below, high, low)


def _points(time: FloatArray, log: bool) -> tuple[IntArray, FloatArray]:
    """Sample before each of the points at which shapes are compared, and the way to the next."""
    first = time[time > 0][0] if log else time[0]
    at = np.geomspace(first, time[-1], POINTS) if log else np.linspace(first, time[-1], POINTS)
    before = np.clip(np.searchsorted(time, at, side="right") - 1, 0, max(len(time) - 2, 0))
    after = np.minimum(before + 1, len(time) - 1)
    step = np.where(after > before, time[after] - time[before], 1.0)
    return before, np.clip((at - time[before]) / step, 0.0, 1.0)


def _shapes(
    values: FloatArray, pairs: IntArray, size: FloatArray, grid: tuple[IntArray, FloatArray]
) -> FloatArray:
    """Normalised curves of pairs at the points of the axis, shape (pairs, POINTS)."""
    before, share = grid
    after = np.minimum(before + 1, len(values) - 1)
    scaled = values[:, pairs] / size[pairs]
    return (scaled[before].T * (1 - share) + scaled[after].T * share).astype(np.float64)


def _grouped(
    values: FloatArray,
    pairs: IntArray,
    size: FloatArray,
    *,
    grid: tuple[IntArray, FloatArray],
    most: int,
) -> tuple[IntArray, FloatArray]:
    """Group 0, 1, ... of every pair, and its squared distance from the mean of that group."""
    if len(pairs) <= most:
        return np.arange(len(pairs)), np.zeros(len(pairs))
    drawn = pairs
    if len(pairs) > CLUSTERED:
        drawn = np.sort(np.random.default_rng(0).choice(pairs, CLUSTERED, replace=False))
    shapes_ = _shapes(values, drawn, size, grid)
    cut = _cut(shapes_, most)
    means = np.array([shapes_[cut == k].mean(axis=0) for k in range(cut.max() + 1)])
    label, away = np.empty(len(pairs), int), np.empty(len(pairs))
    length = max(1, CHUNK_NUMBERS // len(values))
    for start in range(0, len(pairs), length):
        part = slice(start, start + length)
        distance = cdist(_shapes(values, pairs[part], size, grid), means, "sqeuclidean")
        label[part], away[part] = distance.argmin(axis=1), distance.min(axis=1)
    return np.unique(label, return_inverse=True)[1], away


def _cut(rows: FloatArray, most: int) -> IntArray:
    """Ward's groups 0, 1, ... of rows: as few as leave little of the variance, at most `most`."""
    tree = linkage(rows, "ward")
    cost = tree[:, 2] ** 2 / 2  # by which each merger raises the sum of squares within groups
    left = np.cumsum(cost)  # after the mergers so far; n - 1 - k mergers leave k + 1 groups
    within = np.append(left[::-1], 0.0)[:most]
    enough = np.flatnonzero(within <= UNEXPLAINED * left[-1])
    count = int(enough[0]) + 1 if len(enough) else most
    return fcluster(tree, count, "maxclust") - 1


def _typical(
    pairs: IntArray, members: NDArray[np.bool_], away: FloatArray, size: FloatArray
) -> int:
    """The largest pair among the members nearest to the mean of a group."""
    inside, distance = pairs[members], np.round(away[members] / ROUNDING)
    nearest = np.sort(np.argsort(distance, kind="stable")[: max(1, int(TYPICAL * len(inside)))])
    sizes = size[inside[nearest]]
    return int(inside[nearest[np.argmax(sizes >= (1 - ROUNDING) * sizes.max())]])
