"""How much fits the memory of a device; what does not is refused before it is made.

A step holds what its items leave behind for the way back, about four times (values, derivatives
and their copies), and six times the weights. Everything else takes turns.
"""

import os
from collections.abc import Iterator

import torch
from torch import Tensor

MAX_NUMBERS = 2**25
"""Numbers of all networks or directions that are held at once (256 MB); beyond, they take turns."""
IN_CACHE = 3 * 2**19
"""The same on a CPU (12 MB), where more at once is slower (docs/measured.md)."""
COPIES = 4
"""How often what an item leaves behind is held in a step."""
WEIGHTS = 6
"""How often the weights are held in a step."""


def at_once(numbers_each: int) -> int:
    """Return how many things of so many numbers are held at once, 1 or more."""
    return max(1, MAX_NUMBERS // numbers_each)


def turns(count: int, numbers_each: int, *, most: int | None = None) -> Iterator[slice]:
    """Portions of so many networks or directions that fit `MAX_NUMBERS`, of about `most` each.

    They are equal if a number from half of `most` on allows it: other shapes are other graphs.
    """
    size = min(at_once(numbers_each), max(1, most or count))
    equal = [part for part in range(-(-size // 2), size + 1) if count % part == 0]
    size = max(equal, default=size)
    for first in range(0, count, size):
        yield slice(first, first + size)


def of_device(device: torch.device) -> int | None:
    """Return the bytes of a device's memory; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return None


def require_step(count: int, numbers_each: int, n_parameters: int, like: Tensor) -> None:
    """Refuse a step of so many items, each of which leaves so many numbers behind.

    Raises
    ------
    ValueError
        If they need more than the memory of the device; how many fit is said.
    """
    memory = of_device(like.device)
    fixed, each = (n * like.itemsize for n in (WEIGHTS * n_parameters, COPIES * numbers_each))
    if memory is None or fixed + count * each <= memory:
        return
    if fixed + each > memory:
        raise ValueError(
            f"`model` has {n_parameters:,} parameters; one step of a single item needs "
            f"{_gigabytes(fixed + each)} and {_where(like)} has {_gigabytes(memory)}. Take a "
            "smaller model, or single precision."
        )
    raise ValueError(
        f"`data` has too many items for one step: {count:,} need about "
        f"{_gigabytes(fixed + count * each)} and {_where(like)} has {_gigabytes(memory)}, so that "
        f"about {(memory - fixed) // each:,} fit. Train on minibatches: give `batch` at most that."
    )


def require_gradients(count: int, n_parameters: int, like: Tensor) -> None:
    """Refuse to hold the gradients of so many items at once.

    Raises
    ------
    ValueError
        If they and a copy need more than the memory of the device; how many fit is said.
    """
    memory, each = of_device(like.device), 2 * n_parameters * like.itemsize
    if memory is None or count * each <= memory:
        return
    raise ValueError(
        f"the gradients of {count:,} items by {n_parameters:,} parameters need "
        f"{_gigabytes(count * each)} and {_where(like)} has {_gigabytes(memory)}, so that "
        f"{memory // each:,} items fit. Ask for fewer at a time with `train` and `query`."
    )


def _where(like: Tensor) -> str:
    return "the GPU" if like.device.type == "cuda" else "this machine"


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:,.3g} GiB"
