"""NAME=VALUE on the command line: what `--set` may change, and in which type."""

import dataclasses
from typing import Any, get_args


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What `--set` of `sample` changes; None: the default of `dlnflow.lm.experiment`."""

    rows: int | None = None
    length: int | None = None
    tokenizer: str | None = None
    chains: int | None = None
    n_beta: float | None = None
    localization: float | None = None
    step_size: float | None = None
    burn_in: int | None = None
    thin: int | None = None
    seed: int | None = None
    device: str | None = None
    threads: int | None = None
    repair: bool = False

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of some settings that are not left to the default."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def changed(settings: Any, changes: list[str]) -> Any:
    """Apply NAME=VALUE to settings, in the type of the old value."""
    for change in changes:
        name, equals, value = change.partition("=")
        kinds = {f.name: _kind(settings, f) for f in dataclasses.fields(settings)}
        if not equals or name not in kinds:
            raise ValueError(f"`--set` expects NAME=VALUE with NAME one of {', '.join(kinds)}; "
                             f"got {change!r}.")  # fmt: skip
        try:
            read = _truth if kinds[name] is bool else kinds[name]
            settings = dataclasses.replace(settings, **{name: read(value)})
        except ValueError as error:
            raise ValueError(f"`--set` {change!r}: {error}") from error
    return settings


def _kind(settings: Any, field: dataclasses.Field) -> type:
    """Return the type of a value, or of what could stand in the place of a None."""
    value = getattr(settings, field.name)
    return next(iter(get_args(field.type))) if value is None else type(value)


def _truth(word: str) -> bool:
    """Read true or false."""
    if word not in ("true", "false"):
        raise ValueError("expected true or false")
    return word == "true"


def ordered(steps: list[int] | None) -> list[int] | None:
    """Return steps in order and once each; None, all of them, if none are given."""
    return sorted(set(steps)) if steps else None
