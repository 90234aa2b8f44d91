"""One chain at one checkpoint: a function of its description alone, wherever it is computed.

A job names the inputs of a chain by path and hash, claims the chain in its store, goes on from the
draws that are there, and writes. Whoever hands out jobs only counts them. So a job may run
anywhere that sees the store, twice, or not at all: the next one takes it up, with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from dlnflow import checks
from dlnflow._support import VERSION
from dlnflow._support.hashes import identity
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.device import threads
from dlnflow.lm.sampling.chain import Result, advanced
from dlnflow.lm.sampling.inputs import Inputs, opened
from dlnflow.lm.sampling.recorded import checked, try_out
from dlnflow.lm.sampling.store import Store
from dlnflow.sampling import kernels
from dlnflow.sampling.restriction import as_given, listed
from dlnflow.sampling.settings import REVISION, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PRECISIONS = ("fp32", "bf16-gradient", "bf16", "tf32")
"""Where bfloat16 autocast is used; "tf32" on a GPU alone."""
AT_ONCE = 8
"""Most chains that a GPU advances at the same time."""


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
    observables : tuple of callables
        What is recorded beside the losses at every draw: each takes the model and returns a number,
        and has a `name`. See `dlnflow.lm.observables`; one of your own is a frozen dataclass of a
        module that workers can import, and gets another name when it changes.
    precision : str
        ``"fp32"``; ``"bf16-gradient"``: autocast where gradients are taken, where minibatch noise
        hides the rounding; ``"bf16"``: observed losses too, and ``"tf32"``: those with the TF32
        products of a GPU. Rounding is then noise of about 2e-2 and 2e-3 nats in a loss, which
        lowers correlations (docs/lm_sampling.md).
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
    observables: tuple[Callable[[PreTrainedModel], float], ...] = ()

    NOT_IN_KEY: ClassVar[Mapping[str, str]] = {
        "settings": "its fields stand beside the others",
        "observables": "they are written with the names of their classes",
    }
    """Fields that are not written as they are, and why."""
    SINCE: ClassVar[Mapping[str, Any]] = {"threads": 1, "restrict": ()}
    """Fields that older stores lack -> the value at which chains were run then."""

    def __post_init__(self) -> None:
        checks.one_of("precision", self.precision, PRECISIONS)
        kernels.named(self.kernel).check_minibatches()
        object.__setattr__(self, "parameters", listed("parameters", self.parameters))
        some = () if self.restrict is None else as_given(self.restrict)
        object.__setattr__(self, "restrict", some)
        object.__setattr__(self, "observables", checked(self.observables))
        _identities(self.observables)
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
        if self.precision == "tf32" and torch.device(self.device).type != "cuda":
            raise ValueError(
                f"`precision` 'tf32' is a format of GPUs, and `device` is {self.device!r}. Use "
                "'bf16-gradient', which differs in how observed losses are rounded."
            )

    def __eq__(self, other: object) -> bool:
        """Return whether all fields are equal, masks and arrays of observables by their values."""
        return self._fields() == other._fields() if isinstance(other, Sampler) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.kernel, self.parameters, self.precision, self.device, self.threads))

    def _fields(self) -> dict[str, Any]:
        """Return all fields as JSON, arrays by their sha256."""
        own = identity(self, leave_out={"observables": self.NOT_IN_KEY["observables"]})
        return own | {"observables": _identities(self.observables)}

    def try_out(self, checkpoints: Checkpoints) -> None:
        """Refuse observables that cannot be recorded, or change the model.

        Raises
        ------
        ValueError
            Naming the observable.
        """
        if self.observables:
            try_out(self.observables, checkpoints.load(checkpoints.steps.tolist()[0]))

    def key(self) -> dict[str, Any]:
        """Return what identifies a chain in a manifest; its length and number do not."""
        settings = identity(self.settings, leave_out=self.settings.NOT_IN_KEY)
        settings["options"] = settings.pop("kernel_options")  # its name in stores that exist
        own = identity(self, leave_out=self.NOT_IN_KEY, since=self.SINCE)
        if self.observables:
            own["observables"] = _identities(self.observables)
        return settings | own | {"device": torch.device(self.device).type, "revision": REVISION}


def _identities(observables: Sequence[Any]) -> list[dict[str, Any]]:
    """Describe observables in a store by their classes, fields and names.

    Returns
    -------
    list of dict
        JSON.

    Raises
    ------
    ValueError
        If a field has no identity.
    """
    found = []
    for one in observables:
        try:
            own = identity(one, leave_out={})
        except TypeError as error:
            raise ValueError(
                f"`observables`: a field of {one.name!r} cannot identify it in a store: {error} "
                "Hold numbers, text, sequences of them, or numpy arrays."
            ) from error
        found.append({"class": type(one).__qualname__} | own | {"name": one.name})
    return found


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
    return run_together([unit])[0]


def run_together(units: Sequence[Unit]) -> list[Result]:
    """Run chains of one checkpoint as `run` does; on a GPU they advance at the same time.

    Parameters
    ----------
    units : sequence of Unit
        With the same checkpoint, sampler and text.

    Returns
    -------
    list of Result
        The same, bit by bit, as that of every unit alone on this kind of device.
    """
    with threads(units[0].sampler.threads):
        return advanced(units)


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
    attrs : dict, optional
        Attributes of the traces; if given, the draws of a checkpoint are replaced by class sums
        once all its chains are complete.
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
    attrs: dict[str, Any] | None = field(default=None, repr=False)


def work(job: Job) -> bool:
    """Compute a chain and write it into the store, as `work_together`.

    Returns
    -------
    bool
        False if another process is at it, so that it is not known when it will be complete.
    """
    return work_together((job,))


def work_together(jobs: tuple[Job, ...]) -> bool:
    """Compute chains of one checkpoint and write them into the store.

    Returns
    -------
    bool
        False if another process is at one of them, so that it is not known when it will be
        complete.

    Raises
    ------
    ValueError
        If this process has another version of the package, or cannot see the inputs.
    OSError
        If the disk is full; nothing of a chain is half-written then.
    dlnflow.lm.sampling.store.CorruptedError
        If what a chain is to go on from is damaged.
    """
    one = jobs[0]
    if one.key["version"] != VERSION:
        raise ValueError(
            f"this process has dlnflow {VERSION}, the one that asks for the chain "
            f"{one.key['version']}. Install the same version everywhere."
        )
    files = Store(one.store, one.key, one.contents, one.shape)
    with ExitStack() as held:
        held.enter_context(files.writing())
        mine = [job for job in jobs if held.enter_context(files.claimed(job.step, job.chain))]
        left = [job for job in mine if files.done(job.step, job.chain) < job.draws]
        units = [_unit(files, job) for job in left]
        results = [run(unit) for unit in units] if len(units) < 2 else run_together(units)
        for job, result in zip(left, results, strict=True):
            _write(files, job, result.losses, result.checkpoint_loss, result.state)
    return len(mine) == len(jobs)


def _unit(files: Store, job: Job) -> Unit:
    """Return what a job asks for, from where its chain is."""
    done = files.done(job.step, job.chain)
    return Unit(
        job.checkpoints,
        job.step,
        job.chain,
        job.draws,
        *opened(job.inputs),
        job.sampler,
        done,
        files.state(job.step, job.chain) if done else None,
    )


def together(jobs: Sequence[Job], device: str) -> list[tuple[Job, ...]]:
    """Return which jobs are done at the same time: on a GPU up to `AT_ONCE` of a checkpoint."""
    return _grouped(jobs, [job.step for job in jobs], device)


def dealt(
    units: Sequence[tuple[int, int]], part: tuple[int, int], device: str
) -> list[tuple[int, int]]:
    """Return part k of n of units (step, chain), k from 1: every n-th chain.

    On a GPU every n-th group of those that `together` advances at the same time, so that the
    chains of a checkpoint stay together.

    Raises
    ------
    ValueError
        If there is no such part.
    """
    k, n = part
    if not 1 <= k <= n:
        raise ValueError(f"`part` must be k of n with 1 <= k <= n, got {k}/{n}.")
    groups = _grouped(units, [step for step, _ in units], device)
    return [unit for group in groups[k - 1 :: n] for unit in group]


def _grouped(every: Sequence[Any], steps: Sequence[int], device: str) -> list[tuple[Any, ...]]:
    if torch.device(device).type != "cuda":
        return [(one,) for one in every]
    of_step: dict[int, list[Any]] = {}
    for one, step in zip(every, steps, strict=True):
        of_step.setdefault(step, []).append(one)
    return [
        tuple(some[k : k + AT_ONCE])
        for some in of_step.values()
        for k in range(0, len(some), AT_ONCE)
    ]


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
