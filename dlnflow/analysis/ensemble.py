"""Curves of several runs that differ in their seed: what holds for a task, not for one start."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, dynamics, result
from dlnflow._support import VERSION, FloatArray, IntArray
from dlnflow._support.files import write_json
from dlnflow._support.hashes import sha256_array, sha256_text
from dlnflow._support.progress import Progress
from dlnflow._support.shared_folder import WorkFolder
from dlnflow.analysis.events import events
from dlnflow.dynamics import Dynamics
from dlnflow.dynamics.loops import DivergenceError
from dlnflow.influence import ESTIMATORS, Items
from dlnflow.task import Task

TOLERANCE = 0.05
"""Events of different seeds are the same within this share of the recorded time."""


def ensemble(
    task: Task,
    seeds: int | Sequence[int] = 8,
    estimator: str | Sequence[str] = "tangent",
    steps: ArrayLike | None = None,
    *,
    executor: Executor | WorkFolder | None = None,
    train: Items = None,
    query: Items = None,
    errors: str = "raise",
    **run_settings: Any,
) -> xr.DataArray:
    """Influence over several runs that differ in their seed only, on one grid of steps.

    All runs have one learning rate and one length: where none is given, the smallest default rate
    of the seeds and, with it, their largest default `n_steps`.

    Parameters
    ----------
    task : Task
    seeds : int or sequence of int
        How many (0, 1, ...), or which.
    estimator : str or sequence of str
        Names in `dlnflow.ESTIMATORS`.
    steps : sequence of int, optional
        Default: the grid of a run of the common length.
    executor : concurrent.futures.Executor, optional
        Computes the seeds, say a ProcessPoolExecutor or the one of a dask client; by default one
        after another in this process. The numbers are the same. A `WorkFolder` keeps the curves of
        every seed and estimator in a file, which later calls read; several calls, also of other
        processes and machines, may fill it at the same time, each all of it or a part.
    train, query : item names, optional
        Default: all.
    errors : {"raise", "drop"}
        What to do where runs diverge: name them all and give nothing, or warn and keep the others.
    **run_settings
        Settings of `dlnflow.Run`, all but `seed`.

    Returns
    -------
    xarray.DataArray
        dims (seed, time, query, train), with the dim estimator before them if a list of names is
        given. The attributes ``n_steps`` and ``learning_rate`` are common to all seeds, ``common``
        says how they came about, and ``dropped_seeds`` names those that diverged. After a part of
        a `WorkFolder` the seeds that are there, with a warning that names the others.

    Raises
    ------
    ValueError
        If a seed, an estimator, a step, a name or a setting is unknown, repeated or does not fit;
        nothing is trained before.
    dlnflow.DivergenceError
        If runs diverge, each seed with its reason; with errors="drop" only if all do.

    Examples
    --------
    >>> import dlnflow as dln
    >>> curves = ensemble(dln.semantic_hierarchy(), 3, steps=[400, 800], query="cat", train="dog")
    >>> curves.dims, curves.squeeze().values.round(3).tolist()[0]
    (('seed', 'time', 'query', 'train'), [-0.507, 0.096])
    """
    checks.one_of("errors", errors, ["raise", "drop"])
    numbers, names = _seeds(seeds), _estimators(estimator)
    settings, common = common_settings(task, numbers, run_settings)
    first = dynamics.Run(task, seed=numbers[0], **settings)
    for name in names:
        ESTIMATORS[name].require(first)
    steps = first.grid() if steps is None else checks.recorded_steps(steps, first.n_steps)
    options = {
        "train": None if train is None else [first.items[k] for k in _of("train", train, first)],
        "query": None if query is None else [first.queries[k] for k in _of("query", query, first)],
    }
    parts = _parts(task)
    jobs = [(parts, settings | {"seed": seed}, names, steps, options) for seed in numbers]
    if isinstance(executor, WorkFolder):
        done = _in_folder(executor, numbers, jobs)
    else:
        done = dict(zip(numbers, _computed(jobs, executor), strict=True))
    kept, dropped = _without_diverged(done, errors)
    curves = [
        result.joined(column, "seed", list(kept)) for column in zip(*kept.values(), strict=True)
    ]
    whole = curves[0] if isinstance(estimator, str) else result.stack(*curves)
    about = {"n_steps": first.n_steps, "learning_rate": first.learning_rate, "common": common}
    return whole.assign_attrs(about | ({"dropped_seeds": dropped} if dropped else {}))


def _of(name: str, chosen: Items, run: Dynamics) -> IntArray:
    return checks.positions(name, chosen, run.items if name == "train" else run.queries)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return different seeds."""
    if np.ndim(seeds) == 0:
        return list(range(checks.positive_integer("seeds", seeds)))
    numbers = [checks.whole_number("seeds", one) for one in np.asarray(seeds).ravel().tolist()]
    if not numbers or len(set(numbers)) < len(numbers):
        raise ValueError(f"`seeds` must list different seeds, at least one; got {numbers}.")
    return numbers


def _estimators(estimator: str | Sequence[str]) -> list[str]:
    """Return different names of estimators."""
    names = [estimator] if isinstance(estimator, str) else list(estimator)
    for name in names:
        checks.one_of("estimator", name, list(ESTIMATORS))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`estimator` must list different names, at least one; got {names}.")
    return names


def common_settings(
    task: Task, seeds: Sequence[int], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Return settings with one learning rate and one length, and in words how they came about."""
    if "seed" in settings:
        raise ValueError("`seed` is what differs between the runs; give `seeds`.")
    if settings.get("initial") is not None and settings.get("batch") is None:
        raise ValueError(
            "`initial` fixes the start and there are no minibatches, so that all seeds give the "
            "same run; leave `initial` out, or give `batch`."
        )
    settings, words = dict(settings), []
    for name, chosen, which in (("learning_rate", min, "smallest"), ("n_steps", max, "largest")):
        if settings.get(name) is None:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                runs = [dynamics.Run(task, seed=seed, **settings) for seed in seeds]
            settings[name] = chosen(getattr(run, name) for run in runs)
            words.append(f"{name}: the {which} default of {len(seeds)} seeds")
            if name == "n_steps":  # the length with the common rate; all seeds say it once
                for text in dict.fromkeys(str(one.message) for one in caught):
                    warnings.warn(text, stacklevel=3)
    return settings, "; ".join(words) or "learning_rate and n_steps: given"


def _parts(task: Task) -> dict[str, Any]:
    """Return what a task is made of; one-hot inputs and decompositions are made again there."""
    x = None if task.one_hot else task.x
    return {"y": task.y, "x": x, "items": task.items, "features": task.features}


def _computed(
    jobs: Sequence[tuple[Any, ...]], executor: Executor | None
) -> list[list[xr.DataArray] | str]:
    """Return what `curves_of_one_seed` gives for every job, in their order."""
    if executor is None:
        return [curves_of_one_seed(*job) for job in jobs]
    futures = [executor.submit(curves_of_one_seed, *job) for job in jobs]
    done = []
    try:
        with Progress(len(jobs), "seeds") as progress:
            for future in futures:
                done.append(future.result())
                progress.advance()
        return done
    finally:  # where one fails, those that wait are not begun
        for future in futures:
            future.cancel()


@dataclass(frozen=True)
class SeedJob:
    """The curves of one estimator on one run; arguments as of `curves_of_one_seed`."""

    folder: Path
    parts: Mapping[str, Any]
    settings: Mapping[str, Any]
    estimator: str
    steps: IntArray
    options: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """Return a name of everything that the curves depend on."""
        what = [VERSION, self.settings, self.estimator, self.steps, self.options, self.parts]
        kinds = {np.ndarray: sha256_array, np.generic: np.generic.item}

        def plain(value: Any) -> Any:
            known = next((kinds[kind] for kind in kinds if isinstance(value, kind)), repr)
            return known(value)

        text = json.dumps(what, sort_keys=True, default=plain)
        return f"{self.estimator}-{sha256_text([text])[:24]}"

    @property
    def claim(self) -> Path:
        """Locked while the curves are computed."""
        return self.folder / f"{self.name}.lock"

    def done(self) -> bool:
        """Whether they are there, or the reason why the run diverges."""
        return self.result() is not None

    def result(self) -> xr.DataArray | str | None:
        """Return the curves, or why the run diverges; None if there is no sound file."""
        try:
            return result.load(self.folder / f"{self.name}.nc")
        except (FileNotFoundError, ValueError):
            pass
        try:
            reason = json.loads((self.folder / f"{self.name}.json").read_text(encoding="utf-8"))
            return reason["diverges"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def compute(self) -> None:
        """Write the curves, or why the run diverges."""
        arguments = self.parts, self.settings, [self.estimator], self.steps, self.options
        found = curves_of_one_seed(*arguments)
        if isinstance(found, str):
            write_json(self.folder / f"{self.name}.json", {"diverges": found})
        else:
            result.save(found[0], self.folder / f"{self.name}.nc")


def _in_folder(
    shared: WorkFolder, seeds: Sequence[int], jobs: Sequence[tuple[Any, ...]]
) -> dict[int, list[xr.DataArray] | str]:
    """Return what `curves_of_one_seed` gives for every seed that is there, all from files."""
    single = {
        seed: [SeedJob(shared.folder, parts, settings, name, *more) for name in names]
        for seed, (parts, settings, names, *more) in zip(seeds, jobs, strict=True)
    }
    every = [job for row in single.values() for job in row]
    left = shared.fill(every, "curves", together=len(every) // len(seeds))
    found: dict[int, list[xr.DataArray] | str] = {}
    for seed, row in single.items():
        read = [job.result() for job in row]
        if reasons := [one for one in read if isinstance(one, str)]:
            found[seed] = reasons[0]
        elif not any(one is None for one in read):
            found[seed] = read
    if left:
        missing = ", ".join(str(seed) for seed in seeds if seed not in found)
        text = f"{len(found)} of {len(seeds)} seeds are complete in {shared.folder}, not {missing}"
        if not found:
            raise ValueError(f"{text}; the other parts compute them.")
        warnings.warn(f"{text}; these curves are without them.", stacklevel=4)
    return found


def curves_of_one_seed(
    parts: Mapping[str, Any],
    settings: Mapping[str, Any],
    estimators: Sequence[str],
    steps: IntArray,
    options: Mapping[str, Any],
) -> list[xr.DataArray] | str:
    """Estimate for one run: the unit of work of `ensemble`, small enough to be sent elsewhere.

    Parameters
    ----------
    parts : mapping
        Arguments of `Task`.
    settings : mapping
        Arguments of `Run` other than the task.
    estimators : sequence of str
    steps : array of int
    options : mapping
        `train` and `query`.

    Returns
    -------
    list of DataArray, or str
        One per estimator; if the run diverges, the reason.
    """
    run = dynamics.Run(Task(**parts), **settings)
    try:
        return [ESTIMATORS[name](run, steps, **options) for name in estimators]
    except FloatingPointError as error:  # which DivergenceError is
        return str(error)


def _without_diverged(
    done: Mapping[int, list[xr.DataArray] | str], errors: str
) -> tuple[dict[int, list[xr.DataArray]], str]:
    """Return the curves by seed, and the seeds that diverged."""
    diverged = {seed: one for seed, one in done.items() if isinstance(one, str)}
    kept = {seed: one for seed, one in done.items() if not isinstance(one, str)}
    if diverged:
        listed = "; ".join(f"seed {seed}: {reason}" for seed, reason in diverged.items())
        text = f"{len(diverged)} of {len(done)} runs diverge. {listed}"
        if errors == "raise" or not kept:
            raise DivergenceError(text + (' errors="drop" keeps the other seeds.' if kept else ""))
        warnings.warn(f"{text} They are left out.", stacklevel=3)
    return kept, ", ".join(map(str, diverged))


def event_shares(
    influence: xr.DataArray,
    *,
    tolerance: float | None = None,
    floor: float | xr.DataArray | None = None,
) -> pd.DataFrame:
    """Say which events of curves the seeds share.

    Events of the same pair and kind (and direction, for sign flips) are taken in the order of
    time; each joins the group whose mean time is nearest, if that is within the tolerance and the
    group has no event of the same seed yet. Otherwise it begins a group.

    Parameters
    ----------
    influence : xarray.DataArray
        An influence result with the dim ``seed``.
    tolerance : float, optional
        In flow time, or in steps where the runs have no flow time. Default: 5 % of the recorded
        time.
    floor : float or DataArray, optional
        As in `dlnflow.events`.

    Returns
    -------
    pandas.DataFrame
        One row per group, in order of curve and then of time: the leading dims but seed,
        ``train``, ``query``, ``kind``, ``share`` (of the seeds), ``seeds`` (how many), the means
        ``step``, ``flow_time`` and ``value``, ``first`` and ``last`` (earliest and latest time of
        the group, in the units of the tolerance) and ``sign``: that after a flip, or of the mean
        value. ``attrs["tolerance"]`` is the one that was used, ``attrs["floor"]`` the rule
        of the floor.

    Raises
    ------
    TypeError
        If `influence` is not a DataArray.
    ValueError
        If it is not an influence result with a dim ``seed``, or an option is invalid.

    Examples
    --------
    >>> import dlnflow as dln
    >>> curves = ensemble(dln.semantic_hierarchy(), 4, query=["cat"], train=["dog"])
    >>> event_shares(curves)[["kind", "share"]].values.tolist()[:2]
    [['trough', 1.0], ['sign_flip', 1.0]]
    """
    if "seed" not in result.check(influence).dims:
        raise ValueError("`influence` has no dim 'seed'; compute it with dlnflow.ensemble.")
    flow = bool(np.all(np.isfinite(influence.flow_time)))
    clock, span = ("flow_time", influence.flow_time) if flow else ("step", influence.time)
    span = float(span[-1] - span[0])
    tolerance = TOLERANCE * span if tolerance is None else checks.positive("tolerance", tolerance)
    table = events(influence, floor)
    direction = np.where(table["kind"] == "sign_flip", table["sign"], 0.0)
    curve = [str(dim) for dim in influence.dims[:-3] if dim != "seed"] + ["train", "query"]
    keys = [*curve, "kind", "direction"]
    table = table.assign(direction=direction).sort_values(clock, kind="stable")
    group = np.zeros(len(table), dtype=np.int64)
    for rows in table.groupby(keys, sort=False).indices.values():
        some = table.iloc[np.sort(rows)]
        group[np.sort(rows)] = _groups(some[clock].values, some["seed"].values, tolerance)
    grouped = table.assign(group=group).groupby([*keys, "group"], sort=False)
    shared = grouped.agg(
        seeds=("seed", "size"),
        step=("step", "mean"),
        flow_time=("flow_time", "mean"),
        value=("value", "mean"),
        first=(clock, "min"),
        last=(clock, "max"),
    ).reset_index()
    shared["sign"] = np.where(shared["direction"] != 0, shared["direction"], np.sign(shared.value))
    shared.insert(len(curve) + 1, "share", shared["seeds"] / influence.sizes["seed"])
    order = pd.DataFrame({dim: _positions(influence[dim].values, shared[dim]) for dim in curve})
    order["step"] = shared["step"].values
    shared = shared.iloc[np.lexsort(order.values.T[::-1])].reset_index(drop=True)
    shared.attrs |= {"tolerance": tolerance, "clock": clock, "floor": table.attrs["floor"]}
    return shared.drop(columns=["direction", "group"])


def _positions(labels: ArrayLike, values: Iterable[Any]) -> list[int]:
    position = {label: k for k, label in enumerate(np.asarray(labels).tolist())}
    return [position[value] for value in values]


def _groups(times: FloatArray, seeds: IntArray, tolerance: float) -> list[int]:
    """Return the group of every event of one curve; times increase."""
    means, members, group = [], [], []
    for time, seed in zip(times, seeds, strict=True):
        near = [
            (abs(time - mean), k)
            for k, mean in enumerate(means)
            if abs(time - mean) <= tolerance and seed not in members[k]
        ]
        if near:
            k = min(near)[1]
            means[k] += (time - means[k]) / (len(members[k]) + 1)
            members[k].add(seed)
        else:
            k = len(means)
            means.append(float(time))
            members.append({seed})
        group.append(k)
    return group
