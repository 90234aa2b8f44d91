"""Posteriors over all small networks: the toy task, a Gaussian prior around 0, ladders in n."""

import warnings
from dataclasses import replace
from functools import cache

import numpy as np

import dlnflow as dln
from dlnflow._support import FloatArray
from dlnflow.sampling.tempering import Ladder, Lengths, ladder
from dlnflow.theory.phases import HalfLearned, Phase, evidence, half_learned, transition
from dlnflow.theory.rlct import learning_coefficient
from paper_figures import _data

HIDDEN = 4
"""Few enough for lambda to rise with the rank; with 50 it is 60 for every rank."""
PRIOR = 1.0
"""Precision of the Gaussian prior of every weight."""
STAGES = (0, 1, 2, 4)
"""Ranks at which a level is complete; modes 2 and 3 are equally strong and learned together."""
BROAD = 0.3
"""The same of a broader prior, under which only the passage is sampled."""
RUNGS = np.geomspace(2, 400, 24)
"""n beta of the passage."""
FROM_PRIOR = np.r_[1e-4, np.geomspace(0.03, 1, 7)[:-1], np.geomspace(1, 400, 18)]
"""n beta of free energies; at the first the posterior is the prior."""


PASSAGE = {
    _data.Scale.quick: Lengths(8, 220, 700),
    _data.Scale.paper: Lengths(16, 2000, 3000),
}
BROADLY = {
    _data.Scale.quick: Lengths(8, 150, 500),
    _data.Scale.paper: Lengths(16, 2000, 6000),
}
SINGLE = {
    _data.Scale.quick: Lengths(6, 100, 300),
    _data.Scale.paper: Lengths(16, 800, 3000),
}
TILTED = {
    _data.Scale.quick: Lengths(8, 140, 200),
    _data.Scale.paper: Lengths(16, 2000, 3000),
}
INTEGRATED = {_data.Scale.quick: 60_000, _data.Scale.paper: 400_000}
"""Draws of the integral that predicts where a level is half learned."""
FOLLOWED = {_data.Scale.quick: 20_000, _data.Scale.paper: 200_000}
"""The same at every rung, for strengths over n."""
TILTED_AT = 20.0
"""n beta at which item weights are changed: the first level is half learned, siblings help most."""
DIRECTIONS = {"dog": {"dog": 1}, "both": {"dog": 1, "cat": 1}, "against": {"dog": 1, "cat": -1}}
"""What is added to the item weights, times u."""
TILT = np.linspace(-0.6, 0.6, 9)
"""u of the rungs."""


def task() -> dln.Task:
    """Return the task of the paper."""
    return _data.run().task


def levels() -> list[np.ndarray]:
    """Return the modes of the three levels that four hidden units can learn."""
    return list(task().modes.blocks[:3])


def rungs(prior: float) -> FloatArray:
    """Return n beta of the passage with a prior."""
    return RUNGS if prior == PRIOR else RUNGS[3:19]


def strengths(maps: FloatArray) -> FloatArray:
    """Return the mean of u_j^T W v_j / s_j over the modes of each level, (..., 3)."""
    modes = task().modes
    along = np.einsum("dj,cdn,nj->cj", modes.u, maps, modes.v) / modes.s
    return np.stack([along[:, block].mean(1) for block in levels()], axis=1)


@cache
def passage(scale: _data.Scale, prior: float) -> Ladder:
    """Sample the posterior of the task over n, with the strengths of the levels."""
    about = {"localization": prior, "observe": strengths}
    lengths = PASSAGE[scale] if prior == PRIOR else BROADLY[scale]
    return ladder(task().y, HIDDEN, rungs(prior), lengths=lengths, **about)


@cache
def stage(scale: _data.Scale, rank: int) -> Ladder:
    """Sample the posterior whose targets are the best map of some rank, from the prior on."""
    modes = task().modes
    y = (modes.u[:, :rank] * modes.s[:rank]) @ modes.v[:, :rank].T
    lengths = replace(SINGLE[scale], seed=1 + rank)
    return ladder(y, HIDDEN, FROM_PRIOR, localization=PRIOR, lengths=lengths)


@cache
def tilted(scale: _data.Scale) -> Ladder:
    """Sample at `TILTED_AT` with changed item weights, one direction after another."""
    items = list(task().items)
    weights = np.ones((len(DIRECTIONS), len(TILT), len(items)))
    for rows, change in zip(weights, DIRECTIONS.values(), strict=True):
        for item, by in change.items():
            rows[:, items.index(item)] += by * TILT
    weights = weights.reshape(-1, len(items))
    about = {"localization": PRIOR, "weights": weights, "lengths": replace(TILTED[scale], seed=9)}
    return ladder(task().y, HIDDEN, np.full(len(weights), TILTED_AT), **about)


def stage_free_energy(scale: _data.Scale, rank: int) -> tuple[FloatArray, FloatArray]:
    """Return n L_r + F(n; W_r) at `FROM_PRIOR`, with its O(1) terms, and the standard error."""
    sampled = stage(scale, rank).free_energy()
    return FROM_PRIOR * loss(rank) + sampled.free_energy.values, sampled.standard_error.values


def loss(rank: int) -> float:
    """Return L_r, the mean loss of the best map of a rank."""
    return float((task().modes.s[rank:] ** 2).sum() / (2 * task().n_items))


def phase(rank: int) -> Phase:
    """Return the stage as appendix A has it: L, lambda and m, and no constant."""
    coefficient, multiplicity = learning_coefficient(widths(), rank)
    return Phase(loss(rank), coefficient, multiplicity)


def constant(scale: _data.Scale, rank: int) -> tuple[float, float]:
    """Return c_r, what F leaves over n L_r + lambda log n at the largest n, and its error."""
    value, error = stage_free_energy(scale, rank)
    return float(value[-1] - phase(rank).free_energy(FROM_PRIOR[-1])), float(error[-1])


def widths() -> tuple[int, int, int]:
    """Return inputs, hidden units and outputs."""
    return task().x.shape[0], HIDDEN, task().y.shape[0]


def predicted_half(scale: _data.Scale, level: int, prior: float) -> HalfLearned:
    """Return n at which a level is half learned, from the free energy with all its terms."""
    about = {"prior": prior, "draws": INTEGRATED[scale]}
    return half_learned(task().modes.s, widths(), levels()[level], **about)


@cache
def predicted_strengths(scale: _data.Scale, prior: float) -> tuple[FloatArray, FloatArray]:
    """Return the strengths of the levels at the rungs by integration, (K, 3), and their errors.

    The modes of a level are averaged, and their errors too, as if they were wrong together.
    """
    about = {"prior": prior, "draws": FOLLOWED[scale]}
    with warnings.catch_warnings():  # few draws are effective at some rungs of quick scale
        warnings.simplefilter("ignore", RuntimeWarning)
        found = evidence(task().modes.s, widths(), rungs(prior), **about)
    value, error = (
        np.stack([each[:, block].mean(1) for block in levels()], axis=1)
        for each in (found.strength, found.strength_error)
    )
    return value, error


def crossing(level: int) -> float:
    """Return n at which appendix A, without constants, lets a level be learned."""
    return transition(phase(STAGES[level]), phase(STAGES[level + 1])).n


def half_strength(level: int, prior: float = PRIOR) -> tuple[float, float]:
    """Return n at which a level has half its strength, for a broad and for a narrow prior.

    (2 dlambda + kappa) / dL, kappa between 0 and the precision times the strengths of the level.
    """
    before, after = phase(STAGES[level]), phase(STAGES[level + 1])
    gain = after.learning_coefficient - before.learning_coefficient
    fall = before.loss - after.loss
    return 2 * gain / fall, (2 * gain + prior * task().modes.s[levels()[level]].sum()) / fall
