"""Hidden representations over training: classical scaling, and when items separate."""

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.decomposition import PCA

from dlnflow import _checks
from dlnflow._typing import FloatArray
from dlnflow.analysis import _curves
from dlnflow.training import Trajectory

SEPARATED_RTOL = 1e-6
"""Two items never separate if their distance stays below this fraction of the largest distance."""


def embedding(
    trajectory: Trajectory, n_components: int = 2, *, common_drift: bool = True
) -> xr.DataArray:
    """Classical multidimensional scaling of all representations W_1 x_i(t) together.

    All T N points are embedded at once, so that the path of an item is continuous and the
    distances between any two points, of different times too, are those of one picture. Distances
    are Euclidean, and then classical scaling *is* principal component analysis of the points
    (Torgerson 1952); that form is used because it needs the (k, k) covariance and not the
    (T N, T N) matrix of distances.

    Parameters
    ----------
    trajectory : Trajectory
        Trained at the steps to be shown.
    n_components : int
        Dimensions of the picture.
    common_drift : bool
        True: keep the path that all items share. False: subtract the mean over items at each
        step, so that components describe only how items differ.

    Returns
    -------
    xarray.DataArray
        Name ``embedding``, dims (time, item, component), components 1, 2, ... in descending
        order of explained variance, which is the coordinate ``explained``. Components of equal
        variance (modes of equal strength) are defined up to a rotation among them.

    Raises
    ------
    ValueError
        If there are fewer hidden dimensions or points than components.

    References
    ----------
    Torgerson 1952, "Multidimensional scaling"; Saxe, McClelland, Ganguli 2019, figure 4.
    """
    n_components = _checks.positive_integer("n_components", n_components)
    points = np.swapaxes(trajectory.hidden, 1, 2)  # (T, N, k)
    n_times, n_items, width = points.shape
    if n_components > min(width, n_times * n_items):
        raise ValueError(
            f"`n_components` must be at most {min(width, n_times * n_items)}, the number of "
            f"hidden dimensions or of points; got {n_components}."
        )
    if not common_drift:
        points = points - points.mean(axis=1, keepdims=True)
    pca = PCA(n_components, svd_solver="covariance_eigh")
    values = pca.fit_transform(points.reshape(-1, width)).reshape(n_times, n_items, -1)
    run = trajectory.run
    coords = {
        "time": trajectory.steps,
        "flow_time": ("time", run.flow_time(trajectory.steps)),
        "item": list(run.task.items),
        "component": np.arange(1, n_components + 1),
        "explained": ("component", pca.explained_variance_ratio_),
    }
    dims = ("time", "item", "component")
    return xr.DataArray(values, coords=coords, dims=dims, name="embedding")


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
        One row per unordered pair: ``item``, ``other``, ``step``, ``flow_time`` of the branching
        and the final ``distance``. NaN times for items that never separate (equal features) and
        where the rise is steepest at either end of the record.

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
    floor = _curves.noise_floor(speed)
    when = _curves.largest(middle, speed, floor)
    when[squared.max(axis=1) <= SEPARATED_RTOL**2 * squared.max()] = np.nan
    items = np.asarray(run.task.items)
    return pd.DataFrame(
        {
            "item": items[first],
            "other": items[second],
            "step": when,
            "flow_time": np.interp(when, steps, run.flow_time(steps)),
            "distance": np.sqrt(squared[:, -1]),
        }
    )


def _squared_distances(hidden: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """Squared distance of item pairs over time, shape (P, T); one time at a time for memory."""
    return np.stack([np.sum((h[:, first] - h[:, second]) ** 2, axis=0) for h in hidden], axis=1)
