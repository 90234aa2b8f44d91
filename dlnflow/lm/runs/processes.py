"""Several processes that train one run: each takes its share of the rows of every step.

    g = sum over processes of (1/n) sum_{its rows} w_row grad l_row

The rows of a step and their order are those of one process; only the order of the sums differs, so
that losses agree to rounding. Every process holds the whole model and takes the same step.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

Found = TypeVar("Found")
PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which reads and encodes the text."""


@dataclass(frozen=True)
class Processes:
    """One process among those that train together; alone by default."""

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Processes:
        """Return the process group that torch.distributed was given, if there is one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def check(self, n_rows: int) -> None:
        """Refuse more processes than rows.

        Raises
        ------
        ValueError
            If a process would have none.
        """
        if self.count > n_rows:
            raise ValueError(
                f"{self.count} processes (`--nproc-per-node` times nodes) for steps of {n_rows} "
                "rows (`rows` times `accumulate`): every process needs at least one row."
            )

    def share(self, n_rows: int) -> slice:
        """Return which rows of a step are those of this process: contiguous, in their order."""
        return slice(n_rows * self.rank // self.count, n_rows * (self.rank + 1) // self.count)

    def sum(self, values: torch.Tensor, after: int) -> None:
        """Add up a tensor over the processes, in place.

        Parameters
        ----------
        values : Tensor
            Values of every process.
        after : int
            Steps taken so far, for the message.

        Raises
        ------
        ConnectionError
            If one of them is gone.
        """
        if self.count == 1:
            return
        with self._others(f"after step {after}"):
            dist.all_reduce(values)

    @contextmanager
    def _others(self, when: str) -> Iterator[None]:
        """Say what it means that one cannot reach the others."""
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(
                f"another of the {self.count} processes of this training is gone, {when} "
                f"({str(error).splitlines()[0]}). The same command goes on from the last "
                "checkpoint."
            ) from error

    def in_turn(self, work: Callable[[], Found]) -> Found:
        """Let the first process do a work, then the others; if it fails, it fails for all.

        Returns
        -------
        object
            What the work returned in this process.

        Raises
        ------
        Exception
            What the work raised here.
        ValueError
            What it raised in the first process, in the others.
        """
        if self.count == 1:
            return work()
        if self.first:
            try:
                found = work()
            except BaseException as error:
                self._tell(str(error) or type(error).__name__)
                raise
            self._tell("")
            return found
        if message := self._tell(""):
            raise ValueError(f"the first of {self.count} processes stopped: {message}")
        return work()

    def _tell(self, message: str) -> str:
        """Send a text from the first process to all."""
        box = [message]
        with self._others("before its first step"):
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            with self._others("after its last step"):
                dist.barrier()

    def warn_of_another_layout(self, before: int) -> None:
        """Say that a run goes on with another number of processes than it had."""
        if before != self.count and self.first:
            warnings.warn(
                f"this run was trained by {before} process{'es' * (before > 1)} so far and goes on "
                f"with {self.count}: the rows are the same, sums are rounded differently.",
                RuntimeWarning,
                stacklevel=2,
            )


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, and leave them again; alone there is nothing to do.

    Parameters
    ----------
    device : str
        ``"cpu"``, or ``"cuda"`` for one GPU per process.

    Yields
    ------
    str
        The device of this process.

    Raises
    ------
    ValueError
        If there are more processes on this machine than GPUs, or a GPU is named by its number.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield device
        return
    kind = torch.device(device)
    if kind.type == "cuda":
        device = _own_gpu(kind)
    dist.init_process_group("nccl" if kind.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    except BaseException:
        if kind.type != "cuda":  # with NCCL one would wait for those that are gone
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _own_gpu(asked: torch.device) -> str:
    """Choose the GPU whose number is that of the process on its machine."""
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if asked.index is not None:
        raise ValueError(
            f"`device` '{asked}' names one GPU for several processes; with torchrun use 'cuda'."
        )
    if number >= there:
        raise ValueError(
            f"`device` 'cuda': process {number} of this machine needs a GPU of its own, and there "
            f"are {there}. Use --nproc-per-node {max(there, 1)}."
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"
