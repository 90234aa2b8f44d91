"""Train a small Pythia: a run is a function of its settings, also after being killed."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow.lm import corpus as corpora
from dlnflow.lm._device import usable_device
from dlnflow.lm._files import atomic_path, write_atomic, write_json
from dlnflow.lm.checkpoints import Checkpoints
from dlnflow.lm.losses import token_losses
from dlnflow.lm.mixture import mixture
from dlnflow.lm.model import Settings, build
from dlnflow.lm.tokenizer import Tokens, encode, load_tokenizer, train_bpe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Weigh = Callable[[int, NDArray[np.int32]], NDArray[np.float32]]
"""(step, rows (n_rows, context + 1)) -> weight of every row's loss."""
WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
"""Pythia's optimiser: AdamW with decay on matrices, gradients clipped to norm 1."""


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
        If the tokenizer has more ids than the model.
    """
    out = Path(out)
    if not (out / "data.json").exists():
        text = corpora.load_or_stream(settings.corpus, settings.documents)
        tokenizer = tokenizer or train_bpe(text, settings.vocab_size)
        if tokenizer.get_vocab_size() > settings.vocab_size:
            raise ValueError(
                f"`tokenizer` has {tokenizer.get_vocab_size()} ids, more than `vocab_size` = "
                f"{settings.vocab_size} of the model."
            )
        parts = encode(text, tokenizer)
        write_atomic(out / "tokenizer.json", lambda p: tokenizer.save(str(p)))
        for name, part in zip(("training", "held_out"), parts, strict=True):
            with atomic_path(out / f"{name}.npy") as path, open(path, "wb") as file:
                np.save(file, part.ids)
        hashes = {"training": parts[0].sha256, "held_out": parts[1].sha256}
        write_json(out / "data.json", {"corpus": text.name, "text_sha256": text.sha256, **hashes})
    return load_data(out)


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
    """
    out = Path(out)
    if not (out / "data.json").exists():
        raise FileNotFoundError(
            f"`out` {out} holds no data (data.json); call train or prepare first. For checkpoints "
            "from elsewhere give a text: `--text`, or lm.text_plan.plan_from_text."
        )
    text_sha256 = json.loads((out / "data.json").read_text())["text_sha256"]
    tokenizer = load_tokenizer(out)
    size = tokenizer.get_vocab_size()
    parts = (np.load(out / f"{name}.npy") for name in ("training", "held_out"))
    return Data(tokenizer, *(Tokens(ids, size, text_sha256) for ids in parts))


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
        ``losses.npy`` (training loss of every step) and ``settings.json``.
    data : Data, optional
        Prepared ids; by default `prepare(settings, out)`.
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
        If `out` holds a run with other settings.
    FloatingPointError
        If the loss stops being finite.
    """
    out = Path(out)
    _claim(settings, out)
    data = data or prepare(settings, out)
    state = _State(settings, out, device)
    targets = settings.checkpoint_steps()
    if state.step == 0:
        state.save(data.tokenizer)
    for step in range(state.step, settings.n_steps):
        rows = batch(settings, data.training, step)
        weights = np.ones(len(rows), np.float32) if weigh is None else weigh(step, rows)
        loss = state.advance(rows, weights)
        if progress is not None:
            progress(step, loss)
        if step + 1 in targets:
            state.save(data.tokenizer)
    return Checkpoints.from_directory(out)


def _claim(settings: Settings, out: Path) -> None:
    """Write the settings into `out`, or check that they are the ones there."""
    path, mine = out / "settings.json", dataclasses.asdict(settings)
    if not path.exists():
        return write_json(path, mine)
    theirs = dataclasses.asdict(Settings(**json.loads(path.read_text())))
    # a longer run with the same schedule continues a shorter one
    differing = [k for k in mine if k != "n_steps" and mine[k] != theirs[k]]
    if differing:
        shown = ", ".join(f"{k}: {theirs[k]} there, {mine[k]} asked" for k in differing)
        raise ValueError(f"`out` {out} holds a run with other settings ({shown}). Use another "
                         "folder, or delete that one.")  # fmt: skip
    return None


class _State:
    """Model and optimiser at one step, saved and restored together."""

    def __init__(self, settings: Settings, out: Path, device: str):
        import torch

        self.settings, self.out, self.device, self.step = settings, out, device, 0
        self.losses: list[float] = []
        self.model = build(settings).to(usable_device(device))
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY},
             {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate, betas=BETAS, eps=1e-8, fused=True,
        )  # fmt: skip
        if (out / "resume.pt").exists():
            self._restore(torch.load(out / "resume.pt", map_location=device, weights_only=True))

    def _restore(self, saved: dict) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.losses = saved["step"], saved["losses"]

    def advance(self, rows: NDArray[np.int32], weights: NDArray[np.float32]) -> float:
        """Take one optimiser step; return the weighted loss before it."""
        import torch

        s, n = self.settings, len(rows)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(s, self.step)
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
        self.step += 1
        return value

    def save(self, tokenizer: Tokenizer) -> None:
        """Write step folder and resume state; each appears complete or not at all."""
        import torch
        from safetensors.torch import save_file

        folder, partial = self.out / f"step{self.step}", self.out / f".step{self.step}.partial"
        if not folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
            self.model.config.save_pretrained(partial)
            weights = {k: v.contiguous() for k, v in self.model.state_dict().items()}
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            tokenizer.save(str(partial / "tokenizer.json"))
            partial.rename(folder)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "step": self.step, "losses": self.losses}  # fmt: skip
        write_atomic(self.out / "resume.pt", lambda p: torch.save(state, p))
        with atomic_path(self.out / "losses.npy") as path, open(path, "wb") as file:
            np.save(file, np.asarray(self.losses))
