"""Sample per-token losses around checkpoints, one chain at a time, and keep what is done."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, as_completed
from pathlib import Path

import numpy as np
import xarray as xr

from dlnflow._support import VERSION
from dlnflow._support.hashes import sha256_json
from dlnflow.lm.data.batches import LEAST, GradientData, Observed, occurring
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.sampling.store import CorruptedError, Store
from dlnflow.lm.sampling.unit import Result, Sampler, Unit, run
from dlnflow.sampling import chains
from dlnflow.traces import format as loss_traces

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
) -> xr.DataArray:
    """Record the loss of every observed token at draws from the localised posterior.

        theta ~ exp(-n_beta L(theta) - (localization / 2) |theta - theta_t|^2),
        L = mean loss over the gradient data,  l_k = loss of observed token k

    Each (checkpoint, chain) is one unit. With a `store`, units that are complete are read, others
    computed, and more draws continue the chains; the result does not depend on the history.

    Parameters
    ----------
    checkpoints : Checkpoints
        theta_t for every step.
    gradient_data : GradientData
        Text of the sampled loss; should be what the model was trained on.
    observed : Observed
        Sequences of equal length, independent of the gradient data: those of 32 ids or more must
        not occur in its text.
    sampler : Sampler
        Kernel, its settings, chains and draws.
    store : path, optional
        Folder; without one nothing survives the call.
    executor : concurrent.futures.Executor, optional
        Where units run; by default here, one after another.
    repair : bool
        Compute damaged units again instead of raising.
    progress : callable, optional
        Called with (units done, units in total).

    Returns
    -------
    DataArray, dims (time, chain, draw, item), float32
        Named "losses", in nats; coordinates row, position and token of every item, and
        checkpoint_loss (time, item). A chain that diverged is not finite and is found by
        `dlnflow.traces.diagnostics`.

    Raises
    ------
    ValueError
        If gradient and observed data or the model disagree, or the store holds something else or
        is in use.
    dlnflow.lm.sampling.store.CorruptedError
        Naming the damaged unit.
    """
    _check(checkpoints, gradient_data, observed)
    if store is None:
        with tempfile.TemporaryDirectory() as folder:
            return sample_traces(
                checkpoints,
                gradient_data,
                observed,
                sampler,
                store=folder,
                executor=executor,
                progress=progress,
            )
    chains.check(sampler.kernel, sampler.settings, exact=False)
    key = {
        "gradient": gradient_data.key(),
        "observed": observed.key(),
        "sampler": sampler.key(),
        "version": VERSION,
    }
    steps = checkpoints.steps.tolist()
    shape = (sampler.settings.chains, observed.n_targets)
    files = Store(store, key, _contents(checkpoints), shape, repair=repair)
    grid = [(step, chain) for step in steps for chain in range(sampler.settings.chains)]
    with files.locked():
        wanted = dict.fromkeys(grid, sampler.settings.draws)
        lost = _drop_damaged(files, grid, repair)
        wanted |= {unit: max(lost[unit], wanted[unit]) for unit in lost}
        pending = [
            Unit(
                checkpoints,
                step,
                chain,
                wanted[step, chain],
                gradient_data,
                observed,
                sampler,
                *_so_far(files, step, chain),
            )
            for step, chain in grid
            if files.done(step, chain) < sampler.settings.draws
        ]
        for k, (unit, result) in enumerate(_results(pending, executor)):
            _write(files, unit, result)
            if progress is not None:
                progress(len(grid) - len(pending) + k + 1, len(grid))
        return _assemble(files, checkpoints, gradient_data, observed, sampler)


def _check(checkpoints: Checkpoints, gradient: GradientData, observed: Observed) -> None:
    """Check that the data fit each other and the model."""
    config = checkpoints.config()
    longest = getattr(config, "max_position_embeddings", None)
    for name, ids, length in (
        ("gradient_data", gradient.ids, gradient.length),
        ("observed", observed.ids, observed.ids.shape[1] - 1),
    ):
        if ids.size and ids.max() >= config.vocab_size:
            raise ValueError(
                f"`{name}` has id {ids.max()}, the model {config.vocab_size} ids: "
                "tokenizer and model vocabulary disagree."
            )
        if longest is not None and length > longest:
            raise ValueError(f"`{name}` has rows of {length} inputs, the model takes {longest}.")
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


def _so_far(files: Store, step: int, chain: int) -> tuple[int, bytes | None]:
    """Return the draws that are complete and the state after them."""
    done = files.done(step, chain)
    return done, files.state(step, chain) if done else None


def _drop_damaged(
    files: Store, grid: list[tuple[int, int]], repair: bool
) -> dict[tuple[int, int], int]:
    """Check every stored unit; forget damaged ones if `repair` and return how long they were."""
    lost = {}
    for step, chain in grid:
        try:
            if done := files.done(step, chain):
                files.read(step, chain, done)
                files.state(step, chain)
        except CorruptedError:
            if not repair:
                raise
            lost[step, chain] = files.lost(step, chain)
            files.forget(step, chain)
    return lost


def _results(units: list[Unit], executor: Executor | None) -> Iterator[tuple[Unit, Result]]:
    """Run units here or through an executor, in whatever order they finish."""
    if executor is None:
        yield from ((unit, run(unit)) for unit in units)
        return
    futures: dict[Future, Unit] = {executor.submit(run, unit): unit for unit in units}
    try:
        yield from ((futures[f], f.result()) for f in as_completed(futures))
    finally:
        for future in futures:
            future.cancel()


def _write(files: Store, unit: Unit, result: Result) -> None:
    """Store a result; if that fails, say that the rest is safe."""
    try:
        files.write(unit.step, unit.chain, result.losses, result.checkpoint_loss, result.state)
    except OSError as error:
        error.add_note(
            f"chain {unit.chain} at step {unit.step} could not be written to {files.folder}. "
            "Units stored before are complete; make room and call again."
        )
        raise


def _assemble(
    files: Store,
    checkpoints: Checkpoints,
    gradient: GradientData,
    observed: Observed,
    sampler: Sampler,
) -> xr.DataArray:
    """Read all units into one labelled array."""
    s, steps = sampler.settings, checkpoints.steps.tolist()
    losses = np.empty((len(steps), s.chains, s.draws, observed.n_targets), np.float32)
    for t, step in enumerate(steps):
        for chain in range(s.chains):
            losses[t, chain] = files.read(step, chain, s.draws)
    coords = observed.coords()
    n_parameters = sum(p.numel() for p in checkpoints.load(steps[0]).parameters())
    attrs = s.attrs(sampler.kernel, len(gradient.ids), n_parameters) | {
        "gradient_sha256": gradient.sha256,
        "observed_sha256": observed.sha256,
        "text_sha256": gradient.text_sha256,
        "repeat_share": gradient.repeat_share,
        "precision": sampler.precision,
        "units": "nats",
        "threads": sampler.threads,
    }
    array = loss_traces.labelled(
        losses,
        time=steps,
        items=coords.pop("item").tolist(),
        checkpoint_loss=np.stack([files.checkpoint_loss(step) for step in steps]),
        attrs=attrs,
    )
    return array.assign_coords({name: ("item", value) for name, value in coords.items()})
