"""What a store of repeated sequences says about figure 15, as JSON: influence, scores and the lag.

    python -m paper_figures.repeat_curves RUN STORE OUT.json

The claims of appendix D.2 (`paper_figures.claims`) are judged by these files.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow._support.files import place, write_json
from dlnflow.lm import experiment, induction
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.traces import groups
from paper_figures.class_matrix import identity, matrix, rounded, sampled

DRAWS = 20_000
"""Curves that are drawn from the errors of one."""
SHARE = 0.25
"""Of the whole rise: whose crossing is compared."""


def measure(traces: xr.DataArray, classes: xr.DataArray, scores: xr.Dataset) -> dict[str, Any]:
    """Measure influence between repeated tokens and its lag behind the induction score.

    Parameters
    ----------
    traces, classes : DataArray
        Of repeated sequences.
    scores : Dataset
        Of `dlnflow.lm.induction.measure`, with checkpoints of its own.

    Returns
    -------
    dict
        JSON. `influence` as in `paper_figures.class_matrix`, pairs of one sequence or id left out;
        `lag`: steps from the quarter-rise of the score of the best layer to that of influence,
        [median, 2.5 %, 97.5 %].
    """
    found = groups(traces, classes, exclude=experiment.left_out(classes))
    own = found.sel(query="repeated", train="repeated")
    score = scores.layer_induction.max("layer")
    names = [str(name) for name in found["query"].values]
    quarter = crossing(score.time, score)
    late = crossings(found.time, own, own.standard_error) - quarter
    return sampled(traces, found) | {
        "influence": {"other sequences and ids": matrix(found, names)},
        "score": {
            "steps": score.time.values.tolist(),
            "best layer": rounded(score.values),
            "quarter-rise": quarter,
        },
        "lag": rounded(np.quantile(late, [0.5, 0.025, 0.975])),
    }


def crossing(steps: ArrayLike, values: ArrayLike, share: float = SHARE) -> float:
    """Return the step at which a curve has gone a share of its way from first to last value.

    Linear between checkpoints; of several such steps the first.
    """
    values = np.asarray(values, float)
    return induction.crossing(steps, (values - values[0]) / (values[-1] - values[0]), share)


def crossings(
    steps: ArrayLike, values: ArrayLike, errors: ArrayLike, share: float = SHARE, seed: int = 0
) -> NDArray[np.float64]:
    """Return the crossings of curves that are drawn from a curve with independent normal errors."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((DRAWS, np.size(values)))
    return np.array(
        [crossing(steps, one, share) for one in np.asarray(values) + np.asarray(errors) * noise]
    )


def main(run: Path, store: Path, out: Path) -> None:
    """Write what a store says, and of which run it is."""
    place(out)  # before the work
    ladder = Checkpoints.from_directory(run)
    scores = induction.measure(ladder, experiment.probe(ladder, run))
    write_json(out, identity(run) | measure(*experiment.read(run, store), scores))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
