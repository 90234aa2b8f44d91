"""Maps of items or tokens by their influence profiles, over training, and clusters in them.

    d(i, j)^2 = 2 (1 - <p_i, p_j>),   p_i the profile of item i, of length 1

From loss traces p_i is the standardised series of losses over all draws, so that <p_i, p_j> is the
correlation of the two losses, minus the normalised influence: the loss kernel of Adam, Furman and
Hoogland (2025), whose item x item matrix is never formed. From an influence array p_i is the row of
what helps and harms item i, scaled to length 1.

Checkpoints are aligned by a rotation or reflection (orthogonal Procrustes): distances stay as they
are. A map has no axes; only distances mean something.
"""

import warnings
from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import linear_sum_assignment

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.traces.columns import standardised
from dlnflow.traces.diagnostics import checkpoints
from dlnflow.traces.format import DIMS, check_traces

METHODS = ("pca", "mds", "umap")
MAX_MDS_ITEMS = 3_000
"""Multidimensional scaling holds the matrix of all distances."""
NEIGHBORS = 15
"""Default size of neighbourhoods of UMAP, its own."""
DIMENSIONS = 10
"""Principal components in which clusters are found."""
LEAST_CHAINS = 4
"""Two in each half, so that both halves have a spread between chains."""


def loss_map(
    source: xr.DataArray,
    n_components: int = 2,
    *,
    method: str = "pca",
    align: bool = True,
    seed: int = 0,
    neighbors: int = NEIGHBORS,
) -> xr.DataArray:
    """Place items so that those of like influence profiles lie together, at every checkpoint.

    Parameters
    ----------
    source : DataArray
        Loss traces, dims (time, chain, draw, item), or influence, dims (time, query, train), of
        which the queries are placed.
    n_components : int
        Dimensions of the map.
    method : {"pca", "mds", "umap"}
        "pca": principal components of the profiles, which for loss traces is kernel PCA of the loss
        kernel. "mds": least stress in the distances d, from the principal components, for at most
        3,000 items. "umap": neighbourhoods alone, from the principal components; needs umap-learn.
    align : bool
        Turn every checkpoint to lie as close as possible to the one before.
    seed : int
        Seed of "umap"; the others have no random numbers.
    neighbors : int
        Size of neighbourhoods of "umap".

    Returns
    -------
    DataArray, dims (time, item, component)
        Named "map", centred at every time. With "pca" the coordinate `explained` (time, component)
        is the share of the squared distances that a component carries. NaN at checkpoints whose
        chains diverged.

    Raises
    ------
    ValueError
        If there are too few or too many items, or `source` is neither.
    ModuleNotFoundError
        If umap-learn is not installed.

    Warns
    -----
    UserWarning
        If `seed` or `neighbors` have no effect.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), hidden=8)
    >>> placed = loss_map(dln.influence.laplace_bif(run, [400, 800], normalised=True))
    >>> placed.sizes["item"], placed.dims
    (8, ('time', 'item', 'component'))
    """
    checks.one_of("method", method, list(METHODS))
    seed, neighbors = _seed(seed), checks.positive_integer("neighbors", neighbors)
    align = checks.flag("align", align)
    if method != "umap" and (seed, neighbors) != (0, NEIGHBORS):
        warnings.warn(f"`seed` and `neighbors` have no effect on {method!r}.", stacklevel=2)
    names, time = _named(source)
    count = _below_items("n_components", n_components, len(names))
    if method == "mds" and len(names) > MAX_MDS_ITEMS:
        raise ValueError(
            f"`method` 'mds' takes at most {MAX_MDS_ITEMS} items, got {len(names)}; select "
            "some, or use 'pca' or 'umap'."
        )
    values = np.full((len(time), len(names), count), np.nan)
    explained = np.full((len(time), count), np.nan)
    for t, points in enumerate(_profiles(source)):
        if points is None:
            continue
        axes, explained[t] = _principal(points, count)
        if method == "mds":
            axes = _least_stress(points, axes)
        elif method == "umap":
            axes = _umap(points, axes, seed, min(neighbors, len(names) - 1))
        values[t] = axes - axes.mean(0)
    if align:
        _align(values)
    array = xr.DataArray(
        values,
        {"time": time, "item": names, "component": np.arange(1, count + 1)},
        ("time", "item", "component"),
        name="map",
        attrs={"method": method, "aligned": int(align), "distance": "2 (1 - <p_i, p_j>), squared"},
    )
    if method == "pca":
        array = array.assign_coords(explained=(("time", "component"), explained))
    return array


def profile_distances(source: xr.DataArray) -> xr.DataArray:
    """Distances d of the module docstring between all items, which a map approximates.

    Parameters
    ----------
    source : DataArray
        As in `loss_map`.

    Returns
    -------
    DataArray, dims (time, item, other)
        Between 0 (same profile) and 2 (opposed); sqrt(2) where profiles have nothing in common.
    """
    names, time = _named(source)
    values = np.full((len(time), len(names), len(names)), np.nan)
    for t, points in enumerate(_profiles(source)):
        if points is not None:
            values[t] = np.sqrt(np.maximum(2 - 2 * points @ points.T, 0.0))
            np.fill_diagonal(values[t], 0.0)
    coords = {"time": time, "item": names, "other": names}
    return xr.DataArray(values, coords, ("time", "item", "other"), name="distance")


def clusters(
    traces: xr.DataArray, n_clusters: int, *, n_components: int | None = None, seed: int = 0
) -> xr.Dataset:
    """Cluster items by their loss kernel, and say whether other chains find the same clusters.

    k-means in the first principal components of the profiles. For stability the chains are cut in
    two halves, each half is clustered for itself, and the two are compared by the adjusted Rand
    index: 1 for the same clusters, 0 for what chance gives.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    n_clusters : int
        Number of clusters.
    n_components : int, optional
        Dimensions in which they are found; default 10, or one less than the items.
    seed : int
        Seed of the starts of k-means.

    Returns
    -------
    Dataset
        `cluster` (time, item), numbered so that as few items as possible change from one
        checkpoint to the next; `stability` (time), the mean over up to three ways to cut the
        chains, and `least_stability`, the smallest. NaN with fewer than four chains, and where
        they diverged (cluster -1).

    Raises
    ------
    ValueError
        If there are fewer items than clusters or components.
    """
    traces, seed = check_traces(traces), _seed(seed)
    n_items = traces.sizes["item"]
    n_components = min(DIMENSIONS, n_items - 1) if n_components is None else n_components
    n_clusters, n_components = (
        _below_items(name, value, n_items)
        for name, value in (("n_clusters", n_clusters), ("n_components", n_components))
    )
    number = np.full((traces.sizes["time"], n_items), -1)
    stability = np.full((traces.sizes["time"], 2), np.nan)
    last = None
    for t, one in enumerate(checkpoints(traces)):
        losses = one.kept
        if len(losses) == 0:
            continue
        found = _k_means(_unit(losses), n_clusters, n_components, seed)
        number[t] = last = found if last is None else _renumbered(found, last, n_clusters)
        scores = [
            _agreement(losses[half], losses[rest], n_clusters, n_components, seed)
            for half, rest in _halves(len(losses))
        ]
        if scores:
            stability[t] = np.mean(scores), np.min(scores)
        del one, losses
    return xr.Dataset(
        {
            "cluster": (("time", "item"), number),
            "stability": ("time", stability[:, 0]),
            "least_stability": ("time", stability[:, 1]),
        },
        coords={"time": traces.time.values, "item": traces["item"].values},
        attrs={"n_clusters": n_clusters, "n_components": n_components, "seed": seed},
    )


def _below_items(name: str, value: int, n_items: int) -> int:
    """Return a whole number from 1 to below the number of items.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is not.
    """
    if checks.positive_integer(name, value) >= n_items:
        raise ValueError(f"`{name}` must be below the number of items, {n_items}, got {value}.")
    return int(value)


def _seed(seed: int) -> int:
    """Return a seed that the libraries take.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If it is no whole number of 32 bits.
    """
    if checks.whole_number("seed", seed) >= 2**32:
        raise ValueError(f"`seed` must be less than 2**32, got {seed}.")
    return int(seed)


def _named(source: xr.DataArray) -> tuple[NDArray, NDArray]:
    """Return the names of the items and the times.

    Returns
    -------
    (array of str, array of int)

    Raises
    ------
    ValueError
        If it is neither loss traces nor influence, of no or of equal items, or of no numbers.
    """
    if not isinstance(source, xr.DataArray):
        raise ValueError(f"`source` must be an xarray.DataArray, got {type(source).__name__}.")
    if set(source.dims) == set(DIMS):
        source = check_traces(source)
        return source["item"].values.astype(str), source.time.values
    if set(source.dims) == {"time", "query", "train"}:
        if source.dtype.kind not in "iuf" or 0 in source.shape:
            raise ValueError(
                f"`source` must be real numbers, got {source.dtype} of sizes {dict(source.sizes)}."
            )
        if not source.get_index("query").is_unique:
            raise ValueError("`source` must have different names of queries.")
        return source["query"].values.astype(str), source.time.values
    raise ValueError(
        "`source` must be loss traces (time, chain, draw, item) or influence (time, query, train); "
        f"got dims {source.dims}. Select one entry of a sweep, e.g. .sel(estimator=...)."
    )


def _profiles(source: xr.DataArray) -> Iterator[FloatArray | None]:
    """Yield the profiles (K, F) of every time; None where there are none."""
    if set(source.dims) == set(DIMS):
        for one in checkpoints(check_traces(source)):
            yield _unit(one.kept) if len(one.kept) else None
        return
    for values in source.transpose("time", "query", "train").values:
        length = np.linalg.norm(values, axis=1, keepdims=True)
        finite = bool(np.isfinite(values).all())
        yield values / np.where(length > 0, length, 1.0) if finite else None


def _unit(losses: NDArray) -> FloatArray:
    """Return the standardised series of every item as a row of length 1."""
    return standardised(losses, normalised=True, differences=False).T


def _principal(points: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Return coordinates on the first principal axes, and their shares; signs are fixed."""
    centred = points - points.mean(0)
    gram = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    small = len(centred) <= centred.shape[1]
    width = min(count, len(values))
    axes = np.zeros((len(points), count))
    first = vectors[:, :width]
    axes[:, :width] = first * np.sqrt(values[:width]) if small else centred @ first
    largest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0)
    shares = np.zeros(count)
    shares[:width] = values[:width] / max(values.sum(), np.finfo(float).tiny)
    return axes * np.where(largest < 0, -1.0, 1.0), shares


def _least_stress(points: FloatArray, start: FloatArray) -> FloatArray:
    """Return the map of least stress, by SMACOF from the principal components."""
    from sklearn.manifold import MDS

    # equal points would stay together for ever, whatever their distance
    spread = 1e-3 * np.random.default_rng(0).standard_normal(start.shape)
    mds = MDS(start.shape[1], n_init=1, init="random", max_iter=1000, eps=1e-7, metric="euclidean")
    return mds.fit_transform(points, init=start + spread)


def _umap(points: FloatArray, start: FloatArray, seed: int, neighbors: int) -> FloatArray:
    """Return the map of UMAP, from the principal components.

    Returns
    -------
    array, shape (K, count)

    Raises
    ------
    ModuleNotFoundError
        If umap-learn is not installed.
    """
    try:
        import umap
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "`method` 'umap' needs the extra umap: `pip install 'dlnflow[umap]'`, which is "
            "umap-learn; or use 'pca' or 'mds'."
        ) from error
    scale = np.abs(start).max() or 1.0
    reducer = umap.UMAP(
        n_components=start.shape[1],
        n_neighbors=neighbors,
        metric="cosine",
        init=10 * start / scale,
        random_state=seed,
        n_jobs=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own libraries
        return np.asarray(reducer.fit_transform(points), dtype=np.float64)


def _align(values: FloatArray) -> None:
    """Turn every map towards the one before, in place; maps are centred."""
    last = None
    for t, here in enumerate(values):
        if np.isnan(here).any():
            continue
        if last is not None:
            turn, _ = orthogonal_procrustes(here, last)
            values[t] = here @ turn
        last = values[t]


def _k_means(points: FloatArray, n_clusters: int, n_components: int, seed: int) -> NDArray:
    from sklearn.cluster import KMeans

    axes, _ = _principal(points, n_components)
    return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(axes)


def _renumbered(found: NDArray, last: NDArray, n_clusters: int) -> NDArray:
    """Return clusters under the numbers of those that they share most items with."""
    shared = np.zeros((n_clusters, n_clusters))
    np.add.at(shared, (found, last), 1)
    _, number = linear_sum_assignment(-shared)
    return number[found]


def _halves(chains: int) -> list[tuple[list[int], list[int]]]:
    """Return up to three ways to cut the chains in two halves; none with fewer than four."""
    if chains < LEAST_CHAINS:
        return []
    half, found = chains // 2, []
    for stride in (1, 2, 3):
        first = sorted({(stride * k) % chains for k in range(half)})
        rest = [c for c in range(chains) if c not in first]
        if len(first) == half and (first, rest) not in found and (rest, first) not in found:
            found.append((first, rest))
    return found


def _agreement(a: NDArray, b: NDArray, n_clusters: int, n_components: int, seed: int) -> float:
    """Return the adjusted Rand index of the clusters of two halves of the chains."""
    from sklearn.metrics import adjusted_rand_score

    return float(
        adjusted_rand_score(
            *(_k_means(_unit(half), n_clusters, n_components, seed) for half in (a, b))
        )
    )
