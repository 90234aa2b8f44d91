"""Rows of a text: what a run trains on, what a sampler takes gradients from, what is observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks
from dlnflow._support.hashes import sha256_array
from dlnflow.traces.membership import membership

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from dlnflow.lm.data.tokenizer import Tokens

SEGMENT = (16, 64)
"""Shortest and longest segment that a repeated row repeats, by default."""
P = 0x9E3779B97F4A7C15
"""An odd number, so that it has an inverse modulo 2^64."""
LEAST = 32
"""Ids of a row that is looked for; shorter ones occur in text that is independent, too."""
WINDOWS = 1 << 20
"""Windows hashed at a time."""


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
        Ids of the text.
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
        Ids of the rows.

    Raises
    ------
    ValueError
        If the text is shorter than a row.
    """
    starts, periods = cuts(len(ids), n_rows, length, repeat_share, rng, segment=segment)
    rows = ids[starts[:, None] + np.arange(length)]
    for row in np.flatnonzero(periods < length):
        rows[row] = rows[row, np.arange(length) % periods[row]]
    return rows


def cuts(
    n_ids: int,
    n_rows: int,
    length: int,
    repeat_share: float,
    rng: np.random.Generator,
    *,
    segment: tuple[int, int] = SEGMENT,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the rows of `mixture` begin in the text, and after how many ids they repeat.

    Row r is ids[start_r + (k mod period_r)], k = 0, ..., length - 1; crops have period `length`.

    Parameters
    ----------
    n_ids : int
        Length of the text.
    n_rows, length, repeat_share, rng, segment
        As in `mixture`.

    Returns
    -------
    (n_rows,) and (n_rows,) int arrays
        Starts and periods.

    Raises
    ------
    ValueError
        If the text is shorter than a row.
    """
    if n_ids <= length:
        raise ValueError(f"the text has {n_ids} ids, rows need more than {length}.")
    starts, periods = rng.integers(0, n_ids - length, n_rows), np.full(n_rows, length)
    low, high = (min(bound, length // 2) for bound in segment)
    for row in range(n_rows - round(repeat_share * n_rows), n_rows):
        periods[row] = rng.integers(low, high + 1)
    return starts, periods


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
    text_sha256 : str
        Hash of the text that the ids are of, recorded with the traces.
    """

    ids: NDArray[np.int32] = field(repr=False)
    rows: int = 16
    length: int = 128
    repeat_share: float = 0.0
    segment: tuple[int, int] = SEGMENT
    text_sha256: str = ""

    def __post_init__(self) -> None:
        ids = token_ids(self.ids, "`ids` of gradient data must be (n,) integers")
        if ids.ndim != 1:
            raise ValueError(
                f"`ids` of gradient data must be one text, shape (n,), got {ids.shape}."
            )
        object.__setattr__(self, "ids", ids.astype(np.int32, copy=False))
        for name in ("rows", "length"):
            object.__setattr__(self, name, checks.positive_integer(name, getattr(self, name)))
        share = checks.real_number("repeat_share", self.repeat_share)
        if not 0 <= share <= 1:
            raise ValueError(f"`repeat_share` must lie in [0, 1], got {share:g}.")
        try:
            low, high = (checks.positive_integer("segment", bound) for bound in self.segment)
        except (TypeError, ValueError):
            low, high = 1, 0
        if low > high:
            raise ValueError(
                "`segment` must be the shortest and the longest segment, two whole "
                f"numbers, got {self.segment!r}."
            )
        object.__setattr__(self, "segment", (low, high))

    @cached_property
    def sha256(self) -> str:
        """Hash of the ids."""
        return sha256_array(self.ids)

    def key(self) -> dict[str, object]:
        """Return what identifies this data in a manifest."""
        return {
            "sha256": self.sha256,
            "rows": self.rows,
            "length": self.length,
            "repeat_share": self.repeat_share,
            "segment": list(self.segment),
        }

    def batch(self, *words: int) -> NDArray[np.int32]:
        """Return the minibatch named by some numbers: seed, checkpoint, chain, step."""
        rng = np.random.default_rng(words)
        return mixture(
            self.ids, self.rows, self.length + 1, self.repeat_share, rng, segment=self.segment
        )

    def cuts(self, *words: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where the rows of that minibatch begin, and after how many ids they repeat."""
        size, rng = (self.rows, self.length + 1), np.random.default_rng(words)
        return cuts(len(self.ids), *size, self.repeat_share, rng, segment=self.segment)


@dataclass(frozen=True)
class Observed:
    """Sequences whose losses are recorded; independent of the gradient data.

    Attributes
    ----------
    ids : (n, T) int array
        Token ids; each row gives T - 1 losses.
    rows : (n,) int array, optional
        Numbers of the rows in whatever they came from, stored with the traces.
    classes : DataArray, dims (sequence, position, token_class), optional
        If given, sums over these classes are kept in place of the losses of tokens, see
        `dlnflow.traces.class_sums`.
    """

    ids: NDArray[np.int64] = field(repr=False)
    rows: NDArray[np.int64] | None = field(default=None, repr=False)
    classes: xr.DataArray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        wanted = "`ids` of observed sequences must be (n, T >= 2) integers"
        ids = np.ascontiguousarray(token_ids(self.ids, wanted))
        if ids.ndim != 2 or ids.shape[1] < 2:
            raise ValueError(f"{wanted}, got shape {ids.shape}.")
        rows = np.arange(len(ids)) if self.rows is None else np.asarray(self.rows, np.int64)
        if rows.shape != (len(ids),) or len(np.unique(rows)) < len(rows):
            raise ValueError("`rows` must give every observed sequence a different number.")
        object.__setattr__(self, "ids", ids.astype(np.int64))
        object.__setattr__(self, "rows", rows)
        if self.classes is not None:
            membership(self.classes, self.n_targets)

    @classmethod
    def held_out(
        cls,
        tokens: Tokens,
        n_rows: int,
        length: int,
        *,
        seed: int = 0,
        gradient: GradientData | None = None,
        score: Callable[[NDArray[np.integer]], NDArray] | None = None,
    ) -> Observed:
        """Draw crops of a text that do not overlap, and keep their numbers.

        Parameters
        ----------
        tokens : Tokens
            Row k is its ids k length to (k + 1) length - 1.
        n_rows, length, seed : int
            As in `Tokens.rows`.
        gradient : GradientData, optional
            Rows of 32 ids or more that occur in its text are not drawn.
        score : callable, optional
            From rows (n, length) to a number each: those of the largest number are taken, of equal
            ones the first, and nothing is drawn.

        Returns
        -------
        Observed
            With the numbers k as `rows`.

        Raises
        ------
        ValueError
            If there are not enough rows.
        """
        allowed = None
        n = len(tokens.ids) // checks.positive_integer("length", length)
        if gradient is not None and length >= LEAST and n >= n_rows:
            every = tokens.ids[: n * length].reshape(n, length)
            allowed = np.flatnonzero(~occurring(every, gradient.ids))
            if len(allowed) < n_rows:
                raise ValueError(
                    f"`rows` {n_rows}: of {n} held-out rows of {length} ids only {len(allowed)} do "
                    "not occur in the gradient data as well. Use fewer or longer rows, or more "
                    "text."
                )
        numbers = tokens.row_numbers(n_rows, length, seed=seed, among=allowed)
        if score is not None:
            allowed = np.arange(n) if allowed is None else allowed
            found = np.asarray(score(tokens.ids[: n * length].reshape(n, length)[allowed]))
            numbers = allowed[np.argsort(-found, kind="stable")[:n_rows]]
        return cls(tokens.ids[numbers[:, None] * length + np.arange(length)], numbers)

    @cached_property
    def sha256(self) -> str:
        """Hash of ids and row numbers."""
        return sha256_array(np.column_stack([self.rows, self.ids]))

    def key(self) -> dict[str, object]:
        """Return what identifies these sequences, and what is kept of them, in a manifest."""
        key = {"sha256": self.sha256, "rows": len(self.ids), "length": self.ids.shape[1]}
        if self.classes is None:
            return key
        return key | {"classes": self.names, "members_sha256": sha256_array(self.members)}

    @cached_property
    def members(self) -> NDArray[np.bool_]:
        """Which target is in which of the classes, (K, G)."""
        return membership(self.classes, self.n_targets)[0].astype(bool)

    @property
    def names(self) -> list[str]:
        """Names of the classes, none if the losses of tokens are kept."""
        return [] if self.classes is None else [str(n) for n in self.classes.token_class.values]

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


def token_ids(ids: ArrayLike, wanted: str) -> NDArray[np.integer]:
    """Check token ids.

    Returns
    -------
    int array
        The ids.

    Raises
    ------
    ValueError
        With what is wanted, if they are no token ids or rows have several lengths.
    """
    try:
        array = np.asarray(ids)
    except ValueError as error:
        raise ValueError(
            f"{wanted}; sequences must have equal lengths: crop them, or sample each "
            "length separately."
        ) from error
    if array.dtype.kind not in "iu" or array.size == 0:
        raise ValueError(f"{wanted}, got {array.dtype} {array.shape}.")
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise ValueError(f"{wanted} from 0 to 2^31 - 1, got {array.min()} to {array.max()}.")
    return array


def check_fits(name: str, ids: NDArray[np.integer], inputs: int, config: PretrainedConfig) -> None:
    """Check that a model has these ids, and takes so many inputs at a time.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if ids.size and ids.max() >= config.vocab_size:
        raise ValueError(
            f"`{name}` has id {ids.max()}, the model {config.vocab_size} ids: tokenizer and model "
            "vocabulary disagree."
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and inputs > longest:
        raise ValueError(f"`{name}` has rows of {inputs} inputs, the model takes {longest}.")


def occurring(rows: NDArray[np.integer], ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Say which rows are a contiguous stretch of a text, by a hash of all its windows.

    h(w) = sum_j w_j p^j mod 2^64,  of the window at i:  p^-i (P_{i+T} - P_i),
    P_i = sum_{k<i} w_k p^k

    Parameters
    ----------
    rows : (n, T) int array
        Ids of the rows.
    ids : (N,) int array
        Ids of the text.

    Returns
    -------
    (n,) bool array
        True where a row occurs; every hit is compared in full.
    """
    n, length = rows.shape
    found = np.zeros(n, bool)
    hashes, which = np.unique([_hashes(row, length)[0] for row in rows], return_inverse=True)
    for start in range(0, len(ids) - length + 1, WINDOWS):
        part = ids[start : start + WINDOWS + length - 1]
        windows = _hashes(part, length)
        at = np.minimum(np.searchsorted(hashes, windows), len(hashes) - 1)
        places = np.flatnonzero(hashes[at] == windows)
        # one place of each is enough
        for k, first in zip(*np.unique(at[places], return_index=True), strict=True):
            window = part[places[first] : places[first] + length]
            found |= (which == k) & (rows == window).all(axis=1)
    return found


def _hashes(ids: NDArray[np.integer], length: int) -> NDArray[np.uint64]:
    """Return the hash of every window; sums and products are modulo 2^64."""
    powers = np.cumprod(np.full(len(ids), P, np.uint64))
    inverse = np.cumprod(np.full(len(ids), pow(P, -1, 1 << 64), np.uint64))
    sums = np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * powers)
    windows = sums[length - 1 :].copy()
    windows[1:] -= sums[: len(ids) - length]
    return windows * inverse[: len(windows)]
