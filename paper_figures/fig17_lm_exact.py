"""Figure 17: exact influence of every training row on the induction loss, step by step."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dlnflow import lm
from dlnflow.lm.figures import rise
from dlnflow.lm.runs.model import CONFIGURATIONS
from dlnflow.plots import influence_plots, panels
from paper_figures import _lm_data, _style
from paper_figures._data import Scale

RUNS = {
    # a smaller `fast` with more repeats, whose circuit forms between steps 900 and 1,500
    Scale.quick: replace(
        CONFIGURATIONS["fast"],
        vocab_size=300,
        context=64,
        learning_rate=3e-3,
        n_steps=1_500,
        every=125,
        repeat_share=0.5,
        precision="fp32",
    ),
    Scale.paper: CONFIGURATIONS["fast"],
}
TIMES = {
    Scale.quick: ((750, 1_500), (1_000, 1_125, 1_250)),
    Scale.paper: ((4_500,), (1_000, 1_250, 1_500, 2_000)),
}
"""Times of the query; each group is a sweep of its own, of about equal cost."""
SINCE = {Scale.quick: 600, Scale.paper: 0}
"""First step whose rows are looked at."""
DEVICE = "cpu"
"""Both runs are small."""
BIN = 50
"""Steps over which rows are averaged."""
LARGEST = 0.1
"""Spread of single rows (nats per unit of weight) beyond which rows are left out: a few hundred of
them would move the loss by more than it is, so that the derivative predicts no removal."""
SATURATED = 0.85
"""Share of the bins whose colour is not at the end of the bar: the last ones stand out."""
KINDS = {"planted": "planted repeats", "other": "other rows"}
COLORS = {"planted": "#D55E00", "other": "#0072B2"}
HEADLINES = {
    "total.planted": "all planted rows on the last loss: {:+.2f} nats per unit of weight",
    "total.other": "other rows: {:+.2f}",
    "share_of_last_steps.planted": "of it the last 50 steps: {:.2f}",
    "mean_over_spread.planted": "mean over spread of single planted rows: {:.2f}",
    "reach": "spread of single rows below 0.1 nats for {:.0f} steps back from the last time",
}


def draw(scale: Scale) -> tuple[Figure, dict[str, float]]:
    """Train, sweep back from every time, draw influence over step of the row and time."""
    return show(influence(scale), scores(scale), windows(scale))


@cache
def probe(scale: Scale) -> NDArray[np.int64]:
    """Return the repeated sequences whose second halves are the induction loss."""
    data = lm.train.load_data(trained(scale))
    return lm.induction.repeated_sequences(
        data.training.counts,
        period=min(lm.induction.PERIOD, RUNS[scale].context // 2),
        special=lm.spelling.special_ids(data.tokenizer),
        disjoint=False,
    )


@cache
def trained(scale: Scale) -> Path:
    """Train the run, or go on where that stopped; return its folder."""
    run = RUNS[scale]

    def progress(step: int, loss: float) -> None:
        if step % 50 == 0:
            _lm_data.say(f"training, step {step} of {run.n_steps}, loss {loss:.2f}")

    return _train(scale, _lm_data.OUT / f"exact-{scale}", progress)


def training(scale: Scale) -> list[Callable[[], object]]:
    """Return the training that needs no other figure, to be done beside others."""
    return [partial(_train, scale, _lm_data.OUT / f"exact-{scale}")]


def _train(
    scale: Scale, folder: Path, progress: Callable[[int, float], None] | None = None
) -> Path:
    lm.experiment.one_thread()
    lm.train.train(RUNS[scale], folder, progress=progress, device=DEVICE)
    return folder


def scores(scale: Scale) -> xr.Dataset:
    """Return induction scores and losses at every checkpoint."""
    return lm.induction.measure(lm.Checkpoints.from_directory(trained(scale)), probe(scale))


def influence(scale: Scale) -> xr.DataArray:
    """Return the influence of every row at all times; sweeps are kept, two run at a time."""
    folder, sequences = trained(scale), probe(scale)
    groups, parts = TIMES[scale], []
    with _lm_data.pool() as executor:
        since = SINCE[scale]
        sweeps = [executor.submit(sweep, folder, sequences, times, since) for times in groups]
        for one in sweeps:
            _lm_data.say(f"sweeping back, {len(parts)} of {len(groups)} done")
            parts.append(one.result())
    return xr.concat(parts, "time", join="outer", fill_value=0.0).sortby("time")


def sweep(
    folder: Path, sequences: NDArray[np.int64], times: tuple[int, ...], since: int
) -> xr.DataArray:
    """Return the influence of every row at some times; goes on where it was stopped."""
    lm.experiment.one_thread()  # as it was trained, or the replay differs in rounding
    queries = {"induction loss": lm.queries.repeated_loss(sequences)}
    path = folder / f"influence-{'-'.join(map(str, times))}.npz"
    run = lm.TrainingRun.of(folder, queries, device=DEVICE)
    return run.per_step(times, since=since, keep=path)


def windows(scale: Scale) -> dict[str, tuple[int, int]]:
    """Return the windows of figure 16 if it was drawn for the same run; {} otherwise."""
    found = {}
    if RUNS[scale] == CONFIGURATIONS["fast"]:
        for name in ("before", "during", "after"):
            path = _lm_data.OUT / "windows" / f"{name}-seed0" / "window.json"
            if path.exists():
                record = json.loads(path.read_text())
                found[name] = record["start"], record["stop"]
    return found


def show(
    influence: xr.DataArray, scores: xr.Dataset, windows: Mapping[str, tuple[int, int]]
) -> tuple[Figure, dict[str, float]]:
    """Draw from results: losses, reach, one time in full, influence of planted and other rows."""
    spread, first = _spread(influence), _first_within_reach(influence)
    influence = influence.where(influence.step >= first)
    binned = {kind: _binned(influence, kind) for kind in KINDS}
    span = rise(scores)
    with mpl.rc_context(influence_plots.STYLE):
        figure = _style.figure(_style.PAGE_WIDTH, 4.6)
        axes = figure.subplot_mosaic([[*"aabbcc"], [*"dddeee"]])
        _draw_losses(axes["a"], scores, influence.time.values)
        _draw_spread(axes["b"], spread)
        _draw_last_time(axes["c"], influence, int(first[-1]))
        limit = max(float(abs(one).quantile(SATURATED)) for one in binned.values())
        marks = [*span, *np.ravel(list(windows.values()))]
        for axis, kind in zip((axes["d"], axes["e"]), KINDS, strict=True):
            mesh = _draw_heat(axis, binned[kind], limit, marks)
            axis.set_title(KINDS[kind])
        for name in "ac":
            axes[name].axvspan(*span, color="0.88", zorder=-2, linewidth=0)
        bar = figure.colorbar(mesh, ax=axes["e"], extend="both")
        bar.set_label(f"mean effect of a row\n(10$^{{-3}}$ nats)\n{panels.SIGNED}")
        panels.letters(axes.values())
    claims = _claims(influence, binned, span)
    return figure, claims | {"reach": float(influence.time[-1] - first[-1])}


def _spread(influence: xr.DataArray) -> xr.DataArray:
    """Standard deviation over rows, means over `BIN` steps, NaN after the time: (time, step)."""
    each = influence.isel(query=0).std("row").where(influence.step < influence.time)
    return each.rolling(step=BIN, min_periods=1).mean()


def _first_within_reach(influence: xr.DataArray) -> xr.DataArray:
    """First step from which on the spread of single rows stays below `LARGEST`, (time,)."""
    steps = influence.step
    return (steps + 1).where(_spread(influence) > LARGEST, int(steps[0])).max("step")


def _rows(influence: xr.DataArray, kind: str) -> xr.DataArray:
    member = influence.planted.values.astype(bool)
    return influence.isel(query=0, row=np.flatnonzero(member if kind == "planted" else ~member))


def _binned(influence: xr.DataArray, kind: str) -> xr.DataArray:
    """Mean effect of a row over rows and `BIN` steps, NaN after the time: (time, step)."""
    used = influence.step < influence.time
    mean = _rows(influence, kind).mean("row").where(used)
    return mean.coarsen(step=BIN, boundary="pad").mean()


def _draw_losses(axis: Axes, scores: xr.Dataset, times: NDArray[np.int64]) -> None:
    for half, color in (("first", "0.5"), ("second", "black")):
        axis.plot(scores.time, scores.loss.sel(half=half), color=color, label=f"{half} half")
    second = np.interp(times, scores.time, scores.loss.sel(half="second"))
    axis.plot(times, second, "o", color="black", markersize=3, label="times of the query")
    axis.set(xlabel="training step", ylabel="loss on repeats (nats)")
    low, high = axis.get_ylim()
    axis.set_xlim(0)
    axis.set_yticks([tick for tick in axis.get_yticks() if low <= tick <= high])
    axis.set_ylim(low - 0.5 * (high - low), high)  # room for the legend
    axis.legend(loc="lower left", **_style.LEGEND)


def _draw_spread(axis: Axes, spread: xr.DataArray) -> None:
    """Spread of single rows against how long before the time of the query they were used."""
    labelled = spread.time.values[[0, -1]].tolist()
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, spread.sizes["time"]))
    for color, one in zip(colors, spread, strict=True):
        one = one.dropna("step")
        label = f"{int(one.time):,}" if int(one.time) in labelled else None
        axis.plot(one.time - one.step, one, color=color, linewidth=1.1, label=label)
    axis.axhline(LARGEST, color="0.5", linewidth=0.8, linestyle="--")
    axis.set(yscale="log", xlabel="steps before the query", ylabel="spread of rows (nats)")
    axis.set_xlim(0)
    axis.legend(title="time", loc="best", **_style.LEGEND)


def _draw_heat(axis: Axes, binned: xr.DataArray, limit: float, marks: Sequence[float]) -> QuadMesh:
    """Mean effect of a row against how long before the query it was used; steps are marked."""
    starts = binned.step.values - (BIN - 1) / 2
    edges, count, longest = np.append(starts, starts[-1] + BIN), binned.sizes["time"], 0.0
    for k, one in enumerate(binned):
        before, known = float(one.time) - edges, np.isfinite(one.values)
        longest = max(longest, before[:-1][known].max())
        mesh = axis.pcolormesh(
            before,
            [k, k + 1],
            1e3 * np.ma.masked_invalid(one.values)[None],
            cmap=panels.DIVERGING,
            vmin=-1e3 * limit,
            vmax=1e3 * limit,
            rasterized=True,
        )
        axis.vlines(float(one.time) - np.asarray(marks), k, k + 1, color="0.2", linewidth=0.8)
    axis.set_facecolor("0.9")
    axis.set_xlim(longest, 0)
    axis.set_yticks(np.arange(count) + 0.5, [f"{t:,}" for t in binned.time.values])
    axis.set(xlabel="steps before the query", ylabel="time of the query", ylim=(0, count))
    return mesh


def _draw_last_time(axis: Axes, influence: xr.DataArray, first: int) -> None:
    """Sum of the effects of rows from `first` on, of each kind, on the loss at the last time."""
    last = influence.isel(time=-1).sel(step=slice(first, None))
    for kind, color in COLORS.items():
        total = _rows(last, kind).sum("row").cumsum("step")
        axis.plot(last.step + 1, total, color=color, label=KINDS[kind])
    axis.axhline(0, color="0.5", linewidth=0.6)
    axis.set_title(f"on step {int(last.time):,}")
    axis.set(xlabel="step of the row", ylabel=f"all rows so far (nats)\n{panels.SIGNED}")
    axis.set_xlim(first, int(last.time))
    axis.legend(loc="best", **_style.LEGEND)


def _claims(
    influence: xr.DataArray, binned: Mapping[str, xr.DataArray], span: tuple[float, float]
) -> dict[str, float]:
    """Sums at the last time, shares of bins with one sign, and how fast influence fades."""
    claims = {"score_from": span[0], "score_to": span[1]}
    for kind, one in binned.items():
        claims[f"total.{kind}"] = float(_rows(influence, kind).isel(time=-1).sum())
        used = one.values[np.isfinite(one.values)]
        claims[f"share_of_bins_that_help.{kind}"] = float((used < 0).mean())
    rows = _rows(influence, "planted").isel(time=-1)
    claims["mean_over_spread.planted"] = float(rows.mean() / rows.std())
    by_step = rows.sum("row")
    recent = by_step.step >= int(influence.time[-1]) - BIN
    claims["share_of_last_steps.planted"] = float(by_step.where(recent).sum() / by_step.sum())
    return claims
