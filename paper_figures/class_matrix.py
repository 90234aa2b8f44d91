"""What a store of text says about classes of tokens: every number with its error, as JSON.

    python -m paper_figures.class_matrix RUN STORE OUT.json

The claims of section 4 (`paper_figures.claims`) are judged by these files.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support.files import place, write_json
from dlnflow.lm import experiment
from dlnflow.lm.runs.folder import read_settings
from dlnflow.lm.runs.model import CONFIGURATIONS, RunSettings
from dlnflow.traces import groups, neighbours, susceptibility
from dlnflow.traces.membership import membership

PAIRS = {"all pairs": "item", "other ids": "token"}
"""What is averaged over -> what `groups` leaves out: a token with itself, or all of one id."""


def measure(traces: xr.DataArray, classes: xr.DataArray) -> dict[str, Any]:
    """Measure influence between classes, and recall of classes, at every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Losses of text.
    classes : DataArray
        Classes of its tokens.

    Returns
    -------
    dict
        JSON. `influence`: pairs -> "query, train" -> [value, standard error, degrees of freedom,
        error of chains alone] at every step; `equal ids`: class -> the first three over pairs of
        one id, with the error of chains alone; `recall`: pairs -> class -> [recall, low, high,
        chance] at every step; `responses`: recorded observable -> class -> [d E[observable] / d
        share, error, degrees of freedom].
    """
    members, names = membership(classes, traces.sizes["item"])
    found = {name: groups(traces, classes, exclude=out) for name, out in PAIRS.items()}
    first = next(iter(found.values()))
    told = {name: neighbours(traces, classes, exclude=out) for name, out in PAIRS.items()}
    return sampled(traces, first) | {
        "tokens": dict(zip(names, members.sum(0).astype(int).tolist(), strict=True)),
        "influence": {name: matrix(one, names) for name, one in found.items()},
        "equal ids": _equal_ids(traces, members, names),
        "recall": {name: _recall(one, names) for name, one in told.items()},
        "responses": {name: _response(traces, classes, name) for name in recorded(traces)},
    }


def sampled(traces: xr.DataArray, found: xr.DataArray) -> dict[str, Any]:
    """Return what was sampled, and how well `groups` found it mixed, as JSON."""
    return {
        "steps": traces.time.values.tolist(),
        "chains": traces.sizes["chain"],
        "draws": traces.sizes["draw"],
        "sequences": len(np.unique(traces["row"])),
        "settings": {name: float(traces.attrs[name]) for name in experiment.CHOSEN},
        "verdict": [str(v) for v in found.verdict.values],
        "r_hat": rounded(found.r_hat.values),
        "ess": rounded(found.ess.values),
    }


def matrix(found: xr.DataArray, names: list[str]) -> dict[str, list[list[float]]]:
    """Return value, errors and degrees of freedom of every pair of classes; it is symmetric."""
    kinds = [found, found.standard_error, found.dof, found.chain_error]
    numbers = xr.concat(kinds, "kind").transpose("time", ...)
    return {
        f"{q}, {i}": [rounded(row) for row in numbers.sel(query=q, train=i).values]
        for k, q in enumerate(names)
        for i in names[k:]
    }


def _equal_ids(
    traces: xr.DataArray, members: NDArray, names: list[str]
) -> dict[str, list[list[float]]]:
    """Return minus the mean correlation over pairs of a class with one id, and its error."""
    tokens = traces["token"].values
    found: dict[str, list[list[float]]] = {}
    for name, member in zip(names, members.T.astype(bool), strict=True):
        _, which, count = np.unique(tokens[member], return_inverse=True, return_counts=True)
        pairs = int(np.sum(count * (count - 1)))
        if pairs:
            found[name] = [
                _over_chains([-_same(chain, which, pairs) for chain in one[:, :, member].values])
                for one in (traces.isel(time=t) for t in range(traces.sizes["time"]))
            ]
    return found


def _same(losses: NDArray, which: NDArray[np.intp], pairs: int) -> float:
    """Return the mean correlation over ordered pairs with one id of losses (draws, K)."""
    d = losses.astype(np.float64)
    d = d - d.mean(0)
    d /= np.sqrt((d**2).sum(0))
    sums = np.zeros((which.max() + 1, len(d)))
    np.add.at(sums, which, d.T)
    return float((sums**2).sum() - d.shape[1]) / pairs


def _over_chains(values: list[float]) -> list[float]:
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return rounded([np.mean(values), error, len(values) - 1])


def recorded(traces: xr.DataArray) -> list[str]:
    """Return the observables beside the losses."""
    return [str(n) for n, c in traces.coords.items() if c.dims == ("time", "chain", "draw")]


def _response(
    traces: xr.DataArray, classes: xr.DataArray, name: str
) -> dict[str, list[list[float]] | list[float]]:
    found = susceptibility(traces, classes, observable=name)
    numbers = xr.concat([found, found.standard_error, found.dof], "kind").transpose("time", ...)
    at = {"at the checkpoint": rounded(traces[f"checkpoint_{name}"].values)}
    return at | {
        str(n): [rounded(row) for row in numbers.sel(token_class=n).values]
        for n in found.token_class.values
    }


def _recall(found: xr.Dataset, names: list[str]) -> dict[str, list[list[float]]]:
    columns = [found.recall, found.low, found.high, found.chance.broadcast_like(found.recall)]
    numbers = xr.concat(columns, "kind").transpose("time", "token_class", "kind")
    return {n: [rounded(row) for row in numbers.sel(token_class=n).values] for n in names}


def rounded(values: Any) -> list[float]:
    """Return numbers with five significant digits."""
    return [float(f"{value:.5g}") for value in values]


def identity(run: Path) -> dict[str, Any]:
    """Return of which configuration and seed a run is, as JSON."""
    settings = read_settings(run)
    return {"configuration": configuration(settings), "seed": settings.seed}


def configuration(settings: RunSettings) -> str:
    """Return the name of the configuration that a run is of, whatever its length and seed."""
    free = {"seed": 0, "n_steps": 1, "every": 1}
    own = replace(settings, **free)
    return next(
        (name for name, one in CONFIGURATIONS.items() if replace(one, **free) == own), "another"
    )


def written(
    measure: Callable[[xr.DataArray, xr.DataArray], dict[str, Any]],
    run: Path,
    store: Path,
    out: Path,
) -> None:
    """Write what a store of text says, and of which run it is.

    Parameters
    ----------
    measure : callable
        Takes traces and classes, and returns JSON.
    run, store : path
        As `dlnflow.lm.experiment.read` takes them.
    out : path
        A JSON file.

    Raises
    ------
    ValueError
        If the store is of repeated sequences, whose classes are not those of text, or cannot be
        read, or the file cannot be written.
    """
    place(out)  # before the work
    traces, classes = experiment.read(run, store)
    if tuple(classes.token_class.values) == experiment.REPEATS:
        raise ValueError(
            f"`store` {store} is of repeated sequences, which have no classes of text; give one "
            "that was sampled with observe=text or delimiters."
        )
    write_json(out, identity(run) | measure(traces, classes))


if __name__ == "__main__":
    written(measure, *map(Path, sys.argv[1:]))
