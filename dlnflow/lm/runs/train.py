"""Train a small Pythia: a run is a function of its settings, also after being killed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import atomic_path, write_atomic, write_json
from dlnflow.lm.data import corpus as corpora
from dlnflow.lm.data.batches import mixture
from dlnflow.lm.data.tokenizer import Tokens, encode, load_tokenizer, train_bpe
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.device import usable_device
from dlnflow.lm.runs.folder import AGAIN, check_settings, claim, read_record, spelled
from dlnflow.lm.runs.model import Settings
from dlnflow.lm.runs.pretrained import first_line
from dlnflow.lm.runs.state import State, mark

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Weigh = Callable[[int, NDArray[np.int32]], NDArray[np.float32]]
"""(step, rows (n_rows, context + 1)) -> weight of every row's loss."""
PARTS = ("training", "held_out")
DATA_AGAIN = AGAIN.replace("it", "data.json", 1)
"""The way out if one of the files that `prepare` wrote is damaged."""


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads: its tokenizer, training ids and held-out ids."""

    tokenizer: Tokenizer
    training: Tokens
    held_out: Tokens


def prepare(settings: Settings, out: str | Path, *, tokenizer: Tokenizer | None = None) -> Data:
    """Read the corpus, train or take the tokenizer, encode; keep the result in `out`.

    Parameters
    ----------
    settings : Settings
        Names the corpus and the vocabulary.
    out : path
        Folder of the run.
    tokenizer : tokenizers.Tokenizer, optional
        Use this instead of training one.

    Returns
    -------
    Data
        The same for every call with the same folder.

    Raises
    ------
    ValueError
        If the tokenizer has more ids than the model, the text yields fewer than `vocab_size`, or
        `out` was prepared with another corpus or tokenizer.
    """
    out = Path(out)
    if (out / "data.json").exists():
        _same(settings, out, tokenizer)
        return load_data(out)
    text = corpora.load_or_stream(settings.corpus, settings.documents)
    given, tokenizer = tokenizer, tokenizer or train_bpe(text, settings.vocab_size)
    size = tokenizer.get_vocab_size()
    if size > settings.vocab_size:
        raise ValueError(f"`tokenizer` has {size} ids, more than `vocab_size` = "
                         f"{settings.vocab_size} of the model.")  # fmt: skip
    if given is None and size < settings.vocab_size:
        raise ValueError(f"`vocab_size` {settings.vocab_size}: the text yields only {size} ids. "
                         f"Use `vocab_size={size}`, or more text.")  # fmt: skip
    parts = encode(text, tokenizer)
    write_atomic(out / "tokenizer.json", lambda p: tokenizer.save(str(p)))
    for name, part in zip(PARTS, parts, strict=True):
        with atomic_path(out / f"{name}.npy") as path, open(path, "wb") as file:
            np.save(file, part.ids)
    hashes = {"training": parts[0].sha256, "held_out": parts[1].sha256,
              "tokenizer": spelled(tokenizer)}  # fmt: skip
    write_json(out / "data.json",
               {"corpus": settings.corpus, "text_sha256": text.sha256, **hashes})  # fmt: skip
    return load_data(out)


def _same(settings: Settings, out: Path, tokenizer: Tokenizer | None) -> None:
    """Check that data prepared earlier are those that are asked for."""
    there = read_record(out / "data.json", ("corpus",))["corpus"]
    if there != settings.corpus:
        raise ValueError(f"`out` {out} holds the data of corpus {there!r}, not of "
                         f"{settings.corpus!r}. Use another folder.")  # fmt: skip
    if tokenizer is not None and spelled(tokenizer) != spelled(load_tokenizer(out)):
        raise ValueError(f"`out` {out} was prepared with another tokenizer, its tokenizer.json. "
                         "Use another folder, or that tokenizer.")  # fmt: skip


def load_data(out: str | Path) -> Data:
    """Read back what `prepare` wrote.

    Returns
    -------
    Data
        Tokenizer and ids.

    Raises
    ------
    FileNotFoundError
        If `out` holds no prepared data.
    ValueError
        If a file is damaged, or not the one whose hash was written down.
    """
    out = Path(out)
    if not (out / "data.json").exists():
        found = f"{out} holds no data (data.json)" if out.is_dir() else f"there is no folder {out}"
        raise FileNotFoundError(
            f"{found}; `dlnflow lm train` makes runs. For checkpoints from elsewhere, the hub too, "
            "give a text: `--text` (in Python lm.text_plan.plan_from_text)."
        )
    known = read_record(out / "data.json", ("text_sha256", *PARTS))
    tokenizer = load_tokenizer(out)
    if known.get("tokenizer", spelled(tokenizer)) != spelled(tokenizer):
        raise ValueError(f"{out / 'tokenizer.json'} is not the one that the data were made with. "
                         f"{DATA_AGAIN}")  # fmt: skip
    size = tokenizer.get_vocab_size()
    parts = (_ids(out / f"{n}.npy", known[n], size, known["text_sha256"]) for n in PARTS)
    return Data(tokenizer, *parts)


def _ids(path: Path, sha256: str, vocab_size: int, text_sha256: str) -> Tokens:
    """Read ids and compare their hash."""
    try:
        tokens = Tokens(np.load(path), vocab_size, text_sha256)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}). {DATA_AGAIN}") from error
    if tokens.sha256 != sha256:
        raise ValueError(f"{path} is damaged or was replaced: data.json has another sha256. "
                         f"{DATA_AGAIN}")  # fmt: skip
    return tokens


def batch(settings: Settings, tokens: Tokens, step: int) -> NDArray[np.int32]:
    """Return the rows of one step, a function of the seed and the step alone.

    Parameters
    ----------
    settings : Settings
        Seed, sizes and the share of repeated rows.
    tokens : Tokens
        Training ids.
    step : int
        Optimiser step, from 0.

    Returns
    -------
    (rows * accumulate, context + 1) int32 array
        `context` inputs and the token after each. Random crops; in the last
        `repeat_share` of the rows a segment of the text is
        repeated to fill the row.
    """
    rng = np.random.default_rng((settings.seed, step))
    n_rows = settings.rows * settings.accumulate
    return mixture(
        tokens.ids, n_rows, settings.context + 1, settings.repeat_share, rng,
        segment=(settings.segment_min, settings.segment_max),
    )  # fmt: skip


def learning_rate(settings: Settings, step: int) -> float:
    """Return the step size: linear warm-up, then cosine to `final_lr` at the horizon."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = min(1.0, (step - settings.warmup) / max(1, settings.horizon - settings.warmup))
    low = settings.final_lr
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def train(
    settings: Settings,
    out: str | Path,
    *,
    data: Data | None = None,
    tokenizer: Tokenizer | None = None,
    weigh: Weigh | None = None,
    progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> Checkpoints:
    """Train, writing checkpoints in the hub's layout; continue if `out` holds part of the run.

    Minimises (1/n) sum_rows w_row l_row, with l the mean next-token loss of a row in nats.
    Killed at any moment, the next call goes on from the last checkpoint and ends with the same
    bits (same machine, device and number of threads).

    Parameters
    ----------
    settings : Settings
        The run; see `CONFIGURATIONS`.
    out : path
        Folder: ``step0/``, ``step1/``, ... each with config, weights and tokenizer,
        ``losses.npy`` (training loss of every step), ``settings.json`` and ``inputs.json``.
    data : Data, optional
        Prepared ids; by default `prepare(settings, out, tokenizer=tokenizer)`.
    tokenizer : tokenizers.Tokenizer, optional
        Use this instead of training one, if no `data` are given.
    weigh : callable, optional
        Weights of the rows of a step; 1 by default.
    progress : callable, optional
        Called with the step and its loss.
    device : str
        Torch device.

    Returns
    -------
    Checkpoints
        All checkpoints of the run.

    Raises
    ------
    ValueError
        If `out` holds a run with other settings, data or weights of rows, or damaged files.
    FloatingPointError
        If the loss stops being finite.
    """
    out = Path(out)
    if data is not None and tokenizer is not None:
        raise ValueError("`data` have a tokenizer already; give `data` or `tokenizer`.")
    usable_device(device)
    check_settings(settings, out)
    data = _data(settings, out, tokenizer) if data is None else data
    state = State(settings, out, device)
    _check_weights(state, data.training, weigh)
    # a folder belongs to the run only now that nothing is left to fail before its first step
    claim(settings, out, data.training, data.tokenizer)
    targets = settings.checkpoint_steps()
    if state.step == 0:
        state.save(data.tokenizer)
    for step in range(state.step, settings.n_steps):
        rows = batch(settings, data.training, step)
        loss = state.advance(rows, _weights(weigh, step, rows), learning_rate(settings, step))
        if progress is not None:
            progress(step, loss)
        if step + 1 in targets:
            state.save(data.tokenizer)
    return Checkpoints.from_directory(out)


def _data(settings: Settings, out: Path, tokenizer: Tokenizer | None) -> Data:
    """Prepare the data; leave none behind that cannot be trained on."""
    new = not (out / "data.json").exists()
    data = prepare(settings, out, tokenizer=tokenizer)
    try:
        batch(settings, data.training, 0)
    except ValueError:
        if new:
            (out / "data.json").unlink()
        raise
    return data


def _weights(weigh: Weigh | None, step: int, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the weights of the rows of a step."""
    return np.ones(len(rows), np.float32) if weigh is None else weigh(step, rows)


def _check_weights(state: State, tokens: Tokens, weigh: Weigh | None) -> None:
    """Check that the steps taken so far weighed their rows as they would now."""
    if weigh is None and not any(state.marks):
        return
    for step, known in enumerate(state.marks):
        if known is None:  # taken by an earlier version
            continue
        rows = batch(state.settings, tokens, step)
        if mark(_weights(weigh, step, rows)) != known:
            raise ValueError(f"`weigh` gives the rows of step {step} other weights than the run in "
                             f"{state.out} had. Use another folder.")  # fmt: skip
