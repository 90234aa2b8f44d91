"""The run, traces and scores that the language-model figures share; each is stored and reused."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from dlnflow._support.workers import LocalWorkers
from dlnflow.cli.language_models import changed
from dlnflow.lm import experiment, induction
from dlnflow.lm.data.tokenizer import load_tokenizer
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.model import CONFIGURATIONS, RunSettings
from dlnflow.lm.runs.train import prepare, train
from dlnflow.lm.sampling import executors
from paper_figures._data import Scale

OUT = Path(__file__).parent / "out" / "lm"
"""Runs and stores; the command sets it."""
PROCESSES = 2
"""Chains, or retrainings, that run at the same time."""


class LmScale(StrEnum):
    """How much is computed.

    `natural` has no planted repeats, `gpu` a text of the user's, `twin` is its code on a CPU.
    """

    quick = "quick"
    paper = "paper"
    natural = "natural"
    gpu = "gpu"
    twin = "twin"


@dataclass(frozen=True)
class Size:
    """Configuration, checkpoints, chains, draws and observed rows of a scale."""

    configuration: str
    steps: tuple[int, ...] | int
    """Checkpoints that are sampled; a number: so many, dense around the transition."""
    chains: int
    draws: dict[str, int]
    rows: dict[str, int]
    device: str
    tokenizer: str | None = None
    """Of which model on the hub, or a file; None: one is trained."""
    settings: tuple[tuple[str, float], ...] = ()
    """Of the sampler; what is not given is chosen from the model."""
    changes: dict[str, Any] = field(default_factory=dict)
    """What differs from the configuration."""
    figures: tuple[int, ...] = ()
    """Figures that can be drawn; empty: all."""


SIZES = {
    Scale.quick: Size(
        "fast",
        (250, 750, 1_000, 1_250, 1_500, 1_750, 2_250, 3_500),
        4,
        {"repeats": 150, "text": 250},
        {"repeats": 64, "text": 32},
        "cpu",
        # with which the claims were measured
        settings=(("n_beta", 1e4), ("localization", 1e4), ("step_size", 2e-6)),
    ),
    Scale.paper: Size(
        "pythia-14m",
        (0, 128, 512, *range(1_000, 20_001, 1_000)),
        4,
        {"repeats": 250, "text": 250},
        {"repeats": 64, "text": 32},
        "cuda",
        "EleutherAI/pythia-14m",
    ),
    LmScale.natural: Size(
        "natural",
        5,
        8,
        {"repeats": 40, "text": 45},
        {"repeats": 64, "text": 24},
        "cpu",
        # chosen by `dlnflow lm suggest` for this run; choosing again would take minutes
        settings=(
            ("n_beta", 3_500),
            ("localization", 12_000),
            ("step_size", 1.8e-6),
            ("burn_in", 150),
            ("thin", 7),
        ),
        figures=(5, 14, 15),
    ),
    LmScale.gpu: Size(
        "pythia-14m",
        10,
        8,
        {"repeats": 250, "text": 250},
        {"repeats": 64, "text": 32},
        "cuda",
        "EleutherAI/pythia-14m",
        # the induction transition of this architecture on natural text is over by step 2,000
        changes={
            "corpus": "",
            "context": 512,
            "rows": 32,
            "accumulate": 1,
            "learning_rate": 2e-3,
            "warmup": 200,
            "horizon": 6_000,
            "n_steps": 3_000,
            "every": 100,
        },
        figures=(5, 14, 15),
    ),
    LmScale.twin: Size(
        "fast",
        5,
        8,
        {"repeats": 40, "text": 40},
        {"repeats": 48, "text": 32},
        "cpu",
        # the model of figure 17 at quick scale, which forms an induction circuit in 1,500 steps
        changes={
            "vocab_size": 300,
            "context": 64,
            "learning_rate": 3e-3,
            "n_steps": 1_500,
            "every": 100,
            "repeat_share": 0.5,
            "precision": "fp32",
        },
        figures=(5, 14, 15),
    ),
}
SAMPLING = ("n_beta", "localization", "step_size", "burn_in", "thin")
"""Settings of the sampler that `--set` may change."""
BEFORE, AFTER = 2, 2
"""Checkpoints before and after the transition, of those chosen around it."""
LEAST_SCORE = 0.1
"""Score of a layer below which there was no transition."""
tell: list[Callable[[str], None]] = []
"""Called with a word on what is being done; the command shows it."""


def settings(scale: Scale, seed: int = 0) -> RunSettings:
    """Return the settings of the run of a seed."""
    size = SIZES[scale]
    return replace(CONFIGURATIONS[size.configuration], seed=seed, **size.changes)


def folder(scale: Scale, seed: int = 0) -> Path:
    """Return where the run of a seed is."""
    size = SIZES[scale]
    return OUT / f"{scale if size.changes else size.configuration}-seed{seed}"


@cache
def ladder(scale: Scale, seed: int = 0) -> Checkpoints:
    """Train the model, or go on where that stopped."""
    run = settings(scale, seed)
    # Bits depend on the number of threads, and two are slower than one beside other work.
    experiment.one_thread()

    def progress(step: int, loss: float) -> None:
        if step % 50 == 0:
            say(f"training, step {step} of {run.n_steps}, loss {loss:.2f}")

    size, out = SIZES[scale], folder(scale, seed)
    if size.tokenizer and not (out / "data.json").exists():
        prepare(run, out, tokenizer=load_tokenizer(size.tokenizer))
    return train(run, out, device=size.device, progress=progress)


@cache
def scores(scale: Scale, seed: int = 0) -> xr.Dataset:
    """Return induction scores and losses on repeated sequences at every checkpoint."""
    run = ladder(scale, seed)
    probe = experiment.probe(run, folder(scale, seed))
    return induction.measure(run, probe, device=SIZES[scale].device)


@cache
def traces(scale: Scale, observe: str, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
    """Return loss traces and classes of held-out text or of repeated sequences."""
    size, run = SIZES[scale], folder(scale, seed)
    ladder(scale, seed)
    steps = list(size.steps) if isinstance(size.steps, tuple) else around(scores(scale, seed), size)
    plan = experiment.plan(run, observe=observe, steps=steps, rows=size.rows[observe])
    sampler = experiment.sampler(
        chains=size.chains, draws=size.draws[observe], device=size.device, **dict(size.settings)
    )
    # the chains of a checkpoint share a GPU; on a CPU each has a process
    with pool() if torch.device(size.device).type == "cpu" else nullcontext() as executor:
        sampled = experiment.sample(
            plan,
            sampler,
            OUT / f"{run.name}-{observe}",
            executor=executor,
            progress=lambda done, total: say(f"sampling {observe}, chain {done} of {total}"),
        )
    return sampled, plan.classes


def around(measured: xr.Dataset, size: Size) -> list[int]:
    """Choose checkpoints before, in and after the rise of the induction score.

    The rise is that of the best layer (`dlnflow.lm.induction.rise`). Without one the checkpoints
    are evenly spaced, and that is said.

    Parameters
    ----------
    measured : Dataset
        Scores at every checkpoint.
    size : Size
        How many are wanted.

    Returns
    -------
    list of int
        Increasing steps; fewer if the ladder is too coarse.
    """
    ladder, count = measured.time.values, size.steps
    score = measured.layer_induction.max("layer").values
    late = np.flatnonzero(ladder >= ladder[-1] // 20)  # the first, dense ones are all alike
    largest = np.nanmax(score[late])
    if not largest >= LEAST_SCORE:
        say("no induction head has formed: checkpoints are evenly spaced")
        return ladder[_spread(late, count)].tolist()
    low, high = np.searchsorted(ladder, induction.rise(ladder[late], score[late]))
    before = _spread(late[late < low], BEFORE)
    after = _spread(np.arange(high + 1, len(ladder)), AFTER)
    # what a score that rises to the end leaves for "after" goes into the rise
    rise = _spread(np.arange(low, high + 1), count - len(before) - len(after))
    chosen = before, rise, after
    return ladder[np.unique(np.concatenate(chosen))].tolist()


def _spread(numbers: np.ndarray, count: int) -> np.ndarray:
    """Return so many of some numbers, with the first and the last; one is the middle one."""
    count = max(min(count, len(numbers)), 0)
    at = np.linspace(0, max(len(numbers) - 1, 0), count) if count != 1 else [(len(numbers) - 1) / 2]
    return numbers[np.round(at).astype(int)]


def with_settings(scale: LmScale, given: list[str]) -> Size:
    """Apply NAME=VALUE to a scale.

    Parameters
    ----------
    scale : LmScale
        Of which size.
    given : list of str
        text, tokenizer, device, chains, draws, checkpoints, settings of the run or of the sampler.

    Returns
    -------
    Size
        Changed.

    Raises
    ------
    ValueError
        If there is no such setting, or the scale lacks its text.
    """
    size, run = SIZES[scale], CONFIGURATIONS[SIZES[scale].configuration]
    chosen: dict[str, float] = {}
    of_run = [f.name for f in fields(RunSettings) if f.name not in ("corpus", "seed")]
    own = ("text", "tokenizer", "device", "chains", "draws", "checkpoints")
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in (*own, *of_run, *SAMPLING):
            raise ValueError(
                f"`--set` expects NAME=VALUE with NAME one of {', '.join((*own, *SAMPLING))}, or a "
                f"setting of the run ({', '.join(of_run)}); got {one!r}."
            )
        if name == "text":
            size = replace(size, changes=size.changes | {"corpus": value})
        elif name in ("tokenizer", "device"):
            size = replace(size, **{name: value})
        elif name in SAMPLING:
            chosen[name] = int(value) if name in ("burn_in", "thin") else float(value)
        elif name in of_run:
            changes = size.changes | {name: getattr(changed(run, [one]), name)}
            size = replace(size, changes=changes)
        elif name == "draws":
            size = replace(size, draws=dict.fromkeys(size.draws, int(value)))
        else:
            size = replace(size, **{{"checkpoints": "steps"}.get(name, name): int(value)})
    if size.changes.get("corpus") == "":
        raise ValueError(
            f"`--scale {scale}` trains on your text: name a file or folder, `--set text=FOLDER`. "
            "`--scale twin` goes the same way on a CPU, with text that is always there."
        )
    replace(run, **size.changes)  # refuses what cannot be a run
    # those of the scale were chosen for its own run
    known = {} if size.changes != SIZES[scale].changes else dict(size.settings)
    return replace(size, settings=tuple((known | chosen).items()))


def train_together(scale: LmScale, others: Sequence[Callable[[], object]]) -> None:
    """Train the run of a scale while another process trains what other figures need.

    One training keeps one core busy. A run on a GPU does not wait for them.

    Parameters
    ----------
    scale : LmScale
        Of the run that most figures share.
    others : sequence of callable
        Trainings, which can be pickled; one that is done takes no time.
    """
    if not others or torch.device(SIZES[scale].device).type != "cpu":
        return
    with LocalWorkers(PROCESSES - 1) as beside:
        started = [beside.submit(training) for training in others]
        ladder(scale)
        for training in started:
            training.result()


def pool() -> AbstractContextManager[Executor | None]:
    """Return processes with one thread each; a lost one is replaced."""
    return executors.executor(PROCESSES)


def say(text: str) -> None:
    """Tell whoever shows progress."""
    for listener in tell:
        listener(text)
