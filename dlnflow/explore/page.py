"""The page of loss traces: text, classes and traces as integers, in one HTML file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from dlnflow import traces as readers
from dlnflow.explore import document
from dlnflow.explore.quantised import QuantisedTraces, quantise
from dlnflow.traces import interval, summary

LEVEL = 0.95
"""Probability of the intervals that a page draws."""
SCRIPTS = ("numbers", "page")


def write_page(
    traces: xr.DataArray,
    classes: xr.DataArray,
    words: Sequence[str],
    out: str | Path,
    *,
    title: str = "dlnflow explorer",
    exclude: str | Sequence[str] = "item",
    done: Callable[[int, int], None] = lambda k, n: None,
) -> dict[str, Any]:
    """Write a page on which a click on a token shows its influence, at every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces with the coordinates row, position and token.
    classes : DataArray
        Those of the observed sequences (dims sequence, position, token_class), or of the items
        (item, token_class); they may overlap.
    words : sequence of str, length K
        What every item spells. Nothing in it is markup to the page.
    out : path
        The page; it appears complete or not at all.
    title : str
        Title above the text.
    exclude : str or sequence of str
        Pairs left out of the means of classes, as in `dlnflow.traces.groups`.
    done : callable
        Gets the number of finished checkpoints and that of all.

    Returns
    -------
    dict
        `page`, `bytes`, `tokens`, `checkpoints`, `largest_error` of a correlation caused by
        quantisation, the least `noise_floor`, and `error_over_floor`, the largest of their ratio.

    Raises
    ------
    ValueError
        If `words` are not one per item.
    OSError
        If the page cannot be written.
    """
    if len(words) != traces.sizes["item"]:
        raise ValueError(f"`words` must be one per item, {traces.sizes['item']}; got {len(words)}.")
    document.place(out)
    total = traces.sizes["time"]
    finished = iter(range(1, total + 1))
    judged = summary(traces)
    quantised = quantise(traces, judged.noise_floor, lambda: done(next(finished), total))
    found = about_error(quantised)
    data = {
        "title": title,
        "factor": float(traces.attrs["n_beta"] / traces.attrs["n_train"]),
        "level": LEVEL,
        "error": found,
        "words": list(words),
        **{name: traces[name].values.tolist() for name in ("row", "position", "token")},
        "classes": _classes(classes),
        "between": between(readers.groups(traces, classes, exclude=exclude)),
        "checkpoints": checkpoints(judged, quantised),
    }
    size = document.write(out, data, "page", SCRIPTS)
    counts = {"tokens": traces.sizes["item"], "checkpoints": total}
    return {"page": str(out), "bytes": size, **counts, **found}


def about_error(quantised: Sequence[QuantisedTraces]) -> dict[str, Any]:
    """Return what quantisation costs at most, over all checkpoints and pairs.

    Returns
    -------
    dict
        None instead of numbers where no checkpoint has chains.
    """
    known = [one for one in quantised if np.isfinite(one.error)]
    if not known:
        return dict.fromkeys(("largest_error", "noise_floor", "error_over_floor"))
    return {
        "largest_error": max(one.error for one in known),
        "noise_floor": min(one.floor for one in known),
        "error_over_floor": max(one.error / one.floor for one in known),
    }


def checkpoints(judged: xr.Dataset, quantised: Sequence[QuantisedTraces]) -> list[dict[str, Any]]:
    """Return what a page knows of every checkpoint, as JSON has it.

    Returns
    -------
    list of dict
        `step`, `verdict`, `r_hat`, `ess`, `noise_floor` (None if not finite), `rows`, `edges`,
        `t` (standard errors on either side of an interval), `error`, and `spread` (float32) and
        `values` (int16, see `document.packed`) in base64.
    """
    rows = []
    for t, one in enumerate(quantised):
        at = judged.isel(time=t)
        numbers = {name: float(at[name]) for name in ("r_hat", "ess", "noise_floor")}
        numbers |= {"error": one.error, "t": float(stdtrit(len(one.edges) - 2, (1 + LEVEL) / 2))}
        rows.append(
            {name: value if np.isfinite(value) else None for name, value in numbers.items()}
            | {
                "step": int(at.time),
                "verdict": str(at.verdict.item()),
                "rows": len(one.values),
                "edges": one.edges.tolist(),
                "spread": document.floats(one.spread),
                "values": document.text_of(document.packed(one.values)),
            }
        )
    return rows


def between(found: xr.DataArray) -> dict[str, Any]:
    """Return the influence of classes on classes, dims (time, query, train), as JSON has it.

    Returns
    -------
    dict
        `value`, `low` and `high` (interval of `LEVEL`) as nested lists; None if not finite.
    """
    ends = interval(found, LEVEL)
    parts = {"value": found, "low": ends.lower, "high": ends.upper}
    return {
        name: np.where(np.isfinite(part), part.values.astype(object), None).tolist()
        for name, part in parts.items()
    }


def _classes(classes: xr.DataArray) -> dict[str, Any]:
    """Return the names of classes and the positions of the items of each."""
    if "position" in classes.dims:  # a loss belongs to its target, and position 0 has none
        classes = classes.isel(position=slice(1, None)).transpose(
            "sequence", "position", "token_class"
        )
    members = classes.values.reshape(-1, classes.sizes["token_class"]).astype(bool)
    names = classes["token_class"].values
    return {str(name): np.flatnonzero(members[:, g]).tolist() for g, name in enumerate(names)}
