"""The data a network learns: items, their inputs and their features."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike

import numpy as np
import pandas as pd
from scipy import linalg

from dlnflow import checks
from dlnflow._support.typing import FloatArray, IntArray
from dlnflow.theory.modes import Modes, modes_of

WHITENING_RTOL = 1e-12
"""Inputs are whitened when X X^T = c I holds to this, relative to c."""


@dataclass(frozen=True, eq=False)
class Task:
    """Items with inputs x_i and features y_i; the loss of item i is 1/2 |y_i - W x_i|^2.

    Parameters
    ----------
    y : array, shape (d_out, N)
        Features; column i belongs to item i.
    x : array, shape (n_in, N), optional
        Inputs. Default: one-hot, the identity of size N.
    items : sequence of str, length N, optional
        Item names, all different. Default: item0, item1, ...
    features : sequence of str, length d_out, optional
        Feature names. Default: feature0, feature1, ...

    Raises
    ------
    ValueError
        If an array is not a finite matrix, if shapes or numbers of names disagree, if names are
        missing or repeated, if there is a single item, or if all features are zero.

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

    def __post_init__(self) -> None:
        y = checks.finite_matrix("y", self.y)
        n_items = y.shape[1]
        if n_items < 2:
            raise ValueError(
                "`y` has one item (column); influence of one item on another needs at least two. "
                "Items are columns of `y`: transpose a table with one item per row."
            )
        x = np.eye(n_items) if self.x is None else checks.finite_matrix("x", self.x)
        if x.shape[1] != n_items:
            raise ValueError(
                f"`x` must have one column per item: {n_items} in `y`, {x.shape[1]} in `x`."
            )
        if not np.any(y):
            raise ValueError("`y` is zero everywhere: there is nothing to learn.")
        if not np.any(y @ x.T):
            raise ValueError("`x` and `y` are uncorrelated: Y X^T = 0, there is nothing to learn.")
        y, x = y.copy(), x.copy()
        y.flags.writeable = x.flags.writeable = False
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "items", _names("items", self.items, n_items, "item"))
        object.__setattr__(self, "features", _names("features", self.features, len(y), "feature"))

    def __repr__(self) -> str:
        kind = "one-hot" if self.one_hot else f"{self.n_in}-dimensional"
        return f"Task({self.n_items} items, {self.n_out} features, {kind} inputs)"

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
        return self.x.shape[0] == self.x.shape[1] and bool(np.all(self.x == np.eye(self.n_in)))

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
    def from_frame(cls, frame: pd.DataFrame) -> "Task":
        """Read a table with one item per row: the index, or a first text column, names them.

        Parameters
        ----------
        frame : pandas.DataFrame
            First column item names (unless the index is of strings), other columns numeric
            features.

        Returns
        -------
        Task
            One-hot inputs, one feature per remaining column.

        Raises
        ------
        ValueError
            If names are missing or repeated, or a column is not numeric, has missing values or
            is constant (a constant feature says nothing about items; zero columns included).
        """
        if not isinstance(frame, pd.DataFrame) or frame.columns.nlevels + frame.index.nlevels > 2:
            raise ValueError("`frame` must be a pandas DataFrame with plain rows and columns.")
        if isinstance(frame.index, pd.RangeIndex):
            if frame.shape[1] < 2 or pd.api.types.is_numeric_dtype(frame.iloc[:, 0]):
                raise ValueError(
                    "the table needs item names, as its index or in a first column of text, and "
                    "at least one column of features."
                )
            frame = frame.set_index(frame.columns[0])
        frame = frame.apply(lambda column: column.infer_objects())
        _check_columns(frame)
        items = ["" if pd.isna(name) else str(name).strip() for name in frame.index]
        y = frame.to_numpy(dtype=np.float64).T
        return cls(y, items=items, features=[str(c) for c in frame.columns])

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> "Task":
        """Read a CSV file: a header line, then one item per row, its name in the first column.

        Parameters
        ----------
        path : path-like
            A comma-separated file in UTF-8.

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
        from dlnflow.tables.numeric import read_table

        try:
            return cls.from_frame(read_table(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _names(kind: str, names: Sequence[str] | None, count: int, stem: str) -> tuple[str, ...]:
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


def _check_columns(frame: pd.DataFrame) -> None:
    """Refuse features that are not numbers, have gaps or do not vary."""
    if frame.shape[1] == 0:
        raise ValueError("the table has no feature column.")
    for name, column in frame.items():
        if not pd.api.types.is_numeric_dtype(column):
            numeric = pd.to_numeric(column, errors="coerce")
            bad = column[numeric.isna()]
            example = f"; {bad.index[0]!r} has {bad.iloc[0]!r}" if len(bad) else ""
            raise ValueError(f"feature {name!r} is not numeric{example}.")
        values = column.to_numpy(dtype=np.float64)
        gaps = np.flatnonzero(~np.isfinite(values))
        if len(gaps):
            raise ValueError(
                f"feature {name!r} has no finite value for {frame.index[gaps[0]]!r}: the cell is "
                "empty, NaN or infinite. Fill it in or drop the column."
            )
        if len(values) > 1 and np.all(values == values[0]):
            raise ValueError(
                f"feature {name!r} is constant ({values[0]:g} for every item); drop the column."
            )
