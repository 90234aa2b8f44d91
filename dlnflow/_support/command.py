"""What all commands share: errors of data and training end as one line and exit code 1."""

import functools
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import typer

EXPECTED = (ValueError, OSError, ArithmeticError, MemoryError)
"""Errors with a message for the user; anything else is a bug and keeps its traceback."""

EXTRAS = {
    "figures": ("matplotlib",),
    "torch": ("torch", "arviz_stats"),
    "lm": ("torch", "arviz_stats", "transformers", "tokenizers", "safetensors", "zarr"),
}
"""Extra of the package -> modules that it installs."""


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Print an expected error on standard error and leave with exit code 1."""

    @functools.wraps(command)
    def run(*arguments: object, **options: object) -> None:
        try:
            command(*arguments, **options)
        except EXPECTED as error:
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            typer.echo(f"error: {error or type(error).__name__}{notes}", err=True)
            raise typer.Exit(1) from error

    return run


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
            f"{out} cannot be written: {error.strerror}", param_hint="--out"
        ) from error


def requires(*extras: str) -> None:
    """Check that what some extras install is there, before the work and not in its middle.

    Raises
    ------
    ValueError
        With the command that installs what is missing.
    """
    for extra in extras:
        lacking = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
        if lacking:
            raise ValueError(
                f"this needs {', '.join(lacking)}, not installed here; "
                f"`pip install 'dlnflow[{extra}]'` does that."
            )
