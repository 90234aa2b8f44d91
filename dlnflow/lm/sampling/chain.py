"""The chains of one checkpoint: opened once, advanced together, each as if it were alone.

On a GPU every chain has a stream and graphs of its own, so that the small operations of several
chains overlap; draws leave it in blocks. On a CPU chains run one after another, by the same steps.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlnflow import sampling
from dlnflow.lm import named_components
from dlnflow.lm.runs.device import usable_device
from dlnflow.lm.runs.model import SHORT
from dlnflow.lm.sampling.evaluator import LanguageModelEvaluator
from dlnflow.sampling.fixed_step import FixedStep, Repeated, captured, same_bits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dlnflow.lm.sampling.unit import Sampler, Unit

BLOCK = 64
"""Draws that leave a GPU together."""
_opened = threading.local()
"""The checkpoint that a thread opened last; chains of it take turns with the model."""


class Result(NamedTuple):
    """Losses (draws, K) in float32, losses (K,) at the checkpoint, and how to go on.

    Behind the K losses stand the observables of the sampler.
    """

    losses: NDArray[np.float32]
    checkpoint_loss: NDArray[np.float32]
    state: bytes
    n_parameters: int


class Opened(NamedTuple):
    """A model, its parameters at the checkpoint, and the ids of the text if they lie on a GPU."""

    model: PreTrainedModel
    weights: dict[str, Tensor]
    text: Tensor | None


def advanced(units: Sequence[Unit]) -> list[Result]:
    """Run chains of one checkpoint with one sampler, on the same text.

    Parameters
    ----------
    units : sequence of Unit
        They may differ in chain, draws, and how far they are.

    Returns
    -------
    list of Result
        In the order of the units.

    Raises
    ------
    ValueError
        If this machine lacks the device.
    torch.OutOfMemoryError
        If not even one chain fits into the memory of the GPU.
    """
    device = usable_device(units[0].sampler.device)
    if device.type != "cuda":
        return [_to_the_end([Chain(unit, opened(unit))])[0] for unit in units]
    # before the library of matrix products is first used, and only if the user did not choose
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        with torch.cuda.device(device), same_bits(device):
            one = opened(units[0])
            torch.cuda.synchronize()
            return _to_the_end([Chain(u, one, torch.cuda.Stream()) for u in units])
    except torch.OutOfMemoryError:
        if len(units) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(units) // 2
    return [*advanced(units[:half]), *advanced(units[half:])]


def _to_the_end(every: list[Chain]) -> list[Result]:
    """Take the steps of chains in turn, none waiting for another, and collect what they gave."""
    running = [chain.steps() for chain in every]
    while running:
        running = [steps for steps in running if next(steps, "end") != "end"]
    return [chain.result() for chain in every]


class Chain:
    """One chain at one checkpoint.

    Parameters
    ----------
    unit : Unit
        The chain, and where it is to go on from.
    shared : Opened
        The model; other chains of this thread may use it in between.
    stream : torch.cuda.Stream, optional
        Where its work is launched; None on a CPU.
    repeated : Repeated, optional
        How steps are taken; by default captured where there is a stream.
    """

    def __init__(
        self,
        unit: Unit,
        shared: Opened,
        stream: torch.cuda.Stream | None = None,
        repeated: Repeated | None = None,
    ) -> None:
        self._unit, self._stream = unit, stream
        self._repeated = Repeated(captured if stream else None) if repeated is None else repeated
        with self._launching():
            self._begin(unit, shared)

    def _begin(self, unit: Unit, shared: Opened) -> None:
        sampler, key = unit.sampler, (unit.sampler.settings.seed, unit.step, unit.chain)
        names, entries = named_components.moving(shared.model, sampler.restrict)
        self._evaluator = evaluator = LanguageModelEvaluator(
            shared.model,
            unit.gradient,
            unit.observed,
            key,
            parameters=names or sampler.parameters,
            precision=sampler.precision,
            weights=shared.weights,
            text=shared.text,
        )
        losses = evaluator.observe(evaluator.center)[0]
        self._targets = len(losses)
        start = torch.cat([losses, evaluator.record(evaluator.center, sampler.observables)[0]])
        self._draws = Blocks(unit.draws - unit.done, start)
        self._start, self._seen = start.cpu().numpy(), torch.empty_like(start)
        kernel, self._posterior = sampling.chains.around(
            evaluator, evaluator.center, sampler.kernel, sampler.settings, entries
        )
        center = self._posterior.center
        state = kernel.init(center)
        if unit.state is not None:
            state = unpacked(state, unit.state, center.device)
        self._noise = sampling.noise.StepNoise(key, center)
        self._chain = FixedStep(kernel, state, self._noise, self._repeated)

    def steps(self) -> Iterator[None]:
        """Take the steps that are left, one at each call of `next`."""
        sampler = self._unit.sampler
        lengths = sampler.settings.lengths() | {"draws": self._unit.draws}
        for step, drawn in sampling.chains.schedule(lengths, self._unit.done):
            with self._launching():
                self._noise.step, self._evaluator.step = step, step + 1
                self._chain.take()
                if drawn:
                    self._repeated("observe", self._observe)
                    if sampler.observables:  # any Python code, which nothing can capture
                        theta = self._chain.state.theta
                        recorded = self._evaluator.record(theta, sampler.observables)
                        self._seen[self._targets :] = recorded[0]
                    self._draws.add(self._seen)
            yield

    def _observe(self) -> None:
        losses = self._posterior.evaluate.observe(self._chain.state.theta)[0]
        self._seen[: self._targets].copy_(losses)

    def result(self) -> Result:
        """Wait for what was launched, and return what it gave."""
        if self._stream is not None:
            self._stream.synchronize()
        count = self._posterior.center.shape[1]
        return Result(self._draws.all(), self._start, packed(self._chain.state), count)

    def _launching(self) -> AbstractContextManager:
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()


class Blocks:
    """Draws of K losses each, collected where they are made and taken from there in blocks.

    Parameters
    ----------
    count : int
        How many there will be.
    like : Tensor, shape (K,)
        Type and place of a draw.
    """

    def __init__(self, count: int, like: Tensor) -> None:
        self._left, self._like, self._used = count, like, 0
        self._blocks: list[Tensor] = []
        self._block = self._new()

    def add(self, draw: Tensor) -> None:
        """Copy one draw; a full block is sent without waiting for it."""
        self._block[self._used] = draw
        self._used += 1
        if self._used == len(self._block):
            self._blocks.append(self._sent())
            self._left, self._used = self._left - self._used, 0
            self._block = self._new()

    def all(self) -> NDArray[np.float32]:
        """Return the draws (count, K); what was launched must be done."""
        return torch.cat([*self._blocks, self._block[: self._used].cpu()]).numpy()

    def _new(self) -> Tensor:
        return self._like.new_empty(min(BLOCK, max(self._left, 0)), len(self._like))

    def _sent(self) -> Tensor:
        if self._block.device.type == "cpu":
            return self._block
        there = torch.empty(self._block.shape, dtype=self._block.dtype, pin_memory=True)
        return there.copy_(self._block, non_blocking=True)


def opened(unit: Unit) -> Opened:
    """Return the checkpoint of a unit, as this thread opened it last or anew."""
    sampler, ladder = unit.sampler, unit.checkpoints
    k = ladder.at(unit.step)
    plain = _plain_is_faster(sampler, unit.gradient.length)
    key = (ladder.places[k], ladder.hashes[k], sampler.device, sampler.settings.dtype, plain)
    if getattr(_opened, "key", None) != key:
        close()
        model = ladder.load(unit.step, device=sampler.device)
        model.to(getattr(torch, sampler.settings.dtype)).requires_grad_(False)
        if plain:
            model.set_attn_implementation("eager")
        _opened.key, _opened.model = key, model
        _opened.weights = {name: p.data for name, p in model.named_parameters()}
    return Opened(_opened.model, _opened.weights, _text(unit))


def close() -> None:
    """Let go of the checkpoint that this thread opened."""
    _opened.__dict__.clear()


def _text(unit: Unit) -> Tensor | None:
    """Return the ids of the text on a GPU; on a CPU rows are cut from the file."""
    device, data = torch.device(unit.sampler.device), unit.gradient
    if device.type != "cuda":
        return None
    if getattr(_opened, "text_of", None) is not data:
        _opened.text = torch.from_numpy(np.array(data.ids)).to(device)
        _opened.text_of = data
    return _opened.text


def _plain_is_faster(sampler: Sampler, length: int) -> bool:
    """Whether attention that keeps its weights beats the fused one, as in training short rows."""
    on_cpu = torch.device(sampler.device).type == "cpu"
    return on_cpu and sampler.precision != "fp32" and length <= SHORT


def packed(state: Any) -> bytes:
    """Write a kernel's state: tensors and numbers in nested named tuples."""

    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    buffer = io.BytesIO()
    torch.save(plain(state), buffer)
    return buffer.getvalue()


def unpacked(like: Any, stored: bytes, device: torch.device) -> Any:
    """Read a state of the same kernel back, into the tensors of a first one."""

    def shaped(template: Any, value: Any) -> Any:
        if isinstance(template, tuple):
            return type(template)(*map(shaped, template, value))
        return template.copy_(value) if isinstance(template, Tensor) else value

    saved = torch.load(io.BytesIO(stored), map_location=device, weights_only=True)
    return shaped(like, saved)
