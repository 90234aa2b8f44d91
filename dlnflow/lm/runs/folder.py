"""The folder of a run: its settings, what it was trained on, and who is writing to it."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dlnflow._support.files import leftovers, write_json
from dlnflow.lm.runs.model import RunSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from dlnflow.lm.data.tokenizer import Tokens

LOCK = "lock"
"""File that the process that trains holds."""
AGAIN = "Delete it and call `dlnflow lm train` again with the same settings, which writes it anew."
"""The way out if a file was damaged that is a function of the settings and the corpus."""


def read_record(path: Path, needed: tuple[str, ...] = (), remedy: str = AGAIN) -> dict[str, Any]:
    """Read a JSON object from a file.

    Parameters
    ----------
    path : path
        File.
    needed : tuple of str
        Keys that it must have.
    remedy : str
        What to do if it is damaged.

    Returns
    -------
    dict
        Its content.

    Raises
    ------
    ValueError
        If it is no such object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). {remedy}") from error
    lacking = [key for key in needed if not (isinstance(found, dict) and key in found)]
    if lacking or not isinstance(found, dict):
        raise ValueError(f"{path} is damaged (no {', '.join(lacking) or 'object'}). {remedy}")
    return found


def read_settings(folder: Path) -> RunSettings:
    """Read the settings of a run.

    Returns
    -------
    RunSettings
        Those it was, or is being, trained with.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    ValueError
        If they are damaged.
    """
    path = folder / "settings.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no run (settings.json); `dlnflow lm train` makes one."
        )
    names = {f.name for f in dataclasses.fields(RunSettings)}
    found = read_record(path)
    try:
        return RunSettings(**{name: value for name, value in found.items() if name in names})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {AGAIN}") from error


def check_settings(settings: RunSettings, out: Path) -> None:
    """Check that `out` is free, or holds a run with these settings, longer or shorter.

    Raises
    ------
    ValueError
        If it is a file, or holds another run.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the run.")
    if not (out / "settings.json").exists():
        return
    mine, theirs = dataclasses.asdict(settings), dataclasses.asdict(read_settings(out))
    # a longer run with the same schedule continues a shorter one
    differing = [k for k in mine if k != "n_steps" and mine[k] != theirs[k]]
    if differing:
        shown = ", ".join(f"{k}: {theirs[k]} there, {mine[k]} asked" for k in differing)
        raise ValueError(
            f"`out` {out} holds a run with other settings ({shown}). Use another "
            "folder, or delete that one."
        )


def check_inputs(out: Path, training: Tokens, tokenizer: Tokenizer) -> None:
    """Write down what a folder's runs are trained on, or check that it is the same.

    Raises
    ------
    ValueError
        If the folder was made with other ids or another tokenizer.
    """
    path, mine = out / "inputs.json", {"training": training.sha256, "tokenizer": spelled(tokenizer)}
    # runs of earlier versions have only the data that they prepared themselves
    earlier = out / "data.json"
    theirs = (
        read_record(path, tuple(mine))
        if path.exists()
        else (read_record(earlier, ("training",)) if earlier.exists() else {})
    )
    differing = [name for name in mine if mine[name] != theirs.get(name, mine[name])]
    if differing:
        raise ValueError(
            f"`out` {out} was made with other data (another {' and '.join(differing)}"
            "). Use another folder, or delete that one."
        )
    if not path.exists():
        write_json(path, mine)


def claim(settings: RunSettings, out: Path, training: Tokens, tokenizer: Tokenizer) -> None:
    """Write settings and inputs into `out` before the first step, or check those there."""
    check_inputs(out, training, tokenizer)
    if not (out / "settings.json").exists():
        write_json(out / "settings.json", dataclasses.asdict(settings))


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder of a run for writing, and clear away what killed processes left half-made.

    The lock goes with the process, however it ends. A folder made for the lock is removed again if
    nothing else came into it. On a disk that cannot be written there is nothing to hold.

    Raises
    ------
    ValueError
        If another process holds it.
    """
    made = not out.exists()
    if not made and not os.access(out, os.W_OK):
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with _opened(out / LOCK) as file:
        try:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for path in half_made(out):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            yield
        finally:
            (out / LOCK).unlink(missing_ok=True)
            if made and not any(out.iterdir()):
                out.rmdir()


def half_made(out: Path) -> list[Path]:
    """Return temporary files and folders that a killed training left in the folder of a run."""
    return [*leftovers(out), *sorted(out.glob(".step*.partial"))]


def user(out: Path) -> str | None:
    """Return the number of the process that is writing to a run, None if there is none."""
    try:
        with open(out / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return (out / LOCK).read_text() or "unknown"
    return None


def _opened(path: Path) -> TextIO:
    """Open the lock file and lock it; one that was removed in between is not the lock."""
    while True:
        file = open(path, "a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "unknown"
            file.close()
            raise ValueError(
                f"`out` {path.parent} is being trained by process {holder}. Wait for it, or use "
                "another folder."
            ) from error
        if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
        file.close()


def spelled(tokenizer: Tokenizer) -> str:
    """Return the sha256 of a tokenizer's definition."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
