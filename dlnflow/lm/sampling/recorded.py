"""What is recorded beside losses: any code of a user's own, tried out before a chain runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TAKEN = {"item", "row", "position", "token", "time", "chain", "draw", "weight", "loss", "losses"}
"""Names that traces have for something else."""
LARGEST = torch.finfo(torch.float32).max
"""What draws can hold."""


def checked(observables: Any) -> tuple[Any, ...]:
    """Check what is to be recorded.

    Returns
    -------
    tuple
        One observable, or several.

    Raises
    ------
    ValueError
        If one is no dataclass with a name and a call, or two have one name.
    """
    several = isinstance(observables, Iterable) and not isinstance(observables, str)
    given = tuple(observables) if several else (observables,)
    for one in given:
        good = is_dataclass(one) and not isinstance(one, type) and callable(one)
        if not (good and isinstance(getattr(one, "name", 0), str)):
            raise ValueError(
                "`observables` must be instances of dataclasses with a `name` that take the model "
                "and return a number, as those of dlnflow.lm.observables are; got "
                f"{one!r:.80}."
            )
    names = [one.name for one in given]
    both = {f"checkpoint_{name}" for name in names} | TAKEN | {"checkpoint_loss"}
    if len(set(names)) < len(names) or both & set(names):
        raise ValueError(
            "`observables` must have different names that no coordinate of traces has, got "
            f"{names}."
        )
    if any("," in name or "/" in name or name != name.strip() or not name for name in names):
        raise ValueError(
            "`observables` must have names without commas, slashes and outer spaces, which files "
            f"cannot keep; got {names}."
        )
    return given


def value_of(observable: Callable[[PreTrainedModel], Any], model: PreTrainedModel) -> float:
    """Compute an observable.

    Returns
    -------
    float
        What it gives for the model.

    Raises
    ------
    ValueError
        Naming the observable, if it cannot be computed or is no number.
    """
    name = getattr(observable, "name", observable)
    try:
        found = observable(model)
    except Exception as error:  # whatever code of the user's own raises
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"`observables`: {name!r} failed: {kind}{error}") from error
    try:
        return float(found)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`observables`: {name!r} must return one number, got {type(found).__name__} of shape "
            f"{np.shape(found)}. Several numbers are several observables."
        ) from error


def try_out(observables: Sequence[Any], model: PreTrainedModel) -> None:
    """Refuse observables that give no number, or not the same one twice, or change the model.

    Raises
    ------
    ValueError
        Naming the observable.
    """

    def parts() -> dict[str, torch.Tensor]:
        return dict(model.named_parameters()) | dict(model.named_buffers())

    before, training = {name: part.detach().clone() for name, part in parts().items()}, False
    for one in observables:
        with torch.no_grad():
            first, second = (value_of(one, model) for _ in range(2))
        changed = [n for n, part in parts().items() if not torch.equal(part, before[n])]
        if changed or model.training != training:
            what = changed[0] if changed else "its training mode"
            raise ValueError(
                f"`observables`: {one.name!r} changes the model it is given ({what}), and with it "
                "the chain. Change a copy, or change it back before returning."
            )
        if not abs(first) <= LARGEST or first != second:  # not a number is neither
            raise ValueError(
                f"`observables`: {one.name!r} must give one finite number at the first checkpoint, "
                f"the same at every call; got {first:g}, then {second:g}. Draw random numbers "
                "from a generator of a fixed seed."
            )
