"""What all commands share: errors of data and training end as one line and exit code 1."""

import functools
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from dlnflow._support.files import disk_is_full
from dlnflow._support.terminal import PIPE_CLOSED, closed, say, visible

EXPECTED = (ValueError, OSError, ArithmeticError, MemoryError, ModuleNotFoundError)
"""Errors with a message for the user; anything else is a bug and keeps its traceback."""

EXTRAS = {
    "figures": ("matplotlib",),
    "torch": ("torch", "arviz_stats"),
    "lm": (
        "torch",
        "arviz_stats",
        "transformers",
        "tokenizers",
        "safetensors",
        "zarr",
    ),
    "curvature": ("curvlinops",),
    "cluster": ("distributed",),
    "store": ("zarr",),
    "symbolic": ("sympy",),
    "excel": ("openpyxl",),
}
"""Extra of the package -> modules that it installs."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""
COMPLETE = "Files that were finished are complete, and none is half-written; run the command again."
"""What is true of every command that is interrupted or runs out of disk."""


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Print an expected error on standard error and leave with exit code 1.

    Ctrl-C leaves with 130 and says what is saved, a closed pipe silently with 141.
    """

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as stop:
            say("\n".join(["interrupted.", *(_notes(stop) or [COMPLETE])]), err=True)
            raise typer.Exit(INTERRUPTED) from stop
        except Exception as error:
            if isinstance(error, BrokenPipeError) and closed():
                raise typer.Exit(PIPE_CLOSED) from error
            message = _explanation(error)
            if message is None:
                raise
            say("\n".join([f"error: {message}", *_notes(error)]), err=True)
            raise typer.Exit(1) from error

    return run


def fraction(part: str | None) -> tuple[int, int]:
    """Read K/N, the whole if it is not given."""
    found = re.fullmatch(r"(\d+)/(\d+)", part or "1/1")
    k, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= k <= n:
        raise ValueError(
            f"`--part` expects K/N with 1 <= K <= N, e.g. 3/64 for the third of 64; got {part!r}."
        )
    return k, n


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _explanation(error: Exception) -> str | None:
    """Say what an expected error means; None: a bug."""
    if disk_is_full(error):
        return _no_room(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing_extra(error)
    return str(error) or type(error).__name__ if isinstance(error, EXPECTED) else None


def _no_room(error: Exception) -> str:
    """Name the file, the disk and the way on."""
    name = getattr(error, "filename", None)
    if name is None:
        return f"the disk is full ({error}). Make room, or write to another disk. {COMPLETE}"
    folder = Path(name).absolute().parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e6
    return (
        f"the disk is full: {name} could not be written ({free:.1f} MB are free on the disk of "
        f"{folder}). Make room there, or name a folder on another disk. {COMPLETE}"
    )


def _missing_extra(error: ModuleNotFoundError) -> str | None:
    """Name the extra that installs a module; None if none does, or the error says it itself."""
    if "pip install 'dlnflow[" in str(error):
        return str(error)
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            command = f"pip install 'dlnflow[{extra}]'"
            return f"this needs {module}, not installed here; `{command}`."
    return None


@contextmanager
def on_interrupt(words: str) -> Iterator[None]:
    """Say after Ctrl-C within the block what is saved and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(words)
        raise


def writable(out: Path) -> None:
    """Make the folder for results and try to write there, before the work and not after it.

    Raises
    ------
    typer.BadParameter
        If that fails.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{visible(out)} cannot be written: {error.strerror}", param_hint="--out"
        ) from error


def lacking(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def requires(*extras: str) -> None:
    """Check that what some extras install is there, before the work and not in its middle.

    Raises
    ------
    ValueError
        With the command that installs what is missing.
    """
    for extra in extras:
        missing = lacking(extra)
        if missing:
            raise ValueError(
                f"this needs {', '.join(missing)}, not installed here; "
                f"`pip install 'dlnflow[{extra}]'` does that."
            )
