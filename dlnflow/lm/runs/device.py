"""Which torch devices can be used here, and with how many threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

import torch

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


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with a fixed number of threads, on which the rounding of sums depends.

    The count belongs to the process: blocks in several Python threads share it, one that wants
    another count waits, and the last to end restores what was there.
    """
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
