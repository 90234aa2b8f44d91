"""Named checks of what several estimators ask of an option or of the run."""

import numpy as np

from dlnflow._checks import real_number, shown
from dlnflow._typing import IntArray

SMALLEST_FRACTION = 1e-8
"""A smaller change of an item's weight is lost in the rounding of losses."""


def removed_fraction(value: float) -> float:
    """Return how much of an item's weight is removed: at most 1 and not lost in rounding.

    Raises
    ------
    ValueError
        If it is not.
    """
    value = real_number("fraction", value)
    if abs(value) < SMALLEST_FRACTION or value > 1:
        raise ValueError(
            "`fraction` must be at most 1 (1 = remove the item) and at least "
            f"{SMALLEST_FRACTION:g} in size, or rounding decides; got {value!r}. "
            "For the limit 0 use `tangent`."
        )
    return value


def flag(name: str, value: bool) -> bool:
    """Return `value` if it is True or False.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, got {shown(value)}.")
    return bool(value)


def two_layers(
    name: str, depth: int, *, instead: str = "`tangent` and `leave_one_out` take any depth."
) -> None:
    """Refuse a run of another depth for what uses the structure of two layers.

    Raises
    ------
    ValueError
        If `depth` is not 2, with what to use instead.
    """
    if depth != 2:
        raise ValueError(
            f"`{name}` uses the structure of two layers; the run has depth {depth}. {instead}"
        )


def window_weight(value: float) -> float:
    """Return the weight of an item inside a window: finite, >= 0 and not lost in rounding near 1.

    Raises
    ------
    ValueError
        If it is not.
    """
    value = real_number("weight", value)
    if value < 0 or abs(1 - value) < SMALLEST_FRACTION:
        raise ValueError(
            "`weight` must be >= 0 (0 = absent, above 1 = up-weighted) and differ from 1 by at "
            f"least {SMALLEST_FRACTION:g}, or rounding decides; got {value!r}. For the limit 1 use "
            "`first_order=True`."
        )
    return value


def windows_inside(starts: IntArray, width: int, last: int, n_steps: int) -> None:
    """Check that every window [start, start + width) ends at or before `last`.

    Raises
    ------
    ValueError
        If one does not, with the latest possible start.
    """
    outside = starts[starts + width > last]
    if len(outside):
        limit = "the run, of length" if last == n_steps else "the measurement, at step"
        raise ValueError(
            f"`window` must end within {limit} {last}: {len(outside)} of {len(starts)} windows "
            f"leave it, the first is [{outside[0]}, {outside[0] + width}). "
            + (
                f"The latest possible start is {last - width}."
                if width <= last
                else f"At most {last} steps fit."
            )
        )
