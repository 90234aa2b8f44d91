"""Train a small Pythia: a run is a function of its settings, also after being killed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import atomic_path, write_atomic, write_json
from dlnflow.lm.data import corpus as corpora
from dlnflow.lm.data.batches import mixture
from dlnflow.lm.data.hub import first_line
from dlnflow.lm.data.spelling import exact, vocabulary_size
from dlnflow.lm.data.tokenizer import Tokens, encode, load_tokenizer, train_bpe
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.device import keep_freed_memory, usable_device
from dlnflow.lm.runs.folder import AGAIN, check_settings, claim, locked, read_record, spelled
from dlnflow.lm.runs.model import RunSettings
from dlnflow.lm.runs.processes import Processes
from dlnflow.lm.runs.progression import Progression, learning_rate, mark

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GPTNeoXForCausalLM

Weigh = Callable[[int, NDArray[np.int32]], NDArray[np.float32]]
"""(step, rows (n_rows, context + 1)) -> weight of every row's loss."""
Watch = Callable[[int, "GPTNeoXForCausalLM"], bool]
"""(steps taken, model in evaluation mode) -> whether to end the training there."""
PARTS = ("training", "held_out")
DATA_AGAIN = AGAIN.replace("it", "data.json", 1)
"""The way out if one of the files that `prepare` wrote is damaged."""


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run reads: its tokenizer, training ids and held-out ids."""

    tokenizer: Tokenizer
    training: Tokens
    held_out: Tokens


def prepare(settings: RunSettings, out: str | Path, *, tokenizer: Tokenizer | None = None) -> Data:
    """Read the corpus, train or take the tokenizer, encode; keep the result in `out`.

    Parameters
    ----------
    settings : RunSettings
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
    tokenizer = exact(tokenizer)
    size = vocabulary_size(tokenizer)
    if size > settings.vocab_size:
        raise ValueError(
            f"`tokenizer` has {size} ids (the largest is {size - 1}), more than "
            f"`vocab_size` = {settings.vocab_size} of the model."
        )
    if given is None and size < settings.vocab_size:
        raise ValueError(
            f"`vocab_size` {settings.vocab_size}: the text yields only {size} ids. "
            f"Use `vocab_size={size}`, or more text."
        )
    parts = encode(text, tokenizer, separator=settings.separator)
    write_atomic(out / "tokenizer.json", lambda p: tokenizer.save(str(p)))
    for name, part in zip(PARTS, parts, strict=True):
        with atomic_path(out / f"{name}.npy") as path, open(path, "wb") as file:
            np.save(file, part.ids)
    hashes = {
        "training": parts[0].sha256,
        "held_out": parts[1].sha256,
        "tokenizer": spelled(tokenizer),
    }
    write_json(
        out / "data.json",
        {
            "corpus": settings.corpus,
            "separator": settings.separator,
            "text_sha256": text.sha256,
            **hashes,
        },
    )
    return load_data(out)


def _same(settings: RunSettings, out: Path, tokenizer: Tokenizer | None) -> None:
    """Check that data prepared earlier are those that are asked for."""
    record = read_record(out / "data.json", ("corpus",))
    there, separator = record["corpus"], record.get("separator", "auto")
    if there != settings.corpus:
        raise ValueError(
            f"`out` {out} holds the data of corpus {there!r}, not of "
            f"{settings.corpus!r}. Use another folder."
        )
    if separator != settings.separator:
        raise ValueError(
            f"`out` {out} holds data with separator {separator!r}, not "
            f"{settings.separator!r}. Use another folder."
        )
    if tokenizer is not None and spelled(exact(tokenizer)) != spelled(load_tokenizer(out)):
        raise ValueError(
            f"`out` {out} was prepared with another tokenizer, its tokenizer.json. "
            "Use another folder, or that tokenizer."
        )


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
            "give a text: `--text` (in Python lm.experiment.plan_from_text)."
        )
    known = read_record(out / "data.json", ("text_sha256", *PARTS))
    tokenizer = load_tokenizer(out)
    if known.get("tokenizer", spelled(tokenizer)) != spelled(tokenizer):
        raise ValueError(
            f"{out / 'tokenizer.json'} is not the one that the data were made with. {DATA_AGAIN}"
        )
    size = vocabulary_size(tokenizer)
    parts = (_ids(out / f"{n}.npy", known[n], size, known["text_sha256"]) for n in PARTS)
    return Data(tokenizer, *parts)


def _ids(path: Path, sha256: str, vocab_size: int, text_sha256: str) -> Tokens:
    """Map ids and compare their hash; chains find the file by the map."""
    try:
        tokens = Tokens(np.load(path, mmap_mode="r"), vocab_size, text_sha256)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}). {DATA_AGAIN}") from error
    if tokens.sha256 != sha256:
        raise ValueError(
            f"{path} is damaged or was replaced: data.json has another sha256. {DATA_AGAIN}"
        )
    return tokens


def batch(settings: RunSettings, tokens: Tokens, step: int) -> NDArray[np.int32]:
    """Return the rows of one step, a function of the seed and the step alone.

    Parameters
    ----------
    settings : RunSettings
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
        tokens.ids,
        n_rows,
        settings.context + 1,
        settings.repeat_share,
        rng,
        segment=(settings.segment_min, settings.segment_max),
    )


def train(
    settings: RunSettings,
    out: str | Path,
    *,
    data: Data | None = None,
    tokenizer: Tokenizer | None = None,
    weigh: Weigh | None = None,
    progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
    watch: Watch | None = None,
) -> Checkpoints:
    """Train, writing checkpoints in the hub's layout; continue if `out` holds part of the run.

    Minimises (1/n) sum_rows w_row l_row, with l the mean next-token loss of a row in nats.
    Killed at any moment, the next call goes on from the last checkpoint and ends with the same
    bits (same machine, device and number of threads and processes). Processes of a group that
    torch.distributed was given share the rows of every step; the first one writes.

    Parameters
    ----------
    settings : RunSettings
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
    watch : callable, optional
        Called with the number of steps taken and the model, in every process, before each step and
        after the last; a checkpoint of that step is written by then. True ends the training there,
        with a checkpoint. It must leave the model as it is. Steps that a killed process took since
        its last checkpoint are watched again.

    Returns
    -------
    Checkpoints
        All checkpoints of the run.

    Raises
    ------
    ValueError
        If `out` holds a run with other settings, data or weights of rows, or damaged files, or
        another process is training there; also if there are more processes than rows of a step.
    ConnectionError
        If another process of the group is gone.
    FloatingPointError
        If the loss stops being finite.
    """
    out = Path(out)
    if data is not None and tokenizer is not None:
        raise ValueError("`data` have a tokenizer already; give `data` or `tokenizer`.")
    usable_device(device)
    keep_freed_memory()
    processes = Processes.here()
    processes.check(settings.rows * settings.accumulate)
    processes.in_turn(lambda: check_settings(settings, out))
    with ExitStack() as held:
        if processes.first:
            processes.in_turn(lambda: held.enter_context(locked(out)))
        else:
            processes.in_turn(lambda: None)
        data = processes.in_turn(lambda: _data(settings, out, tokenizer)) if data is None else data
        state = Progression(settings, out, device, processes=processes)
        processes.in_turn(lambda: _check_weights(state, data.training, weigh))
        # a folder belongs to the run only now that nothing is left to fail before its first step
        processes.in_turn(lambda: claim(settings, out, data.training, data.tokenizer))
        _advance(state, data, weigh, progress, watch)
        processes.wait()
    return Checkpoints.from_directory(out)


def _advance(
    state: Progression,
    data: Data,
    weigh: Weigh | None,
    progress: Callable[[int, float], None] | None,
    watch: Watch | None,
) -> None:
    """Take the steps that are left, with a checkpoint at each of those that have one."""
    settings, targets = state.settings, state.settings.checkpoint_steps()
    if state.step == 0:
        state.save(data.tokenizer)
    state.keep_losses()  # killed after the state of the last checkpoint, they are one short
    steps = range(state.step, settings.n_steps)
    make = partial(batch, settings, data.training)
    for step, rows in ahead(make, steps) if state.on_gpu else ((k, make(k)) for k in steps):
        if watch is not None and watch(step, state.model):
            state.save(data.tokenizer)
            return
        loss = state.advance(rows, _weights(weigh, step, rows), learning_rate(settings, step))
        if progress is not None:
            progress(step, loss)
        if step + 1 in targets:
            state.save(data.tokenizer)
    if watch is not None:
        watch(state.step, state.model)


def ahead(
    make: Callable[[int], NDArray[np.int32]], steps: range
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Yield steps and their rows, while a thread makes those of the next step.

    Parameters
    ----------
    make : callable
        Function from a step to its rows.
    steps : range
        Steps, in the order in which rows are made.

    Yields
    ------
    (int, int32 array)
        Step and rows.
    """
    with ThreadPoolExecutor(1) as thread:
        pending = [thread.submit(make, step) for step in steps[:1]]
        for step in steps:
            rows = pending.pop().result()
            if step + steps.step in steps:
                pending.append(thread.submit(make, step + steps.step))
            yield step, rows


def _data(settings: RunSettings, out: Path, tokenizer: Tokenizer | None) -> Data:
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


def _check_weights(state: Progression, tokens: Tokens, weigh: Weigh | None) -> None:
    """Check that the steps taken so far weighed their rows as they would now."""
    if weigh is None and not any(state.marks):
        return
    for step, known in enumerate(state.marks):
        if known is None:  # taken by an earlier version
            continue
        rows = batch(state.settings, tokens, step)
        if mark(_weights(weigh, step, rows)) != known:
            raise ValueError(
                f"`weigh` gives the rows of step {step} other weights than the run in "
                f"{state.out} had. Use another folder."
            )
