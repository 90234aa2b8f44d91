"""What the ids of a byte-level tokenizer spell, and whether that is the text that was encoded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
"""Names under which tokenizers have the token that ends a text, the usual one first."""
AROUND = 12
"""Bytes shown on each side of a difference."""


@lru_cache(maxsize=1)
def _byte_of_symbol() -> dict[str, int]:
    """Return the GPT-2 table: printable bytes stand for themselves, others for 256, 257, ..."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in kept]
    return {chr(b): b for b in kept} | {chr(256 + i): b for i, b in enumerate(moved)}


def exact(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer without the truncation, padding and dropout that its file may store.

    Returns
    -------
    tokenizers.Tokenizer
        The one given if it has none of them, else a copy.
    """
    dropout = getattr(tokenizer.model, "dropout", None)
    if tokenizer.truncation is None and tokenizer.padding is None and not dropout:
        return tokenizer
    copy = type(tokenizer).from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    if dropout:
        copy.model.dropout = None
    return copy


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return one more than the largest id; ids below it may be without a token."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def special_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids of the special tokens, in order."""
    added = tokenizer.get_added_tokens_decoder()
    return tuple(sorted(index for index, token in added.items() if token.special))


def separator_id(tokenizer: Tokenizer, separator: str) -> int | None:
    """Return the id of the token between documents.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        The tokenizer that has the token.
    separator : str
        Its name; ``"auto"``: the one that ends texts, or the only special one; ``"none"``.

    Returns
    -------
    int or None
        None if there is none, or none is wanted.

    Raises
    ------
    ValueError
        If no special token has this name.
    """
    if separator == "none":
        return None
    added = tokenizer.get_added_tokens_decoder()
    known = {added[index].content: index for index in special_ids(tokenizer)}
    if separator == "auto":
        ends = [known[name] for name in ENDS if name in known]
        return ends[0] if ends else next(iter(known.values())) if len(known) == 1 else None
    if separator not in known:
        raise ValueError(
            f"`separator` must be 'auto', 'none' or a special token of the tokenizer "
            f"({', '.join(known) or 'it has none'}), got {separator!r}."
        )
    return known[separator]


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
    list of bytes or None, length `vocabulary_size`
        Concatenated over a text they give its UTF-8.

    Raises
    ------
    ValueError
        If it is not byte-level, or a token is not made of byte symbols.
    """
    if not any(_works_on_bytes(part) for part in (tokenizer.pre_tokenizer, tokenizer.normalizer)):
        raise ValueError(
            "`tokenizer` is not a byte-level BPE: nothing in its tokenizer.json turns text into "
            "bytes (ByteLevel). Structural classes are defined on bytes; take a model with such "
            "a tokenizer (GPT-2, GPT-NeoX and Pythia, Llama 3, Qwen, ...)."
        )
    table = _byte_of_symbol()
    added = tokenizer.get_added_tokens_decoder()
    pieces: list[bytes | None] = [None] * vocabulary_size(tokenizer)
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


def _works_on_bytes(part: object) -> bool:
    """Whether a pre-tokenizer or normalizer turns text into byte symbols."""
    return part is not None and b'"ByteLevel"' in part.__getstate__()


class Spelling:
    """What ids spell, special tokens by their names; make it once and check many texts."""

    def __init__(self, tokenizer: Tokenizer):
        self.pieces = token_bytes(tokenizer)
        self.normalizer = tokenizer.normalizer
        self.symbols = _works_on_bytes(self.normalizer)
        for index, token in tokenizer.get_added_tokens_decoder().items():
            self.pieces[index] = token.content.encode()

    def check(self, ids: Sequence[int], text: str, name: str) -> None:
        """Check that ids spell a text, up to the tokenizer's own normalisation.

        Raises
        ------
        ValueError
            With the first place where they do not.
        """
        spelled = b"".join([self.pieces[i] or b"" for i in ids])
        wanted = self.normalised(text)
        if spelled == wanted or self._normalises_to(spelled, wanted):
            return
        at = next(
            (k for k, (a, b) in enumerate(zip(spelled, wanted, strict=False)) if a != b),
            min(len(spelled), len(wanted)),
        )
        there, here = (part[max(0, at - AROUND) : at + AROUND] for part in (wanted, spelled))
        raise ValueError(
            f"`tokenizer` changes the text: at byte {at} {name} has {there!r} and its tokens "
            f"{here!r}. Characters without a token, added tokens that take the spaces beside "
            "them and prefix spaces do that. Use a tokenizer without them, or other text."
        )

    def normalised(self, text: str) -> bytes:
        """Return the bytes of a text as the tokenizer sees it."""
        if self.normalizer is None:
            return text.encode()
        seen = self.normalizer.normalize_str(text)
        table = _byte_of_symbol()
        return bytes(table[symbol] for symbol in seen) if self.symbols else seen.encode()

    def _normalises_to(self, spelled: bytes, wanted: bytes) -> bool:
        """Whether only the seams of added tokens, which are cut out first, differ."""
        try:
            return self.normalised(spelled.decode()) == wanted
        except UnicodeDecodeError:
            return False
