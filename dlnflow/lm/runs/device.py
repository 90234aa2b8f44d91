"""Which torch devices can be used here, and with how many threads."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Condition

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Numbers of options of the C library's allocator."""
KEPT_BYTES, OWN_PAGES = 1 << 28, 1 << 25
"""Freed memory that stays with the process; size of a block that has pages of its own."""

_free = Condition()
_users: list[int] = []
"""Thread counts that the blocks running now asked for; all the same."""
_before: list[int] = []
"""The count to come back to when the last of them ends."""


def usable_device(device: str) -> torch.device:
    """Return a torch device by name.

    Raises
    ------
    ValueError
        If the word is none, or the machine lacks it.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`device` {device!r} cannot be used here ({reason}); there: {there}."
        ) from error
    return found


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep up to 256 MB that were freed, instead of giving them back at once.

    Every step allocates what the last one freed. With the defaults of glibc the pages go back to
    the system in between, and filling them anew took a third of the time of a step.

    Returns
    -------
    bool
        False if the library has no such options.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, OWN_PAGES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with a fixed number of threads, on which the rounding of sums depends.

    The count belongs to the process: blocks in several Python threads share it, one that wants
    another count waits, and the last to end restores what was there.
    """
    keep_freed_memory()
    with _free:
        _free.wait_for(lambda: not _users or _users[0] == count)
        if not _users:
            _before[:] = [torch.get_num_threads()]
        _users.append(count)
        torch.set_num_threads(count)
    try:
        yield
    finally:
        with _free:
            _users.pop()
            if not _users:
                torch.set_num_threads(_before[0])
                _free.notify_all()
