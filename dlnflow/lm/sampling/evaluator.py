"""A language model with its text around one checkpoint, for one chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import SHORT
from dlnflow.lm.runs.neox import NeoX, written_out
from dlnflow.lm.sampling.recorded import value_of
from dlnflow.sampling.noise import MINIBATCH
from dlnflow.sampling.posterior import Evaluation
from dlnflow.sampling.restriction import matching

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = 4096
"""Observed tokens in one forward pass."""
AHEAD = 64
"""Minibatches whose places are sent to a GPU at once."""


class LanguageModelEvaluator:
    """A model whose moving parameters are one vector (1, P), and their gradient another.

    The model is changed: its parameters become views of what it was last asked about. Several
    evaluators may take turns with one model. Minibatch and gradient stay in the same tensors, so
    that a step can be captured.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        At the checkpoint, without gradients.
    gradient : GradientData
        Where minibatches come from.
    observed : Observed
        Sequences whose losses are recorded.
    key : (seed, checkpoint, chain)
        Names the minibatches, together with the attribute `step`.
    parameters : sequence of str
        Only parameters whose names match move; empty: all.
    precision : str
        As in `dlnflow.lm.sampling.unit.Sampler`.
    weights : mapping of str to Tensor, optional
        Parameters at the checkpoint; default those that the model has now.
    text : Tensor, optional
        Ids of `gradient` on the device of the model, where minibatches are then cut.
    """

    exact = False

    def __init__(
        self,
        model: PreTrainedModel,
        gradient: GradientData,
        observed: Observed,
        key: tuple[int, int, int],
        *,
        parameters: Sequence[str] = (),
        precision: str = "fp32",
        weights: Mapping[str, Tensor] | None = None,
        text: Tensor | None = None,
    ) -> None:
        self._model, self._precision = model, precision
        every = dict(model.named_parameters())
        weights = {name: p.data for name, p in every.items()} if weights is None else weights
        names = matching(every, parameters)
        for name, p in every.items():
            p.data, p.grad = weights[name], None
            p.requires_grad_(name in names)
        self._moving = [every[name] for name in names]
        self.center = torch.cat([weights[name].flatten() for name in names])[None].clone()
        self.n_parameters = self.center.shape[1]
        self._gradient = torch.zeros_like(self.center)
        self._gradients = list(self._pieces(self._gradient))
        self._observed = torch.from_numpy(observed.ids).to(self.center.device)
        self._rows = Minibatches(gradient, key, self.center.device, text)
        self._written = NeoX(model) if written_out(model) else None
        self._all_move = len(names) == len(every)
        self.step = 0

    @property
    def step(self) -> int:
        """Return the step of the chain, which names the minibatch."""
        return self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step = value
        self._rows.take(value)

    def _pieces(self, flat: Tensor) -> Iterator[Tensor]:
        start = 0
        for p in self._moving:
            yield flat[0, start : start + p.numel()].view(p.shape)
            start += p.numel()

    def _place(self, theta: Tensor) -> None:
        """Let the model's parameters be views of `theta`, and their gradients of the buffer."""
        for p, piece, gradient in zip(
            self._moving, self._pieces(theta), self._gradients, strict=True
        ):
            p.data, p.grad = piece, gradient

    def __call__(self, theta: Tensor) -> Evaluation:
        """Return loss and gradient on the minibatch of `step`; the gradient is a shared buffer."""
        self._place(theta)
        bf16 = self._precision != "fp32"
        if self._all_move and self._short(self._rows.ids):
            with torch.no_grad():
                loss = self._written.mean_loss(self._rows.ids, bf16)
            return Evaluation(loss[None], self._gradient)
        self._gradient.zero_()
        loss = token_losses(self._model, self._rows.ids, bf16=bf16, one_pass=True).mean()
        loss.backward()
        return Evaluation(loss.detach()[None], self._gradient)

    def observe(self, theta: Tensor) -> Tensor:
        """Return the losses (1, K) of the observed tokens, in float32."""
        self._place(theta)
        rows = max(1, TARGETS // (self._observed.shape[1] - 1))
        bf16 = self._precision == "bf16"
        with torch.inference_mode(), tensor_cores(self._precision == "tf32"):
            if self._short(self._observed):
                parts = [self._written.losses(ids, bf16) for ids in self._observed.split(rows)]
            else:
                parts = [
                    token_losses(self._model, ids, bf16=bf16) for ids in self._observed.split(rows)
                ]
            return torch.cat([part.flatten() for part in parts]).float()[None]

    def _short(self, ids: Tensor) -> bool:
        """Whether rows go the way that is written out: for long ones fused attention is faster."""
        return self._written is not None and ids.shape[1] - 1 <= SHORT

    def record(
        self, theta: Tensor, observables: Sequence[Callable[[PreTrainedModel], Tensor | float]]
    ) -> Tensor:
        """Return what functions of the model give, (1, M), in float32."""
        self._place(theta)
        with torch.no_grad():
            found = [value_of(one, self._model) for one in observables]
        return torch.tensor([found], dtype=torch.float32, device=theta.device)


class Minibatches:
    """The minibatches of one chain, always in the same tensor `ids` (rows, length + 1).

    Parameters
    ----------
    gradient : GradientData
        Their text.
    key : (seed, checkpoint, chain)
        Their names, with the step.
    device : torch.device
        Where they are wanted.
    text : Tensor, optional
        The ids of the text there: only places are then sent, those of many steps at once.
    """

    def __init__(
        self,
        gradient: GradientData,
        key: tuple[int, int, int],
        device: torch.device,
        text: Tensor | None = None,
    ) -> None:
        self._source, self._key, self._text = gradient, key, text
        size = (gradient.rows, gradient.length + 1)
        self.ids = torch.zeros(size, dtype=torch.int64, device=device)
        self._positions = torch.arange(size[1], device=device)
        self._sent: tuple[int, Tensor] | None = None

    def take(self, step: int) -> None:
        """Put the minibatch of a step into the tensor."""
        if self._text is None:
            rows = self._source.batch(*self._key, MINIBATCH, step)
            self.ids.copy_(torch.from_numpy(rows))
            return
        block = step // AHEAD
        if self._sent is None or self._sent[0] != block:
            self._sent = block, self._send(range(block * AHEAD, (block + 1) * AHEAD))
        starts, periods = self._sent[1][step - block * AHEAD]
        places = starts[:, None] + self._positions % periods[:, None]
        self.ids.copy_(self._text[places])

    def _send(self, steps: range) -> Tensor:
        """Return starts and periods (step, 2, rows) on the device, without waiting for them."""
        cuts = np.stack([np.stack(self._source.cuts(*self._key, MINIBATCH, s)) for s in steps])
        places = torch.from_numpy(cuts)
        if self.ids.device.type == "cuda":
            places = places.pin_memory()
        return places.to(self.ids.device, non_blocking=True)


@contextmanager
def tensor_cores(wanted: bool) -> Iterator[None]:
    """Let matrix products of float32 on a GPU round their factors to TF32, 10 bits after the first.

    The choice belongs to the process; what is captured within the block keeps it.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = wanted or before
    try:
        yield
    finally:
        matmul.allow_tf32 = before
