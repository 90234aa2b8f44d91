"""The data a network learns: items, their inputs and their features."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from scipy import linalg

from dlnflow import checks, tables
from dlnflow._support import FloatArray, IntArray, html
from dlnflow.theory.modes import Modes, modes_of

WHITENING_RTOL = 1e-12
"""Inputs are whitened when X X^T = c I holds to this, relative to c."""

LARGEST_Y, LARGEST_X = 1e60, 1e30
"""The largest |entry| lies between these and one over them, or squares and products of several
overflow. Within them results are exact in any unit."""
IDENTITY_STRIDES = (-8, 8)
"""Of `_identity`: no other float64 matrix steps backwards along its rows."""
PLAIN_IDENTITY = 1000
"""Up to this many items the identity is a plain array, which torch takes as it is (8 MB)."""


@dataclass(frozen=True, eq=False)
class Task:
    """Items with inputs x_i and features y_i; the loss of item i is 1/2 |y_i - W x_i|^2.

    Parameters
    ----------
    y : array, shape (d_out, N), or pandas.DataFrame or Series
        Features; column i belongs to item i. A frame has one item per row and is read as by
        `from_frame`, a series is one feature of the items in its index.
    x : array, shape (n_in, N), optional
        Inputs. Default: one-hot, the identity of size N.
    items : sequence of str, length N, optional
        Item names, all different. Default: item0, item1, ...
    features : sequence of str, length d_out, optional
        Feature names. Default: feature0, feature1, ...
    notes : sequence of str, optional
        How the table was read: what was recognised, left out or changed.

    Raises
    ------
    ValueError
        If an array is not a finite matrix, if shapes or numbers of names disagree, if names are
        missing or repeated, if there is a single item, if all features are zero, or if the largest
        entry is beyond 1e60 (inputs: 1e30) or one over it.

    Examples
    --------
    >>> task = Task([[1.0, 1.0], [1.0, -1.0]], items=["dog", "pine"])
    >>> task.n_items, task.one_hot, task.modes.s.round(3).tolist()
    (2, True, [1.414, 1.414])
    """

    y: FloatArray
    x: FloatArray = None  # type: ignore[assignment]  # filled in by __post_init__
    items: Sequence[str] = field(default=None, kw_only=True)  # type: ignore[assignment]
    features: Sequence[str] = field(default=None, kw_only=True)  # type: ignore[assignment]
    notes: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        self._take_frames()
        y = checks.finite_matrix("y", self.y)
        n_items = y.shape[1]
        if n_items < 2:
            raise ValueError(
                "`y` has one item (column); influence of one item on another needs at least two. "
                "Items are columns of `y`: transpose a table with one item per row."
            )
        x = _identity(n_items) if self.x is None else checks.finite_matrix("x", self.x)
        if x.shape[1] != n_items:
            raise ValueError(
                f"`x` must have one column per item: {n_items} in `y`, {x.shape[1]} in `x`."
            )
        if not np.any(y):
            raise ValueError("`y` is zero everywhere: there is nothing to learn.")
        _check_unit("y", y, LARGEST_Y)
        if self.x is not None:
            _check_unit("x", x, LARGEST_X)
        if self.x is not None and not np.any(y @ x.T):
            raise ValueError("`x` and `y` are uncorrelated: Y X^T = 0, there is nothing to learn.")
        y, x = y.copy(), x if self.x is None else x.copy()
        y.flags.writeable = x.flags.writeable = False
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "items", distinct("items", self.items, n_items, "item"))
        object.__setattr__(self, "features", distinct("features", self.features, len(y), "feature"))
        object.__setattr__(self, "notes", tuple(self.notes))

    def _take_frames(self) -> None:
        """Read `y` if it is a frame: as an array its rows would be features, not items."""
        for name in ("y", "x"):
            value = getattr(self, name)
            if not isinstance(value, pd.DataFrame | pd.Series) and hasattr(value, "__dataframe__"):
                raise ValueError(f"`{name}` is a frame of another library; give its to_pandas().")
        if isinstance(self.x, pd.DataFrame | pd.Series):
            raise ValueError(
                "`x` is a frame, and columns of inputs belong to items: give an array, e.g. "
                "x.to_numpy().T of a frame with one item per row in the order of `y`."
            )
        if not isinstance(self.y, pd.DataFrame | pd.Series):
            return
        if self.items is not None or self.features is not None:
            raise ValueError(
                "`y` is a frame, whose index and columns are the names: leave out `items` and "
                "`features`, or give the array y.to_numpy().T of a frame with one item per row."
            )
        frame = self.y
        if isinstance(frame, pd.Series):
            frame = frame.to_frame("feature0" if frame.name is None else frame.name)
        try:
            table = tables.clean(frame)
        except ValueError as error:
            error.add_note("Options go to Task.from_frame(frame, ...).")
            raise
        for name, value in _fields(table, tuple(self.notes)).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        kind = "one-hot" if self.one_hot else f"{self.n_in}-dimensional"
        return f"Task({self.n_items} items, {self.n_out} features, {kind} inputs)"

    def _repr_html_(self) -> str:
        """The first items and features, for notebooks; names are escaped."""
        corner = self.y.T[:5, :6]
        rows = [
            [name, *(f"{value:.4g}" for value in row)]
            for name, row in zip(self.items[:5], corner, strict=True)
        ]
        notes = {"notes": html.line(" ".join(self.notes))} if self.notes else {}
        about = {"items": html.names(self.items), "features": html.names(self.features), **notes}
        return html.summary(repr(self), about) + html.grid(self.features[:6], rows)

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return self.y.shape[1]

    @property
    def n_in(self) -> int:
        """Input dimension."""
        return self.x.shape[0]

    @property
    def n_out(self) -> int:
        """Number of features d_out."""
        return self.y.shape[0]

    @cached_property
    def one_hot(self) -> bool:
        """Whether X is the identity, so that every item has an input of its own."""
        square = self.x.shape[0] == self.x.shape[1]
        if not square or np.any(np.diagonal(self.x) != 1):
            return False
        return self.x.strides == IDENTITY_STRIDES or int(np.count_nonzero(self.x)) == self.n_in

    @cached_property
    def whitening(self) -> float | None:
        """The scale c if X X^T = c I (to a relative 1e-12), else None."""
        if self.one_hot:
            return 1.0
        gram = self.x @ self.x.T
        scale = float(np.trace(gram)) / self.n_in
        off = np.abs(gram - scale * np.eye(self.n_in)).max()
        return scale if off <= WHITENING_RTOL * scale else None

    @cached_property
    def modes(self) -> Modes:
        """Singular modes of the least-squares map Y X^+, the map that the network converges to.

        Whitened inputs (X X^T = c I): Y X^+ = Y X^T / c, whose singular vectors are those of the
        input-output correlation. One-hot inputs: Y itself.
        """
        return modes_of(self.y if self.one_hot else self.y @ linalg.pinv(self.x))

    def indices(self, names: str | Sequence[str] | None = None) -> IntArray:
        """Positions of items by name; None means all.

        Parameters
        ----------
        names : str or sequence of str, optional
            Item names, in the order wanted, without repeats.

        Returns
        -------
        array of int

        Raises
        ------
        ValueError
            If a name is unknown (the nearest one is suggested), repeated, or none is given.
        """
        return checks.item_positions(names, self.items)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, **options: object) -> "Task":
        """Read a table with one item per row, named by the index or the first column.

        Row numbers, which pandas gives to every table and keeps in any order, are not names.

        Parameters
        ----------
        frame : pandas.DataFrame
            Columns of numbers, truth values, or text that is numbers or yes and no.
        **options
            Fields of `tables.CleanOptions`: `long`, `label_column`, `drop`, `one_hot`, `decimal`,
            `thousands`, `drop_constant`, `center`, `standardize`.

        Returns
        -------
        Task
            One-hot inputs, one feature per remaining column; `notes` says what was done.

        Raises
        ------
        ValueError
            Listing every fault: names that are missing or repeated, columns that are not numeric,
            have missing or absurd values or are constant (a constant feature says nothing about
            items; zero columns included); or if an option is unknown.

        Examples
        --------
        >>> frame = pd.DataFrame({"name": ["dog", "cod", "pine"], "moves": ["yes", "yes", "no"]})
        >>> task = Task.from_frame(frame)
        >>> task.items, task.y.tolist(), task.notes
        (('dog', 'cod', 'pine'), [[1.0, 1.0, 0.0]], ("yes/no read as 1/0 in 'moves'",))
        """
        return cls(**_fields(tables.clean(frame, tables.options.cleaning(options))))

    @classmethod
    def from_csv(cls, path: str | PathLike[str], **options: object) -> "Task":
        """Read a file: a header line, then one item per row, its name in the first column.

        Separator, encoding and number format are recognised where one reading alone is possible;
        otherwise the error names the option that decides.

        Parameters
        ----------
        path : path-like
            A text file with cells separated by commas, semicolons, tabs or bars, or an Excel file
            (.xlsx; needs the excel extra).
        **options
            Fields of `tables.ReadOptions` (`sep`, `encoding`, `header`, `sheet`) and those that
            `from_frame` takes.

        Returns
        -------
        Task
            As `from_frame`.

        Raises
        ------
        ValueError
            If the file is empty, ragged or not text, and as `from_frame`; the path is named.
        FileNotFoundError
            If there is no such file.
        """
        reading, cleaning = tables.options.split(options)
        try:
            frame, notes = tables.read(path, reading)
            table = tables.clean(frame, cleaning)
            return cls(**_fields(table, notes))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _fields(table: "tables.Table", notes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a table holds, by the names that a task has for it."""
    return {
        "y": table.y,
        "items": table.items,
        "features": table.features,
        "notes": (*notes, *table.notes),
    }


def distinct(kind: str, names: Sequence[str] | None, count: int, stem: str) -> tuple[str, ...]:
    """Return names, all different; None: the stem with a number.

    Returns
    -------
    tuple of str

    Raises
    ------
    ValueError
        If there are too few or too many, one is empty, or one is repeated.
    """
    if names is None:
        return tuple(f"{stem}{index}" for index in range(count))
    if isinstance(names, str):
        raise ValueError(f"`{kind}` must be a list of {count} names, got one string {names!r}.")
    names = [str(name) for name in names]
    if len(names) != count:
        raise ValueError(f"`{kind}` must hold {count} names, got {len(names)}.")
    missing = [index for index, name in enumerate(names) if not name.strip()]
    if missing:
        raise ValueError(f"`{kind}` has no name at position {missing[0]} (counted from 0).")
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(
            f"`{kind}` must all differ; repeated: {', '.join(map(repr, repeated[:5]))}. "
            "Labels select rows of results, so every one must be unique."
        )
    return tuple(names)


def _check_unit(name: str, array: FloatArray, limit: float) -> None:
    """Refuse data in a unit in which computations overflow.

    Raises
    ------
    ValueError
        If no entry is of a size between 1 / limit and limit.
    """
    largest = float(np.abs(array).max())
    if largest and not 0.99 / limit <= largest <= 1.01 * limit:
        raise ValueError(
            f"the largest entry of `{name}` is {largest:.3g} in size; results are exact between "
            f"{1 / limit:g} and {limit:g}. Choose another unit: multiply `{name}` by a constant."
        )


def _identity(size: int) -> FloatArray:
    """Identity; a large one is a view of 2 n - 1 numbers: row k is the window with the 1 at k."""
    if size <= PLAIN_IDENTITY:
        return np.eye(size)
    row = np.zeros(2 * size - 1)
    row[size - 1] = 1.0
    return np.lib.stride_tricks.sliding_window_view(row, size)[::-1]
