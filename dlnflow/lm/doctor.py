"""Is what lies in a folder sound? Runs, ladders and stores are checked without changing them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dlnflow.lm.data.spelling import special_ids
from dlnflow.lm.data.tokenizer import encode_documents, load_tokenizer
from dlnflow.lm.runs import folder as runs
from dlnflow.lm.runs.checkpoints import Checkpoints, check_vocabulary
from dlnflow.lm.runs.ladder import stored, tensors
from dlnflow.lm.runs.train import load_data
from dlnflow.lm.sampling import results, stored_sums
from dlnflow.lm.sampling.manifest import Manifest
from dlnflow.lm.sampling.store import Reader, half_made, in_use

LEVELS = ("ok", "note", "problem")
"""Sound; harmless, or a matter of choice; wrong."""
PLAIN = "The quick (brown) fox\r\n\tjumps  over 12 dogs\u2019 tails; na\u00efve caf\u00e9.\n"
"""Text that every tokenizer must spell; the rest of Unicode is tried in `_characters`."""
EVERY = 97
"""Distance of the characters that are tried."""


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes
    ----------
    level : {"ok", "note", "problem"}
        How bad it is.
    subject : str
        What was looked at.
    message : str
        What was found, and what to do.
    """

    level: str
    subject: str
    message: str

    def record(self) -> dict[str, str]:
        """Return the finding as a dictionary."""
        return asdict(self)


def examine(folder: str | Path) -> list[Finding]:
    """Check whatever of ours lies in a folder: hashes, gaps, temporary files, equal steps, text.

    Parameters
    ----------
    folder : path
        A run of `train`, checkpoints ``step<N>/``, or a store of loss traces.

    Returns
    -------
    list of Finding
        What was found; nothing is written.

    Raises
    ------
    ValueError
        If the folder holds none of them.
    """
    folder = Path(folder)
    kinds = {
        _run: (folder / "settings.json").exists() or (folder / "data.json").exists(),
        _ladder: any(folder.glob("step[0-9]*")),
        _store: (folder / "manifest.json").exists() or any(folder.glob("units/*.json")),
    }
    if not any(kinds.values()):
        what = "holds no run, checkpoints step<N>/ or store" if folder.is_dir() else "is no folder"
        raise ValueError(f"{folder} {what}; `dlnflow lm train` and `dlnflow lm sample` make them.")
    found = [one for check, there in kinds.items() if there for one in check(folder)]
    return [*found, *_rests(folder)]


def _tried(subject: str, check: Callable[[], str]) -> Finding:
    """Return what a check says, or what it raises."""
    try:
        return Finding("ok", subject, check())
    except (ValueError, OSError, EOFError) as error:
        return Finding("problem", subject, str(error) or type(error).__name__)


def _run(folder: Path) -> Iterator[Finding]:
    """Check settings, data, tokenizer and losses of a run."""
    yield _tried("settings", lambda: f"{runs.read_settings(folder).n_steps} steps")
    if (folder / "data.json").exists():
        yield _tried("data", lambda: _data(folder))
        yield _tried("tokenizer", lambda: _tokenizer(load_tokenizer(folder), None))
    yield from _losses(folder)
    if holder := runs.user(folder):
        yield Finding("note", "lock", f"process {holder} is training here")


def _data(folder: Path) -> str:
    data = load_data(folder)
    inputs = folder / "inputs.json"
    if inputs.exists():
        runs.check_inputs(folder, data.training, data.tokenizer)
    size = len(data.training.ids), len(data.held_out.ids)
    return f"{size[0]} training and {size[1]} held-out ids, as their hashes say"


def _losses(folder: Path) -> Iterator[Finding]:
    """Compare checkpoints and losses with what the settings announce."""
    try:
        settings = runs.read_settings(folder)
    except (ValueError, OSError):
        return  # said already
    there = {int(p.name[4:]) for p in folder.glob("step[0-9]*") if p.name[4:].isdecimal()}
    done = max(there, default=-1)
    wanted = settings.checkpoint_steps()
    if gaps := [step for step in wanted if step <= done and step not in there]:
        yield Finding(
            "problem",
            "steps",
            f"no checkpoint of steps {gaps}, though later ones are "
            "there; without resume.pt, training writes them again",
        )
    elif done < settings.n_steps:
        yield Finding(
            "note",
            "steps",
            f"trained to step {done} of {settings.n_steps}; the same `dlnflow lm train` goes on",
        )
    else:
        yield Finding("ok", "steps", f"all {len(wanted)} checkpoints to step {done}")

    def losses() -> str:
        values = np.load(folder / "losses.npy")
        if len(values) < done:
            raise ValueError(
                f"losses.npy ends at step {len(values)}, checkpoints at {done}; the "
                "same `dlnflow lm train` writes it again."
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"the loss of step {int(np.argmin(np.isfinite(values)))} is not finite."
            )
        return f"{len(values)} steps"

    yield _tried("losses", losses)


def _ladder(folder: Path) -> Iterator[Finding]:
    """Check that steps differ, files can be read, numbers are finite and the tokenizer fits."""
    yield _tried(
        "ladder", lambda: f"{len(Checkpoints.from_directory(folder))} steps, all different"
    )
    for path in sorted(folder.glob("step[0-9]*"), key=lambda p: (len(p.name), p.name)):
        found = _tried(path.name, lambda path=path: _weights(path))
        if found.level != "ok":
            yield found
    last = max((p for p in folder.glob("step[0-9]*")), key=lambda p: (len(p.name), p.name))
    ladder = Checkpoints.from_directory({0: last})
    yield _tried(
        "model", lambda: type(ladder.load(0)).__name__ + ", its losses are those of its logits"
    )
    try:
        tokenizer = ladder.tokenizer()
    except FileNotFoundError as error:
        yield Finding("note", "tokenizer", str(error))
        return
    except (ValueError, OSError) as error:
        yield Finding("problem", "tokenizer", str(error))
        return
    yield _tried("tokenizer", lambda: _tokenizer(tokenizer, ladder.config().vocab_size))


def _weights(path: Path) -> str:
    """Read every tensor of a checkpoint, and its config.json."""
    config = path / "config.json"
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{config} is damaged ({error}). Copy this checkpoint again.") from error
    for file in sorted({entry.file for entry in tensors(path)}):
        for name, tensor in stored(file):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError(f"{name} in {file} has numbers that are not finite.")
    return "finite"


def _tokenizer(tokenizer: Any, model_size: int | None) -> str:
    """Encode text of all kinds and compare."""
    if model_size is not None:
        check_vocabulary(tokenizer, model_size)
    encode_documents([PLAIN, _characters()], tokenizer, separator="none")
    return f"spells every text tried; special ids {list(special_ids(tokenizer))}"


def _characters() -> str:
    """Return characters from everywhere in Unicode."""
    points = (chr(point) for point in range(1, sys.maxunicode, EVERY))
    return "".join(c for c in points if not 0xD800 <= ord(c) <= 0xDFFF)


def _store(folder: Path) -> Iterator[Finding]:
    """Compare the draws of every unit with the hash in its record, and read the results."""
    units: list[tuple[int, int]] = []
    try:
        manifest = Manifest.found(folder)
        units = sorted(manifest.records())
        broken = len(list(folder.glob("units/[0-9]*.json"))) - len(units)
        steps, chains = ({unit[k] for unit in units} for k in (0, 1))
        yield Finding(
            "problem" if broken else "ok",
            "manifest",
            f"{len(units)} chains at {len(steps)} steps"
            + (f", and {broken} damaged records" if broken else ""),
        )
        gaps = [(s, c) for s in sorted(steps) for c in sorted(chains) if (s, c) not in set(units)]
        if gaps:
            yield Finding(
                "note",
                "gaps",
                f"chains not sampled yet (step, chain): {gaps}; the same "
                "`dlnflow lm sample` goes on",
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Finding("problem", "manifest", str(error) or "manifest.json is damaged")
        return
    yield _tried("draws", lambda: _draws(folder, units))
    if in_use(folder):
        yield Finding("note", "lock", "processes are sampling into this store")
    if (folder / "traces.nc").exists():
        yield _tried("results", lambda: _results(folder))
    else:
        yield Finding("note", "results", "none yet: sampling is not finished")


def _results(folder: Path) -> str:
    """Read the description of traces."""
    traces, _ = results.load(folder)
    sizes = ", ".join(f"{name} {size}" for name, size in traces.sizes.items())
    return sizes if hasattr(traces, "shape") else f"class sums: {sizes}"


def _draws(folder: Path, units: list[tuple[int, int]]) -> str:
    """Compare every unit with its record."""
    reader = Reader(folder)
    reduced = {step for step, _ in units if stored_sums.is_reduced(reader, step)}
    damaged = [
        said for unit in units if unit[0] not in reduced and (said := reader.verified(*unit))
    ]
    for step in sorted(reduced):
        try:
            stored_sums.read(reader, step)
        except OSError as error:
            damaged.append(str(error))
    if damaged:
        raise ValueError("\n".join(damaged))
    sums = f", of {len(reduced)} steps as class sums" if reduced else ""
    return f"those of {len(units)} chains{sums} are as they were written"


def _rests(folder: Path) -> Iterator[Finding]:
    """Look for what killed processes left behind."""
    mine = [] if in_use(folder) else half_made(folder)
    paths = list(dict.fromkeys([*runs.half_made(folder), *mine]))
    if paths:
        shown = ", ".join(str(path.relative_to(folder)) for path in paths[:3])
        yield Finding(
            "note",
            "temporary files",
            f"{len(paths)} of killed processes ({shown}); the "
            "next run that writes here removes them",
        )
