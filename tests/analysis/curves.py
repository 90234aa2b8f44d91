"""Influence results made of curves that are known in closed form."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from dlnflow import result


def of_curves(
    *curves: np.ndarray, time: np.ndarray | None = None, estimator: str = "made_up"
) -> xr.DataArray:
    """One query per curve, one train item "dog"; flow time is a hundredth of the step."""
    time = np.arange(len(curves[0])) if time is None else time
    values = np.stack(curves, axis=1)[:, :, None]
    queries = [f"query{k}" for k in range(len(curves))]
    return result.influence(
        values, time, queries, ["dog"], estimator=estimator, flow_time=time / 100
    )


def sampled(function: Callable, spacing: float, offset: float, span: float = 10.0) -> xr.DataArray:
    """Sample f(x) on a uniform grid x = offset + k spacing; steps are k, flow time is k/100."""
    x = offset + spacing * np.arange(int(span / spacing) + 1)
    return of_curves(function(x), time=np.arange(len(x)))
