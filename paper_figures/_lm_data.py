"""The run, traces and scores that the language-model figures share; each is stored and reused."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import xarray as xr

from dlnflow.lm import experiment, induction
from dlnflow.lm.checkpoints import Checkpoints
from dlnflow.lm.model import CONFIGURATIONS
from dlnflow.lm.traces import sample_traces
from dlnflow.lm.train import load_data, train
from paper_figures._data import Scale

OUT = Path(__file__).parent / "out" / "lm"
PROCESSES = 2
"""Chains that run at the same time."""
CLASS_COLORS = {
    "word_part": "#0072B2", "word_end": "#56B4E9", "formatting": "#999999",
    "induction": "#D55E00", "left_delimiter": "#009E73", "right_delimiter": "#CC79A7",
}  # fmt: skip
GROUP_COLORS = {
    ("repeated", "repeated"): "#0072B2", ("other", "other"): "0.45",
    ("repeated", "other"): "#E69F00",
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Configuration, checkpoints, chains, draws and observed rows of a scale."""

    configuration: str
    steps: tuple[int, ...]
    chains: int
    draws: dict[str, int]
    rows: int
    device: str


SIZES = {
    Scale.quick: Size(
        "fast", (512, 1_000, 2_000, 2_500, 3_000, 4_500), 4, {"repeats": 250, "text": 100}, 16,
        "cpu",
    ),
    Scale.paper: Size(
        "pythia-14m", (0, 128, 512, *range(1_000, 20_001, 1_000)), 4,
        {"repeats": 250, "text": 250}, 32, "cuda",
    ),
}  # fmt: skip


@cache
def ladder(scale: Scale) -> Checkpoints:
    """Train the model, or go on where that stopped."""
    size = SIZES[scale]
    folder = OUT / size.configuration
    return train(CONFIGURATIONS[size.configuration], folder, device=size.device)


@cache
def scores(scale: Scale) -> xr.Dataset:
    """Return induction scores and losses on repeated sequences at every checkpoint."""
    counts = load_data(OUT / SIZES[scale].configuration).training.counts
    probe = induction.repeated_sequences(counts, n_sequences=32, disjoint=False)
    return induction.measure(ladder(scale), probe, device=SIZES[scale].device)


@cache
def traces(scale: Scale, observe: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return loss traces and classes of held-out text or of repeated sequences."""
    size = SIZES[scale]
    ladder(scale)
    folder = OUT / size.configuration
    plan = experiment.plan(folder, observe=observe, steps=list(size.steps), rows=size.rows)
    sampler = experiment.sampler(chains=size.chains, draws=size.draws[observe], device=size.device)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=get_context("spawn"), initializer=experiment.one_thread
    ) as pool:
        sampled = sample_traces(
            plan.checkpoints, plan.gradient, plan.observed, sampler,
            store=OUT / f"{size.configuration}-{observe}", executor=pool,
        )  # fmt: skip
    return sampled, plan.classes
