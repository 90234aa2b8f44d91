"""Settings at which the chains of a language model mix, from what is measured at its checkpoints.

With the curvature, noise and G of `geometry`, B targets in a minibatch and eps the step size:

    localization = B noise / (2 `RISE`)             the loss rises by about `RISE` nats at most
    relaxation   = 2 / (eps localization G)         steps, where the localization rules
    x            = eps (n_beta curvature + localization G)    variance 1 / (1 - x/4) times too large
    heat         = eps n_beta^2 stiff_noise / 4     and larger by this share, from minibatches
    n_beta       the largest, up to `N_BETA`, at which a relaxation may take `RELAXATION` steps
                 with x <= `OVERSHOOT` and heat <= `HEAT` in the stiffest direction
    step_size    the largest with this x and heat
    burn_in      ten relaxations, at least `BURN_IN` steps, in which the preconditioner is learned

B noise is the trace of the Fisher matrix if tokens are independent, which bounds the rise of the
loss by half its ratio to the localization. Then a pilot of several chains around the stiffest
checkpoint and the one with the most negative curvature says how many steps a draw takes that is
independent of the last, for class means and their squared deviations:

    thin         so that 1,000 draws are worth `EFFECTIVE` independent ones

If the pilot does not mix, n_beta is halved and the localization doubled, twice at most. One setting
serves all checkpoints, so that a curve over training is not a curve of settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dlnflow import lm, traces
from dlnflow._support.progress import Progress
from dlnflow.lm.sampling.automatic import BURN_IN, CHOSEN, THIN, Automatic
from dlnflow.lm.sampling.geometry import GRADIENTS, Geometry, measure

if TYPE_CHECKING:
    import xarray as xr

    from dlnflow.lm.data.batches import GradientData, Observed
    from dlnflow.lm.runs.checkpoints import Checkpoints
    from dlnflow.lm.sampling.unit import Sampler

N_BETA = 1e4
"""Largest inverse temperature."""
RISE = 0.075
"""Rise of the mean loss, in nats."""
RELAXATION = 10.0
"""Steps in which a direction forgets its start, by a factor e."""
OVERSHOOT, HEAT = 0.4, 0.25
"""Variance of the stiffest direction: 11 % too large by the step, 25 % by minibatches."""
LONGEST_BURN_IN = 5000
"""Steps before the first draw; the fewest are `BURN_IN`."""
LONGEST_THIN = 50
"""Steps between draws."""
EFFECTIVE, DRAWS = 400, 1000
"""Independent draws of the median class mean that so many draws are to be worth."""
FEWEST = 200
"""Independent draws of the slowest one below which a pilot does not mix."""
R_HAT = 1.2
"""Of a pilot; one that is so short seldom shows less than 1.05, and its full length far less."""
PILOT = {"chains": 4, "draws": 75}
"""Length of a pilot; `PILOT_ROWS` sequences are observed."""
PILOT_ROWS = 8
CHECKPOINTS = 4
"""Steps of the ladder at which is measured, both ends included."""
TRIES = 3
"""Pilots at other settings, if the first does not mix."""


@dataclass(frozen=True)
class Pilot:
    """What a few short chains around one checkpoint showed.

    Attributes
    ----------
    step : int
        Step of the checkpoint.
    r_hat : float
        The largest of class means and their squared deviations.
    steps_per_draw : float
        Steps of a chain that are worth one independent draw: the median over class means.
    slowest : float
        The same of the slowest of means and squared deviations; noisy, as the pilot is short.
    rise : float
        Mean observed loss at the draws minus that at the checkpoint, in nats.
    n_beta, localization, step_size : float
        What it was run with.
    """

    step: int
    r_hat: float
    steps_per_draw: float
    slowest: float
    rise: float
    n_beta: float
    localization: float
    step_size: float

    @property
    def effective(self) -> float:
        """Independent draws of the slowest that `DRAWS` at the longest spacing are worth."""
        return DRAWS * min(1.0, LONGEST_THIN / self.slowest)

    @property
    def mixes(self) -> bool:
        """Whether chains agree, and give enough draws at a spacing that can be afforded."""
        return self.r_hat <= R_HAT and self.effective >= FEWEST


@dataclass(frozen=True)
class Suggestion:
    """Settings, and what they follow from.

    Attributes
    ----------
    settings : mapping
        Numbers of `CHOSEN`.
    measured : tuple of Geometry
        By checkpoint.
    pilots : tuple of Pilot
        The last ones are those of the settings; none if no pilot was wanted.
    """

    settings: Mapping[str, float]
    measured: tuple[Geometry, ...]
    pilots: tuple[Pilot, ...] = ()

    @property
    def verdict(self) -> str:
        """Return "mixed", "not mixed", or "no pilot"."""
        if not self.pilots:
            return "no pilot"
        last = [
            p for p in self.pilots if all(getattr(p, n) == self.settings[n] for n in CHOSEN[:3])
        ]
        return "mixed" if last and all(p.mixes for p in last) else "not mixed"

    def relaxation(self) -> float:
        """Return the steps of a relaxation where the localization rules, at the slowest."""
        return max(_relaxation(self.settings, g) for g in self.measured)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON; null where a number is not finite."""
        return {
            "settings": dict(self.settings),
            "verdict": self.verdict,
            "relaxation": self.relaxation(),
            "measured": [asdict(g) | bias(self.settings, g) for g in self.measured],
            "pilots": [_finite(asdict(p)) for p in self.pilots],
        }


def suggest(
    checkpoints: Checkpoints,
    gradient: GradientData,
    observed: Observed,
    classes: xr.DataArray,
    automatic: Automatic,
    *,
    pilot: bool = True,
) -> Suggestion:
    """Measure, choose, and try.

    Parameters
    ----------
    checkpoints : Checkpoints
        The whole ladder; at most `CHECKPOINTS` of it are measured.
    gradient, observed : GradientData, Observed
        What will be sampled.
    classes : DataArray, dims (sequence, position, token_class)
        Classes of the observed tokens; the pilot is judged by their mean losses.
    automatic : Automatic
        What is given, and how it is sampled.
    pilot : bool
        Whether to try.

    Returns
    -------
    Suggestion
        The settings have two significant digits.
    """
    steps = spread(checkpoints.steps.tolist(), CHECKPOINTS)
    trial = automatic.with_numbers({"n_beta": 1.0, "localization": 1.0, "step_size": 1.0})
    with Progress(GRADIENTS * len(steps), "measuring curvature and noise") as bar:
        found = tuple(measure(checkpoints, step, gradient, trial, bar.advance) for step in steps)
    settings = choose(found, automatic.given)
    if not pilot:
        return Suggestion(settings, found)
    tried: list[Pilot] = []
    for attempt in range(TRIES):
        if attempt:
            settings = choose(found, _gentler(settings) | dict(automatic.given))
        trial = _pilot(automatic, settings, found)
        now = [
            run_pilot(checkpoints, step, gradient, observed, classes, trial)
            for step in _critical(found, settings)
        ]
        tried += now
        mixes = all(p.mixes for p in now)
        if mixes or {"n_beta", "localization"} <= set(automatic.given):
            break
    spacing = max(p.steps_per_draw for p in now)
    thin = min(LONGEST_THIN, math.ceil(spacing * EFFECTIVE / DRAWS)) if mixes else LONGEST_THIN
    settings = settings | {"thin": automatic.given.get("thin", thin)}
    return Suggestion(settings, found, tuple(tried))


def choose(found: Sequence[Geometry], given: Mapping[str, float]) -> dict[str, float]:
    """Return settings from what was measured, by the rules of the module; `thin` is `THIN`.

    Parameters
    ----------
    found : sequence of Geometry
        Checkpoints that one setting is to serve.
    given : mapping
        Numbers that are not to be chosen.

    Returns
    -------
    dict
        `CHOSEN`.
    """
    rise = max(g.tokens * g.noise for g in found) / (2 * RISE)
    localization = given.get("localization", _rounded(rise))
    n_beta = given.get("n_beta", _rounded(min(_warmest(g, localization) for g in found)))
    eps = given.get("step_size", _rounded(min(_step(g, n_beta, localization) for g in found)))
    settings = {"n_beta": n_beta, "localization": localization, "step_size": eps}
    relaxed = 10 * max(_relaxation(settings, g) for g in found)
    burn_in = int(min(LONGEST_BURN_IN, max(BURN_IN, math.ceil(relaxed))))
    return settings | {
        "burn_in": given.get("burn_in", burn_in),
        "thin": given.get("thin", THIN),
    }


def bias(settings: Mapping[str, float], g: Geometry) -> dict[str, float]:
    """Return x and heat of the module docstring, and by what both multiply a variance.

    Returns
    -------
    dict
        `overshoot`, `heat` and `variance`, which is infinite where a chain is unstable.
    """
    n, localization, eps = (settings[name] for name in CHOSEN[:3])
    x = eps * (n * max(g.curvature, 0.0) + localization * g.fast)
    heat = eps * n**2 * g.stiff_noise / 4
    variance = (1 + heat) / (1 - x / 4) if x < 4 else math.inf
    return {"overshoot": x, "heat": heat, "variance": variance}


def run_pilot(
    checkpoints: Checkpoints,
    step: int,
    gradient: GradientData,
    observed: Observed,
    classes: xr.DataArray,
    sampler: Sampler,
) -> Pilot:
    """Run a few chains around a checkpoint and judge the mean losses of classes.

    Parameters
    ----------
    checkpoints, step
        Where.
    gradient, observed, classes
        As in `suggest`; the first `PILOT_ROWS` sequences are observed.
    sampler : Sampler
        Its settings are judged.

    Returns
    -------
    Pilot
    """
    s = sampler.settings
    some = lm.Observed(observed.ids[:PILOT_ROWS], observed.rows[:PILOT_ROWS])
    with Progress(s.chains, f"pilot at step {step}") as bar:
        losses = lm.sample_traces(
            checkpoints.select([step]),
            gradient,
            some,
            sampler,
            progress=lambda k, _: bar.advance(k - bar.done),
        )
    means = class_means(losses, classes.isel(sequence=slice(PILOT_ROWS)))
    judged = traces.summary(means)
    sizes = np.array([np.median(traces.ess(means)), judged.ess[0]])
    with np.errstate(divide="ignore"):
        steps_per_draw, slowest = (s.chains * s.draws * s.thin / sizes).tolist()
    rise = float(losses.mean()) - float(losses.checkpoint_loss.mean())
    numbers = s.n_beta, s.localization, s.step_size
    return Pilot(step, float(judged.r_hat[0]), steps_per_draw, slowest, rise, *numbers)


def class_means(losses: xr.DataArray, classes: xr.DataArray) -> xr.DataArray:
    """Return the mean losses of classes as loss traces; classes without a token are left out.

    Parameters
    ----------
    losses : DataArray, dims (time, chain, draw, item)
        Loss traces of sequences.
    classes : DataArray, dims (sequence, position, token_class)
        Classes of the same sequences; position 0 has no loss.

    Returns
    -------
    DataArray, dims (time, chain, draw, item)
        Items are classes, and `all` tokens.
    """
    members = classes.isel(position=slice(1, None)).values
    members = members.reshape(-1, members.shape[-1]).astype(np.float64)
    some = members.any(0)
    names = [str(name) for name in classes["token_class"].values[some]]
    weights = np.column_stack([members[:, some], np.ones(len(members))])
    weights /= weights.sum(0)
    return traces.labelled(
        losses.values.astype(np.float64) @ weights,
        time=losses.time.values,
        items=[*names, "all"],
        checkpoint_loss=losses.checkpoint_loss.values @ weights,
        attrs=losses.attrs,
    )


def spread(steps: Sequence[int], count: int) -> list[int]:
    """Return so many of some steps, evenly spread by their rank, both ends included."""
    ranks = np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))
    return [sorted(steps)[k] for k in ranks]


def _pilot(
    automatic: Automatic, settings: Mapping[str, float], found: Sequence[Geometry]
) -> Sampler:
    """Return the sampler of a pilot: short, with draws less than half a relaxation apart."""
    relaxation = max(_relaxation(settings, g) for g in found)
    spacing = min(LONGEST_THIN, max(1, round(0.4 * relaxation)))
    # a pilot judges losses
    options = {name: value for name, value in automatic.options.items() if name != "observables"}
    lengths = dict(automatic.lengths) | PILOT
    short = replace(automatic, given={}, lengths=lengths, options=options)
    return short.with_numbers({**settings, "thin": spacing})


def _critical(found: Sequence[Geometry], settings: Mapping[str, float]) -> list[int]:
    """Return the steps for a pilot: the stiffest one, and the one farthest from a minimum."""
    stiffest = max(found, key=lambda g: bias(settings, g)["overshoot"])
    saddle = min(found, key=lambda g: g.negative)
    return sorted({stiffest.step, saddle.step})


def _gentler(settings: Mapping[str, float]) -> dict[str, float]:
    """Return a softer posterior, closer to the checkpoint."""
    return {
        "n_beta": _rounded(settings["n_beta"] / 2),
        "localization": _rounded(2 * settings["localization"]),
    }


def _relaxation(settings: Mapping[str, float], g: Geometry) -> float:
    return 2 / (settings["step_size"] * settings["localization"] * g.slow)


def _step(g: Geometry, n_beta: float, localization: float) -> float:
    """Return the largest step that keeps the stiffest direction within its bounds."""
    stable = OVERSHOOT / (n_beta * max(g.curvature, 0.0) + localization * g.fast)
    return min(stable, 4 * HEAT / (n_beta**2 * g.stiff_noise)) if g.stiff_noise else stable


def _warmest(g: Geometry, localization: float) -> float:
    """Return the largest n_beta at which `_step` relaxes in time; see the module docstring."""
    eps = 2 / (RELAXATION * localization * g.slow)
    room = OVERSHOOT / eps - localization * g.fast
    # where the preconditioner differs much between coordinates, half of what is there
    room = max(room, 0.5 * localization * g.fast)
    bounds = [N_BETA]
    if g.curvature > 0:
        bounds.append(room / g.curvature)
    if g.stiff_noise > 0:
        bounds.append(math.sqrt(4 * HEAT / (eps * g.stiff_noise)))
    return min(bounds)


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return None in place of what JSON does not have."""
    odd = (k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v))
    return values | dict.fromkeys(odd)
