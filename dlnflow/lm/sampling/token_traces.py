"""Sample per-token losses around checkpoints, chain by chain, and keep what is done."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import xarray as xr

from dlnflow._support import VERSION
from dlnflow._support.hashes import sha256_json
from dlnflow._support.jobs import completed
from dlnflow.lm import named_components
from dlnflow.lm.data.batches import LEAST, GradientData, Observed, check_fits, occurring
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.sampling import inputs, results, summed
from dlnflow.lm.sampling.chain import close
from dlnflow.lm.sampling.store import CorruptedError, Store
from dlnflow.lm.sampling.unit import Job, Sampler, dealt, together, work_together
from dlnflow.sampling import chains
from dlnflow.sampling.restriction import described

if TYPE_CHECKING:
    from dlnflow.traces.class_sums import ClassSums

NO_MATTER = ("transformers_version", "torch_dtype", "dtype", "use_cache")
"""Entries of config.json that losses do not depend on."""


def sample_traces(
    checkpoints: Checkpoints,
    gradient_data: GradientData,
    observed: Observed,
    sampler: Sampler,
    *,
    store: str | Path | None = None,
    executor: Executor | None = None,
    repair: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> xr.DataArray | ClassSums:
    """Record the loss of every observed token at draws from the localised posterior.

        theta ~ exp(-n_beta L(theta) - (localization / 2) |theta - theta_t|^2),
        L = mean loss over the gradient data,  l_k = loss of observed token k

    Each (checkpoint, chain) is one unit. With a `store`, units that are complete are read, others
    computed, and more draws continue the chains; the result does not depend on the history, nor
    on how many processes or machines work on one store at the same time.

    Parameters
    ----------
    checkpoints : Checkpoints
        theta_t for every step.
    gradient_data : GradientData
        Text of the sampled loss; should be what the model was trained on.
    observed : Observed
        Sequences of equal length, independent of the gradient data: those of 32 ids or more must
        not occur in its text. With `classes`, sums over them are all that is kept.
    sampler : Sampler
        Kernel, its settings, chains and draws.
    store : path, optional
        Folder; without one nothing survives the call. Other calls, also of other processes and
        machines that see it, may work on the same one.
    executor : concurrent.futures.Executor, optional
        Where units run; by default here, one after another. What is sent to a worker is a few
        thousand bytes; it reads the ids, and writes its draws, itself.
    repair : bool
        Compute damaged units again instead of raising.
    progress : callable, optional
        Called with (units done, units in total).

    Returns
    -------
    DataArray, dims (time, chain, draw, item), float32
        Named "losses", in nats; coordinates row, position and token of every item, and
        checkpoint_loss (time, item). Observables of the sampler are coordinates (time, chain,
        draw), and `checkpoint_<name>` (time). Of a store, draws are read when they are asked for,
        and compared with their hashes. A chain that diverged is not finite and is found by
        `dlnflow.traces.diagnostics`. Of observed `classes`, `dlnflow.traces.class_sums` of them:
        their store has as many chains and draws as at first, since another chain or draw would
        change every sum.

    Raises
    ------
    ValueError
        If gradient and observed data or the model disagree, an observable is no number or changes
        the model, or the store holds something else or is in use.
    dlnflow.lm.sampling.store.CorruptedError
        Naming the damaged unit.
    """
    parts = Parts(checkpoints, gradient_data, observed)
    if store is None:
        with tempfile.TemporaryDirectory() as folder:
            driver = Driver(parts, sampler, folder)
            driver.run(executor=executor, progress=progress)
            return _in_memory(driver.traces())
    driver = Driver(parts, sampler, store, repair=repair)
    driver.run(executor=executor, progress=progress)
    return driver.traces()


def _in_memory(traces: xr.DataArray | ClassSums) -> xr.DataArray | ClassSums:
    """Read everything, so that the store can go."""
    if isinstance(traces, xr.DataArray):
        return traces.load()
    return dataclasses.replace(traces, checkpoints=[dict(one) for one in traces.checkpoints])


class Parts(NamedTuple):
    """What chains are sampled around, from and on."""

    checkpoints: Checkpoints
    gradient: GradientData
    observed: Observed


class Driver:
    """What is to be in a store, and the work that is left.

    Parameters
    ----------
    parts : Parts
        Checkpoints, gradient data and observed sequences.
    sampler : Sampler
        Kernel, its settings, chains and draws.
    store : path
        Folder.
    repair : bool
        Compute damaged units again instead of raising.
    suggestion : dict, optional
        How the settings were chosen, to be kept with the store.

    Raises
    ------
    ValueError
        As `sample_traces`.
    """

    def __init__(
        self,
        parts: Parts,
        sampler: Sampler,
        store: str | Path,
        *,
        repair: bool = False,
        suggestion: dict[str, Any] | None = None,
    ) -> None:
        check_parts(*parts)
        chains.check(sampler.kernel, sampler.settings, exact=False)
        sampler.try_out(parts.checkpoints)
        self.parts, self.sampler, self._repair = parts, sampler, repair
        self._key = {
            "gradient": parts.gradient.key(),
            "observed": parts.observed.key(),
            "sampler": sampler.key(),
            "version": VERSION,
        }
        self._attrs: dict[str, Any] | None = None
        if parts.observed.classes is not None:  # of these many, and no other, sums are kept
            if sampler.observables:
                raise ValueError(
                    "`observables` are recorded beside the losses of tokens, and of `classes` only "
                    "sums are kept; keep the losses of tokens (`--keep tokens`)."
                )
            self._attrs = self._about()
            self._key["class_sums"] = {name: self._attrs[name] for name in ("chains", "draws")}
        self._contents = _contents(parts.checkpoints)
        columns = parts.observed.n_targets + len(sampler.observables)
        self._shape = (sampler.settings.chains, columns)
        self.files = Store(
            store,
            self._key,
            self._contents,
            self._shape,
            repair=repair,
            suggestion=suggestion,
        )
        with self.files.writing():
            self._inputs = inputs.keep(self.files.folder, parts.gradient, parts.observed)

    @property
    def grid(self) -> list[tuple[int, int]]:
        """Return (step, chain) of all units."""
        numbers = range(self.sampler.settings.chains)
        return [
            (step, chain) for step in self.parts.checkpoints.steps.tolist() for chain in numbers
        ]

    def left(self, part: tuple[int, int] = (1, 1)) -> list[tuple[int, int]]:
        """Return the units of part k of n, from 1 to n, with which something is left to do."""
        done = {unit: self.files.done(*unit) >= self._draws for unit in self.grid}
        chains, mine = range(self.sampler.settings.chains), self._mine(part)
        if self._attrs is None:
            return [unit for unit in mine if not done[unit]]
        whole = {s for s, _ in self.grid if all(done[s, c] for c in chains)}
        sums = {s for s in whole if not summed.is_reduced(self.files, s)}
        return [unit for unit in mine if not done[unit] or unit[0] in sums]

    def run(
        self,
        part: tuple[int, int] = (1, 1),
        *,
        executor: Executor | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Complete the units of part k of n, here or through an executor.

        Raises
        ------
        ValueError
            If there is no such part.
        dlnflow.lm.sampling.store.CorruptedError
            Naming the damaged unit.
        """
        mine = self._mine(part)
        with self.files.writing():
            wanted = dict.fromkeys(mine, self._draws)
            if self._attrs is not None:
                self._check_sums()
            lost = _drop_damaged(self.files, mine, self._repair)
            wanted |= {unit: max(lost[unit], wanted[unit]) for unit in lost}
            if mine:
                self.files.make_room(self._shape[0], max(wanted.values()))
            jobs = [self._job(*unit, wanted[unit]) for unit in self.left(part)]
            hopeless = (CorruptedError,)
            done, groups = len(mine) - len(jobs), together(jobs, self.sampler.device)
            try:
                for group in completed(work_and_reduce, groups, executor, hopeless=hopeless):
                    done += len(group)
                    if progress is not None:
                        progress(done, len(mine))
            finally:
                close()

    def traces(self) -> xr.DataArray | ClassSums:
        """Return the traces of the store once all its units are complete.

        Raises
        ------
        dlnflow.lm.sampling.store.CorruptedError
            If one is not, or damaged; that is noticed when it is read.
        """
        checkpoints, _, observed = self.parts
        where = self.files.folder, checkpoints.steps.tolist()
        if self._attrs is not None:
            return results.sums(*where, observed.names, observed.coords(), self._attrs)
        return results.lazy(*where, observed.coords(), self._about())

    def _about(self) -> dict[str, Any]:
        """Return the attributes of the traces."""
        checkpoints, gradient, observed = self.parts
        s, steps = self.sampler.settings, checkpoints.steps.tolist()
        restrict = self.sampler.restrict or self.sampler.parameters
        n_parameters = named_components.size(checkpoints.load(steps[0]), restrict)
        attrs = s.attrs(self.sampler.kernel, len(gradient.ids), n_parameters) | {
            "gradient_sha256": gradient.sha256,
            "observed_sha256": observed.sha256,
            "text_sha256": gradient.text_sha256,
            "repeat_share": gradient.repeat_share,
            "precision": self.sampler.precision,
            "units": "nats",
            "threads": self.sampler.threads,
        }
        if self.sampler.observables:
            attrs["observables"] = ", ".join(one.name for one in self.sampler.observables)
        if restrict:
            attrs["restrict"] = described(restrict, n_parameters)
        return attrs

    def _check_sums(self) -> None:
        """Check stored sums; forget damaged ones if damage is repaired."""
        for step in self.parts.checkpoints.steps.tolist():
            if not summed.is_reduced(self.files, step):
                continue
            try:
                summed.read(self.files, step)
                summed.drop_draws(self.files, step)  # if who wrote the sums was killed before
            except CorruptedError:
                if not self._repair:
                    raise
                summed.forget(self.files, step)

    @property
    def _draws(self) -> int:
        return self.sampler.settings.draws

    def _mine(self, part: tuple[int, int]) -> list[tuple[int, int]]:
        return dealt(self.grid, part, self.sampler.device)

    def _job(self, step: int, chain: int, draws: int) -> Job:
        ladder = self.parts.checkpoints
        if ladder.places[ladder.at(step)][1] is None:  # of the hub, steps are compared on arrival
            ladder = ladder.select([step])
        places = tuple((_absolute(place, rev), rev) for place, rev in ladder.places)
        return Job(
            str(self.files.folder.absolute()),
            self._key,
            {step: self._contents[step]},
            self._shape,
            dataclasses.replace(ladder, places=places),
            step,
            chain,
            draws,
            self._inputs,
            self.sampler,
            self._attrs,
        )


def _absolute(place: str, revision: str | None) -> str:
    """Return a folder as another process finds it; names on the hub are what they are."""
    return place if revision is not None else str(Path(place).absolute())


def work_and_reduce(jobs: tuple[Job, ...]) -> bool:
    """Compute chains of a checkpoint, as `work_together`, and its class sums if they are asked for.

    Returns
    -------
    bool
        False if another process is at it, so that it is not known when it will be complete.
    """
    one = jobs[0]
    if not work_together(jobs):
        return False
    if one.attrs is None:
        return True
    files = Store(one.store, one.key, one.contents, one.shape)
    with files.writing():
        return summed.reduce(files, one)


def check_parts(checkpoints: Checkpoints, gradient: GradientData, observed: Observed) -> None:
    """Check that the data fit each other and the model.

    Raises
    ------
    ValueError
        If ids or rows are more than the model has, or observed rows are part of the text.
    """
    config = checkpoints.config()
    for name, ids, length in (
        ("gradient_data", gradient.ids, gradient.length),
        ("observed", observed.ids, observed.ids.shape[1] - 1),
    ):
        check_fits(name, ids, length, config)
    if observed.ids.shape[1] < LEAST:
        return
    shared = observed.rows[occurring(observed.ids, gradient.ids)].tolist()
    if shared:
        raise ValueError(
            f"`observed` must not be part of `gradient_data`: {len(shared)} of {len(observed.ids)} "
            f"rows occur in its text, row {shared[0]} first. Take rows that were held out; "
            "`Observed.held_out(tokens, ..., gradient=gradient_data)` leaves out rows that occur."
        )


def _contents(checkpoints: Checkpoints) -> dict[int, dict[str, str]]:
    """Return the hashes of the weights and of config.json at every step."""
    from transformers import PretrainedConfig

    found = {}
    for step, (place, revision), weights in zip(
        checkpoints.steps.tolist(), checkpoints.places, checkpoints.hashes, strict=True
    ):
        config, _ = PretrainedConfig.get_config_dict(place, revision=revision or "main")
        relevant = {n: v for n, v in config.items() if n not in NO_MATTER and not n.startswith("_")}
        found[step] = {"weights": weights, "config": sha256_json(relevant)}
    return found


def _drop_damaged(
    files: Store, grid: list[tuple[int, int]], repair: bool
) -> dict[tuple[int, int], int]:
    """Check every stored unit; forget damaged ones if `repair` and return how long they were."""
    lost = {}
    for step, chain in grid:
        with files.claimed(step, chain) as mine:
            if not mine or summed.is_reduced(files, step):  # whoever computes it has checked it
                continue
            try:
                if done := files.done(step, chain):
                    files.read(step, chain, done)
                    files.state(step, chain)
            except CorruptedError:
                if summed.is_reduced(files, step):  # meanwhile, so that the draws are gone
                    continue
                if not repair:
                    raise
                lost[step, chain] = files.lost(step, chain)
                files.forget(step, chain)
    return lost
