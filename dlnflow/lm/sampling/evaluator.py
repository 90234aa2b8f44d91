"""A language model with its text around one checkpoint, for one chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs.losses import token_losses
from dlnflow.sampling.evaluators.module import matching
from dlnflow.sampling.noise import MINIBATCH
from dlnflow.sampling.posterior import Evaluation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = 4096
"""Observed tokens in one forward pass."""


class LanguageModelEvaluator:
    """A model whose moving parameters are one vector (1, P), and their gradient another.

    The model is changed: its parameters become views of what it was last asked about.

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
    ) -> None:
        self.step = 0
        self._model, self._text, self._key, self._precision = model, gradient, key, precision
        every = dict(model.named_parameters())
        self._moving = [every[name] for name in matching(every, parameters)]
        self.center = torch.cat([p.flatten() for p in self._moving])[None].clone()
        self.n_parameters = self.center.shape[1]
        self._gradient = torch.zeros_like(self.center)
        for p, piece in zip(self._moving, self._pieces(self._gradient), strict=True):
            p.requires_grad_(True)
            p.grad = piece
        self._observed = torch.from_numpy(observed.ids).to(self.center.device)

    def _pieces(self, flat: Tensor) -> Iterator[Tensor]:
        start = 0
        for p in self._moving:
            yield flat[0, start : start + p.numel()].view(p.shape)
            start += p.numel()

    def _place(self, theta: Tensor) -> None:
        """Let the model's parameters be views of `theta`."""
        for p, piece in zip(self._moving, self._pieces(theta), strict=True):
            p.data = piece

    def __call__(self, theta: Tensor) -> Evaluation:
        """Return loss and gradient on the minibatch of `step`; the gradient is a shared buffer."""
        self._place(theta)
        self._gradient.zero_()
        rows = self._text.batch(*self._key, MINIBATCH, self.step)
        ids = torch.from_numpy(rows).long().to(theta.device)
        loss = token_losses(self._model, ids, bf16=self._precision != "fp32", one_pass=True).mean()
        loss.backward()
        return Evaluation(loss.detach()[None], self._gradient)

    def observe(self, theta: Tensor) -> Tensor:
        """Return the losses (1, K) of the observed tokens, in float32 on the CPU."""
        self._place(theta)
        rows = max(1, TARGETS // (self._observed.shape[1] - 1))
        bf16 = self._precision == "bf16"
        with torch.inference_mode():
            parts = [
                token_losses(self._model, ids, bf16=bf16).flatten()
                for ids in self._observed.split(rows)
            ]
            return torch.cat(parts).float().cpu()[None]
