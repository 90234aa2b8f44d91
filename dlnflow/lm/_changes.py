"""NAME=VALUE on the command line: what `--set` may change, and in which type."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What `--set` of `sample` changes; 0 or empty: the default of `dlnflow.lm.experiment`."""

    rows: int = 0
    length: int = 0
    tokenizer: str = ""
    chains: int = 4
    n_beta: float = 0.0
    localization: float = 0.0
    step_size: float = 0.0
    burn_in: int = 0
    thin: int = 0
    seed: int = 0
    device: str = "cpu"
    repair: bool = False

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of some settings that are not left to the default."""
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def changed(settings: Any, changes: list[str]) -> Any:
    """Apply NAME=VALUE to settings, in the type of the old value."""
    for change in changes:
        name, equals, value = change.partition("=")
        kinds = {f.name: type(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
        if not equals or name not in kinds:
            raise ValueError(f"`--set` expects NAME=VALUE with NAME one of {', '.join(kinds)}; "
                             f"got {change!r}.")  # fmt: skip
        try:
            read = _truth if kinds[name] is bool else kinds[name]
            settings = dataclasses.replace(settings, **{name: read(value)})
        except ValueError as error:
            raise ValueError(f"`--set` {change!r}: {error}") from error
    return settings


def _truth(word: str) -> bool:
    """Read true or false."""
    if word not in ("true", "false"):
        raise ValueError("expected true or false")
    return word == "true"


def ordered(steps: list[int] | None) -> list[int] | None:
    """Return steps in order and once each; None, all of them, if none are given."""
    return sorted(set(steps)) if steps else None
