"""A file with how far a sweep back through a training run has come."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import atomic_path


class KeptSweep:
    """Arrays of a sweep in one file, with a key that says which sweep it is.

    Parameters
    ----------
    path : path, optional
        None keeps nothing.
    key : mapping
        What the sweep is of; a file with another key is refused.
    """

    def __init__(self, path: str | Path | None, key: Mapping[str, Any]) -> None:
        self.path, self._key = None if path is None else Path(path), json.dumps(key, sort_keys=True)

    def load(self) -> dict[str, NDArray] | None:
        """Return the arrays that were saved last, or None.

        Returns
        -------
        dict of str to array, or None

        Raises
        ------
        ValueError
            If the file is damaged, or of another sweep.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with open(self.path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
                key = str(found.pop("key"))
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"`keep` {self.path} is damaged ({error}). Delete it, and the sweep begins anew."
            ) from error
        if key != self._key:
            mine, theirs = json.loads(self._key), json.loads(key)
            differing = [name for name in mine if mine[name] != theirs.get(name)]
            raise ValueError(
                f"`keep` {self.path} is of another sweep (another {', '.join(differing)}). Name "
                "another file."
            )
        return found

    def save(self, **arrays: NDArray) -> None:
        """Write the arrays, complete or not at all."""
        if self.path is None:
            return
        with atomic_path(self.path) as path, open(path, "wb") as file:
            np.savez(file, key=self._key, **arrays)
