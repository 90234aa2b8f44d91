"""Traces and classes of a finished sample beside its store, for commands that read it."""

from pathlib import Path

import numpy as np
import xarray as xr

from dlnflow._support.files import atomic_path, write_atomic

DIMS = ("time", "chain", "draw", "item")


def save(store: Path, traces: xr.DataArray, classes: xr.DataArray) -> None:
    """Write losses as traces.npy, what describes them as traces.nc, and classes.nc.

    A netCDF file of this kind cannot hold losses of 2 GiB.
    """
    about = traces.transpose(*DIMS).isel(draw=0, drop=True)
    with atomic_path(store / "traces.npy") as path, open(path, "wb") as file:
        np.save(file, traces.transpose(*DIMS).values)
    for name, array in (("classes", classes.astype("int8")), ("traces", about)):
        write_atomic(store / f"{name}.nc", lambda p, a=array: a.to_netcdf(p, engine="scipy"))


def load(store: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """Read what `save` wrote."""
    about, classes = (_netcdf(store / f"{name}.nc") for name in ("traces", "classes"))
    losses = np.load(store / "traces.npy")
    traces = xr.DataArray(losses, about.coords, DIMS, about.name, about.attrs)
    if not np.array_equal(losses[:, :, 0], about.values, equal_nan=True):
        raise ValueError("traces.nc and traces.npy are not of the same sample")
    return traces, classes


def _netcdf(path: Path) -> xr.DataArray:
    # an open file: by its name it would be mapped, and left open if it is damaged
    with open(path, "rb") as file:
        try:
            return xr.load_dataarray(file, engine="scipy")
        except Exception as error:  # whatever the reader makes of damaged bytes
            raise ValueError(f"{path.name}: {error}") from error
