"""Does a model copy from its context? Attention and losses on sequences that repeat themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.losses import token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


PERIOD = 24
"""Ids of u in repeated sequences u u, unless the model's context is shorter than 2 u."""


def repeated_sequences(
    counts: ArrayLike,
    *,
    n_sequences: int = 16,
    period: int = PERIOD,
    seed: int = 0,
    special: tuple[int, ...] = (),
    disjoint: bool = True,
    deals: int = 1,
) -> NDArray[np.int64]:
    """Return sequences u u whose second half repeats the first; u is random.

    Ids come from the most frequent ones: a model has learned their embeddings long before it
    copies, and rare ids would have losses far above ln(vocabulary).

    Parameters
    ----------
    counts : (V,) int array
        Occurrences of every id in the training text (`Tokens.counts`).
    n_sequences, period : int
        Number of sequences, and length of u.
    seed : int
        Seed of the draw.
    special : tuple of int
        Ids never drawn, those of the tokenizer's special tokens
        (`dlnflow.lm.data.spelling.special_ids`).
    disjoint : bool
        No two sequences share an id (D.2 of the paper): the ``n_sequences / deals * period`` most
        frequent ids are dealt out. Else each u is drawn by frequency without replacement.
    deals : int
        How often the same ids are dealt out, for more sequences than the vocabulary has disjoint
        ones; the first ``n_sequences / deals`` are one deal, and so on. Leave out pairs of the
        same id then (`dlnflow.traces.groups` with exclude=("row", "token")).

    Returns
    -------
    (n_sequences, 2 * period) int64 array
        Token ids.

    Raises
    ------
    ValueError
        If the vocabulary has too few ids that occur, or deals are not of equal size.
    """
    if deals < 1 or n_sequences % deals:
        raise ValueError(
            f"`n_sequences` must be a multiple of `deals`, got {n_sequences} and {deals}."
        )
    counts = np.array(counts, dtype=np.float64)
    counts[list(special)] = 0
    needed = n_sequences // deals * period if disjoint else period
    available = int(np.count_nonzero(counts))
    if needed > available:
        raise ValueError(
            f"{n_sequences} sequences (`n_sequences`, `rows` when sampling) of `period` {period} "
            f"need {needed} different ids that occur in the text; there are {available}. Use fewer "
            "or shorter sequences, or more text (in Python also more `deals`, or disjoint=False)."
        )
    rng = np.random.default_rng(seed)
    if disjoint:
        frequent = np.argsort(-counts, kind="stable")[:needed]
        half = np.concatenate([rng.permutation(frequent) for _ in range(deals)])
        half = half.reshape(n_sequences, period)
    else:
        draw = [
            rng.choice(len(counts), period, replace=False, p=counts / counts.sum())
            for _ in range(n_sequences)
        ]
        half = np.stack(draw)
    return np.concatenate([half, half], axis=1).astype(np.int64)


def scores(model: PreTrainedModel, sequences: NDArray[np.int64]) -> xr.Dataset:
    """Measure copying on sequences u u of period p, at queries t in the second half.

        induction[layer, head] = mean attention from t to t - p + 1, where the earlier copy goes on
        previous[layer, head]  = mean attention from t to t - 1
        loss[half]             = mean loss of the targets in the first and second half, nats

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model in evaluation mode.
    sequences : (n, 2 p) int array
        From `repeated_sequences`.

    Returns
    -------
    Dataset
        With dims layer, head and half. All NaN but for the losses if a loss is not finite: what
        attention such weights give means nothing.
    """
    import torch

    ids = torch.as_tensor(sequences, device=model.device)
    period = ids.shape[1] // 2
    with torch.inference_mode(), plain_attention(model):
        attention = model(ids, output_attentions=True, use_cache=False).attentions
        losses = token_losses(model, ids)
    # the last query, 2 p - 1, is left out: nothing follows it in the repeat
    queries = torch.arange(period, 2 * period - 1, device=ids.device)
    at = torch.stack([a[:, :, queries].float() for a in attention])  # (layer, n, head, query, key)

    usable = bool(losses.isfinite().all())

    def looked_back(distance: int) -> NDArray[np.float64]:
        keys = (queries - distance).view(1, 1, 1, -1, 1)
        keys = keys.expand(*at.shape[:4], 1)
        found = at.gather(-1, keys).mean((1, 3, 4)).double().cpu().numpy()
        return found if usable else np.full_like(found, np.nan)

    halves = [losses[:, : period - 1].mean(), losses[:, period:].mean()]
    return xr.Dataset(
        {
            "induction": (("layer", "head"), looked_back(period - 1)),
            "previous": (("layer", "head"), looked_back(1)),
            "loss": ("half", [float(h) for h in halves]),
        },
        coords={"half": ["first", "second"]},
    )


def measure(
    checkpoints: Checkpoints, sequences: NDArray[np.int64], *, device: str = "cpu"
) -> xr.Dataset:
    """Measure `scores` at every checkpoint.

    Returns
    -------
    Dataset
        As `scores`, with leading dim time, and ``layer_induction`` (time, layer): the score summed
        over the heads of a layer, since several heads may share the work. Warns of checkpoints
        with losses that are not finite.
    """
    parts = [scores(checkpoints.load(int(s), device=device), sequences) for s in checkpoints.steps]
    data = xr.concat(parts, dim=xr.Variable("time", checkpoints.steps))
    data["layer_induction"] = data.induction.sum("head", skipna=False)
    broken = checkpoints.steps[~np.isfinite(data.loss.values).all(1)].tolist()
    if broken:
        warnings.warn(
            f"losses at steps {broken} are not finite: their weights are damaged or training "
            "diverged, so there is no score of them",
            RuntimeWarning,
            stacklevel=2,
        )
    data.attrs["sequences"] = f"{sequences.shape[0]} of period {sequences.shape[1] // 2}"
    return data


def crossing(steps: ArrayLike, values: ArrayLike, threshold: float) -> float:
    """Return the step at which a curve first reaches a threshold, linear between checkpoints.

    Parameters
    ----------
    steps, values : (T,) arrays
        A curve.
    threshold : float
        Level that is crossed.

    Returns
    -------
    float
        In the unit of `steps`; NaN if it is never reached.
    """
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    above = np.flatnonzero(values >= threshold)
    if len(above) == 0:
        return float("nan")
    k = above[0]
    if k == 0:
        return float(steps[0])
    share = (threshold - values[k - 1]) / (values[k] - values[k - 1])
    return float(steps[k - 1] + share * (steps[k] - steps[k - 1]))


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use the attention that returns its weights, and put the model's own back."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
