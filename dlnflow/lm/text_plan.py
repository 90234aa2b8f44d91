"""Plans for checkpoints that were not trained here: the text is brought, and used twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlnflow.checks import one_of, positive_integer
from dlnflow.lm.data import corpus
from dlnflow.lm.data.batches import GradientData
from dlnflow.lm.data.corpus import Corpus
from dlnflow.lm.data.tokenizer import Tokens, encode
from dlnflow.lm.experiment import GRADIENT_TOKENS, OBSERVE, ROWS, Plan, watch
from dlnflow.lm.runs.checkpoints import Checkpoints, find
from dlnflow.lm.runs.train import Data, load_data

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LENGTH = 128
"""Ids in a row, if the model's context is not shorter."""


def plan_from_text(
    source: str | Path | Checkpoints, text: str | Path, *, tokenizer: str | Path | None = None,
    observe: str = "text", steps: ArrayLike | None = None, rows: int | None = None,
    length: int | None = None,
) -> Plan:  # fmt: skip
    """Describe the sampling of any checkpoints in the hub's layout, with text that you bring.

    Parameters
    ----------
    source : path, str or Checkpoints
        Folder with subfolders ``step<N>``, a model's name on the hub, or checkpoints.
    text : str or path
        Text file, folder, or built-in corpus. One part gives gradients, another what is observed;
        it should be what the model was trained on.
    tokenizer : str or path, optional
        A tokenizer.json; by default the one that lies with or beside the checkpoints.
    observe, steps, rows
        As in `plan`; `steps` are needed for the hub.
    length : int, optional
        Ids in a row; default 128, or the model's context if that is shorter.

    Returns
    -------
    Plan
        Gradients come from crops of the text, without repeated rows.

    Raises
    ------
    ValueError
        If rows are longer than the model's context, or the text is too short.
    """
    one_of("observe", observe, OBSERVE)
    ladder = source if isinstance(source, Checkpoints) else find(source, steps)
    longest = ladder.context()
    rows = positive_integer("rows", ROWS[observe] if rows is None else rows)
    length = positive_integer("length", min(LENGTH, longest) if length is None else length)
    if length > longest:
        raise ValueError(f"`length` {length} is more than the model's context, {longest}.")
    loaded = ladder.tokenizer(tokenizer)
    parts = split(corpus.load(text), loaded, rows=rows, length=length)
    gradient = GradientData(parts[0].ids, max(1, GRADIENT_TOKENS // length), length,
                            text_sha256=parts[0].text_sha256)  # fmt: skip
    observed, classes = watch(Data(loaded, *parts), observe, rows, length=length,
                              gradient=gradient, context=longest)  # fmt: skip
    return Plan(ladder, gradient, observed, classes)


def counts(
    source: str | Path, text: str | Path | None = None, tokenizer: str | Path | None = None,
    steps: ArrayLike | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """Count the ids of the text of a run of `train`, or of a text with a model's tokenizer.

    Returns
    -------
    (V,) int array
        Occurrences of every id, for `dlnflow.lm.induction.repeated_sequences`.
    """
    if text is None:
        return load_data(source).training.counts
    loaded = find(source, steps).tokenizer(tokenizer)
    return encode(corpus.load(text), loaded, held_out=0)[0].counts


def split(
    corpus: Corpus, tokenizer: Tokenizer, *, rows: int, length: int, share: float = 0.08
) -> tuple[Tokens, Tokens]:
    """Set aside enough of a text for `rows` x `length` observed ids; the rest is for gradients.

    At least `share` of the ids are set aside. The border lies between two documents where the text
    has enough of them, else inside one, so a single file will do.

    Parameters
    ----------
    corpus : Corpus
        Documents; their order is drawn with a fixed seed.
    tokenizer : tokenizers.Tokenizer
        The model's.
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
    one_each = [Corpus(corpus.name, (corpus.documents[i],)) for i in order]
    parts = [encode(one, tokenizer, held_out=0)[0].ids for one in one_each if one.n_characters]
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
    size, sha256 = tokenizer.get_vocab_size(), corpus.sha256
    return Tokens(ids[border:], size, sha256), Tokens(ids[:border], size, sha256)
