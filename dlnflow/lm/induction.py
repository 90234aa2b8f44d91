"""Does a model copy from its context? Attention and losses on sequences that repeat themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks
from dlnflow.lm.data.batches import check_fits, token_ids
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.losses import token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


RISE = (0.1, 0.9)
"""Shares of the largest score between which a circuit forms."""
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
        No two sequences share an id (D.2 of the paper): the ``ceil(n_sequences / deals) * period``
        most frequent ids are dealt out. Else each u is drawn by frequency without replacement.
    deals : int
        How often the same ids are dealt out, for more sequences than the vocabulary has disjoint
        ones; the first ``ceil(n_sequences / deals)`` are one deal, and so on, the last one may be
        smaller. Leave out pairs of the same id then (`dlnflow.traces.groups` with
        exclude=("row", "token")).

    Returns
    -------
    (n_sequences, 2 * period) int64 array
        Token ids.

    Raises
    ------
    ValueError
        If the vocabulary has too few ids that occur, there are more deals than sequences, or an
        argument is out of range.

    Warns
    -----
    UserWarning
        If `deals` has no effect.
    """
    counts = _occurrences(counts, special)
    named = {"n_sequences": n_sequences, "period": period, "deals": deals}
    n_sequences, period, deals = (checks.positive_integer(*one) for one in named.items())
    if not checks.flag("disjoint", disjoint) and deals > 1:
        warnings.warn(f"`deals` {deals} has no effect with disjoint=False.", stacklevel=2)
        deals = 1
    each = -(-n_sequences // deals)
    if -(-n_sequences // each) != deals:
        raise ValueError(
            f"`deals` must leave a sequence for each of them, got {deals} for `n_sequences` "
            f"{n_sequences}."
        )
    needed = each * period if disjoint else period
    available = int(np.count_nonzero(counts))
    if needed > available:
        raise ValueError(
            f"{n_sequences} sequences (`n_sequences`, `rows` when sampling) of `period` {period} "
            f"need {needed} different ids that occur in the text; there are {available}. Use fewer "
            "or shorter sequences, or more text (in Python also more `deals`, or disjoint=False)."
        )
    rng = np.random.default_rng(checks.whole_number("seed", seed))
    if disjoint:
        frequent = np.argsort(-counts, kind="stable")[:needed]
        half = np.concatenate([rng.permutation(frequent) for _ in range(deals)])
        half = half.reshape(-1, period)[:n_sequences]
    else:
        draw = [
            rng.choice(len(counts), period, replace=False, p=counts / counts.sum())
            for _ in range(n_sequences)
        ]
        half = np.stack(draw)
    return np.concatenate([half, half], axis=1).astype(np.int64)


def dealt(
    counts: ArrayLike, n_sequences: int, *, period: int, special: tuple[int, ...], deal: int
) -> NDArray[np.int64]:
    """Return sequences u u as `repeated_sequences`, dealt out as often as the vocabulary needs.

    A deal has ``min(deal, ids // period)`` sequences without a common id. A vocabulary with fewer
    than `period` ids has shorter ones, of all its ids.

    Parameters
    ----------
    counts, n_sequences, period, special :
        As in `repeated_sequences`.
    deal : int
        Largest deal.

    Returns
    -------
    (n_sequences, 2 * p) int64 array
        Token ids, p at most `period`.

    Raises
    ------
    ValueError
        If fewer than two ids occur, of which no sequence can be made, or an argument is out of
        range.

    Warns
    -----
    UserWarning
        If a deal has fewer sequences than `deal` and than `n_sequences`, or they are shorter.
    """
    named = {"n_sequences": n_sequences, "period": period, "deal": deal}
    n_sequences, period, deal = (checks.positive_integer(*one) for one in named.items())
    known = np.count_nonzero(_occurrences(counts, special))
    if known < 2:
        raise ValueError(
            f"sequences that repeat themselves need at least 2 different ids that occur in the "
            f"text; there are {known} besides special ones. Take more or other text."
        )
    short = min(period, int(known))
    fits = int(known) // short
    deals = -(-n_sequences // min(deal, fits))
    if short < period or fits < min(deal, n_sequences):
        warnings.warn(
            f"the text has {known} different ids, enough for {fits} sequences of {short} without "
            f"a common id, so that {n_sequences} (`rows`) are dealt out {deals} times"
            + (f", with {short} ids in place of {period}." if short < period else "."),
            stacklevel=2,
        )
    return repeated_sequences(
        counts, n_sequences=n_sequences, period=short, special=special, deals=deals
    )


def _occurrences(counts: ArrayLike, special: tuple[int, ...]) -> NDArray[np.float64]:
    """Return how often every id occurs that may be drawn.

    Returns
    -------
    (V,) array

    Raises
    ------
    ValueError
        If `counts` are no list of numbers >= 0, or `special` no ids among them.
    """
    found = np.array(checks.nonnegative("counts", counts))
    if found.ndim != 1:
        raise ValueError(f"`counts` must be one number for each id, got shape {found.shape}.")
    if np.size(special):
        ids = token_ids(special, "`special` must be ids of special tokens")
        if ids.max() >= len(found):
            raise ValueError(
                f"`special` has id {ids.max()}, `counts` are of {len(found)} ids: those of another "
                "tokenizer. Give both from one (`special_ids`, `Tokens.counts`)."
            )
        found[ids] = 0
    return found


def repeating(sequences: ArrayLike) -> NDArray[np.int64]:
    """Return rows that repeat their first half, checked.

    Returns
    -------
    (n, 2 p) int64 array

    Raises
    ------
    ValueError
        If they are no token ids or do not repeat themselves, or p < 2.
    """
    rows = token_ids(sequences, "`sequences` must be token ids, (n, 2 p)")
    half = rows.shape[-1] // 2 if rows.ndim == 2 else 0
    if half < 2 or not np.array_equal(rows[:, :half], rows[:, half:]):
        raise ValueError(
            "`sequences` must be rows that repeat their first half, (n, 2 p) with p >= 2, as "
            f"repeated_sequences gives them; got shape {rows.shape}."
        )
    return rows.astype(np.int64)


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

    Raises
    ------
    ValueError
        If the sequences do not repeat themselves, or the model does not take them.
    """
    import torch

    sequences = repeating(sequences)
    check_fits("sequences", sequences, sequences.shape[1], model.config)
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

    Raises
    ------
    ValueError
        If steps do not increase or are not one for each value, or something is no number.
    """
    steps, values = checks.finite("steps", steps), checks.real_array("values", values)
    threshold = checks.real_number("threshold", threshold)
    if steps.ndim != 1 or steps.shape != values.shape or not (np.diff(steps) > 0).all():
        raise ValueError(
            f"`steps` must increase, one for each of `values`; got shapes {steps.shape} and "
            f"{values.shape}."
        )
    above = np.flatnonzero(values >= threshold)
    if len(above) == 0:
        return float("nan")
    k = above[0]
    if k == 0:
        return float(steps[0])
    share = (threshold - values[k - 1]) / (values[k] - values[k - 1])
    return float(steps[k - 1] + share * (steps[k] - steps[k - 1]))


def rise(steps: ArrayLike, values: ArrayLike) -> tuple[float, float]:
    """Return the steps between which a score goes from a tenth to nine tenths of its largest value.

    Of several times at which it passes a tenth the last one before nine tenths counts. A score that
    is never so low, since chance is more than a tenth of a circuit that has hardly formed, counts
    from its lowest value before the largest one: shares are then of the way from there.

    Parameters
    ----------
    steps, values : (T,) arrays
        A curve; values without a number are left out.

    Returns
    -------
    (float, float)
        In the unit of `steps`, by lines between checkpoints; NaN if there is no positive value.

    Raises
    ------
    ValueError
        As `crossing`.
    """
    crossing(steps, values, 0.0)  # for what it refuses
    known = np.isfinite(np.asarray(values, float))
    steps, score = np.asarray(steps)[known], np.asarray(values, float)[known]
    if not (score > 0).any():
        return float("nan"), float("nan")
    top = int(score.argmax())
    lowest = score[: top + 1].min()
    least = 0.0 if lowest < RISE[0] * score[top] else lowest
    low, high = (least + share * (score[top] - least) for share in RISE)
    end = np.flatnonzero(score >= high)[0]
    start = max(np.flatnonzero(score[: end + 1] < low), default=0)
    return crossing(steps[start:], score[start:], low), crossing(steps, score, high)


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use the attention that returns its weights, and put the model's own back."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
