"""What all commands share: errors of data and training end as one line and exit code 1."""

import functools
from collections.abc import Callable

import typer

EXPECTED = (ValueError, OSError, ArithmeticError, MemoryError)
"""Errors with a message for the user; anything else is a bug and keeps its traceback."""


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
