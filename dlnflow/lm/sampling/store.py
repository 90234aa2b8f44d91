"""Loss traces on disk: a zarr array (time, chain, draw, item) and a record of what is complete.

    manifest.json         hashes of weights and config.json by step, gradient data, observed data,
                          sampler, version
    losses/, checkpoint_loss/   zarr arrays, float32
    units/<step>-<chain>.json   draws that are complete, their sha256 and what they are of;
                          written last
    units/<step>-<chain>-<draws>.state   how the chain goes on
    units/<step>-<chain>.lock   there while a process computes the chain
    inputs/<sha256>.npy   ids that the chains need
    sums/   see `dlnflow.lm.sampling.summed`
    lock, manifest.lock   shared by all that write; held to change the manifest or the arrays' size
    settings.lock         held while settings are chosen, so that two processes choose the same

A unit counts only once its record exists, and every file appears complete or not at all, so a
process may be killed at any moment. The zarr.json of the arrays follow from the records and are
written anew where they are damaged; every unit is checked against its record. Any number of
processes may write: a chunk belongs to one unit, and a unit to the process that claimed it.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlnflow._support import locks
from dlnflow._support.files import leftovers, write_atomic
from dlnflow._support.hashes import sha256_array
from dlnflow.lm.sampling.manifest import REPAIR, CorruptedError, Manifest

BLOCK = 64
"""Draws in one chunk of the array; part of the format."""


class Reader:
    """A store that is only read: nothing is written, so its disk may be one that cannot be.

    Parameters
    ----------
    folder : Path
        Folder of the store.

    Raises
    ------
    ValueError
        If its manifest is damaged or missing.
    """

    losses: Any
    start: Any

    def __init__(self, folder: Path) -> None:
        import zarr

        self.folder = folder
        self.manifest = Manifest.found(folder)
        try:
            self.losses, self.start = (
                zarr.open_array(folder / name, mode="r", zarr_format=3)
                for name in ("losses", "checkpoint_loss")
            )
        except Exception as error:  # whatever the reader makes of a damaged description
            raise CorruptedError(
                f"`store` {folder}: the zarr.json of an array is damaged or missing ({error}); "
                "sampling again writes it anew"
            ) from error

    def done(self, step: int, chain: int) -> int:
        """Return how many draws of a unit are complete."""
        record = self.manifest.record(step, chain)
        return record["draws"] if record else 0

    def read(
        self, step: int, chain: int, draws: int, *, trusted: bool = False
    ) -> NDArray[np.float32]:
        """Return the first `draws` draws of a unit, compared with its record unless `trusted`.

        Returns
        -------
        (draws, K) float32 array
            Losses.

        Raises
        ------
        CorruptedError
            Naming the unit, if the stored bytes are not those that were written, or too few.
        """
        t = self._index(step)
        if trusted:
            return self.losses[t, chain, :draws]
        record = self.manifest.record(step, chain) or {"draws": 0}
        if record["draws"] < draws:
            raise CorruptedError(
                f"`store` {self.folder}: chain {chain} at step {step} has {record['draws']} of "
                f"{draws} draws; sampling again completes it"
            )
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

    def checkpoint_loss(self, step: int) -> NDArray[np.float32]:
        """Return the losses at a checkpoint, compared with the record of its first chain.

        Returns
        -------
        (K,) float32 array
            Losses.

        Raises
        ------
        CorruptedError
            If they are not those that were written.
        """
        t, record = self._index(step), self.manifest.record(step, 0)
        try:
            values = self.start[t]
            intact = record is None or sha256_array(values) == record["start_sha256"]
        except Exception:  # a codec may raise anything on damaged bytes
            intact = False
        if not intact:
            raise CorruptedError(
                f"`store` {self.folder}: the losses at checkpoint {step} (array index [{t}]) are "
                f"damaged. {REPAIR}"
            )
        return values

    def verified(self, step: int, chain: int) -> str:
        """Say what is damaged of a unit.

        Returns
        -------
        str
            Empty if its draws and its state are those that were written.
        """
        try:
            self.read(step, chain, self.done(step, chain))
            self.state(step, chain)
        except OSError as error:
            return str(error)
        return ""

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

    def _state_path(self, step: int, chain: int, draws: int) -> Path:
        return self.folder / "units" / f"{step}-{chain}-{draws}.state"

    def _index(self, step: int) -> int:
        if step not in self.manifest.entries:
            raise ValueError(f"`store` {self.folder} has no step {step}")
        return self.manifest.entries[step]["index"]


class Store(Reader):
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
    suggestion : dict, optional
        How the settings were chosen, for the manifest.

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
        suggestion: dict[str, Any] | None = None,
    ):
        self.folder = usable(folder)
        with self.writing(), self._changing():
            self.manifest = Manifest(
                self.folder, key, contents, repair=repair, suggestion=suggestion
            )
            self._open(shape)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write within the block, beside others; who comes alone removes what killed ones left.

        Raises
        ------
        ValueError
            If a process holds the folder for itself, as earlier versions of the package do.
        """

        def clear() -> None:
            for path in half_made(self.folder):
                path.unlink(missing_ok=True)

        try:
            with locks.together(self.folder / "lock", clear):
                yield
        except TimeoutError as error:
            raise ValueError(
                f"`store` {self.folder} is in use by process {error}. Wait for it, or give another "
                "folder."
            ) from error

    def _changing(self) -> AbstractContextManager[None]:
        """Hold the manifest and the size of the arrays."""
        return locks.alone(self.folder / "manifest.lock")

    def claimed(self, step: int, chain: int | str) -> AbstractContextManager[bool]:
        """Compute a unit, or what is named so, within the block; false if another process does."""
        return locks.claimed(self.folder / "units" / f"{step}-{chain}.lock")

    def _open(self, shape: tuple[int, int]) -> None:
        """Open the arrays; make them, or what describes them, where that is missing or damaged."""
        import zarr

        def full() -> tuple[int, ...]:
            known = self.manifest.records()
            chains = max([shape[0], *(chain + 1 for _, chain in known)])
            draws = max([1, *(record["draws"] for record in known.values())])
            return self.manifest.n_steps, chains, draws, shape[1]

        _whole(self.folder, lambda: zarr.open_group(self.folder, mode="a", zarr_format=3))
        self.losses = self._array("losses", full, (1, 1, BLOCK, shape[1]))
        self.start = self._array("checkpoint_loss", lambda: full()[::3], (1, shape[1]))
        self._resize((self.manifest.n_steps, shape[0], 1))

    def _array(
        self, name: str, full: Callable[[], tuple[int, ...]], chunks: tuple[int, ...]
    ) -> Any:
        """Open an array, or make it; chunks that are there already remain."""
        import zarr

        path = self.folder / name

        def opened() -> zarr.Array:
            if not (path / "zarr.json").exists():
                return zarr.create_array(
                    path, shape=full(), chunks=chunks, dtype="float32", fill_value=float("nan")
                )
            array = zarr.open_array(path, mode="r+", zarr_format=3)
            if (array.chunks, array.shape[-1], array.dtype) != (chunks, chunks[-1], np.float32):
                raise ValueError("not the array of this store")
            return array

        return _whole(path, opened)

    def lost(self, step: int, chain: int) -> int:
        """Return how many draws a unit had, as far as its files still tell."""
        names = [path.stem.split("-")[-1] for path in self._states(step, chain)]
        known = [int(name) for name in names if name.isdecimal()]
        if record := self.manifest.records().get((step, chain)):
            known.append(record["draws"])
        return max(known, default=0)

    def write(self, step: int, chain: int, losses: NDArray, start: NDArray, state: bytes) -> None:
        """Add draws to a unit: data first, then the state, then the record."""
        t, done = self._index(step), self.done(step, chain)
        total = done + len(losses)
        self.make_room(chain + 1, total)
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

    def forget(self, step: int, chain: int) -> None:
        """Drop a unit's record, so that it is computed again."""
        self.manifest.record_path(step, chain).unlink(missing_ok=True)

    def make_room(self, chains: int, draws: int) -> None:
        """Enlarge the arrays to so many chains and draws."""
        least = self.manifest.n_steps, chains, draws
        if any(new > old for new, old in zip(least, self.losses.shape[:3], strict=True)):
            with self._changing():
                # another process may have enlarged them since they were opened here
                self._open((chains, self.losses.shape[3]))
                self._resize(least)

    def _resize(self, least: tuple[int, int, int]) -> None:
        """Enlarge the arrays to at least (time, chain, draw)."""
        old = self.losses.shape
        new = (*map(max, old[:3], least), old[3])
        if new != old:
            self.losses.resize(new)
        if new[0] != self.start.shape[0]:
            self.start.resize((new[0], old[3]))

    def _states(self, step: int, chain: int) -> Iterator[Path]:
        return self.folder.glob(f"units/{step}-{chain}-*.state")


def usable(folder: str | Path) -> Path:
    """Make the folder of a store, and check that it can be written.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If it cannot.
    """
    folder = Path(folder)
    try:
        (folder / "units").mkdir(parents=True, exist_ok=True)
        for name in ("lock", "manifest.lock"):
            with open(folder / name, "a"):
                pass
    except OSError as error:
        why = "is a file" if folder.is_file() else f"cannot be written ({error.strerror})"
        raise ValueError(
            f"`store` {folder} {why}. Give a folder that can be written, or copy the store to one."
        ) from error
    return folder


def recorded_sampler(folder: Path, *, damaged: bool = False) -> dict[str, Any] | None:
    """Return what the manifest of a store says of its sampler.

    Parameters
    ----------
    folder : Path
        Folder of the store.
    damaged : bool
        Return None where the manifest is damaged, instead of raising.

    Returns
    -------
    dict or None
        None for a new store.

    Raises
    ------
    ValueError
        If the manifest is damaged, or missing beside units.
    """
    begun = (folder / "manifest.json").exists() or any(folder.glob("units/*.json"))
    if not begun:
        return None
    try:
        return Manifest.found(folder).key.get("sampler", {})
    except ValueError:
        if damaged:
            return None
        raise


def half_made(folder: Path) -> list[Path]:
    """Return temporary files, and claims on units, that killed processes left in a store."""
    mine = [
        path for place in (".", "units", "inputs", "sums") for path in leftovers(folder / place)
    ]
    of_zarr = ("zarr.*.partial", "losses/**/*.partial", "checkpoint_loss/**/*.partial")
    others = [path for name in ("units/*.lock", *of_zarr) for path in sorted(folder.glob(name))]
    return [*mine, *others]


def in_use(folder: Path) -> bool:
    """Say whether a process writes to a store."""
    return (folder / "lock").exists() and not locks.is_free(folder / "lock")


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
