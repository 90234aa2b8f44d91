"""Which torch devices can be used here."""

import torch


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
        raise ValueError(f"`device` {device!r} cannot be used here ({reason}); there: {there}."
                         ) from error  # fmt: skip
    return found
