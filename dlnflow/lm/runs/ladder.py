"""Steps and weight hashes: what must hold before a ladder of checkpoints is used."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from dlnflow.lm.data.hub import OFFLINE

WEIGHT_FILES = (".safetensors", ".bin")
"""Endings of files with weights, in order of preference."""


def check_ladder(steps: ArrayLike, hashes: Sequence[str]) -> None:
    """Check that steps increase and that no weights appear under two of them.

    Raises
    ------
    ValueError
        With the list of steps that share their weights.
    """
    checked_steps(steps)
    groups = defaultdict(list)
    for step, value in zip(np.asarray(steps).tolist(), hashes, strict=True):
        groups[value].append(step)
    repeated = [group for group in groups.values() if len(group) > 1]
    if repeated:
        shown = "; ".join(", ".join(map(str, group)) for group in repeated)
        raise ValueError(
            f"`steps` with identical weights: {shown}. At most one label of each group can be "
            "right, so no curve over them means anything; leave the group out, or get the "
            "weights from another copy."
        )


def checked_steps(steps: ArrayLike) -> list[int]:
    """Check `steps`: whole, >= 0, increasing."""
    array = np.atleast_1d(np.asarray(steps))
    shown = array.tolist()
    bad = array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu"
    if bad or array[0] < 0 or np.any(np.diff(array) <= 0):
        raise ValueError(f"`steps` must be increasing whole numbers >= 0, got {shown}.")
    return shown


def step_folders(source: str | Path | Mapping[int, str | Path]) -> dict[int, Path]:
    """Map step -> folder; names are read here and nowhere later."""
    if isinstance(source, Mapping):
        return {int(step): Path(folder) for step, folder in source.items()}
    found: dict[int, Path] = {}
    for folder in sorted(Path(source).glob("step*")):
        if match := re.fullmatch(r"step([0-9]+)", folder.name):
            other = found.setdefault(int(match[1]), folder)
            if other != folder:
                raise ValueError(f"{source} has step {int(match[1])} twice, {other.name} and "
                                 f"{folder.name}; rename or remove one.")  # fmt: skip
    if not found:
        raise ValueError(f"{source} has no subfolders step<N>; `dlnflow lm train` makes them, and "
                         "in Python a dict of step: folder will do.")  # fmt: skip
    return found


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has a configuration and weights."""
    return (folder / "config.json").exists() and any(_weight_files(folder))


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder, safetensors before pickles."""
    groups = (sorted(folder.glob(f"*{ending}")) for ending in WEIGHT_FILES)
    return next((files for files in groups if files), [])


def hash_folder(folder: Path) -> str:
    """Hash the weight files of a folder, safetensors before pickles."""
    if not is_checkpoint(folder):
        raise ValueError(f"{folder} is no checkpoint: it needs config.json and *.safetensors.")
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hash_revision(name: str, revision: str) -> str:
    """Hash what the hub says about the weight files of a revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        entries = list(HfApi().list_repo_tree(name, revision=revision))
    except RevisionNotFoundError as error:
        raise ValueError(f"`steps`: {name} has no revision {revision}. Pythia has steps 0, 1, 2, "
                         "4, ..., 512 and every 1000 up to 143000.") from error  # fmt: skip
    except Exception as error:  # the client raises its own, httpx's and OS errors when offline
        raise ConnectionError(f"{name} on the hub: {error}. {OFFLINE}") from error
    for ending in WEIGHT_FILES:
        files = {e.path: e.lfs.sha256 for e in entries if e.path.endswith(ending) and e.lfs}
        if files:
            return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    raise ValueError(f"{name} {revision} holds no weights.")
