"""Which part of a language model answers to which class of tokens: sampled, and written as JSON.

    python -m paper_figures.component_responses RUN STORES OUT.json

The posterior is restricted to one component at a time, at the settings that were chosen for the
whole model, so that components can be compared with each other and with all weights. What STORES
lacks is sampled first (about 10 CPU s a chain); it goes on where it was stopped. Figure
susceptibility draws ``expected/component_responses_*.json``.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from dlnflow import lm
from dlnflow._support.files import place, write_json
from dlnflow._support.progress import Progress
from dlnflow.plots.panels import SIGNED
from dlnflow.traces import llc, susceptibility
from paper_figures._records import ends, estimated, finish, records, source
from paper_figures.class_matrix import identity, recorded, rounded

ALL = "all weights"
PARTS = [f"layer{n}.{part}" for n in range(2) for part in ("attention", "mlp")]
COMPONENTS = {ALL: ()} | {name: (name,) for name in ("embedding", *PARTS, "unembedding")}
"""What moves, and its names; a store of STORES each. Norms alone were left out."""
STEPS = (1200, 1500, 4500)
"""Before the induction circuit, while it forms, and at the end."""
CHAINS, DRAWS = 6, 130
SETTINGS = {"n_beta": 2100, "localization": 9200, "step_size": 2.4e-6, "burn_in": 150, "thin": 7}
"""Those that `dlnflow lm suggest` chooses for the whole of `fast`."""
PROBE = 8
"""Repeated sequences on which induction scores are recorded."""
SCORE = "induction_1_1"
"""Of the head that is drawn."""
LOSS = "mean loss"
COLUMNS = 4
"""Of panels: components go from left to right, and on below."""
COLORS = ("#56B4E9", "#0072B2", "#D55E00")
"""Of the steps."""


def sample(run: Path, stores: Path) -> dict[str, xr.DataArray]:
    """Sample the components that `stores` lacks, wholly or in part, and return all traces."""
    ladder = lm.Checkpoints.from_directory(run, STEPS)
    probe = lm.experiment.probe(ladder, run, n_sequences=PROBE)
    heads = range(ladder.config().num_attention_heads)
    last = ladder.config().num_hidden_layers - 1
    scores = tuple(
        lm.observables.InductionScore(probe, layer=last, head=h, name=f"induction_{last}_{h}")
        for h in heads
    )
    whole = lm.experiment.sampler(chains=CHAINS, draws=DRAWS, observables=scores, **SETTINGS)
    plan = lm.experiment.plan(run, observe="delimiters", steps=STEPS)
    found = {}
    with Progress(len(COMPONENTS) * len(STEPS) * CHAINS, "sampling components") as bar:
        for number, (name, restrict) in enumerate(COMPONENTS.items()):
            done = number * len(STEPS) * CHAINS
            found[name] = lm.experiment.sample(
                plan,
                replace(whole, restrict=restrict),
                stores / name.replace(" ", "_"),
                lambda k, _, done=done: bar.advance(done + k - bar.done),
            )
    return found


def measure(traces: Mapping[str, xr.DataArray], classes: xr.DataArray) -> dict[str, Any]:
    """Measure what every class of tokens does to every component.

    Parameters
    ----------
    traces : mapping of str to DataArray
        Component -> losses, sampled while it alone moved, at the same checkpoints.
    classes : DataArray
        Classes of the observed tokens.

    Returns
    -------
    dict
        JSON. `components`: name -> what was sampled, and `responses`: observable ("mean loss", or
        a recorded one that it moves) -> class -> [d E[observable] / d share, standard error,
        degrees of freedom] at every step; `coefficient`: the local learning coefficient at every
        step, in the same form.
    """
    first = next(iter(traces.values()))
    return {
        "steps": first.time.values.tolist(),
        "components": {name: _component(one, classes) for name, one in traces.items()},
    }


def _component(traces: xr.DataArray, classes: xr.DataArray) -> dict[str, Any]:
    loss = susceptibility(traces, classes)
    found = {n: susceptibility(traces, classes, observable=n) for n in recorded(traces)}
    found = {n: one for n, one in found.items() if np.any(one.standard_error > 0)}
    coefficient = llc(traces, "observed")
    return {
        "chains": traces.sizes["chain"],
        "draws": traces.sizes["draw"],
        "parameters": int(traces.attrs["n_parameters"]),
        "verdict": [str(v) for v in loss.verdict.values],
        "r_hat": rounded(loss.r_hat.values),
        "ess": rounded(loss.ess.values),
        "coefficient": estimated(coefficient, coefficient.llc),
        "responses": {name: _rows(one) for name, one in ({LOSS: loss} | found).items()},
    }


def _rows(found: xr.DataArray) -> dict[str, list[list[float]]]:
    names = found.token_class.values
    return {str(n): estimated(one, one) for n in names for one in [found.sel(token_class=n)]}


def draw(figure: SubFigure, start: str) -> dict[str, float]:
    """Draw responses of the loss, and of an induction score below, and learning coefficients.

    Parameters
    ----------
    figure : SubFigure
        Where.
    start : str
        Letter of the first panel.

    Returns
    -------
    dict of str to float
        What they claim.
    """
    (record,) = records("component_responses")
    components = record["components"]
    grid = figure.add_gridspec(4, COLUMNS)
    rows: list[list[Axes]] = [[], [], [], []]
    for number, (name, one) in enumerate(components.items()):
        row, column = 2 * (number // COLUMNS), number % COLUMNS
        above = figure.add_subplot(grid[row, column])
        below = figure.add_subplot(grid[row + 1, column], sharex=above)
        _responses(above, record["steps"], one, LOSS)
        _responses(below, record["steps"], one, SCORE)
        above.tick_params(labelbottom=False)
        above.set_title(name)
        if not column:
            above.set_ylabel(f"response of\nthe mean loss\n{SIGNED}")
            below.set_ylabel("response of an\ninduction score")
        rows[row].append(above)
        rows[row + 1].append(below)
    rows[2].append(figure.add_subplot(grid[2:, COLUMNS - 1]))
    _coefficients(rows[2][-1], record)
    figure.suptitle(source(record), fontsize=8, x=0.02, ha="left")
    finish(figure, np.array([[axis for row in rows for axis in row]]), start)
    return _claims(components)


def _responses(axis: Axes, steps: Sequence[int], one: dict[str, Any], of: str) -> None:
    names = [name.replace("_", " ") for name in one["responses"][LOSS]]
    found = one["responses"].get(of)
    if found is None:
        axis.text(0.5, 0.5, "is not moved", ha="center", transform=axis.transAxes, fontsize=7)
        axis.set_yticks([])
    else:
        _estimates(axis, steps, [*found.values()], [one["verdict"]] * len(found))
    axis.set_xticks(np.arange(len(names)), names, fontsize=6, rotation=90)


def _coefficients(axis: Axes, record: dict[str, Any]) -> None:
    components = record["components"]
    verdicts = [one["verdict"] for one in components.values()]
    _estimates(axis, record["steps"], [c["coefficient"] for c in components.values()], verdicts)
    axis.set_xticks(np.arange(len(components)), [*components], fontsize=6, rotation=90)
    axis.set_title("learning coefficient")
    axis.set_ylabel(r"$n\beta\,(E[\ell]-\ell(\theta_t))$")


def _estimates(
    axis: Axes, steps: Sequence[int], found: list[Any], verdicts: Sequence[Sequence[str]]
) -> None:
    """Draw estimates side by side, three steps each; crosses are those that have not mixed."""
    value, low, high = ends(found)  # (thing, step)
    bad = np.array(verdicts) == "not mixed"
    for k, (step, color) in enumerate(zip(steps, COLORS, strict=True)):
        place = np.arange(len(found)) + (k - 1) * 0.22
        error = np.abs([value[:, k] - low[:, k], high[:, k] - value[:, k]])
        style = {"color": color, "markersize": 3, "elinewidth": 0.9, "fmt": "o"}
        axis.errorbar(place, value[:, k], error, label=f"step {step}", **style)
        axis.plot(place[bad[:, k]], value[bad[:, k], k], "x", color=color, markersize=5)
    axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)


def _claims(components: dict[str, Any]) -> dict[str, float]:
    """Return how many intervals leave out 0, and what induction patterns do to the score."""
    claims = {}
    for name, one in components.items():
        responses = {of: found for of, found in one["responses"].items() if of in (LOSS, SCORE)}
        for of, found in responses.items():
            _, low, high = ends([*found.values()])
            claims[f"{name}.{of}.without_0"] = float(((low > 0) | (high < 0)).sum())
        if SCORE in responses:
            value, *_ = ends(responses[SCORE]["induction"])
            claims[f"{name}.induction_on_score.last"] = float(value[-1])
        claims[f"{name}.coefficient.last"] = one["coefficient"][-1][0]
        claims[f"{name}.largest_r_hat"] = float(max(one["r_hat"]))
    return claims


def main(run: Path, stores: Path, out: Path) -> None:
    """Sample what is missing, and write what the stores say."""
    place(out)  # before the work
    classes = lm.experiment.plan(run, observe="delimiters", steps=STEPS).classes
    found = measure(sample(run, stores), classes)
    write_json(out, identity(run) | {"settings": SETTINGS} | found)


if __name__ == "__main__":
    lm.experiment.one_thread()
    main(*map(Path, sys.argv[1:]))
