"""The page of a language model: the tokens of a store, and what they do to each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dlnflow import lm
from dlnflow.explore.page import write_page


def of_language_model(
    folder: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    done: Callable[[int, int], None] = lambda k, n: None,
) -> dict[str, Any]:
    """Write the explorer page of a store.

    Parameters
    ----------
    folder : path or str
        The checkpoints, or their name on the hub; read for the tokenizer only.
    store : path
        Made by `dlnflow lm sample`.
    out : path
        The page; it appears complete or not at all.
    tokenizer : str or path, optional
        A tokenizer.json that lies neither with nor beside the checkpoints.
    done : callable
        Gets the number of finished checkpoints and that of all.

    Returns
    -------
    dict
        As `write_page` returns it.

    Raises
    ------
    ValueError
        If the store holds no finished sample, or ids that the tokenizer does not have.
    """
    traces, classes = lm.experiment.read(folder, store)
    if tokenizer is None:
        local = None if Path(folder).is_dir() else traces.time.values
        loaded = lm.checkpoints.find(folder, local).tokenizer()
    else:
        loaded = lm.tokenizer.load_tokenizer(tokenizer)
    pieces = lm.spelling.Spelling(loaded).pieces
    ids = np.asarray(traces.token.values, dtype=np.int64)
    if ids.max() >= len(pieces):
        raise ValueError(
            f"`store` has the token id {ids.max()}, the tokenizer of {folder} only "
            f"{len(pieces)}; name the one that the text was encoded with (`--tokenizer`)."
        )
    words = [spelled(pieces[i]) for i in ids]
    title = f"{Path(folder).name}: {Path(store).name}"
    exclude = lm.experiment.left_out(classes)
    return write_page(traces, classes, words, out, title=title, exclude=exclude, done=done)


def spelled(piece: bytes | None) -> str:
    r"""Return the text of a token; bytes of a character split over tokens as \xNN."""
    return "" if piece is None else piece.decode("utf-8", errors="backslashreplace")
