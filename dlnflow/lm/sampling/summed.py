"""Draws of a checkpoint are replaced by sums over classes, in stores that keep only these.

Whoever completes the last chain of a checkpoint reads its draws, writes the sums, and then removes
the draws, so that they need room for the checkpoints that are being sampled only.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import write_atomic, write_json
from dlnflow.lm.sampling.inputs import opened
from dlnflow.lm.sampling.store import Store
from dlnflow.lm.sampling.stored_losses import lazy
from dlnflow.lm.sampling.stored_sums import SUMS, is_reduced, paths, read
from dlnflow.traces.class_sums import of_checkpoint

if TYPE_CHECKING:
    from dlnflow.lm.sampling.unit import Job


def reduce(files: Store, job: Job) -> bool:
    """Replace the draws of a checkpoint by sums over classes, if all its chains are complete.

    Returns
    -------
    bool
        False if another process is at it, so that it is not known when it will be done.

    Raises
    ------
    dlnflow.lm.sampling.store.CorruptedError
        If draws are damaged.
    OSError
        If the disk is full; the draws are kept then.
    """
    step, attrs = job.step, job.attrs or {}
    if is_reduced(files, step):
        return True
    if any(files.done(step, chain) < attrs["draws"] for chain in range(attrs["chains"])):
        return True  # who completes the last one does it
    with files.claimed(step, SUMS) as mine:
        if mine and not is_reduced(files, step):
            observed = opened(job.inputs)[1]
            traces = lazy(files.folder, [step], observed.coords(), attrs)
            write(files, step, of_checkpoint(traces, observed.members.astype(np.float64)))
            drop_draws(files, step)
    return mine


def write(files: Store, step: int, sums: Mapping[str, NDArray]) -> None:
    """Write the sums of a checkpoint, and then their record."""
    data, record = paths(files.folder, step)
    buffer = io.BytesIO()
    np.savez(buffer, **sums)
    raw = buffer.getvalue()
    write_atomic(data, lambda path: path.write_bytes(raw))
    known = {"sha256": hashlib.sha256(raw).hexdigest()}
    write_json(record, known | files.manifest.signature(step))


def drop_draws(files: Store, step: int) -> None:
    """Remove the draws of a reduced checkpoint and what would continue its chains."""
    index = files.manifest.entries[step]["index"]
    shutil.rmtree(files.folder / "losses" / "c" / str(index), ignore_errors=True)
    for state in files.folder.glob(f"units/{step}-*.state"):
        state.unlink(missing_ok=True)


def forget(files: Store, step: int) -> None:
    """Drop the sums of a checkpoint, and the records of chains whose draws are gone."""
    paths(files.folder, step)[1].unlink(missing_ok=True)
    for chain in range(files.losses.shape[1]):
        files.forget(step, chain)


__all__ = ["drop_draws", "forget", "is_reduced", "read", "reduce", "write"]
