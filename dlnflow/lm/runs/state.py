"""Model and optimiser at one step of a run, saved and restored together."""

from __future__ import annotations

import math
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dlnflow._support.files import atomic_path, write_atomic
from dlnflow.lm.runs.device import usable_device
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import Settings, build
from dlnflow.lm.runs.pretrained import first_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
"""Pythia's optimiser: AdamW with decay on matrices, gradients clipped to norm 1."""


def mark(weights: NDArray[np.float32]) -> int:
    """Return a number for the weights of a step's rows: 0 if all are 1, else their checksum."""
    plain = bool((weights == 1).all())
    return 0 if plain else zlib.crc32(np.ascontiguousarray(weights, np.float32).tobytes()) or 1


class State:
    """Model and optimiser at one step, saved and restored together."""

    def __init__(self, settings: Settings, out: Path, device: str):
        import torch

        self.settings, self.out, self.device, self.step = settings, out, device, 0
        self.losses: list[float] = []
        self.marks: list[int | None] = []  # of the weights of every step's rows; None: not known
        self.model = build(settings).to(usable_device(device))
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY},
             {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate, betas=BETAS, eps=1e-8, fused=True,
        )  # fmt: skip
        if (out / "resume.pt").exists():
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
            self.model.config.save_pretrained(partial)
            weights = {k: v.contiguous() for k, v in self.model.state_dict().items()}
            save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
            tokenizer.save(str(partial / "tokenizer.json"))
            partial.rename(folder)
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "step": self.step, "losses": self.losses, "marks": self.marks}  # fmt: skip
        write_atomic(self.out / "resume.pt", lambda p: torch.save(state, p))
        with atomic_path(self.out / "losses.npy") as path, open(path, "wb") as file:
            np.save(file, np.asarray(self.losses))
