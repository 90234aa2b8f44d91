"""Loss traces as standardised columns z, with sum over draws of z_k z_l the estimate.

Shared by item influence and pairs, which hold the losses of one checkpoint, as they are
stored, and a block of items in float64.
"""

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow import result
from dlnflow._support import FloatArray

BLOCK = 1024
"""Items that are held in float64 at the same time."""


def standardise(losses: FloatArray, normalised: bool) -> FloatArray:
    """Turn losses (chains, draws, K) into z in place, and return them.

    Centred per chain (nearly constant losses would lose their digits otherwise). The sum of z_k z_l
    over chains and draws is the Pearson correlation if `normalised`, else the covariance. Items
    that never move are 0.
    """
    losses -= losses.mean(axis=1, keepdims=True)
    if normalised:
        square = np.einsum("cdk,cdk->ck", losses, losses)
        norm = np.sqrt(square.sum(0))
    else:
        norm = np.sqrt(losses.shape[0] * (losses.shape[1] - 1))
    losses /= np.where(norm > 0, norm, 1.0)
    return losses


def standardised(losses: NDArray, *, normalised: bool, differences: bool) -> FloatArray:
    """Return z (chains * draws, K) of all items, with z^T z the correlation or covariance."""
    chains, draws, n_items = losses.shape
    z = np.empty((chains * (draws - differences), n_items))
    for start in range(0, n_items, BLOCK):
        block = losses[:, :, start : start + BLOCK].astype(np.float64)
        block = np.diff(block, axis=1) if differences else block
        z[:, start : start + BLOCK] = standardise(block, normalised).reshape(len(z), -1)
    return z


def scale_of(traces: xr.DataArray, normalised: bool) -> float:
    """Return the factor from sums of z_k z_l to the influence; it carries the sign."""
    return -1.0 if normalised else -float(traces.attrs["n_beta"] / traces.attrs["n_train"])


def about(traces: xr.DataArray, normalised: bool) -> dict[str, Any]:
    """Return the attributes that every result from loss traces has.

    Form, units and objective, and what the traces say of data and sampler, as far as a netCDF
    attribute can hold it.
    """
    kept = {k: v for k, v in traces.attrs.items() if isinstance(v, int | float | str)}
    kept = {k: int(v) if isinstance(v, bool) else v for k, v in kept.items()}
    if "units" in kept:
        kept["loss_units"] = kept["units"]
    return kept | {
        "normalised": int(normalised),
        "units": result.CORRELATION if normalised else result.UNITS,
        "objective": traces.attrs.get("objective", result.MEAN_LOSS),
    }
