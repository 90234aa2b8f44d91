"""One HTML file that needs nothing else: style, script and data, and numbers as text."""

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import place as place
from dlnflow._support.files import write_atomic

FORMAT = 2
"""Of the data in a page."""
SIZE = "0" * 12
"""Stands in the data until the size of the page is known."""
HEAD, COMMON = "head", "common"
"""The head of every page, which says what it may load and run, and its first style and script."""


def write(out: str | Path, data: dict[str, Any], page: str, parts: Sequence[str]) -> int:
    """Write a page; it appears complete or not at all.

    Parameters
    ----------
    out : path
    data : dict
        What the page's script reads; `format` and `bytes`, the size of the page, are added.
    page : str
        Name of the template of the body, and of the style.
    parts : sequence of str
        Names of scripts, in order.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    OSError
        If the page cannot be written.
    """
    files = resources.files("dlnflow.explore")
    template = "".join((files / f"{name}.html").read_text("utf-8") for name in (HEAD, page))
    style, script = (
        "".join((files / f"{name}.{kind}").read_text("utf-8") for name in (COMMON, *names))
        for kind, names in (("css", [page]), ("js", parts))
    )
    # Nothing may be loaded, and no script or style may run but these two.
    allowed = {"STYLE_HASH": _hash(style), "SCRIPT_HASH": _hash(script)}
    text = escaped({"format": FORMAT, "bytes": SIZE} | data)
    for name, part in (allowed | {"STYLE": style, "SCRIPT": script, "DATA": text}).items():
        before, after = template.split(f"[[{name}]]")
        template = before + part + after
    whole = template.encode()
    size = f"{len(whole):>{len(SIZE)}}"
    whole = whole.replace(f'"bytes":"{SIZE}"'.encode(), f'"bytes":"{size}"'.encode(), 1)
    write_atomic(Path(out), lambda path: path.write_bytes(whole))
    return len(whole)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def escaped(data: dict[str, Any]) -> str:
    r"""Return JSON that no HTML parser finds an end of a script or a comment in.

    Returns
    -------
    str
        ASCII; every "<", ">" and "&" is written as \u00NN.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def packed(values: NDArray[np.integer]) -> bytes:
    """Return signed integers deflated: 0, -1, 1, -2, ... as 0, 1, 2, 3, ...; low bytes first.

    Most are small, so that most high bytes are 0 and cost nothing.

    Parameters
    ----------
    values : array of int16 or int32

    Returns
    -------
    bytes
        In the zlib format, which browsers read as "deflate".
    """
    size = values.itemsize
    folded = ((values << 1) ^ (values >> (8 * size - 1))).astype(f"<i{size}")
    planes = folded.view(np.uint8).reshape(-1, size)
    # Noise has no repeats worth a search: codes alone are 9 % shorter.
    code = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_FILTERED)
    return code.compress(planes.T.tobytes()) + code.flush()


def unpacked(data: bytes, shape: tuple[int, ...], size: int = 2) -> NDArray[np.integer]:
    """Return the integers that `packed` took.

    Parameters
    ----------
    data : bytes
    shape : tuple of int
    size : int
        Bytes of an integer, 2 or 4.

    Returns
    -------
    array of int16 or int32
        As the page reads them.
    """
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(size, -1)
    folded = np.ascontiguousarray(planes.T).view(f"<u{size}").reshape(shape)
    kind = np.dtype(f"i{size}")
    return (folded >> 1).astype(kind) ^ -(folded & 1).astype(kind)


def text_of(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode("ascii")


def floats(values: NDArray) -> str:
    """Return numbers as text, in single precision."""
    return text_of(np.ascontiguousarray(values, dtype="<f4").tobytes())
