"""One chain at one checkpoint: a function of its description alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dlnflow import checks
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.device import threads
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import SHORT
from dlnflow.sampling import chains
from dlnflow.sampling.functional import matching
from dlnflow.sampling.noise import GAUSSIAN, MINIBATCH, UNIFORM, chain_seed
from dlnflow.sampling.posterior import Evaluation, Kernel, Posterior
from dlnflow.sampling.settings import Settings

PRECISIONS = ("fp32", "bf16-gradient", "bf16")
"""Where bfloat16 autocast is used."""
TARGETS = 4096
"""Observed tokens in one forward pass."""
REVISION = 2
"""Of the arithmetic: part of a store's key, to be raised when the same unit gives other bits."""


@dataclass(frozen=True)
class Sampler:
    """How to sample: the shared settings, and what a language model adds.

    Attributes
    ----------
    settings : dlnflow.sampling.Settings
        n_beta, localization, step_size, chains, draws, burn_in, thin, seed, kernel_options.
    kernel : str
        Name in `dlnflow.sampling.KERNELS`.
    parameters : tuple of str, or str
        Only parameters whose names match one of these move, e.g. ``"*attention*"``; empty: all.
    precision : str
        ``"fp32"``; ``"bf16-gradient"``: autocast where gradients are taken, where minibatch noise
        hides the rounding; ``"bf16"``: observed losses too, with rounding noise of about 1e-3
        nats in each that lowers correlations.
    device : str
        Torch device.
    threads : int
        CPU threads of a chain, wherever it runs: the rounding of its draws depends on them.
    """

    settings: Settings
    kernel: str = "rmsprop_sgld"
    parameters: tuple[str, ...] = ()
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.one_of("kernel", self.kernel, list(chains.KERNELS))
        one = isinstance(self.parameters, str)
        object.__setattr__(
            self, "parameters", (self.parameters,) if one else tuple(self.parameters)
        )
        checks.positive_integer("threads", self.threads)
        try:
            torch.device(self.device)  # whether this machine has it, only a chain needs to know
        except RuntimeError as error:
            raise ValueError(f"`device` {self.device!r} is no torch device: {error}") from error

    def key(self) -> dict[str, Any]:
        """Return what identifies a chain in a manifest; its length and number do not."""
        s = self.settings
        return {
            "kernel": self.kernel, "n_beta": s.n_beta, "localization": s.localization,
            "step_size": s.step_size, "burn_in": s.burn_in, "thin": s.thin, "seed": s.seed,
            "dtype": s.dtype, "options": dict(s.kernel_options),
            "parameters": list(self.parameters), "precision": self.precision,
            "device": torch.device(self.device).type, "revision": REVISION,
        } | ({} if self.threads == 1 else {"threads": self.threads})  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """Everything that determines the draws of one chain at one checkpoint.

    `state` continues a chain that has already given `done` draws.
    """

    checkpoints: Checkpoints
    step: int
    chain: int
    draws: int
    gradient: GradientData
    observed: Observed
    sampler: Sampler
    done: int = 0
    state: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Result:
    """Losses (draws, K) in float32, losses (K,) at the checkpoint, and how to go on."""

    losses: NDArray[np.float32]
    checkpoint_loss: NDArray[np.float32]
    state: bytes
    n_parameters: int


class StepNoise:
    """Gaussian numbers that depend on the chain and the step, not on what was drawn before."""

    def __init__(self, words: tuple[int, int, int], like: Tensor):
        self.words, self.like, self.step = words, like, 0
        self.generator = torch.Generator(like.device)

    def normal(self) -> Tensor:
        """Return the (1, P) Gaussian numbers of this step."""
        self._seed(GAUSSIAN)
        return torch.randn(self.like.shape, generator=self.generator, dtype=self.like.dtype,
                           device=self.like.device)  # fmt: skip

    def uniform(self) -> Tensor:
        """Return the (1,) uniform number of this step."""
        self._seed(UNIFORM)
        return torch.rand(1, generator=self.generator, dtype=self.like.dtype,
                          device=self.like.device)  # fmt: skip

    def _seed(self, stream: int) -> None:
        self.generator.manual_seed(chain_seed(*self.words, stream, self.step))


class FlatModel:
    """A model whose moving parameters are one vector (1, P), and their gradient another."""

    def __init__(self, unit: Unit):
        sampler = unit.sampler
        self.unit, self.precision = unit, sampler.precision
        self.model = unit.checkpoints.load(unit.step, device=sampler.device)
        self.model.to(getattr(torch, sampler.settings.dtype)).requires_grad_(False)
        if _plain_is_faster(sampler, unit.gradient.length):
            self.model.set_attn_implementation("eager")
        every = dict(self.model.named_parameters())
        self.moving = [every[name] for name in matching(every, sampler.parameters)]
        self.center = torch.cat([p.flatten() for p in self.moving])[None].clone()
        self.gradient = torch.zeros_like(self.center)
        for p, piece in zip(self.moving, self._pieces(self.gradient), strict=True):
            p.requires_grad_(True)
            p.grad = piece
        self.observed = torch.from_numpy(unit.observed.ids).to(self.center.device)
        self.step = 0

    def _pieces(self, flat: Tensor) -> Iterator[Tensor]:
        start = 0
        for p in self.moving:
            yield flat[0, start : start + p.numel()].view(p.shape)
            start += p.numel()

    def place(self, theta: Tensor) -> None:
        """Let the model's parameters be views of `theta`."""
        for p, piece in zip(self.moving, self._pieces(theta), strict=True):
            p.data = piece

    def evaluate(self, theta: Tensor) -> Evaluation:
        """Return mean loss and gradient on the next minibatch; the gradient is a shared buffer."""
        unit = self.unit
        self.place(theta)
        self.gradient.zero_()
        seed = unit.sampler.settings.seed
        rows = unit.gradient.batch(seed, unit.step, unit.chain, MINIBATCH, self.step)
        ids = torch.from_numpy(rows).long().to(theta.device)
        loss = token_losses(self.model, ids, bf16=self.precision != "fp32").mean()
        loss.backward()
        return Evaluation(loss.detach()[None], self.gradient)

    def observe(self, theta: Tensor) -> NDArray[np.float32]:
        """Return the losses (K,) of the observed tokens."""
        self.place(theta)
        rows = max(1, TARGETS // (self.observed.shape[1] - 1))
        with torch.inference_mode():
            parts = [token_losses(self.model, ids, bf16=self.precision == "bf16").flatten()
                     for ids in self.observed.split(rows)]  # fmt: skip
        return torch.cat(parts).float().cpu().numpy()


def run(unit: Unit) -> Result:
    """Run one chain from its checkpoint, or on from its stored state.

    Random numbers and minibatches are named by (seed, checkpoint, chain, step), and the number of
    threads is that of the sampler, so the draws do not depend on where, beside what, or in how
    many pieces the chain is run.

    Parameters
    ----------
    unit : Unit
        The chain.

    Returns
    -------
    Result
        Draws number `done` to `draws` - 1. Losses are not finite where the chain diverged.
    """
    with threads(unit.sampler.threads):
        return _run(unit)


def _run(unit: Unit) -> Result:
    settings = unit.sampler.settings
    flat = FlatModel(unit)
    at_checkpoint = flat.observe(flat.center)
    posterior = Posterior(flat.evaluate, flat.center, settings.n_beta, settings.localization,
                          exact=False)  # fmt: skip
    kernel = chains.build(unit.sampler.kernel, posterior, settings.for_kernel())
    state = kernel.init(flat.center)
    first = 0
    if unit.state is not None:
        state = _unpack(state, unit.state, flat.center.device)
        first = settings.burn_in + unit.done * settings.thin
    words = (settings.seed, unit.step, unit.chain)
    noise = StepNoise(words, flat.center)
    losses, state = _advance(kernel, state, noise, first=first, flat=flat)
    shape = (unit.draws - unit.done, unit.observed.n_targets)
    losses = np.asarray(losses, np.float32).reshape(shape)
    return Result(losses, at_checkpoint, _pack(state), flat.center.shape[1])


def _advance(
    kernel: Kernel, state: Any, noise: StepNoise, *, first: int, flat: FlatModel
) -> tuple[list[NDArray[np.float32]], Any]:  # fmt: skip
    """Step to the last draw, observing every `thin`-th state after the burn-in."""
    s, losses = flat.unit.sampler.settings, []
    for step in range(first, s.burn_in + flat.unit.draws * s.thin):
        noise.step, flat.step = step, step + 1
        state = kernel.step(state, noise)
        after = step + 1 - s.burn_in
        if after > 0 and after % s.thin == 0:
            losses.append(flat.observe(state.theta))
    return losses, state


def _plain_is_faster(sampler: Sampler, length: int) -> bool:
    """Whether attention that keeps its weights beats the fused one, as in training short rows."""
    on_cpu = torch.device(sampler.device).type == "cpu"
    return on_cpu and sampler.precision != "fp32" and length <= SHORT


def _pack(state: Any) -> bytes:
    """Write a kernel's state: tensors and numbers in nested named tuples."""

    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    buffer = io.BytesIO()
    torch.save(plain(state), buffer)
    return buffer.getvalue()


def _unpack(like: Any, packed: bytes, device: torch.device) -> Any:
    """Read a state of the same kernel back."""

    def shaped(template: Any, value: Any) -> Any:
        if isinstance(template, tuple):
            return type(template)(*map(shaped, template, value))
        return value

    saved = torch.load(io.BytesIO(packed), map_location=device, weights_only=True)
    return shaped(like, saved)
