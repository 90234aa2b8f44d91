"""Files that are either absent or complete."""

import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = r"^\..*\.[0-9a-f]{12}(\.[^.]*)?$"
"""Names that `atomic_path` makes up,"""
KEPT = 50
"""and how many letters of the file's name they have, so that none is longer than a name may be."""
FULL = r"^\d+ requested and \d+ written|No space left on device|PytorchStreamWriter failed writing"
"""How numpy, safetensors and torch say that a disk is full: without an error number."""


def disk_is_full(error: Exception) -> bool:
    """Whether an error means that there is no room for a file."""
    number = error.errno if isinstance(error, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT) or bool(re.search(FULL, str(error)))


def place(path: str | os.PathLike[str]) -> Path:
    """Return where a file of this name is written: what a symbolic link leads to, if it is one.

    Raises
    ------
    ValueError
        If it is a folder, lies in a file, is a device or a pipe, in whose place a file would be
        put, or a link to itself.
    """
    given, path = Path(path), Path(os.path.realpath(path) if Path(path).is_symlink() else path)
    if path.is_symlink():
        raise ValueError(f"{given} is a link that leads back to itself; give the name of a file.")
    if path.is_dir() or path.name in ("", ".."):
        raise ValueError(f"{given} is a folder; give the name of a file, which may lie in it.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{given} is a device or a pipe; give the name of a file.")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir():
        raise ValueError(f"{given} cannot be made: {there} is a file; name one in a folder.")
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, moved over it if the block succeeds.

    A reader sees the old file, or the new one complete, also after a power cut; a full disk
    leaves the old one. Permissions are those of any new file (the umask's). A symbolic link stays,
    and what it points to is replaced, or made; the temporary name is beside that.

    Raises
    ------
    ValueError
        If `path` cannot be a file, as `place`.
    OSError
        With the name `path`: ENOSPC, whatever library met the full disk; what keeps a file from
        being made there.
    """
    given, path = Path(path), place(path)
    # The suffix stays last: writers choose their format by it.
    name = f".{path.stem[:KEPT]}.{secrets.token_hex(6)}{given.suffix}"
    temporary = path.with_name(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        named = OSError(error.errno, error.strerror, str(given))
        if not disk_is_full(error):
            named.add_note("Name a file in a folder where files can be made.")
        raise named from error
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except Exception as error:
        if disk_is_full(error):  # the file that is meant, not a temporary name or none
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(given)) from error
        raise
    finally:  # nothing is left behind, also where the replacement itself fails
        temporary.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Return the temporary files that processes killed in `atomic_path` left behind."""
    return [path for path in sorted(folder.glob(".*")) if re.search(TEMPORARY, path.name)]


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a temporary name and move the result to `path`."""
    with atomic_path(path) as temporary:
        write(temporary)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically; numbers of numpy like those of Python."""
    text = json.dumps(value, indent=1, default=_number) + "\n"
    write_atomic(path, lambda p: p.write_text(text))


def _number(value: Any) -> Any:
    """Return a number of numpy as one of Python.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r:.80} cannot be written as JSON.")
