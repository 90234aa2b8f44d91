"""Small named checks: each says which argument, what was expected and what came."""

import difflib
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMALLEST_FRACTION = 1e-8
"""A smaller change of an item's weight is lost in the rounding of losses."""


def _is_number(value: object) -> bool:
    """Whether `value` is one finite real number; True and False are not numbers here."""
    return (
        isinstance(value, Real | np.integer | np.floating)
        and not isinstance(value, bool)
        and (isinstance(value, Integral) or bool(np.isfinite(value)))
    )


def shown(value: object) -> str:
    """The value as Python writes it, without the names of numpy types."""
    return repr(value.tolist() if isinstance(value, np.generic | np.ndarray) else value)


def positive(name: str, value: float, *, hint: str = "") -> float:
    """Return `value` as a float if it is finite and > 0.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not _is_number(value) or value <= 0:
        raise ValueError(
            f"`{name}` must be a finite number > 0, got {shown(value)}. {hint}".rstrip()
        )
    return float(value)


def real_number(name: str, value: float) -> float:
    """Return `value` as a float if it is one finite real number.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not _is_number(value):
        raise ValueError(f"`{name}` must be a finite number, got {shown(value)}.")
    return float(value)


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int if it is a whole number >= 1.

    Raises
    ------
    ValueError
        If it is not.
    """
    return _whole(name, value, smallest=1)


def whole_number(name: str, value: int) -> int:
    """Return `value` as an int if it is a whole number >= 0.

    Raises
    ------
    ValueError
        If it is not.
    """
    return _whole(name, value, smallest=0)


def _whole(name: str, value: int, *, smallest: int) -> int:
    if not _is_number(value) or value < smallest or value != int(value):
        raise ValueError(f"`{name}` must be a whole number >= {smallest}, got {shown(value)}.")
    return int(value)


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`.

    Raises
    ------
    ValueError
        If it is not, with the nearest allowed value.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"`{name}` must be one of {', '.join(allowed)}; got {shown(value)}."
            + did_you_mean(str(value), allowed)
        )
    return value


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return ' Did you mean ...?' for the nearest known word, or an empty string."""
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.5)
    return f" Did you mean {lower[near[0]]!r}?" if near else ""


def finite_matrix(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return `value` as a float64 matrix without NaN or infinity.

    Raises
    ------
    ValueError
        If it is not numeric, not two-dimensional, empty or not finite.
    """
    matrix = real_array(name, value, expected="a numeric matrix")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"`{name}` must be a non-empty matrix, got shape {matrix.shape}.")
    bad = np.argwhere(~np.isfinite(matrix))
    if len(bad):
        raise ValueError(
            f"`{name}` must be finite; {len(bad)} entries are NaN or infinite, the first at "
            f"row {bad[0][0]}, column {bad[0][1]}. Remove or impute them."
        )
    return matrix


def real_array(name: str, value: ArrayLike, *, expected: str = "numeric") -> NDArray[np.float64]:
    """Return `value` as a float64 array if it is real; nothing is cut off or filled in.

    Raises
    ------
    ValueError
        If it is complex, a date, masked, ragged or not numeric.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"`{name}` has masked entries; remove or fill them.")
    try:
        array = np.asarray(value)
        if array.dtype.kind in "cmMSU":
            kind = "text" if array.dtype.kind in "SU" else array.dtype
            raise ValueError(f"real numbers are needed, got {kind}")
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be {expected}: {_clause(error)}.") from error


def _clause(error: Exception) -> str:
    """Return a message of numpy without the full stop that some of them end in."""
    return str(error).rstrip(".")


def recorded_steps(steps: ArrayLike, n_steps: int) -> NDArray[np.int64]:
    """Return `steps` as strictly increasing whole numbers in [0, n_steps].

    Raises
    ------
    ValueError
        If they are empty, not whole, not increasing or beyond the run.
    """
    try:
        array = np.atleast_1d(np.asarray(steps))
    except ValueError as error:
        raise ValueError(f"`steps` must be a list of whole numbers: {_clause(error)}.") from error
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"`steps` must be a non-empty list of steps, got shape {array.shape}.")
    if (
        array.dtype.kind not in "iuf"
        or not np.all(np.abs(array) < 2**62)
        or np.any(array != np.floor(array))
    ):
        raise ValueError(f"`steps` must be whole numbers (optimiser steps), got {array[:5]}.")
    array = array.astype(np.int64)
    if np.any(np.diff(array) <= 0):
        where = int(np.argmax(np.diff(array) <= 0))
        raise ValueError(
            f"`steps` must be strictly increasing; {array[where + 1]} follows {array[where]}. "
            "Sort them and drop repeats, e.g. with numpy.unique."
        )
    if array[0] < 0 or array[-1] > n_steps:
        beyond = array[0] if array[0] < 0 else array[-1]
        raise ValueError(
            f"`steps` must lie in [0, {n_steps}], the length of this run; got {beyond}."
            + (" Give Run a larger `n_steps`." if beyond > 0 else "")
        )
    return array


def finite(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return `value` as a float64 array without NaN or infinity.

    Raises
    ------
    ValueError
        If it is not real and numeric, or not finite.
    """
    array = real_array(name, value)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"`{name}` must be finite, got {array[~np.isfinite(array)][:3]}.")
    return array


def nonnegative(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return `value` as a finite float64 array >= 0.

    Raises
    ------
    ValueError
        If it is not numeric, not finite or has a negative entry.
    """
    array = finite(name, value)
    if np.any(array < 0):
        raise ValueError(f"`{name}` must be >= 0, got {array.min():g}.")
    return array


def finite_stack(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return `value` as a finite float64 matrix, or stack of matrices on leading axes.

    Raises
    ------
    ValueError
        If it is not numeric, has fewer than two axes, is empty or not finite.
    """
    array = finite(name, value)
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"`{name}` must be a non-empty matrix, got shape {array.shape}.")
    return array


def positive_array(name: str, value: ArrayLike) -> NDArray[np.float64]:
    """Return `value` as a finite float64 array > 0.

    Raises
    ------
    ValueError
        If it is not numeric, not finite or has an entry <= 0.
    """
    array = finite(name, value)
    if np.any(array <= 0):
        raise ValueError(f"`{name}` must be > 0, got {array.min():g}.")
    return array


def whole_numbers(name: str, value: ArrayLike, *, smallest: int) -> NDArray[np.float64]:
    """Return `value` as an array of whole numbers >= `smallest`.

    Raises
    ------
    ValueError
        If an entry is not.
    """
    array = finite(name, value)
    bad = (array < smallest) | (array != np.floor(array))
    if np.any(bad):
        first = float(array[bad].flat[0])
        raise ValueError(f"`{name}` must be whole and >= {smallest}, got {first:g}.")
    return array


def positive_list(name: str, value: ArrayLike) -> tuple[NDArray[np.float64], bool]:
    """Return `value` as different numbers > 0, shape (M,), and whether it was a single number.

    Raises
    ------
    ValueError
        If a number is not finite and > 0, if one is repeated, or the list is empty or nested.
    """
    array, single = number_list(name, value)
    return positive_array(name, array), single


def number_list(name: str, value: ArrayLike) -> tuple[NDArray[np.float64], bool]:
    """Return `value` as different numbers, shape (M,), and whether it was a single number.

    Raises
    ------
    ValueError
        If one is no finite number, if one is repeated, or the list is empty or nested.
    """
    if not all(map(_is_number, np.asarray(value, dtype=object).ravel())):
        raise ValueError(f"`{name}` must be a finite number or a list of such, got {shown(value)}.")
    array = finite(name, value)
    if array.ndim > 1 or array.size == 0:
        raise ValueError(f"`{name}` must be a number or a list, got shape {array.shape}.")
    single = array.ndim == 0
    array = np.atleast_1d(array)
    if len(np.unique(array)) < len(array):
        raise ValueError(f"`{name}` must list different numbers, got {array.tolist()}.")
    return array, single


def removed_fraction(value: float, weight: float = 1.0) -> float:
    """Return how much of an item's weight is removed: at most all, and not lost in rounding.

    Raises
    ------
    ValueError
        If it is not.
    """
    value = real_number("fraction", value)
    if abs(value) < SMALLEST_FRACTION or value > weight:
        raise ValueError(
            f"`fraction` must be at most {weight:g} ({weight:g} = remove the item) and at least "
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


def windows_inside(starts: NDArray[np.int64], width: int, last: int, n_steps: int) -> None:
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


def positions(
    name: str, chosen: str | Sequence[str] | None, known: Sequence[str]
) -> NDArray[np.int64]:
    """Return positions of names among the known ones; None means all.

    Raises
    ------
    ValueError
        If a name is unknown (the nearest one is suggested), repeated, or none is given.
    """
    try:
        return item_positions(chosen, known)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error


def item_positions(chosen: str | Sequence[str] | None, known: Sequence[str]) -> NDArray[np.int64]:
    """Return positions of items by name, as `positions`, without naming an argument.

    Raises
    ------
    ValueError
        As `positions`.
    """
    if chosen is None:
        return np.arange(len(known))
    names = [chosen] if isinstance(chosen, str) else np.asarray(chosen).ravel().tolist()
    position = {item: index for index, item in enumerate(known)}
    for one in names:
        if one not in position:
            near = did_you_mean(one, known) if isinstance(one, str) else ""
            listed = f"{', '.join(known[:12])}{', ...' if len(known) > 12 else '.'}"
            raise ValueError(f"unknown item {one!r}.{near or f' Items: {listed}'}")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"give at least one item and none twice, got {names}.")
    return np.array([position[one] for one in names])


def measured_step(at: str | int, n_steps: int, *, within: bool) -> int | None:
    """Return the step at which losses are measured; None for "window", allowed if `within`.

    Raises
    ------
    ValueError
        If `at` is another word, or no step of the run.
    """
    words = ("window", "end") if within else ("end",)
    if isinstance(at, str) and at in words:
        return None if at == "window" else n_steps
    try:
        at = positive_integer("at", at)
    except ValueError as error:
        allowed = " or ".join(map(repr, words))
        near = did_you_mean(at, words) if isinstance(at, str) else ""
        raise ValueError(
            f"`at` must be {allowed} or a step >= 1 of the run; got {shown(at)}.{near}"
        ) from error
    if at > n_steps:
        raise ValueError(f"`at` must be at most {n_steps}, the length of the run; got {at}.")
    return at
