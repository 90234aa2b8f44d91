"""Hidden representations over training: multidimensional scaling, and when items separate."""

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.decomposition import PCA
from sklearn.manifold import MDS

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.analysis import extrema
from dlnflow.dynamics.trajectory import Trajectory

MAX_STRESS_POINTS = 3_000
"""Stress scaling holds matrices of all pairs of points."""
TIE_BREAK = 0.3
"""Share of the dropped classical components in the start of stress scaling."""
ONSET = 0.1
"""Items begin to separate when this fraction of their final squared distance is reached."""
SEPARATED_RTOL = 1e-6
"""Two items never separate if their distance stays below this fraction of the largest distance."""


def embedding(
    trajectory: Trajectory,
    n_components: int = 2,
    *,
    scaling: str = "classical",
    common_drift: bool = True,
) -> xr.DataArray:
    """Multidimensional scaling of all representations W_1 x_i(t) together.

    All T N points are embedded at once, so that the path of an item is continuous and the
    distances between any two points, of different times too, are those of one picture.

    Distances are Euclidean, and then classical scaling (Torgerson 1952) *is* principal component
    analysis of the points; that form is used because it needs the (k, k) covariance and not the
    (T N, T N) matrix of distances. It shows the strongest distinctions and folds the others onto
    each other. Stress scaling instead minimises sum (d_picture - d)^2 over all pairs of points by
    the SMACOF iteration, from the classical solution, and so shows every branch in a plane at the
    price of bent distances; it is a local minimum.

    Parameters
    ----------
    trajectory : Trajectory
        Trained at the steps to be shown.
    n_components : int
        Dimensions of the picture.
    scaling : {"classical", "stress"}
        Stress scaling is for at most 3,000 points (steps times items).
    common_drift : bool
        True: keep the path that all items share. False: subtract the mean over items at each
        step, so that the picture describes only how items differ.

    Returns
    -------
    xarray.DataArray
        Name ``embedding``, dims (time, item, component). Classical components are in descending
        order of explained variance (the coordinate ``explained``); those of equal variance (modes
        of equal strength) are defined up to a rotation among them.

    Raises
    ------
    ValueError
        If there are fewer hidden dimensions or points than components, or too many points for
        stress scaling.

    References
    ----------
    Torgerson 1952, "Multidimensional scaling"; Borg & Groenen 2005, "Modern multidimensional
    scaling", chapter 8; Saxe, McClelland, Ganguli 2019, figure 4.
    """
    n_components = checks.positive_integer("n_components", n_components)
    checks.one_of("scaling", scaling, ["classical", "stress"])
    points = np.swapaxes(trajectory.hidden, 1, 2)  # (T, N, k)
    n_times, n_items, width = points.shape
    if n_components > min(width, n_times * n_items):
        raise ValueError(
            f"`n_components` must be at most {min(width, n_times * n_items)}, the number of "
            f"hidden dimensions or of points; got {n_components}."
        )
    if not common_drift:
        points = points - points.mean(axis=1, keepdims=True)
    points = points.reshape(-1, width)
    pca = PCA(min(width, len(points)), svd_solver="covariance_eigh")
    classical = pca.fit_transform(points)
    values = classical[:, :n_components]
    if scaling == "stress":
        values = _least_stress(points, classical, n_components)
    run = trajectory.run
    coords = {
        "time": trajectory.steps,
        "flow_time": ("time", run.flow_time(trajectory.steps)),
        "item": list(run.task.items),
        "component": np.arange(1, n_components + 1),
    }
    if scaling == "classical":
        coords["explained"] = ("component", pca.explained_variance_ratio_[:n_components])
    return xr.DataArray(
        values.reshape(n_times, n_items, -1),
        coords=coords,
        dims=("time", "item", "component"),
        name="embedding",
        attrs={"scaling": scaling},
    )


def _least_stress(points: FloatArray, classical: FloatArray, n_components: int) -> FloatArray:
    """SMACOF from the classical solution; the dropped components break its ties, reproducibly."""
    if len(points) > MAX_STRESS_POINTS:
        raise ValueError(
            f"stress scaling takes at most {MAX_STRESS_POINTS} points, got {len(points)} (steps "
            'times items); record fewer steps or use scaling="classical".'
        )
    dropped = classical[:, n_components:]
    directions = np.random.default_rng(0).standard_normal((dropped.shape[1], n_components))
    start = classical[:, :n_components] + TIE_BREAK * dropped @ directions
    mds = MDS(n_components, n_init=1, init="random", max_iter=1000, eps=1e-7, metric="euclidean")
    return mds.fit_transform(points, init=start)


def branching_times(trajectory: Trajectory) -> pd.DataFrame:
    """When the representations of two items separate: their squared distance rises fastest.

    In aligned modes the squared distance is d^2 = sum_k a_k(t) (V_ik - V_jk)^2, a sum of
    sigmoids; the steepest is that of the strongest mode that tells the two items apart, and it is
    steepest at half its strength. So the branching time is the half-time of the separating mode,
    up to what overlapping transitions add. The derivative is taken between recorded steps and its
    maximum interpolated by a parabola: exact to second order in the spacing.

    Parameters
    ----------
    trajectory : Trajectory
        Recorded at 4 steps or more, dense enough to resolve the transitions.

    Returns
    -------
    pandas.DataFrame
        One row per unordered pair ``item``, ``other``: ``step`` and ``flow_time`` of the
        branching; ``onset_step`` and ``onset_flow_time``, where a tenth of the final squared
        distance is first passed, which is where a picture of the paths shows the fork; the final
        ``distance``. NaN for items that never separate (equal features), and where the rise is
        steepest at either end of the record.

    Raises
    ------
    ValueError
        If fewer than 4 steps are recorded.
    """
    steps = np.asarray(trajectory.steps, dtype=np.float64)
    if len(steps) < 4:
        raise ValueError(f"branching times need at least 4 recorded steps, got {len(steps)}.")
    run = trajectory.run
    first, second = np.triu_indices(run.task.n_items, k=1)
    squared = _squared_distances(trajectory.hidden, first, second)
    middle = (steps[1:] + steps[:-1]) / 2
    speed = np.diff(squared, axis=1) / np.diff(steps)
    when = extrema.largest(middle, speed, extrema.noise_floor(speed))
    when[squared.max(axis=1) <= SEPARATED_RTOL**2 * squared.max()] = np.nan
    onset = np.where(np.isfinite(when), _first_passage(steps, squared, ONSET), np.nan)
    flow_time = run.flow_time(steps)
    items = np.asarray(run.task.items)
    return pd.DataFrame(
        {
            "item": items[first],
            "other": items[second],
            "step": when,
            "flow_time": np.interp(when, steps, flow_time),
            "onset_step": onset,
            "onset_flow_time": np.interp(onset, steps, flow_time),
            "distance": np.sqrt(squared[:, -1]),
        }
    )


def _first_passage(time: FloatArray, rows: FloatArray, fraction: float) -> FloatArray:
    """Interpolated time at which each row first reaches `fraction` of its last value."""
    above = rows - fraction * rows[:, -1:]
    after = np.clip(np.argmax(above >= 0, axis=1), 1, None)
    index = np.arange(len(rows))
    low, high = above[index, after - 1], above[index, after]
    rise = np.where(high != low, high - low, 1.0)
    share = np.clip(-low / rise, 0.0, 1.0)  # a row that starts above passes at the start
    return time[after - 1] + share * (time[after] - time[after - 1])


def _squared_distances(hidden: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """Squared distance of item pairs over time, shape (P, T); one time at a time for memory."""
    return np.stack([np.sum((h[:, first] - h[:, second]) ** 2, axis=0) for h in hidden], axis=1)
