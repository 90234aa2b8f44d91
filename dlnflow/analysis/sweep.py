"""Which sampler settings predict retraining? A resumable grid, one result file per setting.

Every setting is scored by the Pearson correlation of its BIF with reference influences over time:
the median over (query, train) pairs, and pooled over all entries. A file is named by a hash of the
setting *and* of the run, its data and the steps, so that a folder never answers for another run.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from inspect import signature
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, influence, result
from dlnflow._support import IntArray
from dlnflow._support.files import write_json
from dlnflow._support.shared_folder import WorkFolder
from dlnflow.dynamics import Dynamics
from dlnflow.sampling.linear_run import trace_run
from dlnflow.sampling.settings import REVISION, Settings
from dlnflow.traces import llc

Reference = str | xr.DataArray
"""Name of an estimator, or an influence array."""
LEAST = 3
"""Checkpoints of a correlation over time."""
PAPER_GRID: dict[str, tuple[float, ...]] = {
    "step_size": tuple(np.geomspace(1e-7, 1e-2, 6)),
    "n_beta": tuple(np.geomspace(1e1, 1e4, 4)),
    "localization": tuple(np.geomspace(1e-2, 1e6, 9)),
    "chains": (2, 4, 8),
    "draws": (200, 400, 800, 1000),
    "decay": (0.8, 0.9, 0.95, 0.99),
    "stability": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
}
"""Ranges of table 1 of Lee et al. (2025), for kernel "rmsprop_sgld"; logarithmic."""


def sweep(
    run: Dynamics,
    steps: ArrayLike,
    grid: Mapping[str, Sequence[Any]],
    folder: str | PathLike[str],
    *,
    references: Sequence[Reference] | Mapping[str, Reference] = (
        "leave_one_out",
        "windowed",
        "tangent",
    ),
    executor: Executor | None = None,
    workers: int = 1,
    part: tuple[int, int] = (1, 1),
    **fixed: Any,
) -> pd.DataFrame:
    """Score every combination of settings.

    Parameters
    ----------
    run : Dynamics
        A run of two layers.
    steps : sequence of int
        Checkpoints.
    grid : mapping of option name to values
        Options of `dlnflow.influence.bif` or of the kernel; all combinations are run.
    folder : path-like
        One JSON file per setting; existing ones are not run again unless they are damaged. Other
        calls, also of other processes and machines that see it, may fill it at the same time.
    references : sequence or mapping of estimator name or influence array
        What to correlate with. Arrays must hold all steps and items of the sweep, in any order.
        In a sequence each is named by its estimator; two windowed ablations need a mapping, e.g.
        {"short": windowed(run, steps, window=50), "long": windowed(run, steps, window=400)}.
    executor : concurrent.futures.Executor, optional
        Runs the settings; default one after another in this process.
    workers : int
        Or so many processes of this machine run them.
    part : (int, int)
        Only every n-th setting from the k-th on is run, (k, n), beside calls for the others.
    **fixed
        Options shared by all settings, e.g. kernel="rmsprop_sgld", normalised=True. Besides,
        coefficient_at=STEP: a checkpoint at which every setting also estimates the learning
        coefficient, whose truth is `dlnflow.rlct.learning_coefficient` where the network is
        trained.

    Returns
    -------
    pandas.DataFrame
        One row per setting, after a part of those that are there: the options, `<reference>` and
        `<reference>_pooled`, the number of checkpoints per verdict, the largest `relative_step`
        (see `bif`) of kernels that have one, and `error` where a setting was refused. With
        `coefficient_at`: `llc`, `llc_error` and `llc_verdict`.

    Raises
    ------
    ValueError
        If the grid is empty or no lists, an option is both swept and fixed, `folder` is a file,
        there are fewer than three steps, or a reference is unknown, named twice or lacks steps or
        items.
    """
    _check_grid(grid)
    if "coefficient_at" in grid:
        raise ValueError("`coefficient_at` is one step of all settings; give it beside `grid`.")
    coefficient_at = fixed.pop("coefficient_at", None)
    if coefficient_at is not None:
        coefficient_at = checks.whole_number("coefficient_at", coefficient_at)
        if coefficient_at > run.n_steps:
            raise ValueError(
                f"`coefficient_at` must be a step of the run, at most {run.n_steps}; got "
                f"{coefficient_at}."
            )
    twice = sorted(set(grid) & set(fixed))
    if twice:
        raise ValueError(f"`{twice[0]}` is both in `grid` and fixed; leave one out.")
    steps = checks.recorded_steps(steps, run.n_steps)
    if len(steps) < LEAST:
        raise ValueError(
            f"`steps` must list {LEAST} checkpoints or more, over which influence is correlated; "
            f"got {len(steps)}."
        )
    truth = aligned(run, steps, references)
    shared = WorkFolder(folder, workers, part)
    settings = [
        dict(zip(grid, values, strict=True)) | fixed for values in itertools.product(*grid.values())
    ]
    jobs = [
        SettingJob(
            run,
            tuple(steps.tolist()),
            setting,
            truth,
            shared.folder / f"{_key(run, steps, setting, truth, coefficient_at)}.json",
            coefficient_at,
        )
        for setting in settings
    ]
    if executor is not None or workers > 1:
        files = _by_reference(shared.folder, truth)
        jobs = [replace(job, truth=files) for job in jobs]
    shared.fill(jobs, "settings", executor)
    rows = [_read(job.path, job.setting) for job in jobs]
    return pd.DataFrame([row for row in rows if row is not None])


@dataclass(frozen=True)
class SettingJob:
    """One setting of a sweep; references are arrays, or files where they are sent elsewhere."""

    run: Dynamics
    steps: tuple[int, ...]
    setting: Mapping[str, Any]
    truth: Mapping[str, xr.DataArray | Path]
    path: Path
    coefficient_at: int | None = None

    @property
    def claim(self) -> Path:
        """Locked while the setting is run."""
        return self.path.with_suffix(".lock")

    def done(self) -> bool:
        """Whether its row is there."""
        return _read(self.path, self.setting) is not None

    def compute(self) -> None:
        """Write its row."""
        truth = {
            name: _loaded(one) if isinstance(one, Path) else one for name, one in self.truth.items()
        }
        steps = np.asarray(self.steps)
        _score(self.run, steps, self.setting, truth, self.coefficient_at, self.path)


def _by_reference(folder: Path, truth: Mapping[str, xr.DataArray]) -> dict[str, Path]:
    """Write references to files that are named by what they hold."""
    found = {}
    for name, array in truth.items():
        found[name] = (folder / "references" / f"{result.checksum(array)[:24]}.nc").absolute()
        if not found[name].exists():
            result.save(array, found[name])
    return found


@lru_cache(maxsize=16)
def _loaded(path: Path) -> xr.DataArray:
    return result.load(path)


def _check_grid(grid: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a grid without values.

    Raises
    ------
    ValueError
        If an option is unknown, empty or out of range; the message names it.
    """
    if not grid:
        raise ValueError("`grid` must name at least one option with at least one value.")
    for name, values in grid.items():
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) == 0:
            raise ValueError(
                f"`grid` must give a list of values for {name!r}, at least one; got {values!r}."
            )


def _read(path: Path, setting: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the row of a file; None if it is absent, damaged or not of this setting."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return row if isinstance(row, dict) and set(setting) < set(row) else None


def _key(
    run: Dynamics,
    steps: ArrayLike,
    setting: Mapping[str, Any],
    truth: Mapping[str, xr.DataArray],
    coefficient_at: int | None,
) -> str:
    """Return a name of the setting, the run, its data, steps, references and the revision."""
    about = [REVISION, repr(run), np.asarray(steps).tolist(), _plain(setting)]
    about += [] if coefficient_at is None else [coefficient_at]
    text = json.dumps(about, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    digest.update(json.dumps(sorted(truth)).encode())
    arrays = [run.task.x, run.task.y, *[truth[name].values for name in sorted(truth)]]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


def _score(
    run: Dynamics,
    steps: ArrayLike,
    setting: Mapping[str, Any],
    truth: Mapping[str, xr.DataArray],
    coefficient_at: int | None,
    path: Path,
) -> None:
    """Sample one setting, correlate, write the file."""
    row: dict[str, Any] = _plain(setting)
    try:
        found = _sampled(run, steps, setting)
    except ValueError as error:
        row["error"] = str(error)
    else:
        for name, reference in truth.items():
            same = reference.sel(query=found["query"], train=found["train"])
            row |= _agreement(found.values, same.values, name)
        if "relative_step" in found.coords:
            largest = float(found.relative_step.max())
            row["relative_step"] = largest if np.isfinite(largest) else None  # all diverged
        names, counts = np.unique(found.verdict.values, return_counts=True)
        row |= {str(name): int(count) for name, count in zip(names, counts, strict=True)}
        if coefficient_at is not None:
            row |= _coefficient(run, coefficient_at, setting)
    write_json(path, row)


def _sampled(run: Dynamics, steps: ArrayLike, setting: Mapping[str, Any]) -> xr.DataArray:
    """Return the BIF of one setting."""
    return influence.bif(run, steps, **({"errors": False} | _options(setting)))


def _coefficient(run: Dynamics, step: int, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the learning coefficient that one setting finds at a checkpoint."""
    its_own = {*signature(trace_run).parameters, *Settings.__dataclass_fields__}
    given = {k: v for k, v in _options(setting).items() if k in its_own}
    found = llc(trace_run(run, [step], **given))
    value, error = float(found.llc[0]), float(found.standard_error[0])
    return {
        "llc": value if np.isfinite(value) else None,
        "llc_error": error if np.isfinite(error) else None,
        "llc_verdict": str(found.verdict.values[0]),
    }


def _options(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting as `bif` takes it; what neither it nor `Settings` knows is the kernel's."""
    known = {
        *signature(influence.bif).parameters,
        *signature(trace_run).parameters,
        *Settings.__dataclass_fields__,
    }
    rest = {k: v for k, v in setting.items() if k in known}
    options = {k: v for k, v in setting.items() if k not in known}
    rest["kernel_options"] = dict(rest.get("kernel_options", {})) | options
    return rest


def _agreement(found: np.ndarray, reference: np.ndarray, name: str) -> dict[str, float | None]:
    """Return the Pearson correlation over time, median over pairs, and pooled."""
    known = np.isfinite(found).all(axis=(1, 2))
    a, b = found[known], reference[known]
    if len(a) < LEAST:
        return {name: None, f"{name}_pooled": None}
    da, db = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((da**2).sum(0) * (db**2).sum(0))
    pairs = np.divide((da * db).sum(0), scale, out=np.full(scale.shape, np.nan), where=scale > 0)
    da, db = a - a.mean(), b - b.mean()
    pooled = (da * db).sum() / max(np.sqrt((da**2).sum() * (db**2).sum()), np.finfo(float).tiny)
    median = float(np.nanmedian(pairs)) if np.isfinite(pairs).any() else None
    return {name: median, f"{name}_pooled": float(pooled)}


def _plain(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting with numbers that JSON knows."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in setting.items()}


def aligned(
    run: Dynamics, steps: IntArray, references: Sequence[Reference] | Mapping[str, Reference]
) -> dict[str, xr.DataArray]:
    """Return references by name, in the order of `steps` and of the items of the run.

    Parameters
    ----------
    run : Dynamics
        What estimators are computed for.
    steps : array of int
        Checkpoints of the sweep.
    references : sequence, or mapping of name to reference
        A sequence names each by its estimator.

    Returns
    -------
    dict of str to DataArray, dims (time, query, train)

    Raises
    ------
    ValueError
        If an estimator is unknown, a name occurs twice, or an array lacks steps or items or has
        dims of a sweep.
    """
    references = [references] if isinstance(references, str | xr.DataArray) else references
    named = references if isinstance(references, Mapping) else dict.fromkeys(range(len(references)))
    found: dict[str, xr.DataArray] = {}
    for key in named:
        reference = references[key]
        if isinstance(reference, str):
            known = influence.ESTIMATORS
            estimator = known[checks.one_of("references", reference, list(known))]
            reference = estimator(run, steps)
        name = key if isinstance(key, str) else str(reference.attrs.get("estimator"))
        if name in found:
            raise ValueError(
                f"two `references` are named {name!r}; give a mapping of your own names to them."
            )
        found[name] = _on(result.check(reference), name, steps, list(run.task.items))
    return found


def _on(array: xr.DataArray, name: str, steps: IntArray, items: list[str]) -> xr.DataArray:
    """Return an influence at these steps and items."""
    extra = array.dims[:-3]
    if extra:
        raise ValueError(
            f"reference {name!r} has the dims {', '.join(map(str, extra))}; select one entry, e.g. "
            f".isel({extra[0]}=0)."
        )
    for dim, wanted in (("time", steps.tolist()), ("query", items), ("train", items)):
        have = set(array[dim].values.tolist())
        missing = [label for label in wanted if label not in have]
        if missing:
            raise ValueError(
                f"reference {name!r} lacks {len(missing)} of {len(wanted)} labels of the sweep on "
                f"`{dim}`, the first is {missing[0]!r}. Compute it at the steps and for all items "
                "of the sweep."
            )
    return array.sel(time=steps, query=items, train=items)
