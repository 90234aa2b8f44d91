"""Train a small Pythia: a run is a function of its settings, also after being killed."""

from __future__ import annotations

import dataclasses
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import atomic_path, write_atomic, write_json
from dlnflow.lm.data import corpus as corpora
from dlnflow.lm.data.batches import mixture
from dlnflow.lm.data.hub import first_line
from dlnflow.lm.data.spelling import exact, separator_id, vocabulary_size
from dlnflow.lm.data.tokenizer import Tokens, encode, load_tokenizer, train_bpe
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.device import usable_device
from dlnflow.lm.runs.folder import AGAIN, check_settings, claim, locked, read_record, spelled
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import RunSettings, build

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Weigh = Callable[[int, NDArray[np.int32]], NDArray[np.float32]]
"""(step, rows (n_rows, context + 1)) -> weight of every row's loss."""
WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
"""Pythia's optimiser: AdamW with decay on matrices, gradients clipped to norm 1."""
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


def learning_rate(settings: RunSettings, step: int) -> float:
    """Return the step size: linear warm-up, then cosine to `final_lr` at the horizon."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = min(1.0, (step - settings.warmup) / max(1, settings.horizon - settings.warmup))
    low = settings.final_lr
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def train(
    settings: RunSettings,
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

    Returns
    -------
    Checkpoints
        All checkpoints of the run.

    Raises
    ------
    ValueError
        If `out` holds a run with other settings, data or weights of rows, or damaged files, or
        another process is training there.
    FloatingPointError
        If the loss stops being finite.
    """
    out = Path(out)
    if data is not None and tokenizer is not None:
        raise ValueError("`data` have a tokenizer already; give `data` or `tokenizer`.")
    usable_device(device)
    check_settings(settings, out)
    with locked(out):
        data = _data(settings, out, tokenizer) if data is None else data
        state = Progression(settings, out, device)
        _check_weights(state, data.training, weigh)
        # a folder belongs to the run only now that nothing is left to fail before its first step
        claim(settings, out, data.training, data.tokenizer)
        _advance(state, data, weigh, progress)
    return Checkpoints.from_directory(out)


def _advance(
    state: Progression,
    data: Data,
    weigh: Weigh | None,
    progress: Callable[[int, float], None] | None,
) -> None:
    """Take the steps that are left, with a checkpoint at each of those that have one."""
    settings, targets = state.settings, state.settings.checkpoint_steps()
    if state.step == 0:
        state.save(data.tokenizer)
    state.keep_losses()  # killed after the state of the last checkpoint, they are one short
    for step in range(state.step, settings.n_steps):
        rows = batch(settings, data.training, step)
        loss = state.advance(rows, _weights(weigh, step, rows), learning_rate(settings, step))
        if progress is not None:
            progress(step, loss)
        if step + 1 in targets:
            state.save(data.tokenizer)


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


def mark(weights: NDArray[np.float32]) -> int:
    """Return a number for the weights of a step's rows: 0 if all are 1, else their checksum."""
    plain = bool((weights == 1).all())
    return 0 if plain else zlib.crc32(np.ascontiguousarray(weights, np.float32).tobytes()) or 1


class Progression:
    """Model and optimiser at one step, saved and restored together; `out` None keeps no files."""

    def __init__(
        self, settings: RunSettings, out: Path | None, device: str, *, double: bool = False
    ):
        import torch

        self.settings, self.out, self.device, self.step = settings, out, device, 0
        self.losses: list[float] = []
        self.marks: list[int | None] = []  # of the weights of every step's rows; None: not known
        self.model = build(settings).to(usable_device(device))
        if double:
            self.model.double()
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": WEIGHT_DECAY},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=BETAS,
            eps=1e-8,
            fused=True,
        )
        if out is not None and (out / "resume.pt").exists():
            self._restore(out / "resume.pt")

    def _restore(self, path: Path) -> None:
        import torch

        try:
            saved = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step, self.losses = saved["step"], saved["losses"]
        except Exception as error:  # RuntimeError, UnpicklingError, KeyError and others
            if isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise
            raise ValueError(
                f"{path} is damaged ({first_line(error)}). Delete it and call `dlnflow lm train` "
                "again: it computes the run from step 0 and keeps the checkpoints that are there."
            ) from error
        self.marks = saved.get("marks", [None] * self.step)

    def advance(self, rows: NDArray[np.int32], weights: NDArray[np.float32], rate: float) -> float:
        """Take one optimiser step of size `rate`; return the weighted loss before it."""
        import torch

        s, n = self.settings, len(rows)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.device)
        for start in range(0, n, s.rows):
            ids = torch.from_numpy(rows[start : start + s.rows]).long().to(self.device)
            w = torch.from_numpy(weights[start : start + s.rows]).to(self.device)
            losses = token_losses(self.model, ids, bf16=s.precision == "bf16")
            loss = (w * losses.mean(1)).sum() / n
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        value = float(total)
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {self.step}; lower `learning_rate` (now "
                f"{s.learning_rate}) and train into a new folder."
            )
        self.losses.append(value)
        self.marks.append(mark(weights))
        self.step += 1
        return value

    def save(self, tokenizer: Tokenizer) -> None:
        """Write step folder and resume state; each appears complete or not at all."""
        import torch
        from safetensors.torch import save_file

        folder, partial = self.out / f"step{self.step}", self.out / f".step{self.step}.partial"
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            end = separator_id(tokenizer, "auto")
            self.model.config.update({"bos_token_id": end, "eos_token_id": end})
            self.model.config.save_pretrained(partial)
            weights = {k: v.contiguous() for k, v in self.model.state_dict().items()}
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            tokenizer.save(str(partial / "tokenizer.json"))
            partial.rename(folder)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "marks": self.marks,
        }
        write_atomic(self.out / "resume.pt", lambda p: torch.save(state, p))
        self.keep_losses()

    def keep_losses(self) -> None:
        """Write the losses so far, unless the file has just them."""
        path, losses = self.out / "losses.npy", np.asarray(self.losses)
        try:
            known = np.load(path)
        except (OSError, ValueError, EOFError):
            known = None
        if known is not None and np.array_equal(known, losses):
            return
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, losses)
