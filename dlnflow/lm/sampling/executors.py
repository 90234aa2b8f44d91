"""Where chains are computed: here, in processes of this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial

import torch

from dlnflow._support.workers import LocalWorkers

CONNECTING = "15s"
"""How long one waits for the answer of a scheduler."""
LOST = 3
"""Workers that may be lost with one chain before the scheduler gives it up."""


@contextmanager
def executor(
    workers: int = 1, scheduler: str | None = None, device: str = "cpu"
) -> Iterator[Executor | None]:
    """Open what `dlnflow.lm.sample_traces` takes as its executor.

    Parameters
    ----------
    workers : int
        Processes of this machine; with one, chains are computed in this process.
    scheduler : str, optional
        Address of a dask scheduler, e.g. ``"tcp://node1:8786"``. Its workers need this version of
        the package, and must see store and run under the same path.
    device : str
        Device of the chains: on ``"cuda"`` worker k takes GPU k modulo their number.

    Yields
    ------
    Executor or None
        None for this process.

    Raises
    ------
    ValueError
        If both are given.
    ConnectionError
        If the scheduler does not answer.
    ModuleNotFoundError
        If dask.distributed is not installed.
    """
    if scheduler is not None:
        if workers != 1:
            raise ValueError(
                "`workers` are processes of this machine, and `scheduler` has workers of its own; "
                "give one of the two."
            )
        with _connected(scheduler) as client:
            yield client.get_executor(retries=LOST, pure=False)
    elif workers > 1:
        with LocalWorkers(workers, partial(take_device, device)) as pool:
            yield pool
    else:
        yield None


@contextmanager
def _connected(address: str) -> Iterator:
    """Connect to a scheduler."""
    import distributed

    try:
        client = distributed.Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConnectionError(
            f"`scheduler` {address} does not answer ({error}). Start one with `dask scheduler`, "
            "and workers with `dask worker ADDRESS --nthreads 1`; it prints its address, "
            "tcp://HOST:8786."
        ) from error
    with client:
        try:
            yield client
        except Exception as error:
            if not type(error).__module__.startswith("distributed"):
                raise
            lost = ConnectionError(f"`scheduler` {address} gave up: {error}")
            for note in getattr(error, "__notes__", ()):
                lost.add_note(note)
            raise lost from error


def take_device(device: str, number: int) -> None:
    """Let worker `number` compute on a GPU of its own, if there are several."""
    found = torch.device(device)
    if found.type == "cuda" and found.index is None and torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
