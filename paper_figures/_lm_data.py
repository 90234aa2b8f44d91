"""The run, traces and scores that the language-model figures share; each is stored and reused."""

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import xarray as xr

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


@dataclass(frozen=True)
class Size:
    """Configuration, checkpoints, chains, draws and observed rows of a scale."""

    configuration: str
    steps: tuple[int, ...]
    chains: int
    draws: dict[str, int]
    rows: dict[str, int]
    device: str
    tokenizer: str | None = None
    """Of which model on the hub; None: one is trained."""
    settings: tuple[tuple[str, float], ...] = ()
    """Of the sampler; what is not given is chosen from the model."""


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
}
tell: list[Callable[[str], None]] = []
"""Called with a word on what is being done; the command shows it."""


def settings(scale: Scale, seed: int = 0) -> RunSettings:
    """Return the settings of the run of a seed."""
    return replace(CONFIGURATIONS[SIZES[scale].configuration], seed=seed)


def folder(scale: Scale, seed: int = 0) -> Path:
    """Return where the run of a seed is."""
    return OUT / f"{SIZES[scale].configuration}-seed{seed}"


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
    plan = experiment.plan(run, observe=observe, steps=list(size.steps), rows=size.rows[observe])
    sampler = experiment.sampler(
        chains=size.chains, draws=size.draws[observe], device=size.device, **dict(size.settings)
    )
    with pool() as executor:
        sampled = experiment.sample(
            plan,
            sampler,
            OUT / f"{run.name}-{observe}",
            executor=executor,
            progress=lambda done, total: say(f"sampling {observe}, chain {done} of {total}"),
        )
    return sampled, plan.classes


def pool() -> AbstractContextManager[Executor | None]:
    """Return processes with one thread each; a lost one is replaced."""
    return executors.executor(PROCESSES)


def say(text: str) -> None:
    """Tell whoever shows progress."""
    for listener in tell:
        listener(text)
