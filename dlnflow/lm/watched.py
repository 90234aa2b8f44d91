"""What is observed of a language model: held-out text or repeated sequences, and their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow import lm

if TYPE_CHECKING:
    from dlnflow.lm.data.batches import GradientData, Observed
    from dlnflow.lm.runs.train import Data

REPEATS = ("repeated", "other")
"""Classes of the tokens of a sequence u u: second and first half."""
DEAL = 16
"""Most repeated sequences without a common id; more of them use the same ids again."""
DELIMITERS = ["left_delimiter", "right_delimiter"]
"""Classes that the rows of `observe` "delimiters" are rich in."""


def watch(
    data: Data,
    observe: str,
    rows: int,
    *,
    length: int,
    gradient: GradientData,
    context: int | None = None,
) -> tuple[Observed, xr.DataArray]:
    """Return what is observed, and the classes of its tokens.

    Parameters
    ----------
    data : Data
        Rows are held-out ones; ids are counted in the training part.
    observe, rows : str, int
        As in `dlnflow.lm.experiment.plan`.
    length : int
        Ids in a row of text.
    gradient : GradientData
        Rows that occur in its text as well are left out.
    context : int, optional
        Inputs that the model takes, which bounds the sequences u u; by default `length`.

    Returns
    -------
    (Observed, DataArray)
        Classes without a single target are left out.

    Raises
    ------
    ValueError
        If the text is too short, has no token of any class, too few rows with delimiters, or
        fewer than two ids to repeat.
    """
    if observe in ("text", "delimiters"):
        vocabulary = lm.token_classes.Vocabulary(data.tokenizer)

        def delimiters(ids: NDArray[np.integer]) -> NDArray[np.int64]:
            found = lm.classify(ids, vocabulary).sel(token_class=DELIMITERS)
            return found.isel(position=slice(1, None)).sum(("position", "token_class")).values

        score = delimiters if observe == "delimiters" else None
        observed = lm.Observed.held_out(data.held_out, rows, length, gradient=gradient, score=score)
        if score is not None and not (found := delimiters(observed.ids)).all():
            raise ValueError(
                f"`rows` {rows}: only {np.count_nonzero(found)} held-out rows have a delimiter to "
                "be observed. Use fewer rows, other text, or observe 'text'."
            )
        return observed, _present(lm.classify(observed.ids, vocabulary))
    # the last id is a target only
    period = min(lm.induction.PERIOD, ((length if context is None else context) + 1) // 2)
    special = lm.spelling.special_ids(data.tokenizer)
    counts = data.training.counts
    ids = lm.induction.dealt(counts, rows, period=period, special=special, deal=DEAL)
    observed = lm.Observed(ids)
    return observed, halves(observed)


def halves(observed: Observed) -> xr.DataArray:
    """Return the classes repeated and other of sequences u u."""
    period = observed.ids.shape[1] // 2
    position = np.broadcast_to(np.arange(observed.ids.shape[1]), observed.ids.shape)
    # the first token of the repeat cannot be foreseen
    members = np.stack([position > period, (position < period) & (position > 0)], axis=-1)
    return xr.DataArray(
        members, dims=("sequence", "position", "token_class"), coords={"token_class": list(REPEATS)}
    )


def _present(classes: xr.DataArray) -> xr.DataArray:
    """Leave out classes without a single target; there must be one."""
    some = classes.isel(position=slice(1, None)).any(("sequence", "position"))
    if not some.any():
        raise ValueError(
            "no token of the observed rows is in a class (word parts, formatting and "
            "so on); take more `rows`, or other text."
        )
    return classes.sel(token_class=classes.token_class[some.values])
