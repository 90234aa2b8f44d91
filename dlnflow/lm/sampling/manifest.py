"""What a store of traces holds: its manifest, the records of units, and whether they agree.

    manifest.json    key of everything, and index, weight hash and config hash of every step;
                     how its settings were chosen, if they were not given
    a unit's record  draws, hashes of its bytes, and the hash of the key and the step's entry

Each record repeats what its draws belong to, so draws of something else are never taken for
others, and a lost manifest can be written anew.
"""

import json
import re
from pathlib import Path
from typing import Any

from dlnflow._support.files import write_json
from dlnflow._support.hashes import sha256_json

FORMAT = 2
"""Changes when draws of the same settings would change, or what identifies them."""
ON = "`--set repair=true` (in Python repair=True)"
REPAIR = f"{ON} computes it again; the rest is kept."
WAY_OUT = "Give another folder, or delete this one."
ENTRY = {"index": int, "weights": str, "config": str}
RECORD = ENTRY | {"key": str, "draws": int, "sha256": str, "start_sha256": str, "state_sha256": str}
WORDS = {
    "gradient.sha256": "gradient data",
    "observed.sha256": "observed sequences",
    "gradient.rows": "rows of gradient data",
    "observed.rows": "observed rows",
    "gradient.length": "length of gradient data",
    "observed.length": "length of observed rows",
    "sampler.revision": "revision of the arithmetic of chains (draws of the two would differ)",
}
"""Names of entries of a key in messages, where the last part alone does not tell."""


class CorruptedError(OSError):
    """A stored unit no longer has the bytes that were written."""


class Manifest:
    """What is in a folder, checked against what should be.

    Parameters
    ----------
    folder : Path
        Folder of the store.
    key : dict
        What all units share; JSON.
    contents : dict of int to dict
        Hashes "weights" and "config" of every step asked for.
    repair : bool
        Write a damaged manifest anew from the units, if they are of this key.
    suggestion : dict, optional
        How the settings were chosen; that of the folder is kept if there is one.

    Raises
    ------
    ValueError
        If the folder holds something else, or the manifest is damaged.
    """

    def __init__(
        self,
        folder: Path,
        key: dict[str, Any],
        contents: dict[int, dict[str, str]],
        *,
        repair: bool = False,
        suggestion: dict[str, Any] | None = None,
    ):
        self.folder, self.path = folder, folder / "manifest.json"
        # through JSON, so that tuples and lists compare equal
        self.key = json.loads(json.dumps(key | {"format": FORMAT}))
        self.key_sha256 = sha256_json(self.key)
        found = self._read(repair)
        self.entries: dict[int, dict[str, Any]] = found or {}
        for step, hashes in contents.items():
            entry = self.entries.setdefault(step, {"index": self.n_steps, **hashes})
            for name, value in hashes.items():
                if entry[name] != value:
                    raise ValueError(
                        f"`store` {folder} holds traces of other {_plural(name)} at "
                        f"step {step}. {WAY_OUT}"
                    )
        everything = {"key": self.key, "steps": {str(s): e for s, e in self.entries.items()}}
        known = _json(self.path)
        self.suggestion = (known.get("suggestion") if isinstance(known, dict) else 0) or suggestion
        if self.suggestion:
            everything["suggestion"] = self.suggestion
        if known != everything:
            write_json(self.path, everything)

    @classmethod
    def found(cls, folder: Path) -> "Manifest":
        """Read the manifest of a store, whatever it is of; nothing is written.

        Raises
        ------
        ValueError
            If it is damaged or missing.
        """
        known = _json(folder / "manifest.json")
        if not isinstance(known, dict) or not isinstance(known.get("key"), dict):
            raise ValueError(f"`store` {folder}: manifest.json is damaged or missing. {WAY_OUT}")
        return cls(folder, known["key"], {})

    @property
    def n_steps(self) -> int:
        """Length of the arrays' time axis."""
        return 1 + max((entry["index"] for entry in self.entries.values()), default=-1)

    def record(self, step: int, chain: int) -> dict[str, Any] | None:
        """Return the record of a unit, None if there is none.

        Raises
        ------
        CorruptedError
            If it is damaged, or of draws of something else.
        """
        path = self.record_path(step, chain)
        if not path.exists():
            return None
        record = _json(path)
        if not _has(record, RECORD):
            raise CorruptedError(
                f"`store`: {path} is damaged, so chain {chain} at step {step} is lost. {REPAIR}"
            )
        if record != record | self.signature(step):
            raise CorruptedError(
                f"`store`: {path} is of other weights or settings than "
                f"manifest.json, so chain {chain} at step {step} is not taken. "
                f"{REPAIR}"
            )
        return record

    def write_record(self, step: int, chain: int, record: dict[str, Any]) -> None:
        """Write a unit's record, with what its draws belong to."""
        write_json(self.record_path(step, chain), record | self.signature(step))

    def record_path(self, step: int, chain: int) -> Path:
        """Return where the record of a unit lies."""
        return self.folder / "units" / f"{step}-{chain}.json"

    def records(self) -> dict[tuple[int, int], dict[str, Any]]:
        """Return all undamaged records by (step, chain)."""
        found = {}
        for path in sorted(self.folder.glob("units/*.json")):
            name = re.fullmatch(r"(\d+)-(\d+)", path.stem)
            if name and _has(record := _json(path), RECORD):
                found[int(name[1]), int(name[2])] = record
        return found

    def signature(self, step: int) -> dict[str, Any]:
        """Return what is repeated beside everything that belongs to a step."""
        return self.entries[step] | {"key": self.key_sha256}

    def _read(self, repair: bool) -> dict[int, dict[str, Any]] | None:
        """Return the entries of manifest.json, checked; None for a new folder."""
        units = any(self.folder.glob("units/*.json"))
        if not self.path.exists() and not units:
            return None
        known = _json(self.path)
        stored = known.get("key") if isinstance(known, dict) else None
        if isinstance(stored, dict) and stored.get("format") not in (None, FORMAT):
            raise ValueError(
                f"`store` {self.folder} has format {stored['format']} of another version of this "
                f"package, not {FORMAT}; format 1 did not record config.json. {WAY_OUT}"
            )
        if isinstance(stored, dict) and stored != self.key:
            raise ValueError(
                f"`store` {self.folder} holds traces of something else "
                f"({_differences(stored, self.key)}). Nothing is mixed: give another folder, or "
                "delete that one."
            )
        entries = known.get("steps") if isinstance(stored, dict) else None
        if _are_entries(entries):
            return {int(step): entry for step, entry in entries.items()}
        state = "is damaged" if self.path.exists() else "is missing"
        if not repair:
            raise ValueError(
                f"`store` {self.folder}: manifest.json {state}. {WAY_OUT} If these are the "
                f"settings it was sampled with, {ON} writes it anew."
            )
        return self._from_records(state)

    def _from_records(self, state: str) -> dict[int, dict[str, Any]]:
        """Return the entries that the records of units repeat."""
        entries: dict[int, dict[str, Any]] = {}
        for (step, _), record in self.records().items():
            entry = {name: record[name] for name in ENTRY}
            if record["key"] != self.key_sha256 or entries.setdefault(step, entry) != entry:
                raise ValueError(
                    f"`store` {self.folder}: manifest.json {state}, and the units are not all of "
                    f"these data and settings, so it cannot be written anew. {WAY_OUT}"
                )
        if not _are_entries({str(s): e for s, e in entries.items()}):
            raise ValueError(
                f"`store` {self.folder}: manifest.json {state}, and the units "
                f"contradict each other. {WAY_OUT}"
            )
        return entries


def _json(path: Path) -> Any:
    """Return what a file holds; None if it is gone or damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _has(value: Any, kinds: dict[str, type]) -> bool:
    """Whether `value` has entries of these kinds, whole numbers not negative."""
    return isinstance(value, dict) and all(
        type(value.get(name)) is kind and (kind is str or value[name] >= 0)
        for name, kind in kinds.items()
    )


def _are_entries(value: Any) -> bool:
    """Whether `value` maps steps to entries with different indices."""
    if not isinstance(value, dict):
        return False
    good = all(step.isdecimal() and _has(entry, ENTRY) for step, entry in value.items())
    return good and len({entry["index"] for entry in value.values()}) == len(value)


def _differences(there: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in words what differs between two keys."""
    there, now = _flat(there), _flat(now)
    differing = [n for n in {**now, **there} if now.get(n) != there.get(n)]
    return "; ".join(
        f"{WORDS.get(n, n)}: {_short(there.get(n))} there, {_short(now.get(n))} now"
        for n in differing
    )


def _short(value: Any) -> str:
    """Show a value of a key; of a hash its beginning, and nothing for what is not there."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:8]
    return "none" if value is None else str(value)


def _flat(key: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return the entries of nested dictionaries with their paths, so that few differ."""
    found = {}
    for name, value in key.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{name}.") or {f"{above}{name}": {}}
        else:
            found[f"{above}{name}"] = value
    return found


def _plural(name: str) -> str:
    return {"config": "settings in config.json"}.get(name, name)
