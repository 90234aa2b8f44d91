"""Processes of this machine as an executor that outlives them: a lost one is replaced."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any


class LocalWorkers(Executor):
    """So many processes, each with one job at a time; started when they are first needed.

    A process that is killed costs its own job, which raises `BrokenExecutor`; the next job gets a
    new process. Processes whose parent was killed end at once, in the middle of a job.

    Parameters
    ----------
    count : int
        Processes.
    start : callable, optional
        Called in every process with its number, from 0, before its first job.
    """

    def __init__(self, count: int, start: Callable[[int], None] | None = None) -> None:
        self._start, self._own = start, threading.local()
        self._workers: dict[int, _Worker] = {}
        self._numbers = iter(range(count))
        self._threads = ThreadPoolExecutor(count)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Have a process call a function that it can import."""
        return self._threads.submit(self._ask, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once their jobs are done."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for worker in self._workers.values():
            worker.end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:  # nobody waits for what is still being computed
            for worker in list(self._workers.values()):
                worker.kill()
        self.shutdown(cancel_futures=True)

    @property
    def pids(self) -> list[int]:
        """Return the numbers of the processes that were started and have not been lost."""
        return [worker.process.pid or 0 for worker in self._workers.values()]

    def _ask(self, *call: Any) -> Any:
        """Send a call to the process of this thread and wait for the answer."""
        if not hasattr(self._own, "number"):
            self._own.number = next(self._numbers)
        number = self._own.number
        if number not in self._workers:
            self._workers[number] = _Worker(number, self._start)
        try:
            good, answer = self._workers[number].ask(call)
        except (EOFError, OSError) as error:
            lost = self._workers.pop(number)
            code = lost.end()
            raise BrokenExecutor(
                f"a worker process was lost (exit code {code}; -9: killed, often for memory)"
            ) from error
        if good:
            return answer
        raise answer


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, number: int, start: Callable[[int], None] | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, number, start), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, call: Any) -> Any:
        self._pipe.send(call)
        return self._pipe.recv()

    def kill(self) -> None:
        self.process.kill()

    def end(self) -> int | None:
        self._pipe.close()
        self.process.join()
        return self.process.exitcode


def _serve(pipe: Connection, number: int, start: Callable[[int], None] | None) -> None:
    """Answer calls until the other end is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if start is not None:
        start(number)
    while True:
        try:
            function, arguments, options = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer: tuple[bool, Any] = True, function(*arguments, **options)
        except BaseException as error:
            answer = False, error
        try:
            pipe.send(answer)
        except OSError:  # nobody is left who waits
            return
        except Exception as error:  # the answer cannot be pickled
            pipe.send((False, RuntimeError(f"{answer[1]!r} cannot be sent: {error}")))


def _end_with_parent() -> None:
    """Wait for the parent's end, then end this process: nobody waits for its job."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
