"""Numbers behind a figure, saved before it is drawn."""

from pathlib import Path

import xarray as xr

from dlnflow._support.files import atomic_path

OUT: list[Path] = []
"""Folder of the figure that is being drawn; empty where nothing is to be written."""


def saved(name: str, data: xr.Dataset) -> xr.Dataset:
    """Write a dataset to NAME.nc, whole or not at all, and return it."""
    for folder in OUT:
        with atomic_path(folder / f"{name}.nc") as path:
            data.to_netcdf(path, engine="scipy")
    return data
