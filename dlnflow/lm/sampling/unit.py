"""One chain at one checkpoint: a function of its description alone, wherever it is computed.

A job names the inputs of a chain by path and hash, claims the chain in its store, goes on from the
draws that are there, and writes. Whoever hands out jobs only counts them. So a job may run
anywhere that sees the store, twice, or not at all: the next one takes it up, with the same bits.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from dlnflow import checks
from dlnflow._support import VERSION
from dlnflow._support.hashes import identity
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.named_components import moving
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.device import threads
from dlnflow.lm.runs.model import SHORT
from dlnflow.lm.sampling.evaluator import LanguageModelEvaluator
from dlnflow.lm.sampling.inputs import Inputs, opened
from dlnflow.lm.sampling.store import Store
from dlnflow.sampling import chains, kernels
from dlnflow.sampling.noise import StepNoise
from dlnflow.sampling.settings import REVISION, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRECISIONS = ("fp32", "bf16-gradient", "bf16")
"""Where bfloat16 autocast is used."""


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
    restrict : tuple of str, str, or mapping
        In place of `parameters`: names of components (`dlnflow.lm.components`), e.g.
        ``"layer1.head3"``, or a mapping of parameter names to bool masks of entries; empty: all.
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
    restrict: tuple[str, ...] | Mapping[str, NDArray[np.bool_]] = ()

    NOT_IN_KEY: ClassVar[Mapping[str, str]] = {"settings": "its fields stand beside the others"}
    """Fields that are not written as they are, and why."""
    SINCE: ClassVar[Mapping[str, Any]] = {"threads": 1, "restrict": ()}
    """Fields that older stores lack -> the value at which chains were run then."""

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, PRECISIONS)
        kernels.named(self.kernel).check_minibatches()
        one = isinstance(self.parameters, str)
        object.__setattr__(
            self, "parameters", (self.parameters,) if one else tuple(self.parameters)
        )
        object.__setattr__(self, "restrict", _as_given(self.restrict))
        if self.parameters and self.restrict:
            raise ValueError(
                "`parameters` names whole parameters and `restrict` components or entries; give "
                "one of the two."
            )
        checks.positive_integer("threads", self.threads)
        try:
            torch.device(self.device)  # whether this machine has it, only a chain needs to know
        except RuntimeError as error:
            raise ValueError(f"`device` {self.device!r} is no torch device: {error}") from error

    def key(self) -> dict[str, Any]:
        """Return what identifies a chain in a manifest; its length and number do not."""
        settings = identity(self.settings, leave_out=self.settings.NOT_IN_KEY)
        settings["options"] = settings.pop("kernel_options")  # its name in stores that exist
        own = identity(self, leave_out=self.NOT_IN_KEY, since=self.SINCE)
        return settings | own | {"device": torch.device(self.device).type, "revision": REVISION}


def _as_given(restrict: Any) -> tuple[str, ...] | dict[str, NDArray]:
    """Return a restriction as it is kept: names as a tuple, masks as arrays."""
    if isinstance(restrict, Mapping):
        return {str(name): np.asarray(mask) for name, mask in restrict.items()}
    return (restrict,) if isinstance(restrict, str) else tuple(restrict)


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


@dataclass(frozen=True)
class Job:
    """One chain at one checkpoint by reference.

    Attributes
    ----------
    store, key, contents, shape
        As `dlnflow.lm.sampling.store.Store` takes them, `contents` of this step alone.
    checkpoints, step, chain, draws, sampler
        As in `dlnflow.lm.sampling.unit.Unit`.
    inputs : Inputs
        Where the ids lie.
    """

    store: str
    key: dict[str, Any] = field(repr=False)
    contents: dict[int, dict[str, str]] = field(repr=False)
    shape: tuple[int, int]
    checkpoints: Checkpoints = field(repr=False)
    step: int
    chain: int
    draws: int
    inputs: Inputs = field(repr=False)
    sampler: Sampler


def work(job: Job) -> bool:
    """Compute a chain and write it into the store.

    Returns
    -------
    bool
        False if another process is at it, so that it is not known when it will be complete.

    Raises
    ------
    ValueError
        If this process has another version of the package, or cannot see the inputs.
    OSError
        If the disk is full; nothing of the chain is half-written then.
    dlnflow.lm.sampling.store.CorruptedError
        If what the chain is to go on from is damaged.
    """
    if job.key["version"] != VERSION:
        raise ValueError(
            f"this process has dlnflow {VERSION}, the one that asks for the chain "
            f"{job.key['version']}. Install the same version everywhere."
        )
    files = Store(job.store, job.key, job.contents, job.shape)
    with files.writing(), files.claimed(job.step, job.chain) as mine:
        if not mine:
            return False
        done = files.done(job.step, job.chain)
        if done >= job.draws:
            return True
        gradient, observed = opened(job.inputs)
        state = files.state(job.step, job.chain) if done else None
        result = run(
            Unit(
                job.checkpoints,
                job.step,
                job.chain,
                job.draws,
                gradient,
                observed,
                job.sampler,
                done,
                state,
            )
        )
        _write(files, job, result.losses, result.checkpoint_loss, result.state)
    return True


def _write(files: Store, job: Job, *what: Any) -> None:
    """Store a result; if that fails, say that the rest is safe."""
    try:
        files.write(job.step, job.chain, *what)
    except OSError as error:
        error.add_note(
            f"chain {job.chain} at step {job.step} could not be written to {files.folder}. "
            "Chains stored before are complete; make room and call again."
        )
        raise


def _run(unit: Unit) -> Result:
    sampler, settings = unit.sampler, unit.sampler.settings
    key = (settings.seed, unit.step, unit.chain)
    model = _model(unit)
    names, entries = moving(model, sampler.restrict)
    evaluator = LanguageModelEvaluator(
        model,
        unit.gradient,
        unit.observed,
        key,
        parameters=names or sampler.parameters,
        precision=sampler.precision,
    )
    start = evaluator.observe(evaluator.center)[0].numpy()
    kernel, posterior = chains.around(
        evaluator, evaluator.center, sampler.kernel, settings, entries
    )
    center = posterior.center
    state = kernel.init(center)
    if unit.state is not None:
        state = _unpack(state, unit.state, center.device)
    noise = StepNoise(key, center)

    def begin(step: int) -> None:
        noise.step, evaluator.step = step, step + 1

    lengths = settings.lengths() | {"draws": unit.draws}
    losses, state = chains.run(
        kernel, posterior.evaluate, state, noise, lengths=lengths, done=unit.done, begin=begin
    )
    return Result(losses[0].numpy(), start, _pack(state), center.shape[1])


def _model(unit: Unit) -> PreTrainedModel:
    """Return the model of a unit without gradients, with the faster kind of attention."""
    sampler = unit.sampler
    model = unit.checkpoints.load(unit.step, device=sampler.device)
    model.to(getattr(torch, sampler.settings.dtype)).requires_grad_(False)
    if _plain_is_faster(sampler, unit.gradient.length):
        model.set_attn_implementation("eager")
    return model


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
