"""Text on its way to a terminal: names shown letter by letter, any encoding, closed pipes."""

import os
import select
import sys
import unicodedata
from collections.abc import Callable

PIPE_CLOSED = 141
"""Exit code where nobody reads on: what a shell shows of programs ended by SIGPIPE, 128 + 13."""
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that move the cursor or turn the text around them."""
JOINERS = "\u200c\u200d"
"""Part of the spelling of Persian and Hindi words, and of emoji."""


def visible(text: object, keep: str = "") -> str:
    r"""Return text with characters that change what a screen shows as escapes, but `keep`.

    >>> print(visible("dog\x1b[2J\u200f"))
    dog\x1b[2J\u200f
    """
    return "".join(
        letter
        if letter in keep or letter in JOINERS or unicodedata.category(letter) not in UNSEEN
        else letter.encode("unicode_escape").decode("ascii")
        for letter in str(text)
    )


def say(text: str, *, err: bool = False) -> None:
    """Print text of one or several lines; all but line ends and tabs is shown as it is spelled."""
    print(visible(text, keep="\n\t"), file=sys.stderr if err else sys.stdout, flush=True)


def closed() -> bool:
    """Whether the reader of standard output or of standard error has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            return True
    return any(map(_unread, (1, 2)))


def _unread(number: int) -> bool:
    """Whether a pipe has no reader: a failed flush drops its text, and a second one succeeds."""
    if not hasattr(select, "poll") or _identity(number) is None:
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def main(app: Callable[[], None]) -> None:
    """Run a command line as the whole process: no encoding fails, a closed pipe ends silently.

    Raises
    ------
    SystemExit
        With the exit code of `app`, or `PIPE_CLOSED`.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    before = [_identity(1), _identity(2)]
    code: object = 0
    try:
        app()
    except SystemExit as leave:
        code = leave.code
    # rich, which prints tables and help, puts another file in the place of a closed pipe.
    if closed() or [_identity(1), _identity(2)] != before:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in (1, 2):  # what is still to be written is dropped at exit
            os.dup2(nowhere, number)
        code = PIPE_CLOSED
    raise SystemExit(code)


def _identity(number: int) -> tuple[int, int] | None:
    try:
        about = os.fstat(number)
    except OSError:  # started without this stream
        return None
    return about.st_dev, about.st_ino
