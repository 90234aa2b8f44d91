"""Hashes of contents, and files that are either absent or complete."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 1 << 24
"""Bytes hashed at a time."""


def sha256_text(documents: Iterable[str]) -> str:
    """Return the sha256 of documents, each preceded by its length in bytes."""
    digest = hashlib.sha256()
    for document in documents:
        raw = document.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def sha256_array(array: np.ndarray) -> str:
    """Return the sha256 of an array's type, shape and bytes."""
    array = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    view = memoryview(array).cast("B") if array.size else memoryview(b"")
    for start in range(0, len(view), CHUNK):
        digest.update(view[start : start + CHUNK])
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Return the sha256 of a JSON value, written with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, moved over it if the block succeeds.

    A reader sees the old file, or the new one complete; a full disk leaves the old one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a temporary name and move the result to `path`."""
    with atomic_path(path) as temporary:
        write(temporary)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    write_atomic(path, lambda p: p.write_text(json.dumps(value, indent=1) + "\n"))
