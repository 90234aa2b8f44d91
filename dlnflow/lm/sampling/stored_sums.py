"""Class sums of a store, read when they are asked for; nothing is written.

sums/<step>.npz    what `dlnflow.traces.class_sums` makes of a checkpoint
sums/<step>.json   its sha256, and what it is of; written last
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from dlnflow.lm.sampling.manifest import REPAIR, CorruptedError
from dlnflow.lm.sampling.store import Reader

SUMS = "sums"
"""Folder, and what claims of checkpoints are named by."""


def is_reduced(files: Reader, step: int) -> bool:
    """Say whether the sums of a checkpoint are there."""
    return paths(files.folder, step)[1].exists()


def read(files: Reader, step: int) -> Mapping[str, NDArray]:
    """Return the sums of a checkpoint, compared with their hash.

    Raises
    ------
    CorruptedError
        Naming the checkpoint, if they are damaged or of something else.
    """
    data, record = paths(files.folder, step)
    try:
        raw, known = data.read_bytes(), json.loads(record.read_text())
        intact = known.get("sha256") == hashlib.sha256(raw).hexdigest()
        intact = intact and known == known | files.manifest.signature(step)
    except (FileNotFoundError, ValueError, AttributeError):
        intact = False
    if not intact:
        raise CorruptedError(
            f"`store` {files.folder}: the class sums at step {step} are damaged or missing, and "
            f"the draws they were made of are gone. {REPAIR}"
        )
    return np.load(io.BytesIO(raw))


class StoredSums(Sequence):
    """Class sums of the checkpoints of a store, read when they are asked for.

    Parameters
    ----------
    folder : Path
        Folder of the store.
    steps : sequence of int
        Checkpoints.
    """

    def __init__(self, folder: Path, steps: Sequence[int]) -> None:
        self.folder, self.steps = folder, tuple(steps)
        self._last: tuple[int, Mapping[str, NDArray]] | None = None

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, key: int) -> Mapping[str, NDArray]: ...
    @overload
    def __getitem__(self, key: slice) -> "StoredSums": ...
    def __getitem__(self, key: int | slice) -> "Mapping[str, NDArray] | StoredSums":
        """Read one checkpoint; the last one that was read is kept."""
        if isinstance(key, slice):
            return StoredSums(self.folder, self.steps[key])
        step = self.steps[key]
        if self._last is None or self._last[0] != step:
            self._last = step, read(Reader(self.folder), step)
        return self._last[1]

    def __iter__(self) -> Iterator[Mapping[str, NDArray]]:
        """Read one checkpoint after another."""
        return (self[k] for k in range(len(self)))


def paths(folder: Path, step: int) -> tuple[Path, Path]:
    """Return where sums and their record lie."""
    return folder / SUMS / f"{step}.npz", folder / SUMS / f"{step}.json"
