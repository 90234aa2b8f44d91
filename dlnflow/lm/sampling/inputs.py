"""Token ids that chains need, by reference: a file and its hash, mapped by whoever needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support.files import atomic_path
from dlnflow._support.hashes import sha256_array
from dlnflow.lm.data.batches import GradientData, Observed


@dataclass(frozen=True)
class Inputs:
    """Where gradient and observed data lie; a few hundred bytes, whatever the text.

    Attributes
    ----------
    gradient, observed : str
        Files in numpy's format: ids, and row numbers beside ids.
    gradient_sha256, observed_sha256 : str
        Hashes of the data.
    settings : tuple of (str, object)
        The other fields of the gradient data.
    members : str
        File of which target is in which class, empty where no class sums are asked for.
    names : tuple of str
        Names of the classes.
    """

    gradient: str
    observed: str
    gradient_sha256: str
    observed_sha256: str
    settings: tuple[tuple[str, Any], ...]
    members: str = ""
    names: tuple[str, ...] = ()


def keep(folder: Path, gradient: GradientData, observed: Observed) -> Inputs:
    """Write down data for other processes, unless they lie in a file already.

    Parameters
    ----------
    folder : Path
        Folder of the store; what is written lies in ``inputs/``.
    gradient, observed : GradientData, Observed
        What chains need.

    Returns
    -------
    Inputs
        Absolute paths: every process must see them there.
    """
    file = mapped_file(gradient.ids) or _kept(folder, gradient.sha256, gradient.ids)
    both = np.column_stack([observed.rows, observed.ids])
    names = ("rows", "length", "repeat_share", "segment", "text_sha256")
    members = observed.members if observed.classes is not None else None
    return Inputs(
        str(file),
        str(_kept(folder, observed.sha256, both)),
        gradient.sha256,
        observed.sha256,
        tuple((name, getattr(gradient, name)) for name in names),
        "" if members is None else str(_kept(folder, sha256_array(members), members)),
        tuple(observed.names),
    )


@lru_cache(maxsize=4)
def opened(inputs: Inputs) -> tuple[GradientData, Observed]:
    """Map the files, and compare their hashes; once in a process.

    Returns
    -------
    (GradientData, Observed)
        As they were kept.

    Raises
    ------
    ValueError
        If a file is missing or has other ids.
    """
    both = _read(inputs.observed, inputs.observed_sha256)
    gradient = GradientData(_read(inputs.gradient, inputs.gradient_sha256), **dict(inputs.settings))
    classes = _classes(inputs, len(both)) if inputs.members else None
    observed = Observed(both[:, 1:], both[:, 0], classes)
    for file, there, known in (
        (inputs.gradient, gradient.sha256, inputs.gradient_sha256),
        (inputs.observed, observed.sha256, inputs.observed_sha256),
    ):
        if there != known:
            raise ValueError(
                f"{file} has other ids than those that were to be sampled (sha256 {there[:8]}, "
                f"not {known[:8]}). Call again: a file of the store is written anew."
            )
    return gradient, observed


def _classes(inputs: Inputs, rows: int) -> xr.DataArray:
    """Read classes of targets; position 0 has none."""
    members = _read(inputs.members, Path(inputs.members).stem)
    if sha256_array(members) != Path(inputs.members).stem:
        raise ValueError(
            f"{inputs.members} has other classes than its name says. Call again: a file of the "
            "store is written anew."
        )
    members = members.reshape(rows, -1, len(inputs.names))
    whole = np.pad(members, ((0, 0), (1, 0), (0, 0)))
    dims = ("sequence", "position", "token_class")
    return xr.DataArray(whole, {"token_class": list(inputs.names)}, dims)


def mapped_file(array: NDArray[Any]) -> Path | None:
    """Return the .npy file that an array is a map of, None if it is not all of one."""
    owner: Any = array
    while owner is not None and not isinstance(owner, np.memmap):
        owner = getattr(owner, "base", None)
    if owner is None or owner.filename is None:
        return None
    path = Path(owner.filename).absolute()
    try:
        whole = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return None
    same = (whole.shape, whole.dtype, whole.offset) == (array.shape, array.dtype, owner.offset)
    return path if same else None


def _kept(folder: Path, sha256: str, array: NDArray[Any]) -> Path:
    """Write an array under its hash, anew if the file there has something else."""
    path = folder.absolute() / "inputs" / f"{sha256}.npy"
    try:
        there = np.load(path, mmap_mode="r")
        intact = there.dtype == array.dtype and np.array_equal(there, array)
    except (OSError, ValueError, EOFError):
        intact = False
    if not intact:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, array)
    return path


def _read(path: str, sha256: str) -> NDArray[Any]:
    """Map a file."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} (ids with sha256 {sha256[:8]}) cannot be read here: {error}. Every process "
            "must see store and run under the same path; a damaged file of the store is written "
            "anew by the next call."
        ) from error
