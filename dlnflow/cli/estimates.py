"""Several estimators on one grid, for the command: checked first, then run and timed."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from typing import Any, NamedTuple

import xarray as xr

import dlnflow as dln
from dlnflow import result
from dlnflow._support import IntArray
from dlnflow.analysis import WorkFolder
from dlnflow.dynamics import Dynamics
from dlnflow.influence.estimator import ESTIMATORS, Grid, Items

SHARED = ("hidden", "init_std", "learning_rate", "n_steps", "optimizer", "depth")
"""What runs of several seeds have in common."""


class Estimates(NamedTuple):
    """Stacked curves, and the wall seconds and retrainings of every estimator."""

    curves: xr.DataArray
    seconds: dict[str, float]
    retrainings: dict[str, int]


class Asked(NamedTuple):
    """Names of estimators, about how many recorded steps, items, and options by estimator."""

    names: list[str]
    points: int
    train: Items = None
    query: Items = None
    options: Mapping[str, Mapping[str, object]] = {}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `run_all`: the curves that were finished, if any, and the names that were not.

    Parameters
    ----------
    curves : xarray.DataArray or None
    left : list of str
    """

    def __init__(self, curves: xr.DataArray | None, left: list[str]) -> None:
        super().__init__()
        self.curves, self.left = curves, left


def run_all(
    run: Dynamics,
    asked: Asked,
    *,
    seeds: list[int] | None = None,
    shared: WorkFolder | None = None,
) -> Estimates:
    """Run estimators by name, each once; what has begun is written to standard error.

    Parameters
    ----------
    run : Run
    asked : Asked
    seeds : list of int, optional
        Several runs, in processes of their own; their curves have a dim ``seed``.
    shared : WorkFolder, optional
        Where the curves of every seed are kept. After a part, seeds that lack an estimator are
        left out.

    Raises
    ------
    ValueError
        Before anything is trained, if one of them does not take the run or an item is unknown;
        later with a note that names the estimator, if that refuses an option.
    dlnflow.DivergenceError
        If the run diverges.
    Interrupted
        After Ctrl-C, with what was finished.
    """
    names = list(dict.fromkeys(asked.names))
    windowed = asked.options.get("windowed", {}) if "windowed" in names else {}
    steps = _steps(run, asked.points, windowed)
    Grid.of(run, steps, asked.query, asked.train)
    refused = [message for name in names if (message := ESTIMATORS[name].refusal(run))]
    if refused:
        raise ValueError("\n".join([*refused, "(A setting of the run is --run NAME=VALUE.)"]))
    curves: list[xr.DataArray] = []
    seconds = {}
    try:  # around all of it: a signal can also come between two estimators
        with _curves_by_name(run, steps, asked, seeds, shared) as compute:
            for number, name in enumerate(names, start=1):
                print(f"{name} ({number} of {len(names)})", file=sys.stderr, flush=True)
                started = time.perf_counter()
                curves.append(compute(name))
                seconds[name] = time.perf_counter() - started
    except KeyboardInterrupt as stop:
        finished = result.stack(*curves) if curves else None
        raise Interrupted(finished, names[len(curves) :]) from stop
    if shared is not None:
        there = set.intersection(*(set(one.seed.values.tolist()) for one in curves))
        curves = [one.sel(seed=[s for s in seeds or [] if s in there]) for one in curves]
    retrained = {n: int(c.attrs.get("retrainings", 0)) for n, c in zip(names, curves, strict=True)}
    return Estimates(result.stack(*curves), seconds, retrained)


@contextmanager
def _curves_by_name(
    run: Dynamics,
    steps: IntArray,
    asked: Asked,
    seeds: list[int] | None,
    shared: WorkFolder | None,
) -> Iterator[Callable[[str], xr.DataArray]]:
    """Give a function that runs one estimator, on one run or on all seeds in parallel."""
    given = {"train": asked.train, "query": asked.query}
    if seeds is None:
        yield lambda name: _curve(run, name, steps, given | dict(asked.options.get(name, {})))
        return
    settings = {name: getattr(run, name) for name in SHARED}
    pool: Any = nullcontext(shared)
    if shared is None:
        count = min(len(seeds), os.cpu_count() or 1)
        pool = ProcessPoolExecutor(count, get_context("spawn"))
    with pool as pool:
        yield lambda name: dln.ensemble(
            run.task, seeds, name, steps, executor=pool, **given, **settings
        )


def _curve(run: Dynamics, name: str, steps: IntArray, given: Mapping[str, Any]) -> xr.DataArray:
    """Run one estimator; what it refuses is noted as its own."""
    try:
        return ESTIMATORS[name](run, steps, **given)
    except ValueError as error:
        error.add_note(f"(from {name}, whose options are --option {name}.NAME=VALUE)")
        raise


def _steps(run: Dynamics, points: int, windowed: Mapping[str, object]) -> IntArray:
    """Steps of the run; with windows of a given width, those from which one fits."""
    steps, width, at = run.grid(points), windowed.get("window"), windowed.get("at")
    if not isinstance(width, int):
        return steps
    kept = steps[steps + width <= (at if isinstance(at, int) else run.n_steps)]
    if not len(kept):  # windowed refuses the width, and says how much fits
        return steps
    note = f"recorded up to step {kept[-1]}: windows of {width} steps must end in time"
    print(note, file=sys.stderr, flush=True)
    return kept
