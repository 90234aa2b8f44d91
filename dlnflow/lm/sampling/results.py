"""What a store shows to those that read it: losses that stay on disk, classes, a description.

    traces.nc, classes.nc   coordinates and attributes of the traces; classes of the tokens
    results.json            sha256 of both, written last

The losses are those of the units, or sums over classes in their place, read when they are asked
for and compared with the hashes of their records. Nothing is written, so the disk may be one that
cannot be.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support.files import write_atomic, write_json
from dlnflow.lm.sampling.stored_losses import lazy, recorded
from dlnflow.lm.sampling.stored_sums import StoredSums
from dlnflow.traces.class_sums import ClassSums

FILES = ("traces.nc", "classes.nc")


def sums(
    folder: Path,
    steps: Sequence[int],
    classes: Sequence[str],
    coords: Mapping[str, NDArray],
    attrs: Mapping[str, Any],
) -> ClassSums:
    """Return the class sums of a store without having them in memory."""
    about = {name: coords[name] for name in ("row", "token")}
    checkpoints = StoredSums(folder.absolute(), steps)
    return ClassSums(tuple(classes), np.asarray(steps, np.int64), checkpoints, attrs, about)


def save(store: Path, traces: xr.DataArray | ClassSums, classes: xr.DataArray) -> None:
    """Write what describes the traces of a store, and the classes of their items."""
    if isinstance(traces, ClassSums):
        coords = {"time": traces.time} | {n: ("item", v) for n, v in traces.coords.items()}
        about = xr.Dataset(coords=coords, attrs={**traces.attrs, KEPT: CLASS_SUMS})
    else:
        names = recorded(traces.attrs)
        left_out = ["checkpoint_loss", *names, *(f"checkpoint_{name}" for name in names)]
        about = traces.coords.to_dataset().drop_vars(left_out).assign_attrs(traces.attrs)
    arrays = dict(zip(FILES, (about, classes.astype("int8")), strict=True))
    for name, array in arrays.items():
        write_atomic(store / name, lambda p, a=array: a.to_netcdf(p, engine="scipy"))
    write_json(store / "results.json", {name: _sha256(store / name) for name in FILES})
    (store / "traces.npy").unlink(missing_ok=True)  # a copy that earlier versions kept


def load(store: Path) -> tuple[xr.DataArray | ClassSums, xr.DataArray]:
    """Return what `save` described, and the classes; stores of earlier versions have no hashes."""
    about, classes = (_netcdf(store / name) for name in FILES)
    if (store / "results.json").exists():
        known = json.loads((store / "results.json").read_text())
        for name in FILES:
            if not isinstance(known, dict) or known.get(name) != _sha256(store / name):
                raise ValueError(f"{name} has other bytes than were written")
    named = next(iter(classes.data_vars.values()))
    named = named.rename(None if named.name == NO_NAME else named.name)
    described = about.losses.attrs if "losses" in about else about.attrs
    attrs = {n: v.item() if isinstance(v, np.generic) else v for n, v in described.items()}
    steps = about.time.values.tolist()
    coords = {name: value.values for name, value in about.coords.items() if name != "time"}
    if attrs.pop(KEPT, "") == CLASS_SUMS:
        return sums(store, steps, named.token_class.values.tolist(), coords, attrs), named
    coords = {name: coords[name] for name in ("item", "row", "position", "token")}
    return lazy(store, steps, coords, attrs), named


KEPT, CLASS_SUMS = "kept", "class sums"
"""Attribute of a description, and its value where losses of tokens were not kept."""
NO_NAME = "__xarray_dataarray_variable__"
"""What xarray calls an array without a name in a file."""


def _netcdf(path: Path) -> xr.Dataset:
    # an open file: by its name it would be mapped, and left open if it is damaged
    with open(path, "rb") as file:
        try:
            return xr.load_dataset(file, engine="scipy")
        except Exception as error:  # whatever the reader makes of damaged bytes
            raise ValueError(f"{path.name}: {error}") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
