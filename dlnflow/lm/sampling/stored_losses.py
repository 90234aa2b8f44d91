"""Losses of a store as an array that stays on disk; nothing is written."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from dlnflow.lm.sampling.store import Reader
from dlnflow.traces import format as loss_traces

IN_MEMORY = 4 << 30
"""Bytes of losses that are held in memory at a time; of more, in a temporary file."""


class StoredLosses(BackendArray):
    """Losses (time, chain, draw, item) of a store, as an array of xarray that stays on disk.

    Parameters
    ----------
    folder : Path
        Folder of the store.
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
        found = _room([k.size for k in kept])
        reader = Reader(self.folder)
        for a, time in enumerate(kept[0].ravel().tolist()):
            for b, chain in enumerate(kept[1].ravel().tolist()):
                unit = self.steps[time], chain
                whole = reader.read(*unit, self.shape[2], trusted=unit in self._intact)
                self._intact.add(unit)
                found[a, b] = whole[draws][:, items]
                del whole
        return found.reshape([n for k in kept for n in k.shape])


def _room(shape: list[int]) -> NDArray[np.float32]:
    """Return an array; what memory could not hold is mapped from a file that goes with it."""
    if 4 * math.prod(shape) <= IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))


def lazy(
    folder: Path, steps: Sequence[int], coords: Mapping[str, NDArray], attrs: dict[str, Any]
) -> xr.DataArray:
    """Return the traces of a store without their losses in memory.

    Parameters
    ----------
    folder : Path
        Folder of the store.
    steps : sequence of int
        Checkpoints.
    coords : mapping
        Names ("item") of the items, and what else is known of them.
    attrs : dict
        Attributes of the traces, with the numbers of chains and draws.

    Returns
    -------
    DataArray, dims (time, chain, draw, item)
        As `dlnflow.traces.format.labelled` describes it; observables are coordinates (time, chain,
        draw).

    Raises
    ------
    ValueError, OSError
        If the store lacks one of the steps, or is damaged.
    """
    reader = Reader(folder)
    start = np.stack([reader.checkpoint_loss(step) for step in steps])
    shape = attrs["chains"], attrs["draws"], start.shape[1]
    count = len(coords["item"])
    array = loss_traces.labelled(
        np.broadcast_to(np.float32(0), (len(steps), *shape[:2], count)),
        time=steps,
        items=coords["item"].tolist(),
        checkpoint_loss=start[:, :count],
        attrs=attrs,
    )
    others = {name: ("item", value) for name, value in coords.items() if name != "item"}
    losses = indexing.LazilyIndexedArray(StoredLosses(folder.absolute(), steps, shape))
    stored = xr.Variable(array.dims, indexing.CopyOnWriteArray(losses))
    # behind the losses lie the observables
    for column, name in enumerate(recorded(attrs), start=count):
        others[name] = stored.isel(item=column)
        others[f"checkpoint_{name}"] = ("time", start[:, column].astype(np.float64))
    stored = stored.isel(item=slice(count)) if count < shape[2] else stored
    return xr.DataArray(stored, array.coords, name=array.name, attrs=attrs).assign_coords(others)


def recorded(attrs: Mapping[str, Any]) -> list[str]:
    """Return the names of the observables that were recorded beside the losses."""
    return attrs["observables"].split(", ") if "observables" in attrs else []
