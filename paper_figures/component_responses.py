"""Which part of a language model answers to which class of tokens: sampled, and written as JSON.

    python -m paper_figures.component_responses RUN STORES WHOLE OUT.json

The posterior is restricted to one component at a time, at the settings that were chosen for the
whole model, so that components can be compared with each other and with WHOLE, a store in which all
weights moved. What STORES lacks is sampled first (about 11 CPU s a chain); it goes on where it was
stopped. Figure susceptibility draws ``expected/component_responses_*.json``.
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
from dlnflow.traces import susceptibility
from paper_figures._records import ends, estimated, finish, records, source
from paper_figures.class_matrix import identity, recorded, rounded

COMPONENTS = {"embedding": ("embedding",), "layer1.attention": ("layer1.attention",)}
"""Folder of STORES, and what moves."""
ALL = "all weights"
STEPS = (1200, 1500, 4500)
"""Before the induction circuit, while it forms, and at the end."""
CHAINS, DRAWS = 4, 130
SETTINGS = {"n_beta": 2100, "localization": 9200, "step_size": 2.4e-6, "burn_in": 150, "thin": 7}
"""Those that `dlnflow lm suggest` chooses for the whole of `fast`."""
PROBE = 8
"""Repeated sequences on which induction scores are recorded."""
SCORE = "induction_1_1"
"""Of the head that is drawn."""
COLORS = ("#56B4E9", "#0072B2", "#D55E00")
"""Of the steps."""


def sample(run: Path, stores: Path) -> dict[str, xr.DataArray]:
    """Sample the components that STORES lacks, wholly or in part, and return all their traces."""
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
                stores / name,
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
        a recorded one) -> class -> [d E[observable] / d share, standard error, degrees of freedom]
        at every step.
    """
    first = next(iter(traces.values()))
    return {
        "steps": first.time.values.tolist(),
        "components": {name: _component(one, classes) for name, one in traces.items()},
    }


def _component(traces: xr.DataArray, classes: xr.DataArray) -> dict[str, Any]:
    loss = susceptibility(traces, classes)
    found = {n: susceptibility(traces, classes, observable=n) for n in recorded(traces)}
    return {
        "chains": traces.sizes["chain"],
        "draws": traces.sizes["draw"],
        "parameters": int(traces.attrs["n_parameters"]),
        "verdict": [str(v) for v in loss.verdict.values],
        "r_hat": rounded(loss.r_hat.values),
        "ess": rounded(loss.ess.values),
        "responses": {name: _rows(one) for name, one in ({"mean loss": loss} | found).items()},
    }


def _rows(found: xr.DataArray) -> dict[str, list[list[float]]]:
    names = found.token_class.values
    return {str(n): estimated(one, one) for n in names for one in [found.sel(token_class=n)]}


def draw(figure: SubFigure, start: str) -> dict[str, float]:
    """Draw responses of the loss and of an induction score, a column for each component.

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
    axes = figure.subplots(2, len(components), sharex=True, squeeze=False)
    for (above, below), (name, one) in zip(axes.T, components.items(), strict=True):
        _responses(above, record["steps"], one, "mean loss")
        _responses(below, record["steps"], one, SCORE)
        above.set_title(f"{name}, {one['parameters']:,} move" if name != ALL else f"{name} move")
    axes[0, 0].set_ylabel(f"{source(record)}\nresponse of the mean loss\n{SIGNED}")
    axes[1, 0].set_ylabel("response of an\ninduction score")
    finish(figure, axes, start)
    return _claims(components)


def _responses(axis: Axes, steps: Sequence[int], one: dict[str, Any], of: str) -> None:
    found = one["responses"][of]
    value, low, high = (x.T for x in ends([*found.values()]))  # (step, class)
    place = np.arange(len(found))
    for k, (step, color) in enumerate(zip(steps, COLORS, strict=True)):
        bad = one["verdict"][k] == "not mixed"
        error = np.abs([value[k] - low[k], high[k] - value[k]])
        style = {"color": color, "markersize": 4 if bad else 3, "elinewidth": 0.9}
        style |= {"fmt": "x" if bad else "o", "label": f"step {step}"}
        axis.errorbar(place + (k - 1) * 0.22, value[k], error, **style)
    axis.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    names = [name.replace("_", "\n") for name in found]
    axis.set_xticks(place, names, fontsize=6, rotation=60)


def _claims(components: dict[str, Any]) -> dict[str, float]:
    """Return how many intervals leave out 0, and what induction patterns do to the score."""
    claims = {}
    for name, one in components.items():
        for of in ("mean loss", SCORE):
            _, low, high = ends([*one["responses"][of].values()])
            claims[f"{name}.{of}.without_0"] = float(((low > 0) | (high < 0)).sum())
        value, *_ = ends(one["responses"][SCORE]["induction"])
        claims[f"{name}.induction_on_score.last"] = float(value[-1])
        claims[f"{name}.largest_r_hat"] = float(max(one["r_hat"]))
    return claims


def main(run: Path, stores: Path, whole: Path, out: Path) -> None:
    """Sample what is missing, and write what the stores say."""
    place(out)  # before the work
    traces, classes = lm.experiment.read(run, whole)
    found = {ALL: traces.sel(time=list(STEPS))} | sample(run, stores)
    write_json(out, identity(run) | {"settings": SETTINGS} | measure(found, classes))


if __name__ == "__main__":
    lm.experiment.one_thread()
    main(*map(Path, sys.argv[1:]))
