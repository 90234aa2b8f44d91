"""Item weights that may change during training, and windows in which they do."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray, IntArray


@dataclass(frozen=True)
class Schedule:
    """Piecewise constant item weights: ``values[k]`` from step ``starts[k]`` on.

    Parameters
    ----------
    starts : array of int, shape (S,)
        Strictly increasing, the first 0. The step that leads from k to k + 1 uses the weights in
        force at k.
    values : array, shape (S, N) or (S, B, N)
        Weights w_i of the items, 1 = as is, 0 = absent. An axis B trains B networks together.

    Raises
    ------
    ValueError
        If shapes disagree, starts are not increasing from 0, or weights are negative or not
        finite.

    Examples
    --------
    >>> absent = Schedule.window([1.0, 1.0], [0.0, 1.0], start=100, stop=150)
    >>> absent.at(99).tolist(), absent.at(100).tolist(), absent.at(150).tolist()
    ([1.0, 1.0], [0.0, 1.0], [1.0, 1.0])
    """

    starts: IntArray
    values: FloatArray

    def __post_init__(self) -> None:
        given = np.atleast_1d(checks.real_array("starts", self.starts))
        values = checks.real_array("values", self.values)
        if given.size == 0 or np.any(given != np.floor(given)):
            raise ValueError(f"`starts` must be whole steps, at least one; got {self.starts}.")
        starts = given.astype(np.int64)
        if values.ndim not in (2, 3) or starts.shape != values.shape[:1]:
            raise ValueError(
                "`values` must have shape (len(starts), N) or (len(starts), B, N); got "
                f"{values.shape} with {starts.size} starts."
            )
        if starts[0] != 0 or np.any(np.diff(starts) <= 0):
            raise ValueError(f"`starts` must increase strictly from 0, got {starts.tolist()}.")
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise ValueError("item weights must be finite and >= 0 (0 = absent, 1 = as is).")
        object.__setattr__(self, "starts", starts)
        object.__setattr__(self, "values", values)

    @classmethod
    def constant(cls, weights: ArrayLike) -> "Schedule":
        """Return the same weights for the whole run.

        Parameters
        ----------
        weights : array, shape (N,) or (B, N)

        Returns
        -------
        Schedule

        Raises
        ------
        ValueError
            If a weight is negative or not finite, or the shape is another.
        """
        return cls(np.array([0]), checks.real_array("weights", weights)[None])

    @classmethod
    def of(cls, weights: "ArrayLike | Schedule | None", n_items: int) -> "Schedule":
        """Return a schedule of so many items: as given, constant, or all 1 for None.

        Raises
        ------
        ValueError
            If there is another number of items, or as `constant`.
        """
        if weights is None:
            weights = np.ones(n_items)
        schedule = weights if isinstance(weights, Schedule) else cls.constant(weights)
        if schedule.values.shape[-1] != n_items:
            raise ValueError(
                f"`weights` must hold one weight per item, {n_items}, on the last axis; got "
                f"shape {schedule.values.shape[1:]}."
            )
        return schedule

    @classmethod
    def window(cls, outside: ArrayLike, inside: ArrayLike, *, start: int, stop: int) -> "Schedule":
        """Weights `inside` on steps [start, stop) and `outside` before and after.

        Parameters
        ----------
        outside, inside : arrays, shape (N,) or (B, N)
            They broadcast.
        start, stop : int
            0 <= start < stop.

        Returns
        -------
        Schedule

        Raises
        ------
        ValueError
            If the window is empty or starts before 0, or as `constant`.
        """
        if not 0 <= start < stop:
            raise ValueError(f"a window needs 0 <= start < stop, got [{start}, {stop}).")
        outside, inside = np.broadcast_arrays(
            np.asarray(outside, dtype=np.float64), np.asarray(inside, dtype=np.float64)
        )
        starts, values = [0, start, stop], [outside, inside, outside]
        if start == 0:
            starts, values = [0, stop], [inside, outside]
        return cls(np.array(starts), np.stack(values))

    @property
    def batch(self) -> tuple[int, ...]:
        """() for one network, (B,) for B of them."""
        return self.values.shape[1:-1]

    def at(self, step: int) -> FloatArray:
        """Weights in force at `step`, shape (N,) or (B, N)."""
        return self.values[int(np.searchsorted(self.starts, step, side="right")) - 1]

    def segments(self, stop: int) -> Iterator[tuple[int, int, FloatArray]]:
        """Yield (first, last, weights) for every stretch of constant weights up to `stop`."""
        bounds = [*self.starts.tolist(), np.inf]
        for index, weights in enumerate(self.values):
            first, last = int(bounds[index]), int(min(bounds[index + 1], stop))
            if first < last:
                yield first, last, weights


def minibatches(seed: int, batch: int, n_items: int, steps: int) -> IntArray:
    """Items of every minibatch: without replacement, anew for every pass over the items.

    Returns
    -------
    array of int, shape (steps, batch)
    """
    generator = np.random.default_rng([seed, batch])
    per_pass = n_items // batch
    passes = -(-steps // per_pass)
    order = np.stack([generator.permutation(n_items) for _ in range(passes)])
    return order[:, : per_pass * batch].reshape(-1, batch)[:steps]


@dataclass(frozen=True)
class Windows:
    """Windows [start, stop) of changed weights and when their effect is measured.

    ``until`` is the step at which it is measured, or None for the mean over the steps
    start + 1, ..., stop, those that the change reaches from inside the window. Windows may be
    empty.
    """

    starts: IntArray
    stops: IntArray
    until: int | None

    @property
    def last(self) -> int:
        """The last step that has to be reached."""
        return int(self.stops.max()) if self.until is None else self.until

    @property
    def widths(self) -> IntArray:
        """Number of steps in every window."""
        return self.stops - self.starts

    def opening(self, step: int) -> IntArray:
        """Windows whose first changed step is `step`."""
        return np.flatnonzero((self.starts == step) & (self.widths > 0))

    def closing(self, step: int) -> IntArray:
        """Windows whose last changed step is `step` - 1."""
        return np.flatnonzero((self.stops == step) & (self.widths > 0))

    @property
    def most_open(self) -> int:
        """Largest number of windows followed at once; at least 1."""
        if self.until is not None:
            return max(1, len(self.starts))
        begun = np.searchsorted(self.starts, self.starts, side="right")
        return max(1, int(np.max(begun - np.searchsorted(self.stops, self.starts, side="right"))))
