"""Model and optimiser of a training run, step by step: a step is a function of its rows alone."""

from __future__ import annotations

import math
import shutil
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from dlnflow._support.files import atomic_path, write_atomic
from dlnflow.lm.data.hub import first_line
from dlnflow.lm.data.spelling import separator_id
from dlnflow.lm.runs.device import usable_device
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import RunSettings, build
from dlnflow.lm.runs.processes import Processes
from dlnflow.sampling.fixed_step import Repeated, captured

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHT_DECAY, BETAS, CLIP = 0.1, (0.9, 0.95), 1.0
"""Pythia's optimiser: AdamW with decay on matrices, gradients clipped to norm 1."""


def learning_rate(settings: RunSettings, step: int) -> float:
    """Return the step size: linear warm-up, then cosine to `final_lr` at the horizon."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = min(1.0, (step - settings.warmup) / max(1, settings.horizon - settings.warmup))
    low = settings.final_lr
    return settings.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))


def mark(weights: NDArray[np.float32]) -> int:
    """Return a number for the weights of a step's rows: 0 if all are 1, else their checksum."""
    plain = bool((weights == 1).all())
    return 0 if plain else zlib.crc32(np.ascontiguousarray(weights, np.float32).tobytes()) or 1


class Progression:
    """Model and optimiser at one step, saved and restored together.

    On a GPU, and where several processes add up gradients, these lie in one tensor that stays;
    on a GPU the passes over some rows and the update are then captured as CUDA graphs.

    Parameters
    ----------
    settings : RunSettings
        Sizes, optimiser, precision and seed.
    out : Path or None
        Folder of the run; None keeps no files.
    device : str
        Torch device.
    double : bool
        Take the steps in double precision.
    processes : Processes
        Who takes which rows.
    repeated : Repeated, optional
        How passes and updates are run, if they are not to be run as the device suggests.
    """

    def __init__(
        self,
        settings: RunSettings,
        out: Path | None,
        device: str,
        *,
        double: bool = False,
        processes: Processes | None = None,
        repeated: Repeated | None = None,
    ):
        self.settings, self.out, self.device, self.step = settings, out, device, 0
        self.processes = processes = processes or Processes()
        self.losses: list[float] = []
        self.marks: list[int | None] = []  # of the weights of every step's rows; None: not known
        self.model = build(settings).to(usable_device(device))
        if double:
            self.model.double()
        self.on_gpu = torch.device(device).type == "cuda"
        self._parameters = list(self.model.parameters())
        # what replays a run puts other tensors into the optimiser, so that nothing stays there
        captures = self.on_gpu and out is not None
        self.optimizer = self._new_optimizer(captures)
        self._gradients = None
        if captures or processes.count > 1 or repeated is not None:
            self._gradients = GradientTensor(self._parameters)
        self._repeated = repeated or Repeated(captured if captures else None)
        self._stream = torch.cuda.Stream() if captures else None
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        if out is not None and (out / "resume.pt").exists():
            self._restore(out / "resume.pt")

    def _new_optimizer(self, captures: bool) -> torch.optim.AdamW:
        self._rate = self.settings.learning_rate
        groups = [
            {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in self._parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._own = {"capturable": captures}
        if captures:  # a graph reads the step size from where it lies
            self._own["lr"] = torch.tensor(self._rate, device=self.device)
        options = {"lr": self._rate} | self._own
        return torch.optim.AdamW(groups, betas=BETAS, eps=1e-8, fused=True, **options)

    def _restore(self, path: Path) -> None:
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
        self.processes.warn_of_another_layout(saved.get("processes", 1))
        for group in self.optimizer.param_groups:  # of this device, whatever the state is of
            group.update(self._own)

    def advance(self, rows: NDArray[np.int32], weights: NDArray[np.float32], rate: float) -> float:
        """Take one optimiser step of size `rate`; return the weighted loss before it."""
        mine = self.processes.share(len(rows))
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            for group in self.optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
            take = self._take_plainly if self._gradients is None else self._take_in_place
            value = float(take(rows[mine], weights[mine], len(rows)))
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {self.step}; lower `learning_rate` (now "
                f"{self.settings.learning_rate}) and train into a new folder."
            )
        self.losses.append(value)
        self.marks.append(mark(weights))
        self.step += 1
        return value

    def _take_plainly(
        self, rows: NDArray[np.int32], weights: NDArray[np.float32], n: int
    ) -> torch.Tensor:
        """Take a step; return the loss (1/n) sum_rows w_row l_row."""
        total = torch.zeros((), device=self.device)
        for part in self._parts(len(rows)):
            ids = torch.from_numpy(rows[part]).long().to(self.device)
            w = torch.from_numpy(weights[part]).to(self.device)
            total += self._pass(ids, w, n)
        torch.nn.utils.clip_grad_norm_(self._parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def _take_in_place(
        self, rows: NDArray[np.int32], weights: NDArray[np.float32], n: int
    ) -> torch.Tensor:
        """Do the same with gradients that stay in one tensor, summed over processes."""
        there = self._gradients
        for part in self._parts(len(rows)):
            count = part.stop - part.start
            ids, w = self._filled(rows[part], weights[part])

            def some(ids: torch.Tensor = ids, w: torch.Tensor = w) -> None:
                there.loss.add_(self._pass(ids, w, n))

            self._repeated(("rows", count, n), some)
        self.processes.sum(there.values, self.step)

        def update() -> None:
            torch.nn.utils.clip_grad_norm_(self._parameters, CLIP)
            self.optimizer.step()
            there.start_anew()

        self._repeated("update", update)
        return there.last_loss

    def _parts(self, n_rows: int) -> list[slice]:
        """Return which rows make up a micro-batch."""
        at_once = self.settings.rows
        return [slice(k, min(k + at_once, n_rows)) for k in range(0, n_rows, at_once)]

    def _pass(self, ids: torch.Tensor, weights: torch.Tensor, n: int) -> torch.Tensor:
        """Add the gradient of some rows; return their part of the loss."""
        losses = token_losses(self.model, ids, bf16=self.settings.precision == "bf16")
        loss = (weights * losses.mean(1)).sum() / n
        loss.backward()
        return loss.detach()

    def _filled(
        self, rows: NDArray[np.int32], weights: NDArray[np.float32]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tensors for so many rows, always the same, filled without waiting for a GPU."""
        if len(rows) not in self._buffers:
            self._buffers[len(rows)] = (
                torch.zeros(rows.shape, dtype=torch.int64, device=self.device),
                torch.zeros(weights.shape, device=self.device),
            )
        for buffer, values in zip(self._buffers[len(rows)], (rows, weights), strict=True):
            there = torch.from_numpy(np.ascontiguousarray(values))
            if self.on_gpu:  # as narrow as they are; they are widened there
                there = there.pin_memory().to(self.device, non_blocking=True)
            buffer.copy_(there)
        return self._buffers[len(rows)]

    def save(self, tokenizer: Tokenizer) -> None:
        """Write step folder and resume state; each appears complete or not at all."""
        from safetensors.torch import save_file

        if not self.processes.first:
            return
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
            "processes": self.processes.count,
        }
        write_atomic(self.out / "resume.pt", lambda p: torch.save(state, p))
        self.keep_losses()

    def keep_losses(self) -> None:
        """Write the losses so far, unless the file has just them."""
        if not self.processes.first:
            return
        path, losses = self.out / "losses.npy", np.asarray(self.losses)
        try:
            known = np.load(path)
        except (OSError, ValueError, EOFError):
            known = None
        if known is not None and np.array_equal(known, losses):
            return
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, losses)


class GradientTensor:
    """All gradients of a model in one tensor, with the loss behind them.

    Parameters
    ----------
    parameters : list of Parameter
        Their `grad` becomes views.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        first, sizes = parameters[0], [p.numel() for p in parameters]
        self.values = torch.zeros(sum(sizes) + 1, dtype=first.dtype, device=first.device)
        self.loss = self.values[-1]
        self.last_loss = torch.zeros_like(self.loss)
        for p, piece in zip(parameters, self.values[:-1].split(sizes), strict=True):
            p.grad = piece.view_as(p)

    def start_anew(self) -> None:
        """Keep the loss, and begin to add up again."""
        self.last_loss.copy_(self.loss)
        self.values.zero_()
