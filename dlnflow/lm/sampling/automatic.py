"""A sampler whose numbers are chosen when a store is begun, and kept with it from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlnflow import checks, lm
from dlnflow._support import locks
from dlnflow.lm.sampling.store import recorded_sampler, usable
from dlnflow.sampling.settings import Settings

if TYPE_CHECKING:
    from dlnflow.lm.sampling.suggestion import Suggestion
    from dlnflow.lm.sampling.unit import Sampler

CHOSEN = ("n_beta", "localization", "step_size", "burn_in", "thin")
"""What is chosen where it is not given."""
BURN_IN, THIN = 150, 5
"""Fewest steps before the first draw, while the preconditioner is learned, and steps between draws
where no pilot says more."""


@dataclass(frozen=True)
class Automatic:
    """A sampler whose numbers are chosen from the model once, when a store is begun.

    Attributes
    ----------
    given : mapping
        Those of `CHOSEN` that are not to be chosen.
    lengths : mapping
        `chains`, `draws` and `seed` of `dlnflow.sampling.Settings`.
    options : mapping
        The other fields of `dlnflow.lm.Sampler`, as keywords.
    """

    given: Mapping[str, float] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.given:
            checks.one_of("given", name, list(CHOSEN))
        self.with_numbers(dict.fromkeys(CHOSEN[:3], 1.0))

    @property
    def device(self) -> str:
        """Torch device of the chains."""
        return self.options.get("device", "cpu")

    def with_numbers(self, numbers: Mapping[str, Any]) -> Sampler:
        """Return the sampler with some numbers, and with those that are given before all."""
        numbers = {"burn_in": BURN_IN, "thin": THIN} | dict(numbers) | dict(self.given)
        burn_in = numbers["burn_in"]
        learned = {"freeze_after": burn_in} if burn_in else {}
        settings = Settings(**numbers, **self.lengths, kernel_options=learned)
        return lm.Sampler(settings, **self.options)


@contextmanager
def settled(
    sampler: Sampler | Automatic,
    store: str | Path,
    choose: Callable[[Automatic], Suggestion],
    *,
    repair: bool = False,
) -> Iterator[tuple[Sampler, dict[str, Any] | None]]:
    """Yield the sampler of a store, and how it was chosen, if that is now.

    A store that exists has its numbers in its manifest, whoever chose them; they are taken, so
    that a run that goes on, other parts and processes that start at the same time agree. A new
    one is chosen for with the store locked, until the block ends, in which it must be begun.

    Parameters
    ----------
    sampler : Sampler or Automatic
        A Sampler is yielded as it is.
    store : path
        Folder.
    choose : callable
        Called with the sampler where nothing is recorded.
    repair : bool
        Choose again where the manifest is damaged.

    Yields
    ------
    (Sampler, dict or None)
        The record of the suggestion is for the manifest.

    Raises
    ------
    ValueError
        If the folder cannot be written, or its manifest is damaged.
    """
    if not isinstance(sampler, Automatic):
        yield sampler, None
        return
    folder = usable(store)
    with locks.alone(folder / "settings.lock"):
        known = recorded_sampler(folder, damaged=repair)
        if known is not None:
            yield sampler.with_numbers({n: known[n] for n in CHOSEN if n in known}), None
        else:
            found = choose(sampler)
            yield sampler.with_numbers(found.settings), found.record()
