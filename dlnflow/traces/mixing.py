"""Mixing of single losses and of their products: the numbers behind the verdict of `bif`."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from dlnflow._support.typing import FloatArray
from dlnflow.traces import diagnostics
from dlnflow.traces.format import check_traces


def rhat(traces: xr.DataArray) -> xr.DataArray:
    """Return split R-hat of the losses, dims (time, item)."""
    return _per_item(traces, diagnostics.r_hat, "r_hat")


def ess(traces: xr.DataArray) -> xr.DataArray:
    """Return the effective sample size of the losses, dims (time, item)."""
    return _per_item(traces, diagnostics.effective_size, "ess")


def rhat_products(traces: xr.DataArray) -> xr.DataArray:
    """Return split R-hat of the loss products, dims (time, query, train)."""
    return _per_pair(traces, diagnostics.r_hat, "r_hat")


def ess_products(traces: xr.DataArray) -> xr.DataArray:
    """Return the effective sample size of the loss products, dims (time, query, train)."""
    return _per_pair(traces, diagnostics.effective_size, "ess")


def verdict(traces: xr.DataArray) -> xr.Dataset:
    """Return verdict, R-hat, ESS, noise floor and diverged chains; see `sampling.diagnostics`."""
    traces = check_traces(traces)
    return diagnostics.summary(traces)


def _per_item(
    traces: xr.DataArray, measure: Callable[[FloatArray], FloatArray], name: str
) -> xr.DataArray:
    traces = check_traces(traces)
    values = np.stack([measure(block) for block in diagnostics.kept_chains(traces)])
    coords = {"time": traces.time.values, "item": traces["item"].values}
    return xr.DataArray(values, coords, ("time", "item"), name=name)


def _per_pair(
    traces: xr.DataArray, measure: Callable[[FloatArray], FloatArray], name: str
) -> xr.DataArray:
    traces = check_traces(traces)
    every = np.arange(traces.sizes["item"])
    rows = [
        np.stack(
            [measure(diagnostics.products(block, every[k : k + 1], every)[:, :, 0]) for k in every]
        )
        for block in diagnostics.kept_chains(traces)
    ]
    items = traces["item"].values
    coords = {"time": traces.time.values, "query": items, "train": items}
    return xr.DataArray(np.stack(rows), coords, ("time", "query", "train"), name=name)
