"""What must hold before a ladder of checkpoints is used: steps in order, and weights that differ.

Files are compared by their hashes, which the hub lists, and tensors by their values, so that
neither dtype nor sharding, the order of a header or the sign of a zero hides a copy.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from dlnflow.lm.data.hub import OFFLINE, first_line

if TYPE_CHECKING:
    import torch

WEIGHT_FILES = (".safetensors", ".bin")
"""Endings of files with weights, in order of preference."""
SAMPLE = 256
"""Values of a tensor by which candidates for equality are found; they are then compared in full."""
LARGE = 4_096
"""Values of a tensor that a training step cannot leave as it was, even rounded to 16 bits."""
BUFFERS = r"(\.attention\.|\.attn\.)(masked_)?bias$|inv_freq$|rotary|alibi|position_ids$"
"""Names of tensors that no training changes."""
SHOWN = 3
"""Names of tensors in a message."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a checkpoint that training should have changed.

    Attributes
    ----------
    file, name : Path, str
        Where it is.
    shape, dtype : tuple of int, torch.dtype
        As it is stored.
    constant : bool
        All the values sampled are equal, as before a bias is first trained.
    sample : tuple of float
        Values in regular distances.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    constant: bool
    sample: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))


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
        raise ValueError(_identical(repeated))


def _identical(groups: Sequence[Sequence[int]]) -> str:
    """Say which steps have the same weights."""
    shown = "; ".join(", ".join(map(str, group)) for group in groups)
    return (
        f"`steps` with identical weights: {shown}. At most one label of each group can be "
        "right, so no curve over them means anything; leave the group out, or get the "
        "weights from another copy."
    )


def check_tensors(folders: Mapping[int, Path], frozen: Sequence[str] = ()) -> None:
    """Check that no two steps share a large tensor; constant ones and buffers do not count.

    Parameters
    ----------
    folders : mapping of int to Path
        Step -> checkpoint.
    frozen : sequence of str
        Patterns of names of tensors that training left alone.

    Raises
    ------
    ValueError
        With the steps that are equal, or the tensors and files that two steps share.
    """
    if len(folders) < 2:
        return
    entries = {step: tensors(folder) for step, folder in sorted(folders.items())}
    shared = _shared(entries)
    equal = [pair for pair, found in shared.items() if _all(entries, pair, found)]
    if equal:
        raise ValueError(_identical(_joined(equal)))
    for (one, other), found in shared.items():
        large = [entry for entry in found if entry.size >= LARGE]
        if large := [e for e in large if not any(fnmatch(e.name, one) for one in frozen)]:
            names = [entry.name for entry in large]
            shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            files = ", ".join(sorted({str(entry.file) for entry in large}))
            raise ValueError(
                f"`steps` {one} and {other} share {len(large)} large tensors ({shown}) in {files}, "
                "as if files of one step lay in the folder of another. Leave one of the two out, "
                "or get its weights from another copy; if training left these tensors alone, name "
                "them in Python, Checkpoints.from_directory(..., frozen=[...])."
            )


def tensors(folder: Path) -> tuple[Entry, ...]:
    """Return the tensors of a checkpoint that training changes.

    Returns
    -------
    tuple of Entry
        Read anew if a file has changed.

    Raises
    ------
    ValueError
        If a file is damaged.
    """
    files = _weight_files(folder)
    stamps = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return _tensors(tuple(files), stamps)


@cache
def _tensors(files: tuple[Path, ...], _stamps: tuple[tuple[int, int], ...]) -> tuple[Entry, ...]:
    """Read the entries of some files; the stamps tell one state of them from another."""
    return tuple(
        _entry(path, name, tensor)
        for path in files
        for name, tensor in stored(path)
        if tensor.is_floating_point() and tensor.numel() and not re.search(BUFFERS, name)
    )


def _entry(file: Path, name: str, tensor: torch.Tensor) -> Entry:
    flat = tensor.detach().flatten()
    distance = -(-flat.numel() // SAMPLE)
    sample = tuple((flat[::distance].double().nan_to_num(0.5) + 0.0).tolist())  # no -0.0
    return Entry(file, name, tuple(tensor.shape), tensor.dtype, len(set(sample)) == 1, sample)


def stored(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a file of weights; they are read from the disk when they are used.

    Raises
    ------
    ValueError
        If it is damaged, or a pickle that holds other things than tensors.
    MemoryError
        If it does not fit.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                for name in file.keys():
                    yield name, file.get_tensor(name)
        else:
            import torch

            mapped = zipfile.is_zipfile(path)  # older files cannot be
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            yield from ((k, v) for k, v in state.items() if isinstance(v, torch.Tensor))
    except MemoryError:
        raise
    except Exception as error:  # SafetensorError, UnpicklingError and others have no common class
        raise ValueError(unreadable(error, f"weights of {path.parent}")) from error


def unreadable(error: Exception, what: str) -> str:
    """Say why a part of a checkpoint cannot be read.

    Returns
    -------
    str
        One line.
    """
    return (
        f"{what} cannot be read ({first_line(error)}). Copy this checkpoint again, config.json "
        "and weights together."
    )


def _shared(entries: Mapping[int, Sequence[Entry]]) -> dict[tuple[int, int], list[Entry]]:
    """Return the tensors that are equal at two steps, those of the later one."""
    import torch

    dtypes = {entry.dtype for found in entries.values() for entry in found}
    coarse = max(dtypes, key=lambda d: torch.finfo(d).eps, default=torch.float64)
    places: dict[object, list[tuple[int, Entry]]] = defaultdict(list)
    for step, found in entries.items():
        for entry in found:
            sample = entry.sample
            if len(dtypes) > 1:
                exactly = torch.tensor(sample, dtype=torch.float64)
                sample = tuple((exactly.to(coarse).double() + 0.0).tolist())
            places[entry.shape, sample].append((step, entry))
    shared: dict[tuple[int, int], list[Entry]] = defaultdict(list)
    for candidates in places.values():
        for (one, a), (other, b) in combinations(candidates, 2):
            if one != other and not (a.constant and b.constant) and _equal(a, b):
                shared[one, other].append(b)
    return shared


def _equal(a: Entry, b: Entry) -> bool:
    """Whether two tensors have the same values, in the coarser of their dtypes."""
    import torch

    coarse = max(a.dtype, b.dtype, key=lambda d: torch.finfo(d).eps)
    one, other = (dict(stored(entry.file))[entry.name].to(coarse) for entry in (a, b))
    return torch.equal(one.nan_to_num(0.5), other.nan_to_num(0.5))


def _all(
    entries: Mapping[int, Sequence[Entry]], pair: tuple[int, int], found: Sequence[Entry]
) -> bool:
    """Whether the tensors found equal are all that vary."""
    varying = {entry.name for entry in entries[pair[1]] if not entry.constant}
    return bool(varying) and varying == {entry.name for entry in found}


def _joined(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the groups that pairs form."""
    groups: list[set[int]] = []
    for pair in pairs:
        touching = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in touching]
        groups.append(set(pair).union(*touching))
    return sorted(sorted(group) for group in groups)


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
                raise ValueError(
                    f"{source} has step {int(match[1])} twice, {other.name} and "
                    f"{folder.name}; rename or remove one."
                )
    if not found:
        raise ValueError(
            f"{source} has no subfolders step<N>; `dlnflow lm train` makes them, and "
            "in Python a dict of step: folder will do."
        )
    return found


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder has a configuration and weights."""
    return (folder / "config.json").exists() and any(_weight_files(folder))


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder, safetensors first; of an index those it names."""
    for ending in WEIGHT_FILES:
        if files := sorted(folder.glob(f"*{ending}")):
            return _indexed(folder, files)
    return []


def _indexed(folder: Path, files: list[Path]) -> list[Path]:
    """Return the files that the index of a sharded checkpoint names, all if there is no index."""
    index = next(folder.glob(f"*{files[0].suffix}.index.json"), None)
    if index is None or (folder / f"model{files[0].suffix}").exists():
        return files
    try:
        named = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return files  # reading the model will say what is wrong
    return [path for path in files if path.name in named] or files


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
        raise ValueError(
            f"`steps`: {name} has no revision {revision}. Pythia has steps 0, 1, 2, "
            "4, ..., 512 and every 1000 up to 143000."
        ) from error
    except Exception as error:  # the client raises its own, httpx's and OS errors when offline
        raise ConnectionError(f"{name} on the hub: {error}. {OFFLINE}") from error
    for ending in WEIGHT_FILES:
        files = {e.path: e.lfs.sha256 for e in entries if e.path.endswith(ending) and e.lfs}
        if files:
            return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
    raise ValueError(f"{name} {revision} holds no weights.")
