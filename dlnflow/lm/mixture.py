"""Rows of a text, some of them a segment that repeats itself: what a run trains on."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dlnflow.lm._files import sha256_array

SEGMENT = (16, 64)
"""Shortest and longest segment that a repeated row repeats, unless told."""


def mixture(
    ids: NDArray[np.int32],
    n_rows: int,
    length: int,
    repeat_share: float,
    rng: np.random.Generator,
    *,
    segment: tuple[int, int] = SEGMENT,
) -> NDArray[np.int32]:
    """Return random crops; in the last `repeat_share` of the rows a segment fills the row.

    Parameters
    ----------
    ids : (n,) int array
        Text.
    n_rows, length : int
        Shape of the result.
    repeat_share : float
        Share of rows that are a segment of the text, repeated.
    rng : numpy.random.Generator
        Where the crops come from.
    segment : (int, int)
        Shortest and longest segment; half a row at most.

    Returns
    -------
    (n_rows, length) int32 array
        Rows.

    Raises
    ------
    ValueError
        If the text is shorter than a row.
    """
    if len(ids) <= length:
        raise ValueError(f"the text has {len(ids)} ids, rows need more than {length}.")
    starts = rng.integers(0, len(ids) - length, n_rows)
    rows = ids[starts[:, None] + np.arange(length)]
    low, high = (min(bound, length // 2) for bound in segment)
    for row in range(n_rows - round(repeat_share * n_rows), n_rows):
        period = rng.integers(low, high + 1)
        rows[row] = rows[row, np.arange(length) % period]
    return rows


@dataclass(frozen=True)
class GradientData:
    """What a sampler takes its gradients from: crops of a text, drawn anew at every step.

    Attributes
    ----------
    ids : (n,) int32 array
        Training ids; N of the objective is their number.
    rows, length : int
        Size of a minibatch; a row has `length` targets.
    repeat_share, segment : float, (int, int)
        As the model was trained: sampling a model on data without the repeats that it was
        trained on measures how its circuit decays.
    """

    ids: NDArray[np.int32] = field(repr=False)
    rows: int = 16
    length: int = 128
    repeat_share: float = 0.0
    segment: tuple[int, int] = SEGMENT

    @cached_property
    def sha256(self) -> str:
        """Hash of the ids."""
        return sha256_array(self.ids)

    def key(self) -> dict[str, object]:
        """Return what identifies this data in a manifest."""
        return {"sha256": self.sha256, "rows": self.rows, "length": self.length,
                "repeat_share": self.repeat_share, "segment": list(self.segment)}  # fmt: skip

    def batch(self, *words: int) -> NDArray[np.int32]:
        """Return the minibatch named by some numbers: seed, checkpoint, chain, step."""
        rng = np.random.default_rng(words)
        return mixture(
            self.ids, self.rows, self.length + 1, self.repeat_share, rng, segment=self.segment
        )


@dataclass(frozen=True)
class Observed:
    """Sequences whose losses are recorded; independent of the gradient data.

    Attributes
    ----------
    ids : (n, T) int array
        Token ids; each row gives T - 1 losses.
    rows : (n,) int array, optional
        Numbers of the rows in whatever they came from, stored with the traces.
    """

    ids: NDArray[np.int64] = field(repr=False)
    rows: NDArray[np.int64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        try:
            ids = np.ascontiguousarray(self.ids)
        except ValueError as error:
            raise ValueError("`ids` of observed sequences must have equal lengths; crop them, "
                             "or sample each length separately.") from error  # fmt: skip
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.shape[1] < 2 or len(ids) == 0:
            raise ValueError(
                f"`ids` of observed sequences must be (n, T >= 2) integers, got {ids.dtype} "
                f"{ids.shape}."
            )
        rows = np.arange(len(ids)) if self.rows is None else np.asarray(self.rows, np.int64)
        if rows.shape != (len(ids),) or len(np.unique(rows)) < len(rows):
            raise ValueError("`rows` must give every observed sequence a different number.")
        object.__setattr__(self, "ids", ids.astype(np.int64))
        object.__setattr__(self, "rows", rows)

    @cached_property
    def sha256(self) -> str:
        """Hash of ids and row numbers."""
        return sha256_array(np.column_stack([self.rows, self.ids]))

    def key(self) -> dict[str, object]:
        """Return what identifies these sequences in a manifest."""
        return {"sha256": self.sha256, "rows": len(self.ids), "length": self.ids.shape[1]}

    @property
    def n_targets(self) -> int:
        """Number of losses, n (T - 1)."""
        return self.ids.shape[0] * (self.ids.shape[1] - 1)

    def coords(self) -> dict[str, NDArray]:
        """Return row, position and token id of every target, row by row."""
        n, length = self.ids.shape
        row = np.repeat(self.rows, length - 1)
        position = np.tile(np.arange(1, length), n)
        item = np.char.add(np.char.add(row.astype(str), ":"), position.astype(str))
        token = self.ids[:, 1:].ravel()
        return {"item": item, "row": row, "position": position, "token": token}
