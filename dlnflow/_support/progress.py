"""A progress bar that appears only when work takes longer than two seconds."""

import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TypeVar

Part = TypeVar("Part")

DELAY_SECONDS = 2.0
"""Work shorter than this shows nothing."""


class Progress:
    """Context manager: ``advance(n)`` may be called often and costs next to nothing.

    The bar goes to standard error, only when that is a terminal, and disappears at the end. Of
    bars inside each other the one that appears first is shown.
    """

    shown = False
    """Whether a bar of the process is on the screen: a second one would overwrite it."""

    def __init__(self, total: int, description: str) -> None:
        self.total, self.description = total, description
        self.done = 0
        self._started = time.monotonic()
        self._bar = None
        self._task = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            Progress.shown = False

    def advance(self, count: int = 1) -> None:
        """Record `count` more units of work."""
        self.done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif (
            not Progress.shown
            and sys.stderr.isatty()
            and time.monotonic() - self._started > DELAY_SECONDS
        ):
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(console=Console(stderr=True), transient=True)
        self._bar.start()
        Progress.shown = True
        self._task = self._bar.add_task(self.description, total=self.total, completed=self.done)


def each(parts: Sequence[Part], description: str) -> Iterator[Part]:
    """Yield parts of a work of about equal size, with a bar that counts them.

    Parameters
    ----------
    parts : sequence
    description : str
        What the bar calls the work.

    Yields
    ------
    part

    Examples
    --------
    >>> list(each(["one", "two"], "counting"))
    ['one', 'two']
    """
    with Progress(len(parts), description) as progress:
        for part in parts:
            yield part
            progress.advance()
