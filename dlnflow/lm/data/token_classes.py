"""Structural classes of tokens, as rules on bytes that hold for any byte-level BPE.

The classes are those of Lee et al. (2025), D.1.1; which tokens belong to them is fixed by `RULES`.
They are neither exclusive nor exhaustive. The class of a loss is the class of its target token.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow.lm.data.spelling import token_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LINE_BREAKS = frozenset("\n\r\t\v\f")
"""White space that lays out text."""
RULES_OF_TWO = frozenset("-=*_#~.`+/|\\")
"""Characters of which two in a row already format; other symbols need three."""
PAIRS = dict(zip("([{“‘«⟨「", ")]}”’»⟩」", strict=True))
"""Opening character -> the one that closes it."""
APOSTROPHE = "’"
CLASSES = ("word_part", "word_end", "formatting", "induction", "left_delimiter", "right_delimiter")
"""The six classes of the paper, in its order."""
WORD_START = "word_start"
"""A seventh, for comparison with Baker et al. (2025)."""
RULES = {
    "letter": "str.isalpha() or a combining mark (Mn, Mc, Me); no digit, underscore, apostrophe "
    "or hyphen. `cjk=False` takes out wide letters without spaces between words",
    "body": "the token without its leading spaces",
    "word_part": "body not empty, all letters, and the next character (in the next token) is a "
    "letter; also the first piece of a word",
    "word_end": "body all letters; no leading space, a letter before it, none after it",
    "formatting": "contains a line break or tab; or two or more spaces only; or body is three or "
    "more equal symbols, or two equal ones of - = * _ # ~ . ` + / | \\",
    "induction": "this id and the one before it were adjacent earlier in the same sequence",
    "left_delimiter": "body without letters and digits; a stack over its characters leaves one "
    "of ( [ { “ ‘ « ⟨ 「 open",
    "right_delimiter": "as left_delimiter, with a closer that nothing in the token opened; ’ "
    "after a letter is an apostrophe. Straight quotes, backticks, $, < and > count as neither",
    "word_start": "optional: body all letters, no letter before it, a letter after it",
    "special tokens": "no class; they end words and interrupt induction pairs",
    "shared characters": "bytes of a character that is split over tokens inherit whether it is a "
    "letter; formatting and delimiters need whole characters",
}
"""What each word of the rules means; docs/lm_text.md shows this table."""


@dataclass(frozen=True)
class Bigrams:
    """How often one id follows another in a text.

    Attributes
    ----------
    keys, probability : (n,) arrays
        first * vocab_size + second in increasing order, and p(second | first).
    vocab_size : int
        Number of ids.
    """

    keys: NDArray[np.int64] = field(repr=False)
    probability: NDArray[np.float64] = field(repr=False)
    vocab_size: int

    @classmethod
    def count(cls, ids: ArrayLike, vocab_size: int) -> Bigrams:
        """Count neighbours in a 1-D array of ids.

        Returns
        -------
        Bigrams
            Their conditional probabilities.
        """
        ids = np.asarray(ids, np.int64)
        keys, counts = np.unique(ids[:-1] * vocab_size + ids[1:], return_counts=True)
        firsts = np.bincount(ids[:-1], minlength=vocab_size)
        return cls(keys, counts / firsts[keys // vocab_size], vocab_size)

    def __call__(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return p(second | first), 0 for pairs that never occurred."""
        if len(self.keys) == 0:
            return np.zeros(np.shape(first))
        wanted = np.asarray(first, np.int64) * self.vocab_size + second
        at = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[at] == wanted, self.probability[at], 0.0)


@dataclass(frozen=True)
class Shapes:
    """Per-id tables; those of a token with incomplete characters are filled from its context.

    Attributes
    ----------
    special, partial : (V,) bool array
        Special or absent; holds bytes of a character that it shares with a neighbour.
    spaced : (V,) bool array
        Starts with a space.
    letters : (V,) bool array
        Without leading spaces it is not empty and all letters.
    first, last : (V,) bool array
        First and last character are letters.
    formatting : (V,) bool array
        Whether a token lays out text.
    left, right : (2, V) bool array
        Opens or closes a scope; row 1 holds if a letter stands before the token, where a leading
        ’ is an apostrophe.
    """

    special: NDArray[np.bool_]
    partial: NDArray[np.bool_]
    spaced: NDArray[np.bool_]
    letters: NDArray[np.bool_]
    first: NDArray[np.bool_]
    last: NDArray[np.bool_]
    formatting: NDArray[np.bool_]
    left: NDArray[np.bool_]
    right: NDArray[np.bool_]


class Vocabulary:
    """The byte tables of one tokenizer; make it once and classify many texts."""

    def __init__(self, tokenizer: Tokenizer):
        self.pieces = token_bytes(tokenizer)

    @lru_cache(maxsize=2)  # noqa: B019  (two small tables per vocabulary, freed with it)
    def shapes(self, cjk: bool) -> Shapes:
        """Return the per-id tables."""
        return shapes(self.pieces, cjk)


def classify(
    ids: ArrayLike,
    vocabulary: Vocabulary | Tokenizer,
    *,
    word_start: bool = False,
    cjk: bool = True,
    bigrams: Bigrams | None = None,
    common: float = 0.05,
) -> xr.DataArray:
    """Say which structural classes every token of some sequences belongs to.

    Parameters
    ----------
    ids : (n, T) or (T,) int array
        Token ids; rows are independent sequences.
    vocabulary : Vocabulary or tokenizers.Tokenizer
        Where the ids come from.
    word_start : bool
        Add the seventh class.
    cjk : bool
        Count letters of scripts without spaces between words as letters.
    bigrams : Bigrams, optional
        Leave out induction pairs that are common anyway, with p(second | first) > `common`.
    common : float
        See `bigrams`.

    Returns
    -------
    DataArray, dims (sequence, position, token_class), bool
        Membership by the rules of `RULES`.

    Raises
    ------
    ValueError
        If the sequences have unequal lengths or an id is not in the vocabulary.
    """
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary(vocabulary)
    rows = _checked(ids, len(vocabulary.pieces))
    words, rest = _from_neighbours(rows, vocabulary, cjk)
    induction = repeated_pairs(rows, vocabulary.shapes(cjk).special)
    if bigrams is not None:
        induction[:, 1:] &= bigrams(rows[:, :-1], rows[:, 1:]) <= common
    members = [words[0], words[1], rest[0], induction, rest[1], rest[2]]
    names = list(CLASSES)
    if word_start:
        members, names = [*members, words[2]], [*names, WORD_START]
    return xr.DataArray(
        np.stack(members, -1),
        dims=("sequence", "position", "token_class"),
        coords={"token_class": names},
        name="classes",
    )


def repeated_pairs(rows: NDArray[np.int64], special: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark k where (ids[k-1], ids[k]) was adjacent earlier in its row.

    Parameters
    ----------
    rows : (n, T) int array
        Token ids.
    special : (V,) bool array
        Ids that neither start nor complete a pair.

    Returns
    -------
    (n, T) bool array
        False at position 0. Overlaps count: in AAA the third A is marked.
    """
    found = np.zeros(rows.shape, bool)
    if rows.shape[1] < 3:
        return found
    keys = rows[:, :-1] * len(special) + rows[:, 1:]
    order = np.argsort(keys, axis=1, kind="stable")
    ranked = np.take_along_axis(keys, order, 1)
    again = np.zeros(keys.shape, bool)
    again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    np.put_along_axis(found[:, 1:], order, again, 1)
    unusable = special[rows]
    found[:, 1:] &= ~(unusable[:, 1:] | unusable[:, :-1])
    return found


def _checked(ids: ArrayLike, vocab_size: int) -> NDArray[np.int64]:
    """Return the ids as (n, T) int64."""
    try:
        rows = np.atleast_2d(np.asarray(ids))
    except ValueError as error:
        raise ValueError(
            "`ids` must be sequences of equal length; crop or classify them one by one."
        ) from error
    rows = rows if rows.size else rows.astype(np.int64)  # an empty list has no type
    if rows.ndim != 2 or rows.dtype.kind not in "iu":
        raise ValueError(f"`ids` must be (n, T) integers, got {rows.dtype} {rows.shape}.")
    if rows.size and (rows.min() < 0 or rows.max() >= vocab_size):
        raise ValueError(
            f"`ids` must be ids of the tokenizer, 0 to {vocab_size - 1}; got {rows.min()} to "
            f"{rows.max()}. Were they made by another tokenizer?"
        )
    return rows.astype(np.int64)


def _from_neighbours(
    rows: NDArray[np.int64], vocabulary: Vocabulary, cjk: bool
) -> tuple[tuple[NDArray[np.bool_], ...], tuple[NDArray[np.bool_], ...]]:
    """Return (word_part, word_end, word_start) and (formatting, left, right)."""
    t = vocabulary.shapes(cjk)
    letters, first, last = t.letters[rows], t.first[rows], t.last[rows]
    partial = t.partial[rows]
    begins = ends = solid = np.zeros(rows.shape, bool)
    if partial.any():
        begins, ends, solid = _shared(rows, partial, vocabulary, cjk, (letters, first, last))
    before, after = np.zeros_like(first), np.zeros_like(first)
    before[:, 1:], after[:, :-1] = last[:, :-1], first[:, 1:]
    left, right = (before & ~t.spaced[rows]) | begins, after | ends
    opens = np.where(before, t.left[1][rows], t.left[0][rows]) & ~solid
    closes = np.where(before, t.right[1][rows], t.right[0][rows]) & ~solid
    words = (letters & right, letters & left & ~right, letters & ~left & right)
    return words, (t.formatting[rows], opens, closes)


def _shared(
    rows: NDArray[np.int64],
    partial: NDArray[np.bool_],
    vocabulary: Vocabulary,
    cjk: bool,
    tables: tuple[NDArray[np.bool_], ...],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Correct `tables` where characters are split over tokens.

    Only runs of such tokens are decoded, all at once: 0xFF, which no UTF-8 text contains,
    separates the runs.

    Returns
    -------
    three (n, T) bool arrays
        Begins inside a character; ends inside one; contains a letter or digit.
    """
    row, column = np.nonzero(partial)
    pieces = [vocabulary.pieces[i] for i in rows[row, column]]
    new_run = np.ones(len(row), bool)
    new_run[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1] + 1)
    gaps = np.cumsum(new_run)
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    raw = b"".join((b"\xff" + p if new else p) for p, new in zip(pieces, new_run, strict=True))
    starts = np.cumsum(lengths) - lengths + gaps
    is_word, is_solid, is_start = _bytes_of_words(raw, cjk)
    spaces = np.fromiter((len(p) - len(p.lstrip(b" ")) for p in pieces), np.int64, len(pieces))
    others = np.concatenate([[0], np.cumsum(~is_word)])
    solids = np.concatenate([[0], np.cumsum(is_solid)])
    stops = starts + lengths
    letters, first, last = tables
    letters[row, column] = (others[stops] == others[starts + spaces]) & (lengths > spaces)
    first[row, column], last[row, column] = is_word[starts], is_word[stops - 1]
    begins, ends, solid = (np.zeros(rows.shape, bool) for _ in range(3))
    solid[row, column] = solids[stops] > solids[starts]
    begins[row, column] = ~is_start[starts]
    ends[row, column] = ~is_start[np.minimum(stops, len(raw) - 1)] & (stops < len(raw))
    return begins, ends, solid


def _bytes_of_words(raw: bytes, cjk: bool) -> tuple[NDArray[np.bool_], ...]:
    """Say of every byte: is its character a letter; a letter or digit; does it start there."""
    text = raw.decode("utf-8", "surrogateescape")
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    lone = (points >= 0xDC80) & (points <= 0xDCFF)
    width = 1 + (points >= 0x80).astype(int) + (points >= 0x800) + (points >= 0x10000)
    width[lone] = 1
    unique, inverse = np.unique(points, return_inverse=True)
    letter = np.array([is_letter(chr(p), cjk) for p in unique], bool)
    solid = letter | np.array([chr(p).isdigit() for p in unique], bool)
    start = np.zeros(len(raw), bool)
    start[np.cumsum(width) - width] = True
    return np.repeat(letter[inverse], width), np.repeat(solid[inverse], width), start


def shapes(pieces: list[bytes | None], cjk: bool) -> Shapes:
    """Fill the tables, one token at a time: about a second for 50,000 ids.

    Returns
    -------
    Shapes
        Shapes of all ids.
    """
    n = len(pieces)
    t = Shapes(*(np.zeros(n, bool) for _ in range(7)), *(np.zeros((2, n), bool) for _ in range(2)))
    for k, piece in enumerate(pieces):
        if not piece:
            t.special[k] = True
            continue
        text = piece.decode("utf-8", "surrogateescape")
        body = text.lstrip(" ")
        whole = not any("\udc80" <= c <= "\udcff" for c in text)
        t.partial[k] = not whole
        t.spaced[k] = text[0] == " "
        t.letters[k] = body != "" and all(is_letter(c, cjk) for c in body)
        t.first[k], t.last[k] = is_letter(text[0], cjk), is_letter(text[-1], cjk)
        t.formatting[k] = is_formatting(text, whole)
        if not any(is_letter(c, cjk) or c.isdigit() for c in body):
            t.left[0, k], t.right[0, k] = open_and_closed(body)
            cut = text[1:] if text[0] == APOSTROPHE else body
            t.left[1, k], t.right[1, k] = open_and_closed(cut)
    return t


def is_letter(character: str, cjk: bool = True) -> bool:
    """Say whether a character is part of a word: alphabetic, or a combining mark.

    With `cjk=False` wide characters of scripts that do not put spaces between words are not.

    Returns
    -------
    bool
        False for digits, underscores, apostrophes, hyphens and lone bytes.
    """
    kind = unicodedata.category(character)
    if not cjk and kind == "Lo" and unicodedata.east_asian_width(character) in "WF":
        return False
    return character.isalpha() or kind in ("Mn", "Mc", "Me")


def is_formatting(text: str, whole: bool = True) -> bool:
    """Say whether a token lays out text: line breaks, several spaces, a rule of equal symbols.

    Returns
    -------
    bool
        See rule 3 of `RULES`.
    """
    if LINE_BREAKS.intersection(text):
        return True
    body = text.lstrip(" ")
    if not whole or body == "":
        return whole and len(text) >= 2
    equal = len(set(body)) == 1 and not body[0].isalnum()
    return equal and (len(body) >= 3 or (len(body) == 2 and body[0] in RULES_OF_TWO))


def open_and_closed(body: str) -> tuple[bool, bool]:
    """Say whether a stack over the characters leaves an opener open, or meets a closer too many.

    Returns
    -------
    (bool, bool)
        (opens a scope, closes a scope) of the text around the token.
    """
    stack: list[str] = []
    closes = False
    for character in body:
        if character in PAIRS:
            stack.append(PAIRS[character])
        elif character in PAIRS.values():
            if stack and stack[-1] == character:
                stack.pop()
            else:
                closes = True
    return bool(stack), closes
