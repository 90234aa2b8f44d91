"""An influence array in a zarr store: opened without reading it, never taken for complete.

    zarr.json        attributes: the format, what the values are of, how many times are written
    influence/       (time, query, train), float64, crc32c of every chunk; a chunk holds several
                     times of a tile of pairs
    time/ flow_time/ query/ train/    its coordinates

A block is a run of times that fill whole chunks. It counts once ``written`` in zarr.json says so,
which is replaced after the block's files are on the disk.
"""

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

ARRAY = "influence"
FORMAT = "dlnflow influence 1"
"""Marks a folder as such a store; part of its zarr.json."""
COORDINATES = ("time", "flow_time", "query", "train")
META = "zarr.json"


def zarr_library() -> ModuleType:
    """Return zarr.

    Raises
    ------
    ModuleNotFoundError
        Naming the extra that installs it.
    """
    try:
        import zarr
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "influence of all pairs is stored with zarr, not installed here; "
            "`pip install 'dlnflow[store]'` does that.",
            name="zarr",
        ) from error
    return zarr


def attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a store of this format.

    Raises
    ------
    ValueError
        If the folder is no such store.
    """
    try:
        found = json.loads((path / META).read_text(encoding="utf-8"))["attributes"]
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is a folder, but not a store of influence that dlnflow wrote, or its {META} "
            "is damaged."
        ) from error


Coordinates = dict[str, tuple[str, np.ndarray, dict[str, Any]]]
"""Name -> (dim, values, attributes)."""


def coordinates(array: xr.DataArray) -> Coordinates:
    """Return the coordinates of an influence array."""
    return {n: (str(array[n].dims[0]), array[n].values, array[n].attrs) for n in COORDINATES}


def labels_digest(attrs: dict[str, Any], coords: Coordinates) -> str:
    """Return the sha256 of attributes and coordinates, which have no other protection."""
    parts: list[Any] = [attrs]
    for name in COORDINATES:
        dim, values, about = coords[name]
        parts.append([name, dim, about])
        parts.append([v.hex() if isinstance(v, float) else v for v in values.tolist()])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def opened(path: Path) -> xr.DataArray:
    """Return the labelled array of a complete store; values are read when they are asked for.

    Raises
    ------
    ModuleNotFoundError
        Without zarr.
    ValueError
        If the folder is no store, is not complete, or is damaged.
    """
    about = attributes(path)
    zarr = zarr_library()
    if about["written"] < about["times"]:
        raise ValueError(
            f"{path} is not complete: {about['written']} of {about['times']} times are written. "
            "Repeat the call or the command that writes it, which goes on from there."
        )
    try:
        values = zarr.open_array(path / ARRAY, mode="r", zarr_format=3)
        if values.nchunks_initialized < values.nchunks:
            lost = values.nchunks - values.nchunks_initialized
            raise ValueError(f"{lost} of {values.nchunks} chunks are missing")
        array = _labelled(path)
        if labels_digest(array.attrs, coordinates(array)) != about["labels"]:
            raise ValueError("labels or attributes differ from those that were written")
    except Exception as error:  # what a parser makes of damaged files can be any error
        raise ValueError(
            f"{path} is damaged: {error}. Delete it and compute it again, or take a copy."
        ) from error
    return array


def _labelled(path: Path) -> xr.DataArray:
    """Open the array and its coordinates, in the types that were written."""
    chunks = {} if importlib.util.find_spec("dask") else None
    dataset = xr.open_zarr(
        path, consolidated=False, chunks=chunks, mask_and_scale=False, decode_times=False
    ).set_coords("flow_time")
    array = dataset[ARRAY]
    for name in ("query", "train"):
        about = array[name].attrs
        names = np.asarray(array[name].values.tolist(), dtype=str)
        array = array.assign_coords({name: names})
        array[name].attrs.update(about)
    return array.assign_attrs(dataset[ARRAY].attrs)


def skeleton(
    path: Path,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    attrs: dict[str, Any],
    coords: Coordinates,
) -> None:
    """Write a store without values."""
    zarr = zarr_library()
    from zarr.codecs import Crc32cCodec

    crc = [Crc32cCodec()]
    group = zarr.open_group(path, mode="w-", zarr_format=3)
    for name, (dim, values, about) in coords.items():
        text = values.dtype.kind == "U"
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=str if text else values.dtype,
            compressors=crc,
            dimension_names=[dim],
            attributes=about,
            fill_value="" if text else 0,
        )
        array[:] = values.astype(object) if text else values
    group.create_array(
        ARRAY,
        shape=shape,
        chunks=chunks,
        dtype="float64",
        compressors=crc,
        fill_value=float("nan"),
        dimension_names=["time", "query", "train"],
        attributes=attrs,
    )
    group.attrs.update(
        {"format": FORMAT, "times": shape[0], "written": 0, "labels": labels_digest(attrs, coords)}
    )


def write(path: Path, first: int, values: np.ndarray) -> list[Path]:
    """Write a block of values (times, query, train) that begins at a time; return its files.

    Chunk by chunk: zarr would write many at once, some of them after it reported a full disk.
    """
    array = zarr_library().open_array(path / ARRAY, mode="r+", zarr_format=3)
    length, height, width = array.chunks
    for top in range(0, values.shape[1], height):
        for left in range(0, values.shape[2], width):
            tile = values[:, top : top + height, left : left + width]
            rows, columns = slice(top, top + tile.shape[1]), slice(left, left + tile.shape[2])
            array[first : first + len(values), rows, columns] = tile
    return [file for file in block_folder(path, first // length).rglob("*") if file.is_file()]


def block_folder(path: Path, block: int) -> Path:
    """Return the folder with the chunks of one block of times."""
    return path / ARRAY / "c" / str(block)
