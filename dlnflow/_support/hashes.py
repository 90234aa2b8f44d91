"""Hashes of contents."""

import hashlib
import json
from collections.abc import Iterable
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
