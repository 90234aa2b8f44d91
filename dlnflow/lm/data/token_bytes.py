"""What every token of a byte-level BPE looks like on its own, as tables over the vocabulary."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LINE_BREAKS = frozenset("\n\r\t\v\f")
"""White space that lays out text."""
RULES_OF_TWO = frozenset("-=*_#~.`+/|\\")
"""Characters of which two in a row already format; other symbols need three."""
PAIRS = dict(zip("([{“‘«⟨「", ")]}”’»⟩」", strict=True))
"""Opening character -> the one that closes it."""
APOSTROPHE = "’"


@lru_cache(maxsize=1)
def _byte_of_symbol() -> dict[str, int]:
    """Return the GPT-2 table: printable bytes stand for themselves, others for 256, 257, ..."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in kept]
    return {chr(b): b for b in kept} | {chr(256 + i): b for i, b in enumerate(moved)}


def token_bytes(tokenizer: Tokenizer) -> list[bytes | None]:
    """Return the bytes of every id; None for special tokens and ids without a token.

    Added tokens that are not special (Pythia's runs of spaces) are stored as literal text, all
    others as symbols of the GPT-2 byte table.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Any byte-level BPE.

    Returns
    -------
    list of bytes or None, length vocab_size
        Concatenated over a text they give its UTF-8.

    Raises
    ------
    ValueError
        If a token is not made of byte symbols, so the tokenizer is not a byte-level BPE.
    """
    table = _byte_of_symbol()
    added = tokenizer.get_added_tokens_decoder()
    pieces: list[bytes | None] = [None] * tokenizer.get_vocab_size()
    for token, index in tokenizer.get_vocab().items():
        if index in added:
            pieces[index] = None if added[index].special else added[index].content.encode()
            continue
        try:
            pieces[index] = bytes(table[symbol] for symbol in token)
        except KeyError as error:
            raise ValueError(
                f"`tokenizer` is not a byte-level BPE: token {index} {token!r} has the symbol "
                f"{error.args[0]!r}. Structural classes are defined on bytes."
            ) from error
    return pieces


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
        Lays out text.
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


def shapes(pieces: list[bytes | None], cjk: bool) -> Shapes:
    """Fill the tables, one token at a time: about a second for 50,000 ids.

    Returns
    -------
    Shapes
        Of all ids.
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
