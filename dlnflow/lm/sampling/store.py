"""Loss traces on disk: a zarr array (time, chain, draw, item) and a record of what is complete.

    manifest.json         hashes of weights and config.json by step, gradient data, observed data,
                          sampler, version
    losses/, checkpoint_loss/   zarr arrays, float32
    units/<step>-<chain>.json   draws that are complete, their sha256 and what they are of;
                          written last
    units/<step>-<chain>-<draws>.state   how the chain goes on
    lock                  held by the process that writes

A unit counts only once its record exists, and every file appears complete or not at all, so a
process may be killed at any moment. The zarr.json of the arrays follow from the records and are
written anew where they are damaged; every unit is checked against its record.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import leftovers, write_atomic
from dlnflow._support.hashes import sha256_array
from dlnflow.lm.sampling.manifest import REPAIR, CorruptedError, Manifest

BLOCK = 64
"""Draws in one chunk of the array; part of the format."""


class Store:
    """A folder of traces; open it with the key of what should be in it.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    key : dict
        What all units share; JSON.
    contents : dict of int to dict
        Hashes "weights" and "config" of every step asked for.
    shape : (int, int)
        Chains and items.
    repair : bool
        Write a damaged manifest anew, if the units are of this key.

    Raises
    ------
    ValueError
        If the folder holds traces of other weights, data, settings or version, its manifest is
        damaged, or it cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        key: dict[str, Any],
        contents: dict[int, dict[str, str]],
        shape: tuple[int, int],
        *,
        repair: bool = False,
    ):
        self.folder = Path(folder)
        self._usable()
        with self.locked():
            for path in half_made(self.folder):
                path.unlink(missing_ok=True)
            self.manifest = Manifest(self.folder, key, contents, repair=repair)
            known = self.manifest.records()
            chains = max([shape[0], *(chain + 1 for _, chain in known)])
            draws = max([1, *(record["draws"] for record in known.values())])
            self._open(chains, draws, shape[1])
            self._grow(self.manifest.n_steps, shape[0], 1)

    def _usable(self) -> None:
        """Make the folder and check that it can be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "lock", "a"):
                pass
        except OSError as error:
            why = "is a file" if self.folder.is_file() else f"cannot be written ({error.strerror})"
            raise ValueError(
                f"`store` {self.folder} {why}. Give a folder that can be written, or "
                "copy the store to one."
            ) from error

    def _open(self, chains: int, draws: int, items: int) -> None:
        """Open the arrays; make them, or what describes them, where that is missing or damaged."""
        import zarr

        full = (self.manifest.n_steps, chains, draws, items)
        _whole(self.folder, lambda: zarr.open_group(self.folder, mode="a", zarr_format=3))
        self.losses = self._array("losses", full, (1, 1, BLOCK, items))
        self.start = self._array("checkpoint_loss", full[::3], (1, items))

    def _array(self, name: str, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Any:
        """Open an array, or make it; chunks that are there already remain."""
        import zarr

        path = self.folder / name

        def opened() -> zarr.Array:
            if not (path / "zarr.json").exists():
                return zarr.create_array(
                    path, shape=shape, chunks=chunks, dtype="float32", fill_value=float("nan")
                )
            array = zarr.open_array(path, mode="r+", zarr_format=3)
            if (array.chunks, array.shape[-1], array.dtype) != (chunks, shape[-1], np.float32):
                raise ValueError("not the array of this store")
            return array

        return _whole(path, opened)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock.

        Raises
        ------
        ValueError
            If another process holds it.
        """
        with open(self.folder / "lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise ValueError(
                    f"`store` {self.folder} is in use by process {file.read() or 'unknown'}. Wait "
                    "for it, or give another folder."
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def done(self, step: int, chain: int) -> int:
        """Return how many draws of a unit are complete."""
        record = self.manifest.record(step, chain)
        return record["draws"] if record else 0

    def lost(self, step: int, chain: int) -> int:
        """Return how many draws a unit had, as far as its files still tell."""
        names = [path.stem.split("-")[-1] for path in self._states(step, chain)]
        known = [int(name) for name in names if name.isdecimal()]
        if record := self.manifest.records().get((step, chain)):
            known.append(record["draws"])
        return max(known, default=0)

    def state(self, step: int, chain: int) -> bytes:
        """Return how a unit goes on after its last draw.

        Returns
        -------
        bytes
            As written.

        Raises
        ------
        CorruptedError
            If the file is gone or damaged.
        """
        record = self.manifest.record(step, chain) or {}
        path = self._state_path(step, chain, self.done(step, chain))
        state = path.read_bytes() if path.exists() else None
        if state is None or record.get("state_sha256") != _sha256(state):
            raise CorruptedError(
                f"`store`: {path} is {'missing' if state is None else 'damaged'}, so chain {chain} "
                f"at step {step} cannot be continued. {REPAIR}"
            )
        return state

    def write(self, step: int, chain: int, losses: NDArray, start: NDArray, state: bytes) -> None:
        """Add draws to a unit: data first, then the state, then the record."""
        t, done = self._index(step), self.done(step, chain)
        total = done + len(losses)
        self._grow(self.manifest.n_steps, chain + 1, total)
        self.losses[t, chain, done:total] = losses
        self.start[t] = start
        write_atomic(self._state_path(step, chain, total), lambda p: p.write_bytes(state))
        record = {
            "draws": total,
            "sha256": sha256_array(self.losses[t, chain, :total]),
            "start_sha256": sha256_array(self.start[t]),
            "state_sha256": _sha256(state),
        }
        self.manifest.write_record(step, chain, record)
        for old in self._states(step, chain):
            if old != self._state_path(step, chain, total):
                old.unlink()

    def read(self, step: int, chain: int, draws: int) -> NDArray[np.float32]:
        """Return the first `draws` draws of a unit, checked against its record.

        Returns
        -------
        (draws, K) float32 array
            Losses.

        Raises
        ------
        CorruptedError
            Naming the unit, if the stored bytes are not those that were written.
        """
        t, record = self._index(step), self.manifest.record(step, chain)
        try:
            values = self.losses[t, chain, : record["draws"]]
            intact = sha256_array(values) == record["sha256"]
            intact = intact and sha256_array(self.start[t]) == record["start_sha256"]
        except Exception:  # a codec may raise anything on damaged bytes
            intact = False
        if not intact:
            raise CorruptedError(
                f"`store` {self.folder}: the losses of chain {chain} at step {step} (array index "
                f"[{t}, {chain}]) are damaged. {REPAIR}"
            )
        return values[:draws]

    def forget(self, step: int, chain: int) -> None:
        """Drop a unit's record, so that it is computed again."""
        self.manifest.record_path(step, chain).unlink(missing_ok=True)

    def checkpoint_loss(self, step: int) -> NDArray[np.float32]:
        """Return the losses at a checkpoint."""
        return self.start[self._index(step)]

    def _grow(self, *least: int) -> None:
        """Enlarge the arrays to at least (time, chain, draw)."""
        old = self.losses.shape
        new = (*map(max, old[:3], least), old[3])
        if new != old:
            self.losses.resize(new)
        if new[0] != self.start.shape[0]:
            self.start.resize((new[0], old[3]))

    def _states(self, step: int, chain: int) -> Iterator[Path]:
        return self.folder.glob(f"units/{step}-{chain}-*.state")

    def _index(self, step: int) -> int:
        return self.manifest.entries[step]["index"]

    def _state_path(self, step: int, chain: int, draws: int) -> Path:
        return self.folder / "units" / f"{step}-{chain}-{draws}.state"


def half_made(folder: Path) -> list[Path]:
    """Return temporary files that killed processes left in a store."""
    chunks = folder.glob("*/c/**/*.partial")  # of zarr
    return [*leftovers(folder), *leftovers(folder / "units"), *sorted(chunks)]


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _whole(folder: Path, opened: Callable[[], Any]) -> Any:
    """Open a node of the store; if its zarr.json is damaged, without it."""
    try:
        return opened()
    except OSError:
        raise
    except Exception:  # whatever the reader makes of a damaged description
        (folder / "zarr.json").unlink(missing_ok=True)
        return opened()


def verified(folder: Path, manifest: Manifest, step: int, chain: int) -> str:
    """Say what is damaged of a unit, without opening the store for writing.

    Returns
    -------
    str
        Empty if its draws and its state are those that were written.
    """
    import zarr

    try:
        record = manifest.record(step, chain)
        t, draws = manifest.entries[step]["index"], record["draws"]
        losses = zarr.open_array(folder / "losses", mode="r")[t, chain, :draws]
        start = zarr.open_array(folder / "checkpoint_loss", mode="r")[t]
        state = (folder / "units" / f"{step}-{chain}-{draws}.state").read_bytes()
    except CorruptedError as error:
        return str(error)
    except Exception as error:  # a codec may raise anything on damaged bytes
        return f"chain {chain} at step {step} cannot be read ({error}). {REPAIR}"
    now = {
        "sha256": sha256_array(losses),
        "start_sha256": sha256_array(start),
        "state_sha256": _sha256(state),
    }
    if record == record | now:
        return ""
    return f"chain {chain} at step {step} has other bytes than were written. {REPAIR}"
