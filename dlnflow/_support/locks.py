"""Locks between processes, on one machine or several: they go with the process, however it ends."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

PATIENCE = 30.0
"""Seconds that one waits for a process that clears a folder; it needs far less."""
POLL = 0.05
"""Seconds between two tries."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What file systems say that have no locks."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock of a file within the block, and wait for it before."""
    with open(path, "a") as file:
        _lock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def together(path: Path, first: Callable[[], None]) -> Iterator[None]:
    """Share the lock of a file with others within the block.

    `first` is called before, with the lock held alone, where nobody else has it.

    Raises
    ------
    TimeoutError
        If somebody holds it alone for longer than `PATIENCE`; the message is what they wrote.
    """
    with open(path, "a") as file:
        if _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            first()
        deadline = time.monotonic() + PATIENCE
        while not _lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
            if time.monotonic() > deadline:
                raise TimeoutError(path.read_text() or "unknown")
            time.sleep(POLL)
        yield


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a lock whose file exists only meanwhile; yield False if another process has it."""
    file = _claim(path)
    try:
        yield file is not None
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock of a file, alone or shared."""
    try:
        with open(path) as file:
            return _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True


def _claim(path: Path) -> IO | None:
    """Open a file and lock it; one that was removed in between is not the lock."""
    while True:
        file = open(path, "a")
        keep = False
        try:
            if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return None
            keep = os.path.samestat(os.fstat(file.fileno()), path.stat())
            if keep:
                return file
        except FileNotFoundError:
            pass
        finally:
            if not keep:
                file.close()


def _lock(file: IO, kind: int) -> bool:
    """Lock an open file; say whether that was possible without waiting."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise ValueError(
                f"{file.name}: its file system has no file locks ({error.strerror}), by which "
                "processes that share a folder know of each other. Name a folder on another disk, "
                "or mount this one with locks."
            ) from error
        raise
    return True
