"""Influence of all pairs of a large table, one block of times after another, on disk."""

import functools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, result
from dlnflow._support import VERSION, chunked, files, hashes
from dlnflow._support.progress import Progress
from dlnflow.dynamics import Dynamics
from dlnflow.influence import ESTIMATORS, Estimator
from dlnflow.influence.estimator import Grid, Items

BLOCK_NUMBERS = 2**23
"""Numbers of a block of times, 64 MB, unless a single time has more."""
CHUNK_NUMBERS = 2**17
"""Numbers of a chunk, 1 MB, the least that is read of a store."""
SETTINGS = ("hidden", "depth", "learning_rate", "n_steps", "seed", "optimizer", "batch")


def all_pairs(
    run: Dynamics,
    path: str | os.PathLike[str],
    estimator: str = "analytic",
    steps: ArrayLike | None = None,
    *,
    block: int | None = None,
    query: Items = None,
    train: Items = None,
    **options: Any,
) -> xr.DataArray:
    """K[t, q, i] of all pairs in a zarr store, computed and written one block of times at a time.

    The values are those of ``estimator(run, steps)``, of which no more than a block is held. The
    store may be continued after the process ended at any moment: what is complete stays, the same
    call computes the rest, and the result is the same to the last bit.

    Parameters
    ----------
    run : Run
        A deep linear network that the estimator takes.
    path : path-like
        Folder of the store, usually ending in ``.zarr``: a new one, or one that the same call
        began or completed. N items at T times take 8 T N^2 bytes.
    estimator : str
        Name in `dlnflow.ESTIMATORS`, of one whose times can be computed apart.
    steps : sequence of int, optional
        Default: the run's own grid.
    block : int, optional
        Times that are computed together. Default: as many as make 64 MB, at least one.
    query, train : item names, optional
        Default: all.
    **options
        Options of the estimator.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); values are read when they are asked for, so that
        ``curves.sel(train=["dog"]).values`` reads the chunks with dog alone. `dlnflow.load` opens
        the store later on. Dask arrays where dask is installed.

    Raises
    ------
    ValueError
        If the estimator does not take the run, an argument is invalid, `path` holds something
        else, a store of another run or one that another process writes, or the disk is too small.
    OSError
        If the disk fills up. The block that was not complete is removed, the others stay.
    ModuleNotFoundError
        Without zarr (the store extra).

    Examples
    --------
    >>> import dlnflow as dln, tempfile
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     curves = all_pairs(run, f"{folder}/influence.zarr", steps=[400, 800])
    ...     curves.dims, round(float(curves.sel(time=400, query="cat", train="dog")), 3)
    (('time', 'query', 'train'), -0.518)
    """
    chunked.zarr_library()
    record = ESTIMATORS[checks.one_of("estimator", estimator, list(ESTIMATORS))]
    _takes(record, run)
    grid, path = Grid.of(run, steps, query, train), Path(path)
    size = len(grid.query) * len(grid.train)
    length = max(1, BLOCK_NUMBERS // size) if block is None else block
    length = min(checks.positive_integer("block", length), len(grid.steps))
    key = _key(grid, estimator, length, options)
    estimate = functools.partial(record, run, query=query, train=train, **options)
    done = chunked.attributes(path)["written"] if _exists(path) else None
    _room(path, 8 * size * (len(grid.steps) - (done or 0)))
    if done is None:
        _create(path, grid, estimate(grid.steps[:1]), length, key)
    with _locked(path), Progress(len(grid.steps), f"{estimator}, all pairs") as bar:
        _check_key(path, key)
        done = _clean(path)
        bar.advance(done)
        for first in range(done, len(grid.steps), length):
            steps = grid.steps[first : first + length]
            with _whole_block(path, first, first // length):
                for file in chunked.write(path, first, estimate(steps).values):
                    _sync(file)
                _note(path, written=first + len(steps))
            bar.advance(len(steps))
    return result.load(path)


def _takes(record: Estimator, run: Dynamics) -> None:
    """Refuse what cannot be computed one block of times at a time.

    Raises
    ------
    ValueError
        If the estimator needs all times at once, or does not take the run.
    """
    if not record.separate_times:
        known = [name for name, one in ESTIMATORS.items() if one.separate_times]
        raise ValueError(
            f"`{record.name}` needs all steps at once and cannot fill a store one block of steps "
            f"at a time, as {', '.join(known)} can. Call it for some items (`train`, `query`) and "
            "keep the result with dlnflow.save."
        )
    record.require(run)


def _exists(path: Path) -> bool:
    """Whether there is a store at a path, or else nothing or an empty folder.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If something else is there.
    """
    if path.is_dir() and any(path.iterdir()):
        try:
            chunked.attributes(path)
        except ValueError as error:
            raise ValueError(f"`path`: {error} Nothing was changed; give another path.") from error
        return True
    if path.exists() and not path.is_dir():
        raise ValueError(f"`path` {path} is a file; give the folder of a store, or a new name.")
    return False


def _key(grid: Grid, estimator: str, block: int, options: dict[str, Any]) -> dict[str, Any]:
    """What the values are of, part by part, so that a refusal can name what differs."""
    run, task = grid.run, grid.run.task
    x = None if task.one_hot else hashes.sha256_array(task.x)
    weights = [hashes.sha256_array(w) for w in run.initial_weights(copy=False)]
    return {
        "the data": [hashes.sha256_array(task.y), x],
        "the items": hashes.sha256_json(
            [list(run.items), grid.query.tolist(), grid.train.tolist()]
        ),
        "the run": {name: getattr(run, name) for name in SETTINGS},
        "the initial weights": weights,
        "the steps": hashes.sha256_array(grid.steps),
        "the estimator": [estimator, {name: repr(value) for name, value in options.items()}],
        "`block`": block,
        "the version of dlnflow": VERSION,
    }


def _create(path: Path, grid: Grid, first: xr.DataArray, length: int, key: dict[str, Any]) -> None:
    """Put a store without values at a path, complete or not at all.

    Raises
    ------
    OSError
        If the disk is full.
    """
    shape = (len(grid.steps), *first.shape[1:])
    side = max(1, int(np.sqrt(CHUNK_NUMBERS / length)))
    coords = chunked.coordinates(first)
    for name, values in (("time", grid.steps), ("flow_time", grid.flow_time)):
        coords[name] = ("time", values, coords[name][2])
    attrs = {name: np.asarray(value).item() for name, value in first.attrs.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in files.leftovers(path.parent):
        if left.is_dir() and left.name.startswith(f".{path.stem}."):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f".{path.stem}.{token_hex(6)}{path.suffix}")
    try:
        chunks = (length, *(min(side, n) for n in shape[1:]))
        chunked.skeleton(temporary, shape, chunks, attrs, coords)
        _note(temporary, of=key)
        os.replace(temporary, path)
    except Exception as error:
        _name_full_disk(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_full_disk(error: BaseException, path: Path) -> None:
    """Raise the error of a full disk anew, with the name of the store.

    Raises
    ------
    OSError
        If `error` is one.
    """
    if isinstance(error, Exception) and files.disk_is_full(error):
        named = OSError(ENOSPC, os.strerror(ENOSPC), str(path))
        for note in getattr(error, "__notes__", ()):
            named.add_note(note)
        raise named from error


def _note(path: Path, **changes: Any) -> None:
    """Replace attributes of a store, all or none."""
    content = json.loads((path / chunked.META).read_text(encoding="utf-8"))
    content["attributes"] |= changes
    files.write_json(path / chunked.META, content)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a store, so that no other process writes it.

    Raises
    ------
    ValueError
        If another process does.
    """
    import fcntl  # of Unix; nothing else of the package needs it

    with open(path / chunked.ARRAY / chunked.META, "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"`path` {path} is being written by another process. Wait for it, or give another "
                "path."
            ) from error
        yield


def _check_key(path: Path, key: dict[str, Any]) -> None:
    """Refuse a store of something else, and name what differs."""
    found = chunked.attributes(path).get("of", {})
    other = [name for name, value in key.items() if found.get(name) != value]
    if other:
        raise ValueError(
            f"`path` {path} holds influence that differs in {', '.join(other)}. Nothing was "
            "changed; give another path, or delete that one."
        )


def _room(path: Path, needed: int) -> None:
    """Refuse a disk that is too small, before the work."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"the influence of all pairs needs {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are "
            f"free on the disk of {folder}. Give fewer `steps`, a part of the items as `query` or "
            "`train`, or a path on another disk."
        )


def _clean(path: Path) -> int:
    """Remove what a process that was killed left, and return how many times are written."""
    for left in files.leftovers(path):
        left.unlink(missing_ok=True)
    return int(chunked.attributes(path)["written"])


@contextmanager
def _whole_block(path: Path, first: int, block: int) -> Iterator[None]:
    """Begin a block without files of an earlier attempt, and leave none of an incomplete one."""
    folder = chunked.block_folder(path, block)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    except BaseException as error:
        about = chunked.attributes(path)
        if about["written"] <= first:  # Ctrl-C can come after the block is complete
            shutil.rmtree(folder, ignore_errors=True)
        error.add_note(
            f"{about['written']} of {about['times']} times are complete in {path}; the same call "
            "or command goes on from there."
        )
        _name_full_disk(error, path)
        raise


def _sync(file: Path) -> None:
    """Wait until a file is on the disk."""
    with open(file, "rb+") as written:
        os.fsync(written.fileno())
