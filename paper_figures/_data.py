"""Runs and curves that several figures share; each is computed once per process."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
import pandas as pd
import xarray as xr

import dlnflow as dln
from dlnflow import sampling
from dlnflow._support import FloatArray
from dlnflow.analysis import compare, events
from dlnflow.influence import ESTIMATORS

INIT_STD = 1e-3
HIDDEN = 50
LEVELS = ("shared by all", "animal | plant", "mammal | bird, tree | flower", "siblings")
"""What the modes of each distinct strength tell apart, strongest first."""


class Scale(StrEnum):
    """How much is computed."""

    quick = "quick"
    paper = "paper"


POINTS = {Scale.quick: 240, Scale.paper: 960}
"""Recorded steps."""
SEEDS = {Scale.quick: 3, Scale.paper: 8}
"""Initialisations behind the statistics of figure 8; all other figures show seed 0."""


@cache
def run(seed: int = 0) -> dln.Run:
    """Return the paper's task from a small random start."""
    return dln.Run(dln.semantic_hierarchy(), hidden=HIDDEN, init_std=INIT_STD, seed=seed)


def steps(scale: Scale, seed: int = 0) -> np.ndarray:
    """Return evenly spaced recorded steps."""
    return np.unique(np.linspace(0, run(seed).n_steps, POINTS[scale]).round().astype(int))


@cache
def trajectory(scale: Scale) -> dln.Trajectory:
    """Return the weights over training, seed 0."""
    return run().train(steps(scale))


@cache
def influence(scale: Scale, estimator: str, seed: int = 0) -> xr.DataArray:
    """Return all pairs of items for one estimator; "bif" on fewer steps and rescaled."""
    if estimator == "bif":
        return _sampled(scale, seed)
    return ESTIMATORS[estimator](run(seed), steps(scale, seed))


def stacked(scale: Scale, estimators: tuple[str, ...], seed: int = 0) -> xr.DataArray:
    """Return several estimators on one grid."""
    return dln.stack(*(influence(scale, name, seed) for name in estimators))


def curves(scale: Scale, estimators: tuple[str, ...], seed: int = 0) -> dict[str, xr.DataArray]:
    """Return several estimators, each on its own steps."""
    return {name: influence(scale, name, seed) for name in estimators}


BIF_CHECKPOINTS = {Scale.quick: 80, Scale.paper: 100}
"""Of the recorded steps, as evenly spaced as can be; four chains each."""
BIF_DRAWS = 1000
"""Per chain."""
BIF_LOCALIZATION = 10.0
"""Times that of `dlnflow.sampling.suggest`: the least localisation in the table of
docs/sampling.md at which the sampled influence follows leave-one-out as well as it can."""


@cache
def _sampled(scale: Scale, seed: int) -> xr.DataArray:
    """Sample Bayesian influence, times the one factor that brings it closest to the tangent.

    Covariances scale as 1 / localization, so the size of the sampled influence says nothing; the
    factor (attribute `scale`) is least squares over all pairs of different items and all steps.
    """
    recorded = steps(scale, seed)
    chosen = np.linspace(0, len(recorded) - 1, BIF_CHECKPOINTS[scale]).round().astype(int)
    suggested = sampling.suggest(run(seed))
    localization = BIF_LOCALIZATION * suggested["localization"]
    found = dln.influence.bif(
        run(seed),
        recorded[chosen],
        n_beta=suggested["n_beta"],
        localization=localization,
        draws=BIF_DRAWS,
        burn_in=20,
        dtype="float32",
        # The posterior is nearly isotropic here. A quarter of a period per step, with velocities
        # forgotten, makes draws nearly independent, and this kernel is unbiased on Gaussians.
        step_size=2 / localization,
        kernel="underdamped",
        kernel_options={"persistence": 0.0},
    )
    exact = influence(scale, "tangent", seed).sel(time=found.time)
    other = ~np.eye(found.sizes["query"], dtype=bool)
    a, b = found.values[:, other], exact.values[:, other]
    factor = float((a * b).sum() / (a * a).sum())
    error = found.standard_error * factor
    return (
        found.copy(data=found * factor)
        .assign_coords(standard_error=error)
        .assign_attrs(scale=factor)
    )


def found_events(curves: dict[str, xr.DataArray]) -> pd.DataFrame:
    """Return events of results by estimator; sampled values count beyond 3 standard errors."""
    tables = []
    for name, curve in curves.items():
        error = curve.coords.get("standard_error")
        floor = None if error is None else 3 * error.max("time")
        tables.append(events(curve, floor=floor).assign(estimator=name))
    return pd.concat(tables, ignore_index=True)


def compared(scale: Scale, name: str, reference: str, seed: int = 0) -> pd.DataFrame:
    """Return `dlnflow.compare` of two estimators at the steps that both have.

    Offsets of a sampled peak or trough count only where it is an event of `found_events`.
    """
    pair = [influence(scale, x, seed) for x in (name, reference)]
    time = pair[0].time[pair[0].time.isin(pair[1].time)]
    table = compare(dln.stack(*(x.sel(time=time) for x in pair)), reference=reference)
    table = table[table["estimator"] == name].copy()
    if "standard_error" in pair[0].coords:
        found = found_events({name: pair[0]})
        for kind, side in (("peak", 1), ("trough", -1)):
            rows = found[(found["kind"] == kind) & (found["sign"] == side)]
            seen = set(zip(rows["query"], rows["train"], strict=True))
            unseen = [p not in seen for p in zip(table["query"], table["train"], strict=True)]
            table.loc[unseen, f"{kind}_offset_flow"] = np.nan
    return table


def kinship(item: str, other: str) -> str:
    """Return "self", "sibling", "cousin" or "far" for two items of the paper's tree."""
    a, b = run().task.indices([item])[0], run().task.indices([other])[0]
    return ("self", "sibling", "cousin", "far")[int(a ^ b).bit_length()]


@dataclass(frozen=True)
class BlockModes:
    """Modes in the basis in which equal strengths decouple, with what they start from.

    strength : simulated u_j^T W(t) v_j, shape (T, r); a0 : shape (r,); s : shape (r,);
    level : index into `LEVELS`, shape (r,).
    """

    strength: FloatArray
    a0: FloatArray
    s: FloatArray
    level: np.ndarray


@cache
def block_modes(scale: Scale) -> BlockModes:
    """Resolve each degenerate block by the start of this very run.

    Early on only G = (W_1 V + W_2^T U)/2 grows, and the mode strengths of a block start from the
    eigenvalues of G_B^T G_B: in its eigenvectors every mode of the block has an a0 of its own.
    """
    path = trajectory(scale)
    modes = path.run.task.modes
    w1, w2 = path.run.initial_weights()
    growing = (w1 @ modes.v + w2.T @ modes.u) / 2
    strength, a0, level = [], [], []
    for k, block in enumerate(modes.blocks):
        start, rotation = np.linalg.eigh(growing[:, block].T @ growing[:, block])
        u, v = modes.u[:, block] @ rotation, modes.v[:, block] @ rotation
        strength.append(np.einsum("dj,tdn,nj->tj", u, path.w, v, optimize=True))
        a0.append(start)
        level.append(np.full(len(block), k))
    return BlockModes(np.hstack(strength), np.hstack(a0), modes.s, np.hstack(level))


@cache
def half_times(scale: Scale) -> FloatArray:
    """Return the flow time at which the mean strength of each level passes half its final value."""
    modes, time = block_modes(scale), run().flow_time(trajectory(scale).steps)
    means = [modes.strength[:, modes.level == k].mean(axis=1) for k in range(len(LEVELS))]
    return np.array([np.interp(0.5 * m[-1], m, time) for m in means])
