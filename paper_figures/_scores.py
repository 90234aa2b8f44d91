"""How well influence over training agrees with a reference: Pearson per pair, and the median."""

import numpy as np
import xarray as xr

from dlnflow._support import FloatArray


def pearson(found: xr.DataArray, reference: xr.DataArray) -> FloatArray:
    """Return the correlation over time of every (query, train) pair, shape (n_query, n_train)."""
    a, b = (np.asarray(z.transpose("time", "query", "train")) for z in (found, reference))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def median(found: xr.DataArray, reference: xr.DataArray) -> float:
    """Return the median of `pearson` over all pairs, an item with itself included."""
    return float(np.median(pearson(found, reference)))
