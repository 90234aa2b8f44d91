"""Jobs that are given out, here or through an executor, until each is known to be complete."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from typing import Any, TypeVar

Job = TypeVar("Job")
IN_A_ROW = 3
"""Jobs that may fail without one in between that does not."""
POLL = (0.05, 5.0)
"""Seconds between two looks at jobs that others do: first, and at most."""
SAFE = "What was finished is stored; the same call goes on from there."


def completed(
    work: Callable[[Job], bool],
    jobs: Sequence[Job],
    executor: Executor | None = None,
    *,
    hopeless: tuple[type[Exception], ...] = (),
) -> Iterator[Job]:
    """Run jobs here or through an executor, and yield each when its chain is complete.

    `work` returns false where another process is at the job: those are waited for, and taken over
    if that process ends. A job whose worker is lost or cannot write is given out again, unless the
    error is `hopeless` or `IN_A_ROW` fail without one in between that does not.

    Raises
    ------
    Exception
        What a job raised, with a note on what is stored.
    """
    left, pause = list(jobs), POLL[0]
    while left:
        others = []
        outcomes = (
            ((job, work(job)) for job in left)
            if executor is None
            else _elsewhere(work, left, executor, hopeless)
        )
        try:
            for job, mine in outcomes:
                if mine:
                    pause = POLL[0]
                    yield job
                else:
                    others.append(job)
        except Exception as error:
            if SAFE not in getattr(error, "__notes__", ()):
                error.add_note(SAFE)
            raise
        left = others
        if left:
            time.sleep(pause)
            pause = min(2 * pause, POLL[1])


def _elsewhere(
    work: Callable[[Job], bool],
    jobs: Sequence[Job],
    executor: Executor,
    hopeless: tuple[type[Exception], ...],
) -> Iterator[tuple[Job, bool]]:
    """Run jobs through an executor, in whatever order they finish; failed ones again."""
    futures: dict[Any, Job] = {executor.submit(work, job): job for job in jobs}
    failed = 0
    try:
        while futures:
            for future in _finished(futures):
                job = futures.pop(future)
                try:
                    mine = future.result()
                except CancelledError as error:
                    raise ConnectionError(
                        "jobs were cancelled before they were done: whoever hands them out, for "
                        "example a scheduler, is gone"
                    ) from error
                except (OSError, BrokenExecutor) as error:
                    failed += 1
                    if isinstance(error, hopeless) or failed >= IN_A_ROW:
                        raise
                    futures[executor.submit(work, job)] = job
                    continue
                failed = 0
                yield job, mine
    finally:
        for future in futures:
            future.cancel()


def _finished(futures: dict[Any, Job]) -> list[Any]:
    """Wait until some are finished; any object with `done` and `result` may be a future."""
    if all(isinstance(future, Future) for future in futures):
        return list(wait(futures, return_when=FIRST_COMPLETED).done)
    while not (done := [future for future in futures if future.done()]):
        time.sleep(POLL[0])
    return done
