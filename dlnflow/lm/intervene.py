"""Does stagewise influence say *when* to act? Up-weight induction patterns in a window of training.

Runs differ in the window alone: same data order, same seed, same rows up-weighted by the same
factor. If the influence curve marks the stage in which the circuit forms, a window before or
during its rise should bring the transition forward, and one after it should change nothing. Nor
should a window in which as many rows, drawn at random, have the same factor.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks, lm
from dlnflow.lm.branches import Branching, Crossing, claim
from dlnflow.lm.data.batches import token_ids
from dlnflow.lm.data.token_classes import repeated_pairs
from dlnflow.lm.runs.folder import check_inputs
from dlnflow.traces.intervals import t_quantile

SHARE = 0.25
"""Rows of a batch that are up-weighted."""
ROWS = ("patterns", "random")
"""Which: those with most induction patterns, or as many at random."""
RISE = (0.1, 0.5)
"""Shares of the largest influence between which a curve counts as rising: influence goes on growing
long after a circuit has formed, so nine tenths of it would mark a much later time."""
CONTROL = "random"
"""What `sweep` calls the window of the control."""


@dataclass(frozen=True)
class Window:
    """Up-weighting of a quarter of the rows at steps start <= step < stop.

    Attributes
    ----------
    start, stop : int
        Optimiser steps.
    factor : float
        Weight of the rows in the window; 1 outside and for all other rows.
    special : tuple of int, optional
        Ids of special tokens, which make no pattern; `intervene` takes them from the tokenizer.
    rows : {"patterns", "random"}
        The rows with most induction patterns, or as many rows drawn at random.
    """

    start: int
    stop: int
    factor: float = 4.0
    special: tuple[int, ...] | None = None
    rows: str = "patterns"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", checks.positive("factor", self.factor))
        checks.one_of("rows", self.rows, ROWS)
        for name in ("start", "stop"):
            object.__setattr__(self, name, checks.whole_number(name, getattr(self, name)))
        if self.special is not None:
            given = np.ravel(self.special)
            ids = (
                token_ids(given, "`special` must be ids of special tokens") if len(given) else given
            )
            object.__setattr__(self, "special", tuple(map(int, ids)))
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"`start` and `stop` must satisfy 0 <= start < stop, got "
                f"{self.start} and {self.stop}."
            )

    def __call__(self, step: int, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the weights of the rows of a step."""
        weights = np.ones(len(rows), np.float32)
        if self.start <= step < self.stop:
            random = self.rows == "random"
            chosen = random_rows(step, rows) if random else pattern_rows(rows, self.special or ())
            weights[chosen] = self.factor
        return weights

    def record(self) -> dict[str, Any]:
        """Return the window as JSON."""
        return vars(self) | {"special": list(self.special or ())}


def pattern_rows(rows: NDArray[np.int32], special: Sequence[int] = ()) -> NDArray[np.intp]:
    """Return the quarter of the rows with the largest share of induction patterns."""
    ids = np.arange(int(rows.max()) + 1)
    share = repeated_pairs(rows.astype(np.int64), np.isin(ids, special)).mean(1)
    return np.argsort(-share, kind="stable")[: _quarter(rows)]


def random_rows(step: int, rows: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return as many rows as `pattern_rows`, a random choice that the step and its rows seed."""
    rng = np.random.default_rng((step, zlib.crc32(np.ascontiguousarray(rows).tobytes())))
    return rng.permutation(len(rows))[: _quarter(rows)]


def _quarter(rows: NDArray[np.int32]) -> int:
    return max(1, round(SHARE * len(rows)))


def windows(
    steps: ArrayLike, influence: ArrayLike, *, factor: float = 4.0, length: int | None = None
) -> dict[str, Window]:
    """Choose windows before, during and after the rise of a measured influence curve.

    During: from 10 % to 50 % of the largest helpful influence (linear between checkpoints);
    before and after: the adjacent windows of the same length, cut at step 0.

    Parameters
    ----------
    steps : (T,) int array
        Checkpoints.
    influence : (T,) array
        Negative = helps, for example of repeated tokens on repeated tokens.
    factor : float
        Weight in the window.
    length : int, optional
        Steps of every window: the curve then says where "during" begins, not where it ends.

    Returns
    -------
    dict of str to Window
        Keys before, during, after.

    Raises
    ------
    ValueError
        If the influence never is helpful, its rise starts at the first checkpoint or beside one
        without a number, steps do not increase, or an argument is out of range.
    """
    checks.positive("factor", factor)
    steps, curve = checks.nonnegative("steps", steps), -checks.real_array("influence", influence)
    curve = np.where(np.isfinite(curve), curve, np.nan)
    if steps.ndim != 1 or steps.shape != curve.shape or not (np.diff(steps) > 0).all():
        raise ValueError(
            f"`steps` must increase, one for each `influence`; got shapes {steps.shape} and "
            f"{curve.shape}."
        )
    top = np.nanmax(curve, initial=0)
    if not top > 0:
        raise ValueError("`influence` is nowhere negative: there is no rise to choose windows by.")
    low, high = (lm.induction.crossing(steps, curve, r * top) for r in RISE)
    if not np.isfinite([low, high]).all():
        raise ValueError(
            f"`influence` must be finite where it rises; at steps "
            f"{[*map(int, steps[np.isnan(curve)])]} it is not. Leave these steps out."
        )
    start = round(low)
    if length is None:
        length = max(round(high) - start, 1)
    stop = start + checks.positive_integer("length", length)
    if start == 0:
        raise ValueError("`influence` rises before the first checkpoint; add earlier ones.")
    return {
        "before": Window(max(0, start - length), start, factor),
        "during": Window(start, stop, factor),
        "after": Window(stop, stop + length, factor),
    }


def sweep(
    choices: Mapping[str, Window], factors: Sequence[float] = (2.0, 8.0), *, of: str = "before"
) -> dict[str, Window]:
    """Add to windows one of them with other factors, and with random rows as a control.

    Parameters
    ----------
    choices : mapping of str to Window
        From `windows`, or chosen by hand.
    factors : sequence of float
        Other weights in the window, all different.
    of : str
        Which window is varied.

    Returns
    -------
    dict of str to Window
        `choices`, then "before-x2", ... and "random".

    Raises
    ------
    ValueError
        If there is no such window, factors are the same, or a name is that of another window.
    """
    window = checked(choices)[checks.one_of("of", of, list(choices))]
    weights = checks.positive_list("factors", factors)[0].tolist() if np.size(factors) else []
    added = {f"{of}-x{weight:g}": replace(window, factor=weight) for weight in weights}
    if len(added) < len(weights):
        raise ValueError(
            f"`factors` must differ in six digits, by which they are named: {weights}."
        )
    added[CONTROL] = replace(window, rows="random")
    taken = [name for name, one in added.items() if choices.get(name, one) != one]
    if taken:
        raise ValueError(f"`choices` have another window called {taken[0]!r}; rename yours.")
    return dict(choices) | added


def checked(choices: Mapping[str, Window]) -> Mapping[str, Window]:
    """Return windows whose names can be those of folders.

    Returns
    -------
    mapping of str to Window

    Raises
    ------
    ValueError
        If they are no windows, or a name has no folder.
    """
    if not isinstance(choices, Mapping):
        raise ValueError(f"`choices` must map names to windows, got {type(choices).__name__}.")
    for name, window in choices.items():
        if not isinstance(window, Window):
            raise ValueError(f"`choices` {name!r} must be a Window, got {checks.shown(window)}.")
        if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
            raise ValueError(f"`choices` {name!r} cannot name a folder; rename the window.")
    if "never" in choices:
        raise ValueError('`choices`: "never" is the run without a window; rename yours.')
    return choices


def intervene(
    settings: lm.model.RunSettings,
    out: str | Path,
    choices: Mapping[str, Window],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    transition: Crossing | None = None,
    data: lm.train.Data | None = None,
    executor: Executor | None = None,
    progress: Callable[[str], None] | None = None,
) -> xr.Dataset:
    """Train without a window, and with each from where it begins, for several seeds; resumable.

    A run with a window has the bits of one from step 0, but starts from the state of the run
    without, and ends soon after it has crossed. One that begins after the crossing cannot shift it:
    nothing is trained, and its shift is 0.

    Seeds differ in when they make the transition. To give each its own windows, call this once
    per seed with the same `out` and join the results with `xarray.concat(..., "seed")`.

    Parameters
    ----------
    settings : RunSettings
        The run; its seed is replaced. States are kept every `every` steps, 12 bytes for each
        weight; a window starts from the last one before it.
    out : path
        Folder for all runs: ``<window>-seed<k>/``, ``never-seed<k>/`` without a window.
    choices : mapping of str to Window
        From `windows` or `sweep`, or chosen by hand.
    seeds : sequence of int
        Seeds of the weights and the data order.
    transition : Crossing, optional
        Score that counts, and how finely its crossing is located.
    data : Data, optional
        Prepared ids; by default prepared once in `out`.
    executor : concurrent.futures.Executor, optional
        Where runs are trained, each with as many threads as here; by default here, in turn.
    progress : callable, optional
        Called with the name of every run when it is finished.

    Returns
    -------
    Dataset
        `score` (window, seed, time), NaN where it was not measured; `crossing` (window, seed), the
        step at which it passes the threshold, NaN if it does not; `shift` (window, seed), crossing
        minus that of the run without a window ("never") and the same seed: negative = earlier.
        `start`, `stop` (window, seed), `factor` and `rows` (window) describe the windows.

    Raises
    ------
    ValueError
        If `choices` are no windows or one is called "never", seeds are not different whole
        numbers, or a run in `out` was made with another window, corpus, tokenizer or spacing of
        measurements, or by an earlier version.

    Warns
    -----
    UserWarning
        If a window begins after the run, and has no effect.
    """
    checks.whole_numbers("seeds", checks.number_list("seeds", seeds)[0], smallest=0)
    seeds = np.atleast_1d(seeds).astype(int).tolist()
    late = [name for name, w in checked(choices).items() if w.start >= settings.n_steps]
    if late:
        warnings.warn(
            f"`choices` {', '.join(late)} begin at or after the end of the run, {settings.n_steps} "
            "(`n_steps`), and have no effect.",
            stacklevel=2,
        )
    transition = Crossing() if transition is None else transition
    if not isinstance(transition, Crossing):
        raise ValueError(f"`transition` must be a Crossing, got {checks.shown(transition)}.")
    out = Path(out)
    data = data or lm.train.prepare(settings, out / "data")
    check_inputs(out, data.training, data.tokenizer)
    period = min(lm.induction.PERIOD, settings.context // 2)  # the model takes all of u u
    special = lm.spelling.special_ids(data.tokenizer)
    probe = lm.induction.repeated_sequences(
        data.training.counts, period=period, disjoint=False, special=special
    )
    plans = {n: replace(w, special=special) if w.special is None else w for n, w in choices.items()}
    trunks, branches = {}, {}
    for seed in seeds:
        runs = Branching(replace(settings, seed=seed), data, probe, transition)
        trunk = out / f"never-seed{seed}"
        claim(trunk, None, transition.every)
        trunks[trunk.name] = (runs, trunk)
        for name, window in plans.items():
            folder = out / f"{name}-seed{seed}"
            claim(folder, window.record(), transition.every)
            branches[folder.name] = (runs, folder, window, trunk)
    scores = _done(trunks, executor, progress) | _done(branches, executor, progress)
    return _result(scores, plans, seeds, transition)


def _done(
    runs: Mapping[str, tuple[Any, ...]],
    executor: Executor | None,
    progress: Callable[[str], None] | None,
) -> dict[str, xr.DataArray]:
    """Train runs that do not need each other; return their scores."""
    import torch

    threads = torch.get_num_threads()  # bits depend on it, and other processes take all cores
    started = {
        name: executor.submit(_train_with, threads, *run) if executor else run
        for name, run in runs.items()
    }
    scores = {}
    for name, run in started.items():
        scores[name] = run.result() if isinstance(run, Future) else _train(*run)
        if progress is not None:
            progress(name)
    return scores


def _train_with(threads: int, *run: Any) -> xr.DataArray:
    import torch

    torch.set_num_threads(threads)
    return _train(*run)


def _train(
    runs: Branching, folder: Path, window: Window | None = None, trunk: Path | None = None
) -> xr.DataArray:
    """Train the run without a window, or a branch of it."""
    if window is None or trunk is None:
        return runs.trunk(folder)
    return runs.branch(folder, window, trunk, window.start)


def _result(
    scores: Mapping[str, xr.DataArray],
    windows: Mapping[str, Window],
    seeds: Sequence[int],
    transition: Crossing,
) -> xr.Dataset:
    """Join runs, and compare their crossings with those of the run without a window."""
    names, pair = ["never", *windows], ("window", "seed")
    rows = [xr.concat([scores[f"{n}-seed{s}"] for s in seeds], "seed", join="outer") for n in names]
    score = xr.concat(rows, "window", join="outer").transpose(*pair, "time")
    crossing = np.array([[transition.step(scores[f"{n}-seed{s}"]) for s in seeds] for n in names])
    each = [None, *windows.values()]
    ends = {
        end: (pair, [[np.nan if w is None else getattr(w, end)] * len(seeds) for w in each])
        for end in ("start", "stop")
    }
    about = {
        "factor": ("window", [1.0 if w is None else w.factor for w in each]),
        "rows": ("window", ["none" if w is None else w.rows for w in each]),
    }
    return xr.Dataset(
        {"score": score, "crossing": (pair, crossing), "shift": (pair, crossing - crossing[:1])}
        | ends,
        coords={"window": names, "seed": list(seeds)} | about,
        attrs={"threshold": transition.threshold, "measured_every": transition.every},
    )


def effects(result: xr.Dataset, *, against: str | None = None, level: float = 0.95) -> xr.Dataset:
    """Average shifts over seeds, with t intervals.

        mean +- t_{n - 1, (1 + level) / 2} s / sqrt(n)

    with s the standard deviation over the n seeds that make the transition with and without the
    window. The interval is for seeds like these: it holds the shift of the average seed, not that
    of the next one.

    Parameters
    ----------
    result : Dataset
        From `intervene`, seeds joined.
    against : str, optional
        Subtract the shift of this window, seed by seed, for example of `CONTROL`.
    level : float
        Between 0 and 1.

    Returns
    -------
    Dataset
        `mean`, `low` and `high` (unit, window), with unit "steps" or "windows", shifts over the
        length of the window; `n` (window), the seeds that count. Intervals are NaN for one seed.

    Raises
    ------
    ValueError
        If there is no such window, `result` is no such result, or has a seed or a window twice.
    """
    shift = _shifts(result)
    if against is not None:
        known = [str(name) for name in shift.window.values]
        shift = shift - shift.sel(window=checks.one_of("against", against, known), drop=True)
    length = (result.stop - result.start).sel(window=shift.window)
    units = xr.Variable("unit", ["steps", "windows"])
    shifts = xr.concat([shift, shift / length], units)
    n = shift.notnull().sum("seed")
    error = shifts.std("seed", ddof=1) / np.sqrt(n)
    half = t_quantile((n - 1).where(n > 1, 1), level) * error.where(n > 1)
    mean = shifts.mean("seed")
    return xr.Dataset({"mean": mean, "low": mean - half, "high": mean + half, "n": n})


def _shifts(result: xr.Dataset) -> xr.DataArray:
    """Return the shifts of a result but for those of the run without a window.

    Returns
    -------
    DataArray, dims (window, seed)

    Raises
    ------
    ValueError
        If there are none, or a window or a seed stands twice.
    """
    names = ("shift", "start", "stop")
    if not isinstance(result, xr.Dataset) or any(
        name not in result or set(result[name].dims) != {"window", "seed"} for name in names
    ):
        raise ValueError(
            "`result` must be a Dataset with shift, start and stop (window, seed), as `intervene` "
            f"returns it; got {type(result).__name__} {dict(getattr(result, 'sizes', {}))}."
        )
    for dim in ("window", "seed"):
        values = result[dim].values.tolist()
        if len(set(values)) < len(values) or not values:
            raise ValueError(f"`result` must have every {dim} once, at least one; got {values}.")
    if "never" not in result.window.values:
        raise ValueError('`result` must have the window "never", the run that others are from.')
    return result["shift"].drop_sel(window="never")
