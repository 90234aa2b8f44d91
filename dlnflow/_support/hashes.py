"""Hashes of contents, and what identifies a record."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
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


def identity(
    record: Any, *, leave_out: Mapping[str, str], since: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what identifies what was made with a record: all its fields but those left out.

    Parameters
    ----------
    record : dataclass instance
        It holds numbers, words, sequences, mappings, arrays and such records.
    leave_out : mapping of str to str
        Field -> why what is made does not depend on it.
    since : mapping of str to object, optional
        Fields that older keys lack -> the value they had then, at which they are not written.

    Returns
    -------
    dict
        JSON; arrays by their sha256.

    Raises
    ------
    TypeError
        If a field is of another kind.
    """
    since, key = since or {}, {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name in leave_out or (field.name in since and value == since[field.name]):
            continue
        key[field.name] = _plain(value)
    return key


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return sha256_array(value)
    if is_dataclass(value):
        return identity(value, leave_out={})
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    raise TypeError(f"{type(value).__name__} {value!r:.80} cannot be part of a key.")
