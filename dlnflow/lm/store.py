"""Loss traces on disk: a zarr array (time, chain, draw, item) and a record of what is complete.

    manifest.json         weight hashes by step, gradient data, observed data, sampler, version
    losses/, checkpoint_loss/   zarr arrays, float32
    units/<step>-<chain>.json   draws that are complete and their sha256; written last
    units/<step>-<chain>-<draws>.state   how the chain goes on
    lock                  held by the process that writes

A unit counts only once its record exists, and every file appears complete or not at all, so a
process may be killed at any moment.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlnflow.lm._files import sha256_array, write_atomic, write_json

FORMAT = 1
"""Changes when draws of the same settings would change; part of every manifest."""
BLOCK = 64
"""Draws in one chunk of the array."""
REPAIR = "repair=True (`--set repair=true`) computes it again; the rest is kept."


class CorruptedError(OSError):
    """A stored unit no longer has the bytes that were written."""


class Store:
    """A folder of traces; open it with the key of what should be in it.

    Parameters
    ----------
    folder : path
        Made if it does not exist.
    key : dict
        What all units share; JSON.
    weights : dict of int to str
        Weight hash of every step asked for.
    shape : (int, int)
        Chains and items.

    Raises
    ------
    ValueError
        If the folder holds traces of other weights, data, settings or version.
    """

    def __init__(
        self, folder: str | Path, key: dict[str, Any], weights: dict[int, str],
        shape: tuple[int, int],
    ):  # fmt: skip
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.locked():
            manifest = self._manifest(key, weights)
            self.steps: list[int] = manifest["steps"]
            try:
                self._open(*shape)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"`store` {self.folder}: a zarr.json is damaged ({error}). Give "
                                 "another folder, or delete this one.") from error  # fmt: skip
            self._grow(len(self.steps), shape[0], 1)

    def _open(self, n_chains: int, n_items: int) -> None:
        """Open the arrays, or make them."""
        import zarr

        full = (len(self.steps), n_chains, 1, n_items)
        root = zarr.open_group(self.folder, mode="a", zarr_format=3)
        for name, dims, cut in (("losses", full, (1, 1, BLOCK, n_items)),
                                ("checkpoint_loss", full[::3], (1, n_items))):  # fmt: skip
            if name not in root:
                root.create_array(name, shape=dims, chunks=cut, dtype="float32",
                                  fill_value=float("nan"))  # fmt: skip
        self.losses, self.start = root["losses"], root["checkpoint_loss"]

    def _manifest(self, key: dict[str, Any], weights: dict[int, str]) -> dict[str, Any]:
        """Check the folder's manifest, add new steps to it, and return it."""
        path = self.folder / "manifest.json"
        # through JSON, so that tuples and lists compare equal
        key = json.loads(json.dumps(key | {"format": FORMAT}))
        try:
            known = json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise ValueError(f"`store` {self.folder}: manifest.json is damaged ({error}). Give "
                             "another folder, or delete this one.") from error  # fmt: skip
        if known is None and any(self.folder.glob("units/*")):
            raise ValueError(f"`store` {self.folder} has units but no manifest.json; use another.")
        known = known or {"key": key, "steps": [], "weights": {}}
        there, now = _flat(known["key"]), _flat(key)
        differing = [n for n in {**now, **there} if now.get(n) != there.get(n)]
        if differing:
            shown = "; ".join(f"{n}: {there.get(n)} there, {now.get(n)} now" for n in differing)
            raise ValueError(
                f"`store` {self.folder} holds traces of something else ({shown}). Nothing is "
                "mixed: give another folder, or delete that one."
            )
        for step, value in weights.items():
            if known["weights"].setdefault(str(step), value) != value:
                raise ValueError(
                    f"`store` {self.folder} holds traces of other weights at step {step}. Give "
                    "another folder, or delete that one."
                )
            if step not in known["steps"]:
                known["steps"].append(step)
        write_json(path, known)
        return known

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
        record = self._record(step, chain)
        return record["draws"] if record else 0

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
        record = self._record(step, chain) or {}
        path = self._state_path(step, chain, self.done(step, chain))
        state = path.read_bytes() if path.exists() else None
        if state is None or record.get("state_sha256") not in (None, _sha256(state)):
            raise CorruptedError(
                f"`store`: {path} is {'missing' if state is None else 'damaged'}, so chain {chain} "
                f"at step {step} cannot be continued. {REPAIR}"
            )
        return state

    def write(self, step: int, chain: int, losses: NDArray, start: NDArray, state: bytes) -> None:
        """Add draws to a unit: data first, then the state, then the record."""
        t, done = self.steps.index(step), self.done(step, chain)
        total = done + len(losses)
        self._grow(len(self.steps), chain + 1, total)
        self.losses[t, chain, done:total] = losses
        self.start[t] = start
        write_atomic(self._state_path(step, chain, total), lambda p: p.write_bytes(state))
        record = {
            "draws": total, "sha256": sha256_array(self.losses[t, chain, :total]),
            "start_sha256": sha256_array(self.start[t]), "state_sha256": _sha256(state),
        }  # fmt: skip
        write_json(self._record_path(step, chain), record)
        for old in self.folder.glob(f"units/{step}-{chain}-*.state"):
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
        t, record = self.steps.index(step), self._record(step, chain)
        try:
            values = self.losses[t, chain, : record["draws"]]
            intact = sha256_array(values) == record["sha256"]
            start = sha256_array(self.start[t])
            intact = intact and record.get("start_sha256") in (None, start)
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
        self._record_path(step, chain).unlink(missing_ok=True)

    def checkpoint_loss(self, step: int) -> NDArray[np.float32]:
        """Return the losses at a checkpoint."""
        return self.start[self.steps.index(step)]

    def _grow(self, *least: int) -> None:
        """Enlarge the arrays to at least (time, chain, draw)."""
        old = self.losses.shape
        new = (*map(max, old[:3], least), old[3])
        if new != old:
            self.losses.resize(new)
        if new[0] != self.start.shape[0]:
            self.start.resize((new[0], old[3]))

    def _record_path(self, step: int, chain: int) -> Path:
        return self.folder / "units" / f"{step}-{chain}.json"

    def _state_path(self, step: int, chain: int, draws: int) -> Path:
        return self.folder / "units" / f"{step}-{chain}-{draws}.state"

    def _record(self, step: int, chain: int) -> dict[str, Any] | None:
        path = self._record_path(step, chain)
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise CorruptedError(f"`store`: {path} is damaged, so chain {chain} at step {step} is "
                                 f"lost. {REPAIR}") from error  # fmt: skip


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _flat(key: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return the entries of nested dictionaries with their paths, so that few differ."""
    found = {}
    for name, value in key.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{name}.") or {f"{above}{name}": {}}
        else:
            found[f"{above}{name}"] = value
    return found
