"""How far windows of up-weighting shift the transition of `fast`, seed by seed: behind figure 16.

    python -m paper_figures.window_shifts OUT [SEED ...]

trains into OUT, going on where it was stopped, and writes all seeds that are there to
``expected/window_shifts.json``.
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dlnflow import lm
from dlnflow._support.files import write_json
from dlnflow.lm.branches import Crossing
from dlnflow.lm.intervene import CONTROL, Window, effects, intervene, sweep, windows
from dlnflow.lm.runs.model import CONFIGURATIONS
from dlnflow.traces import groups
from paper_figures._claims import EXPECTED

CROSSES = {0: 1_250, 1: 1_500, 2: 3_730, 3: 1_470, 4: 2_730}
"""Seeds with a transition among 0 to 5, and the step at which an earlier run of theirs passed 0.3
(docs/measured.md): runs go on for `AFTER` steps, rounded."""
AFTER = 400
AROUND = (-100, 0, 100, 200)
"""Checkpoints of the influence curve, from the last one before the crossing; also `FIRST` and the
last one of the run."""
FIRST, EVERY = 200, 100
TRANSITION = Crossing(threshold=0.3, every=20, beyond=40)
LENGTH = 300
"""Steps of a window; "during" begins at a tenth of the largest influence, "earlier" ends where
"before" begins."""
FACTORS = (2.0, 8.0)
"""Of the window before; all windows have factor 4 as well."""
SAMPLER = {"n_beta": 2_100, "localization": 9_200, "step_size": 2.4e-6, "burn_in": 100, "thin": 5}
"""Chosen by `dlnflow lm suggest` for `fast`, but for the last two."""
CHAINS, DRAWS, SEQUENCES = 4, 40, 64
LABELS = {
    "earlier": "earlier, 4",
    "before-x2": "before, 2",
    "before": "before, 4",
    "before-x8": "before, 8",
    CONTROL: "before, 4, random rows",
    "during": "during, 4",
    "after": "after, 4",
}
"""Windows in the order of tables, and what they are called: when, factor."""
UNITS = {"steps": "+.0f", "windows": "+.2f"}
"""Of a shift, and how it is written."""
STORED = EXPECTED / "window_shifts.json"
Tell = Callable[[str], None]


def settings(seed: int) -> lm.model.RunSettings:
    """Return the run of a seed, which ends some time after its transition."""
    n_steps = round((CROSSES[seed] + AFTER) / EVERY) * EVERY
    return replace(CONFIGURATIONS["fast"], seed=seed, every=EVERY, n_steps=n_steps)


def measure(
    out: Path, seed: int, tell: Tell = print, executor: Executor | None = None
) -> dict[str, Any]:
    """Train a seed, sample its influence curve, train its windows; kept as OUT/seed<k>.json.

    Parameters
    ----------
    out : path
        Folder of all seeds.
    seed : int
        Which one.
    tell : callable
        Called with a word on what has been done.
    executor : concurrent.futures.Executor, optional
        Where chains and trainings run; default here, one after another.

    Returns
    -------
    dict
        JSON: `curve` (steps, influence, error), `windows` (name -> start, stop, factor, rows),
        `crossing` (name -> step or None), `scores` (name -> pairs of step and score). Without a
        transition `crossing` is None and nothing else is there.
    """
    kept = out / f"seed{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    crossed = without(out, seed, tell)
    if np.isnan(crossed):
        return _kept(kept, {"seed": seed, "crossing": None})
    found = curve(out, seed, crossed, tell, executor)
    choices = chosen(found)
    shifted = _run(out, seed, choices, tell, executor)
    return _kept(kept, {"seed": seed, "curve": found} | record(shifted.sel(seed=seed), choices))


def without(out: Path, seed: int, tell: Tell = print) -> float:
    """Train a seed without a window; return the step of its crossing, NaN if there is none."""
    return float(_run(out, seed, {}, tell).crossing.sel(window="never", seed=seed))


def _run(
    out: Path,
    seed: int,
    choices: Mapping[str, Window],
    tell: Tell,
    executor: Executor | None = None,
) -> xr.Dataset:
    lm.experiment.one_thread()
    run = settings(seed)
    data = lm.train.prepare(run, out / "data")
    same = {"seeds": [seed], "transition": TRANSITION, "data": data}
    with warnings.catch_warnings():
        # what begins after the run has a shift of 0, which is one of the results
        warnings.filterwarnings("ignore", "`choices` .* begin at or after the end of the run")
        return intervene(run, out, choices, **same, executor=executor, progress=tell)


def chosen(curve: Mapping[str, Any]) -> dict[str, Window]:
    """Return the windows that an influence curve suggests, and those they are compared with."""
    # from the first checkpoint on, where there is no circuit: what all losses share is no rise
    influence = np.subtract(curve["influence"], curve["influence"][0])
    found = windows(curve["steps"], influence, length=LENGTH)
    begins = found["before"].start
    earlier = {"earlier": Window(max(0, begins - LENGTH), begins)} if begins else {}
    return sweep(found | earlier, FACTORS)


def _kept(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    write_json(path, value)
    return json.loads(path.read_text())


def curve(
    out: Path, seed: int, at: float, tell: Tell, executor: Executor | None = None
) -> dict[str, Any]:
    """Sample influence of repeated on repeated tokens around a crossing."""
    folder, kept = out / f"never-seed{seed}", out / f"curve-seed{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    for path in (out / "data").iterdir():
        if not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)
    middle = int(at // EVERY * EVERY)
    last = settings(seed).n_steps
    steps = sorted({FIRST, *(middle + k for k in AROUND), last})
    plan = lm.experiment.plan(folder, observe="repeats", rows=SEQUENCES, steps=steps)
    sampler = lm.experiment.sampler(chains=CHAINS, draws=DRAWS, **SAMPLER)
    traces = lm.experiment.sample(
        plan,
        sampler,
        out / f"repeats-seed{seed}",
        executor=executor,
        progress=lambda done, total: tell(f"seed {seed}, chain {done} of {total}"),
    )
    found = groups(traces, plan.classes, exclude=lm.experiment.left_out(plan.classes))
    own = found.sel(query="repeated", train="repeated")
    measured = {"influence": own, "error": own.standard_error, "r_hat": found.r_hat}
    rounded = {n: [float(f"{v:.5g}") for v in values.values] for n, values in measured.items()}
    return _kept(kept, {"steps": steps} | rounded | {"chains": CHAINS, "draws": DRAWS})


def record(shifted: xr.Dataset, choices: Mapping[str, Window]) -> dict[str, Any]:
    """Return windows, crossings and scores of one seed as JSON."""
    names = [str(name) for name in shifted.window.values]
    return {
        "windows": {n: [w.start, w.stop, w.factor, w.rows] for n, w in choices.items()},
        "crossing": {n: _rounded(float(shifted.crossing.sel(window=n))) for n in names},
        "scores": {n: _measured(shifted.score.sel(window=n)) for n in names},
    }


def _rounded(step: float) -> float | None:
    return None if np.isnan(step) else round(step, 1)


def _measured(score: xr.DataArray) -> list[list[float]]:
    found = score.dropna("time")
    pairs = zip(found.time.values.tolist(), found.values.tolist(), strict=True)
    return [[step, round(value, 4)] for step, value in pairs]


def stored() -> list[dict[str, Any]]:
    """Return the measured seeds."""
    return json.loads(STORED.read_text())["seeds"]


def shifts(seeds: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """Return what `dlnflow.lm.intervene.effects` takes: shift, start and stop (window, seed).

    A run that does not cross has no shift.
    """
    names = ["never", *LABELS]
    rows = {name: [] for name in ("shift", "start", "stop")}
    for one in seeds:
        crossing = one["crossing"] or {}
        at = [np.nan if crossing.get(n) is None else crossing[n] for n in names]
        rows["shift"].append(np.subtract(at, at[0]))
        windows = one.get("windows", {})
        for k, end in enumerate(("start", "stop")):
            rows[end].append([windows[n][k] if n in windows else np.nan for n in names])
    return xr.Dataset(
        {name: (("seed", "window"), row) for name, row in rows.items()},
        coords={"window": names, "seed": [one["seed"] for one in seeds]},
    )


def table(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the tables in docs/lm_figures.md."""
    found = shifts(seeds)
    names = [
        label.removesuffix(", 4").replace("before, 4, random rows", "random")
        for label in LABELS.values()
    ]
    lines = [f"| seed | begin at | never | {' | '.join(names)} |"]
    lines.append("|---" * (len(LABELS) + 3) + "|")
    for one in seeds:
        if not one["crossing"]:
            lines.append(f"| {one['seed']} | | no transition |{' |' * len(LABELS)}")
            continue
        begins = ", ".join(f"{one['windows'][n][0]:,}" for n in ("before", "during"))
        shifted = [_signed(v) for v in found["shift"].sel(seed=one["seed"]).values[1:]]
        cells = [str(one["seed"]), begins, f"{one['crossing']['never']:,.0f}", *shifted]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_means(found)]


def _signed(value: float, form: str = "+.0f") -> str:
    if np.isnan(value):
        return "-"
    written = format(value, form)
    return written.lstrip("+-") if not float(written) else written


def _means(found: xr.Dataset) -> list[str]:
    rows = [(label, effects(found).sel(window=name)) for name, label in LABELS.items()]
    apart = effects(found, against=CONTROL).sel(window="before")
    lines = ["| window | seeds | mean shift, steps | of its length |", "|---|---|---|---|"]
    for name, one in [*rows, ("before, 4, minus random rows", apart)]:
        cells = [_interval(one.sel(unit=unit), form) for unit, form in UNITS.items()]
        lines.append(f"| {name} | {int(one.n)} | {' | '.join(cells)} |")
    return lines


def _interval(one: xr.Dataset, form: str) -> str:
    mean, low, high = (_signed(float(one[name]), form) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def claims(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers that the figure claims; intervals where there are several seeds."""
    found = shifts(seeds)
    numbers = {"seeds": float(found["shift"].sel(window="never").notnull().sum())}
    apart = effects(found, against=CONTROL).sel(window="before")
    each = effects(found)
    rows = {str(name): each.sel(window=name) for name in each.window.values}
    for name, one in (rows | {f"before_minus_{CONTROL}": apart}).items():
        for end in ("mean", "low", "high"):
            numbers[f"{name}.{end}"] = float(one[end].sel(unit="steps"))
        numbers[f"{name}.of_its_length"] = float(one["mean"].sel(unit="windows"))
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def main(out: Path, seeds: Sequence[int]) -> None:
    """Measure seeds one after another, and write what there is."""
    for seed in seeds:
        measure(out, seed, tell=lambda text: print(text, flush=True))
    there = [json.loads(p.read_text()) for p in sorted(out.glob("seed*.json"))]
    if not there:
        raise SystemExit(f"{out} holds no seed; name some, for example 0 1 3.")
    about = {"configuration": "fast", "threshold": TRANSITION.threshold, "every": TRANSITION.every}
    write_json(STORED, about | {"seeds": there})
    print("\n".join(table(there)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
