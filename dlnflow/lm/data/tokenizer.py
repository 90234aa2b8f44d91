"""Byte-level BPE: train one, load one, and turn a corpus into token ids that spell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.hashes import sha256_array
from dlnflow.checks import positive_integer
from dlnflow.lm.data import hub
from dlnflow.lm.data.corpus import Corpus
from dlnflow.lm.data.spelling import END_OF_TEXT, Spelling, exact, separator_id, vocabulary_size

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = (END_OF_TEXT, "<|padding|>")
"""Ids 0 and 1, as in the Pythia tokenizer."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")
"""A folder with a tokenizer has one of these."""


def train_bpe(corpus: Corpus, vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE like Pythia's (NFC, no prefix space) on a corpus.

    Parameters
    ----------
    corpus : Corpus
        Text to count.
    vocab_size : int
        Number of ids including 2 special tokens and 256 bytes.

    Returns
    -------
    tokenizers.Tokenizer
        Ids 0 and 1 are ``<|endoftext|>`` and ``<|padding|>``.

    Raises
    ------
    ValueError
        If `vocab_size` cannot hold the bytes.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if positive_integer("vocab_size", vocab_size) < 258:
        raise ValueError(
            f"`vocab_size` must be at least 258 (256 bytes, 2 special tokens), got {vocab_size}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.documents, trainer)
    return tokenizer


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Load a tokenizer from a ``tokenizer.json``, a folder that has one, or the hub.

    Parameters
    ----------
    source : str or path
        File, folder, or a model's name on the hub such as ``"EleutherAI/pythia-14m"``.

    Returns
    -------
    tokenizers.Tokenizer
        The tokenizer behind the model, without truncation, padding and dropout.

    Raises
    ------
    FileNotFoundError
        If `source` is a folder without a tokenizer, or no file and no possible name on the hub.
    ConnectionError
        If `source` is not a path and the hub cannot be reached.
    ValueError
        If the file is damaged or no tokenizer.
    """
    from tokenizers import Tokenizer

    path = Path(source)
    if path.is_dir() and not any((path / name).exists() for name in TOKENIZER_FILES):
        # transformers would make up an empty tokenizer from config.json
        raise FileNotFoundError(
            f"{source} has no tokenizer.json; copy that of the model there, or "
            "name another file or folder (`--tokenizer`)."
        )
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            return exact(Tokenizer.from_file(str(file)))
        except Exception as error:  # the library has no class of its own
            raise ValueError(
                f"{file} is no tokenizer.json, or damaged ({error}). Copy it again, "
                "or name another."
            ) from error
    if path.is_dir():
        return _from_folder(path)
    if path.is_absolute() or path.suffix == ".json" or len(path.parts) > 2:
        raise FileNotFoundError(f"there is no tokenizer {source}: it does not exist.")
    return _from_hub(str(source))


def _fetch(name: str, *, offline: bool) -> Tokenizer:
    """Let transformers find the tokenizer of a model; code that lies beside it is never run."""
    from transformers import AutoTokenizer

    options = {"trust_remote_code": False, "local_files_only": offline}
    found = getattr(AutoTokenizer.from_pretrained(name, **options), "backend_tokenizer", None)
    if found is None:
        raise ValueError("it is of a kind without tokenizer.json")
    return exact(found)


def _from_folder(path: Path) -> Tokenizer:
    """Build the tokenizer of a folder with the files of older models."""
    try:
        return _fetch(str(path), offline=True)
    except Exception as error:  # whatever damaged files lead to
        raise ValueError(
            f"the tokenizer in {path} cannot be read ({hub.first_line(error)}). Put a "
            "tokenizer.json there, or name one."
        ) from error


def _from_hub(name: str) -> Tokenizer:
    """Take the tokenizer of a model from the cache of earlier downloads, else from the hub."""
    try:
        return _fetch(name, offline=True)
    except (OSError, ValueError):
        pass  # not there yet
    try:
        hub.reach()
        return _fetch(name, offline=False)
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"the tokenizer of {name} is code of its own, which is never run. "
                "Name a tokenizer.json."
            ) from error
        raise ConnectionError(
            f"tokenizer {name!r} is no file or folder here, and the hub gave: "
            f"{hub.first_line(error)}. Without network pass the path of a tokenizer.json."
        ) from error


AT_ONCE = 1_000
"""Documents encoded at a time."""


@dataclass(frozen=True)
class Tokens:
    """A corpus as token ids, each document ended by the separator if there is one.

    Attributes
    ----------
    ids : (n,) int32 array
        Token ids.
    vocab_size : int
        One more than the largest id of the tokenizer.
    text_sha256, sha256 : str
        Hashes of the text and of the ids.
    """

    ids: NDArray[np.int32] = field(repr=False)
    vocab_size: int
    text_sha256: str

    @cached_property
    def sha256(self) -> str:
        """Hash of the ids."""
        return sha256_array(self.ids)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Occurrences of every id, shape (vocab_size,)."""
        return np.bincount(self.ids, minlength=self.vocab_size)

    def rows(self, n_rows: int, length: int, *, seed: int = 0) -> NDArray[np.int32]:
        """Return `n_rows` crops of `length` ids that do not overlap, in random order.

        Returns
        -------
        (n_rows, length) int32 array
            Ids of the rows.

        Raises
        ------
        ValueError
            If the corpus is too short.
        """
        chosen = self.row_numbers(n_rows, length, seed=seed)
        return self.ids[chosen[:, None] * length + np.arange(length)]

    def row_numbers(
        self, n_rows: int, length: int, *, seed: int = 0, among: NDArray[np.integer] | None = None
    ) -> NDArray[np.int64]:
        """Return the numbers k of the rows that `rows` draws, ids k length to (k + 1) length - 1.

        Parameters
        ----------
        n_rows, length, seed : int
            As in `rows`.
        among : (m,) int array, optional
            Draw from these numbers only.

        Returns
        -------
        (n_rows,) int array
            Different numbers, in random order.

        Raises
        ------
        ValueError
            If the corpus is too short.
        """
        available = len(self.ids) // length
        if n_rows > available:
            raise ValueError(
                f"{n_rows} rows (`rows`, here `n_rows`) of `length` {length} are more than the "
                f"text holds, which has {len(self.ids)} ids, or {available} rows. Use fewer or "
                "shorter ones, or more text."
            )
        numbers = np.arange(available) if among is None else np.asarray(among)
        return np.random.default_rng(seed).choice(numbers, n_rows, replace=False)


def encode(
    corpus: Corpus, tokenizer: Tokenizer, *, held_out: float = 0.08, separator: str = "auto"
) -> tuple[Tokens, Tokens]:
    """Encode a corpus and split it by documents into training and held-out ids.

    Parameters
    ----------
    corpus : Corpus
        Documents.
    tokenizer : tokenizers.Tokenizer
        Any byte-level tokenizer; its own special tokens at the ends of a text are left out.
    held_out : float
        Share of the documents that is set aside, drawn with a fixed seed; of a single document
        the end.
    separator : str
        Token after every document: the name of a special token; ``"auto"``, the one that ends
        texts if the tokenizer has it; ``"none"``, as in the files that Pythia was trained on.

    Returns
    -------
    (Tokens, Tokens)
        Training and held-out ids. They share no document, unless there is only one.

    Raises
    ------
    ValueError
        If the ids do not spell the text, or there is no such separator.
    """
    encoded = encode_documents(corpus.documents, tokenizer, separator=separator)
    size = vocabulary_size(tokenizer)
    return tuple(
        Tokens(np.concatenate([np.empty(0, np.int32), *part]), size, corpus.sha256)
        for part in _split(encoded, held_out)
    )


def _split(
    encoded: list[NDArray[np.int32]], held_out: float
) -> tuple[list[NDArray[np.int32]], list[NDArray[np.int32]]]:
    """Set a share of the documents aside, or the end of the only one."""
    if len(encoded) == 1:
        (ids,) = encoded
        start, end = np.split(ids, [len(ids) - round(held_out * len(ids))])
        return [start], [end]
    order = np.random.default_rng(0).permutation(len(encoded))
    aside = max(1, round(held_out * len(order))) if held_out > 0 else 0
    parts = order[aside:], order[:aside]
    training, others = ([encoded[i] for i in sorted(part)] for part in parts)
    return training, others


def encode_documents(
    documents: Sequence[str], tokenizer: Tokenizer, *, separator: str = "auto"
) -> list[NDArray[np.int32]]:
    """Encode texts, each followed by the separator.

    Returns
    -------
    list of (n,) int32 array
        Without the separator the bytes of their tokens are those of the normalised texts.

    Raises
    ------
    ValueError
        As `encode`.
    """
    end = separator_id(tokenizer, separator)
    ends = [] if end is None else [end]
    whole = exact(tokenizer)
    spelling = Spelling(whole)
    encoded = []
    for start in range(0, len(documents), AT_ONCE):  # encodings are far larger than ids
        part = documents[start : start + AT_ONCE]
        for k, one in enumerate(whole.encode_batch(part, add_special_tokens=False)):
            spelling.check(one.ids, part[k], f"document {start + k}")
            encoded.append(np.asarray(one.ids + ends, np.int32))
    return encoded


def split(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    rows: int,
    length: int,
    share: float = 0.08,
    separator: str = "auto",
) -> tuple[Tokens, Tokens]:
    """Set aside enough of a text for `rows` x `length` observed ids; the rest is for gradients.

    At least `share` of the ids are set aside. The border lies between two documents where the text
    has enough of them, else inside one, so a single file will do.

    Parameters
    ----------
    corpus : Corpus
        Documents; their order is drawn with a fixed seed.
    tokenizer : tokenizers.Tokenizer
        The tokenizer of the model.
    rows, length : int
        What will be observed; gradients need more than `length` ids, too.
    share : float
        Smallest share of the ids that is set aside.

    Returns
    -------
    (Tokens, Tokens)
        For gradients and for observed rows. They share no token of the text.

    Raises
    ------
    ValueError
        If the text is too short for both.
    """
    order = np.random.default_rng(0).permutation(len(corpus.documents))
    documents = [corpus.documents[i] for i in order if corpus.documents[i]]
    parts = encode_documents(documents, tokenizer, separator=separator)
    ids, ends = np.concatenate(parts), np.cumsum([len(p) for p in parts])
    needed, least = rows * length, length + 2
    wanted = max(needed, round(share * len(ids)))
    if len(ids) - wanted < least:
        raise ValueError(
            f"`text` {corpus.name} gives {len(ids)} ids; {rows} observed rows of {length} and at "
            f"least {least} ids for gradients do not fit. Give more text, or fewer or shorter rows."
        )
    border = int(ends[np.searchsorted(ends, wanted)])
    if len(ids) - border < max(least, (len(ids) - wanted) // 2):
        border = wanted  # a long document would take most of the text
    size, sha256 = vocabulary_size(tokenizer), corpus.sha256
    return Tokens(ids[border:], size, sha256), Tokens(ids[:border], size, sha256)
