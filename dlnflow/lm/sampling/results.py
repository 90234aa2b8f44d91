"""What a store shows to those that read it: losses that stay on disk, classes, a description.

    traces.nc, classes.nc   coordinates and attributes of the traces; classes of the tokens
    results.json            sha256 of both, written last

The losses are those of the units, read when they are asked for and compared with the hashes of
their records. Nothing is written, so the disk may be one that cannot be.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from dlnflow._support.files import write_atomic, write_json
from dlnflow.lm.sampling.store import Reader
from dlnflow.traces import format as loss_traces

FILES = ("traces.nc", "classes.nc")


class StoredLosses(BackendArray):
    """Losses (time, chain, draw, item) of a store, as an array of xarray that stays on disk.

    Parameters
    ----------
    folder : Path
        Of the store.
    steps : sequence of int
        Checkpoints.
    shape : (int, int, int)
        Chains, draws and items.
    """

    def __init__(self, folder: Path, steps: Sequence[int], shape: tuple[int, int, int]) -> None:
        self.folder, self.steps = folder, tuple(steps)
        self.shape, self.dtype = (len(self.steps), *shape), np.dtype(np.float32)
        self._intact: set[tuple[int, int]] = set()

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[np.float32]:
        """Read a part."""
        kind = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, kind, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[np.float32]:
        """Read what a part needs, one unit at a time."""
        kept = [np.arange(n)[k] for n, k in zip(self.shape, key, strict=True)]
        draws, items = (slice(k, k + 1) if isinstance(k, int | np.integer) else k for k in key[2:])
        found = np.empty([k.size for k in kept], np.float32)
        reader = Reader(self.folder)
        for a, time in enumerate(kept[0].ravel().tolist()):
            for b, chain in enumerate(kept[1].ravel().tolist()):
                unit = self.steps[time], chain
                whole = reader.read(*unit, self.shape[2], trusted=unit in self._intact)
                self._intact.add(unit)
                found[a, b] = whole[draws][:, items]
        return found.reshape([n for k in kept for n in k.shape])


def lazy(
    folder: Path, steps: Sequence[int], coords: Mapping[str, NDArray], attrs: dict[str, Any]
) -> xr.DataArray:
    """Return the traces of a store without their losses in memory.

    Parameters
    ----------
    folder : Path
        Of the store.
    steps : sequence of int
        Checkpoints.
    coords : mapping
        Names ("item") of the items, and what else is known of them.
    attrs : dict
        Of the traces, with the numbers of chains and draws.

    Returns
    -------
    DataArray, dims (time, chain, draw, item)
        As `dlnflow.traces.format.labelled` describes it.

    Raises
    ------
    ValueError, OSError
        If the store lacks one of the steps, or is damaged.
    """
    reader = Reader(folder)
    start = np.stack([reader.checkpoint_loss(step) for step in steps])
    shape = attrs["chains"], attrs["draws"], start.shape[1]
    array = loss_traces.labelled(
        np.broadcast_to(np.float32(0), (len(steps), *shape)),
        time=steps,
        items=coords["item"].tolist(),
        checkpoint_loss=start,
        attrs=attrs,
    )
    others = {name: ("item", value) for name, value in coords.items() if name != "item"}
    losses = indexing.LazilyIndexedArray(StoredLosses(folder.absolute(), steps, shape))
    stored = xr.Variable(array.dims, indexing.CopyOnWriteArray(losses))
    return xr.DataArray(stored, array.coords, name=array.name, attrs=attrs).assign_coords(others)


def save(store: Path, traces: xr.DataArray, classes: xr.DataArray) -> None:
    """Write what describes the traces of a store, and the classes of their items."""
    about = traces.coords.to_dataset().drop_vars("checkpoint_loss").assign_attrs(traces.attrs)
    arrays = dict(zip(FILES, (about, classes.astype("int8")), strict=True))
    for name, array in arrays.items():
        write_atomic(store / name, lambda p, a=array: a.to_netcdf(p, engine="scipy"))
    write_json(store / "results.json", {name: _sha256(store / name) for name in FILES})
    (store / "traces.npy").unlink(missing_ok=True)  # a copy that earlier versions kept


def load(store: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """Return what `save` described, and the classes; stores of earlier versions have no hashes."""
    about, classes = (_netcdf(store / name) for name in FILES)
    if (store / "results.json").exists():
        known = json.loads((store / "results.json").read_text())
        for name in FILES:
            if not isinstance(known, dict) or known.get(name) != _sha256(store / name):
                raise ValueError(f"{name} has other bytes than were written")
    coords = {name: about[name].values for name in ("item", "row", "position", "token")}
    attrs = about.losses.attrs if "losses" in about else about.attrs
    traces = lazy(store, about.time.values.tolist(), coords, attrs)
    named = next(iter(classes.data_vars.values()))
    return traces, named.rename(None if named.name == NO_NAME else named.name)


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
