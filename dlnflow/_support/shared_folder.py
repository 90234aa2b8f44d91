"""A folder of results that several processes fill at once, each result in a file of its own."""

from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from dlnflow._support import locks
from dlnflow._support.files import leftovers
from dlnflow._support.jobs import completed
from dlnflow._support.progress import Progress
from dlnflow._support.workers import LocalWorkers


class FileJob(Protocol):
    """Work whose result is a file: complete or absent, and the same whoever does it."""

    @property
    def claim(self) -> Path:
        """The file that is locked while somebody is at the work."""

    def done(self) -> bool:
        """Whether the result is there and sound."""

    def compute(self) -> None:
        """Write the result, atomically."""


Job = TypeVar("Job", bound=FileJob)


@dataclass(frozen=True)
class WorkFolder:
    """Where the parts of a computation are kept, and which of them are done by whom.

    Any number of processes and machines that see the folder may work in it at the same time. Each
    part is computed by the one that claims it; those of a process that was killed are taken over,
    and the same call goes on from what is there. The end does not depend on the history.

    Attributes
    ----------
    folder : path
        Made if it does not exist.
    workers : int
        Processes of this machine; with one, parts are computed in this process.
    part : (int, int)
        Only part k of n, from 1 to n, beside others: the parts k, k + n, k + 2 n, ...

    Raises
    ------
    ValueError
        If there is no such part, or the folder is a file.
    """

    folder: Path | str
    workers: int = 1
    part: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if not isinstance(self.workers, int) or self.workers < 1:
            raise ValueError(f"`workers` must be a positive integer, got {self.workers!r}.")
        k, n = self.part
        if not 1 <= k <= n:
            raise ValueError(f"`part` must be k of n with 1 <= k <= n, got {k}/{n}.")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"`folder` {str(self.folder)!r} is a file; name a folder.")

    def fill(
        self,
        jobs: Sequence[Job],
        what: str,
        executor: Executor | None = None,
        *,
        together: int = 1,
    ) -> list[Job]:
        """Do the jobs of this part that are left, here, in workers or through an executor.

        Parameters
        ----------
        jobs : sequence of FileJob
            All of them; they can be pickled.
        what : str
            What progress is counted in.
        executor : concurrent.futures.Executor, optional
            In place of `workers`.
        together : int
            So many jobs, one after another, always belong to the same part.

        Returns
        -------
        list of FileJob
            What the whole still lacks.

        Raises
        ------
        ValueError
            If the folder cannot be written.
        """
        self._usable()
        with locks.together(self.folder / "lock", self._clear):
            k, n = self.part
            mine = [job for i, job in enumerate(jobs) if i // together % n == k - 1]
            left = [job for job in mine if not job.done()]
            several = self.workers > 1 and executor is None and left
            pool = LocalWorkers(self.workers) if several else nullcontext(executor)
            with pool as there, Progress(len(left), what) as progress:
                for _ in completed(once, left, there):
                    progress.advance()
        return [job for job in jobs if not job.done()]

    def _usable(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / "lock", "a"):
                pass
        except OSError as error:
            raise ValueError(
                f"`folder` {self.folder} cannot be written ({error.strerror}). Name another one."
            ) from error

    def _clear(self) -> None:
        """Remove what killed processes left; called where nobody else is at work."""
        for path in [*leftovers(self.folder), *self.folder.glob("?*.lock")]:
            path.unlink(missing_ok=True)


def once(job: FileJob) -> bool:
    """Compute a result unless it is there; false if another process is at it."""
    with locks.claimed(job.claim) as mine:
        if mine and not job.done():
            job.compute()
        return mine
