"""The page of a table: influence of items on items over training, and what carries it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from dlnflow import influence, result
from dlnflow._support import IntArray
from dlnflow.analysis.extrema import CURVE_FRACTION, OVERALL_FRACTION
from dlnflow.dynamics import Dynamics
from dlnflow.explore import document, table_run
from dlnflow.explore.low_rank_curves import CurveSizes, LowRankCurves, fit, measure, of_pairs
from dlnflow.traces import interval

TWO_SIGMA = math.erf(math.sqrt(2))
"""Probability within two standard errors, as in figures."""
EARLY = 0.1
"""If half of the curves are largest before this share of training, its axis is logarithmic."""
FEW_PAIRS = 20_000
"""Curves that are kept more finely, because they cost nothing."""
FINE_SHARE, SHARE = 1 / 64, 1 / 16
"""Largest error of a value, as a share of the floor of events."""
NEAREST_TO_TRUTH = ("leave_one_out", "tangent", "analytic")
"""The first of these is shown first."""
SCRIPTS = ("axes", "table_numbers", "table_modes", "table_views", "table_panels", "table")


def of_table(
    run: Dynamics,
    curves: xr.DataArray,
    out: str | Path,
    *,
    title: str = "dlnflow explorer",
    done: Callable[[int, int], None] = lambda k, n: None,
) -> dict[str, Any]:
    """Write a page on which a click on a pair shows its influence over training, and its modes.

    The page holds K of every pair as integers times a few functions of time
    (`dlnflow.explore.low_rank_curves`), and of a deep linear network its losses, mode strengths,
    hidden representations (principal components of all steps together) and the tree of the items.
    Peaks, troughs and flips are found in the page by the rules of `dlnflow.events` at its default
    floor, and named after modes as in `analysis.explain_events`, where the closed form takes the
    run and targets are linear in the inputs.

    Parameters
    ----------
    run : Run or TorchRun
        It is trained once more, for what is drawn beside the influence.
    curves : DataArray, dims (time, query, train) and perhaps estimator and seed
        Influence on this run, in memory or opened from a store. Of several seeds the mean is
        shown, with a band from the smallest to the largest; sampled influence has a band of two
        standard errors.
    out : path
        The page; it appears complete or not at all.
    title : str
        Title above the page.
    done : callable
        Gets the number of finished parts and that of all.

    Returns
    -------
    dict
        `page`, `bytes`, `queries`, `items`, `steps`, `estimators`, `largest_error` of a value of a
        curve caused by rounding, and `error_over_floor`, the largest ratio of such an error to
        0.1 % of the largest influence between different items, below which nothing is an event.

    Raises
    ------
    TypeError, ValueError
        If `curves` are not influence curves of the run, or have further dims.
    OSError
        If the page cannot be written.

    Examples
    --------
    >>> import dlnflow as dln, tempfile
    >>> run = dln.Run(dln.semantic_hierarchy(), optimizer="flow")
    >>> curves = dln.influence.analytic(run, run.grid(60))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = of_table(run, curves, f"{folder}/page.html")
    >>> found["items"], found["estimators"], found["error_over_floor"] <= 1 / 64
    (8, ['analytic'], True)
    """
    curves = _checked(run, curves)
    document.place(out)
    given = [list(map(str, curves[dim].values)) for dim in ("query", "train")]
    train, joins = table_run.in_order(run, given[1])
    query = _rows(run, given[0], train)
    order = tuple(
        np.array([places.index(name) for name in shown])
        for places, shown in zip(given, (query, train), strict=True)
    )
    names = [str(name) for name in curves["estimator"].values]
    total = len(names) + 1
    parts = []
    for number, name in enumerate(names):
        done(number, total)
        parts.append(_estimator(curves.sel(estimator=name, drop=True), name, order))
    done(len(names), total)
    flow_time = curves.flow_time.values
    clock = flow_time if np.isfinite(flow_time).all() else curves["time"].values
    first = parts[names.index(next((n for n in NEAREST_TO_TRUTH if n in names), names[0]))]
    errors = [one["error"] for one in parts]
    found = {
        "largest_error": max(errors),
        "error_over_floor": max(one["error"] / one["different_floor"] for one in parts),
    }
    data = {
        "title": title,
        "about": [str(line) for line in getattr(run, "description", [])],
        "items": [str(name) for name in run.items],
        "query": query,
        "train": train,
        "steps": curves["time"].values.tolist(),
        "flow_time": flow_time.tolist() if np.isfinite(flow_time).all() else None,
        "fractions": {"curve": CURVE_FRACTION, "overall": OVERALL_FRACTION},
        "estimators": parts,
        "first": first["name"],
        "log": bool(clock[first["peak"]] < EARLY * clock[-1]),
        "error": found,
        **table_run.content(
            run, curves["time"].values, (train, joins), _closed_form(run, curves, parts)
        ),
    }
    size = document.write(out, data, "table", SCRIPTS)
    done(total, total)
    counts = {"queries": curves.sizes["query"], "items": curves.sizes["train"]}
    about = {"page": str(out), "bytes": size, **counts, "steps": curves.sizes["time"]}
    return about | {"estimators": names} | found


def _checked(run: Dynamics, curves: xr.DataArray) -> xr.DataArray:
    """Return curves in the order in which they are read.

    Returns
    -------
    DataArray, dims (estimator, [seed,] time, query, train)

    Raises
    ------
    ValueError
        If there are other dims, or items or flow times are not those of the run.
    """
    curves = result.check(curves)
    if "estimator" not in curves.dims:
        curves = curves.expand_dims(estimator=[str(curves.attrs["estimator"])])
    further = [dim for dim in curves.dims[:-3] if dim not in ("estimator", "seed")]
    if further:
        raise ValueError(
            f"`curves` have the dims {', '.join(further)}, which a page does not show; select one "
            f"value of each, such as curves.isel({further[0]}=0)."
        )
    known = set(map(str, run.queries)), set(map(str, run.items))
    own = [set(map(str, curves[dim].values)) for dim in ("query", "train")]
    times = curves["time"].values
    ours, theirs = curves.flow_time.values, run.flow_time(times)
    same = np.allclose(ours, theirs, rtol=1e-6, atol=0, equal_nan=True)
    if not (own[0] <= known[0] and own[1] <= known[1] and same and times[-1] <= run.n_steps):
        raise ValueError(
            "`curves` are not of this run: its items, steps or flow times are others. Give the run "
            "that they were computed from."
        )
    return curves.transpose("estimator", ..., "time", "query", "train")


def _rows(run: Dynamics, names: list[str], columns: list[str]) -> list[str]:
    """Return queries in the order of the train items, or, if they are others, of all items."""
    if not run.linear:
        return names
    known = columns if {*columns} == {*names} else table_run.in_order(run, list(run.items))[0]
    return [name for name in known if name in {*names}]


def known_as(name: str) -> str:
    """Return what an estimator is called in figures; other names as they are."""
    known = influence.ESTIMATORS
    return known[name].title if name in known else name.replace("_", " ")


def _closed_form(run: Dynamics, curves: xr.DataArray, parts: list[dict[str, Any]]) -> float:
    """Return the largest |influence| of the closed form on the pairs and steps of curves."""
    known = [one["largest"] for one in parts if one["name"] == influence.analytic.record.name]
    if known or influence.analytic.record.refusal(run):
        return known[0] if known else 0.0
    chosen = {dim: curves[dim].values.tolist() for dim in ("query", "train")}
    return float(np.abs(influence.analytic(run, curves["time"].values, **chosen)).max())


def _estimator(curves: xr.DataArray, name: str, order: tuple[IntArray, IntArray]) -> dict[str, Any]:
    """Return what a page holds of one estimator, dims ([seed,] time, query, train).

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        If there is no step at which all values are finite.
    """
    low = high = None
    band = ""
    if "seed" in curves.dims:
        low, high = curves.min("seed"), curves.max("seed")
        band = f"range of {curves.sizes['seed']} seeds"
        curves = curves.mean("seed", keep_attrs=True)
    elif "standard_error" in curves.coords and np.isfinite(curves.standard_error).any():
        ends = interval(curves, TWO_SIGMA)
        low, high = ends.lower.fillna(curves), ends.upper.fillna(curves)
        band = "two standard errors"
    known = np.flatnonzero(np.isfinite(curves).all(("query", "train")).values)
    if not len(known):
        raise ValueError(f"`curves` of {name} are not finite for all pairs at any step.")
    values = curves if len(known) == curves.sizes["time"] else curves.isel(time=known)
    found = measure(values)
    share = FINE_SHARE if curves.sizes["query"] * curves.sizes["train"] <= FEW_PAIRS else SHARE
    # Nothing but zeros is kept to any tolerance.
    tolerance = share * OVERALL_FRACTION * (found.different or 1.0)
    kept = _fitted(values, found, tolerance, order)
    bands = None
    if band:
        ends = {"low": low, "high": high}
        bands = {
            n: _fitted(end.isel(time=known), found, tolerance, order).content()
            for n, end in ends.items()
        }
    verdicts = None
    if "verdict" in curves.coords and any(curves.verdict.values):
        verdicts = curves.verdict.values.tolist()
    return {
        "name": name,
        "title": known_as(name),
        "known": known.tolist(),
        "symmetric": found.symmetric,
        "largest": found.largest,
        "typical": found.typical,
        "peak": int(known[found.peak]),
        "different_floor": OVERALL_FRACTION * (found.different or 1.0),
        "error": kept.error,
        **kept.content(),
        "band": band,
        "bands": bands,
        "verdicts": verdicts,
    }


def _fitted(
    curves: xr.DataArray, found: CurveSizes, tolerance: float, order: tuple[IntArray, IntArray]
) -> LowRankCurves:
    blocks, pairs = of_pairs(curves, symmetric=found.symmetric)
    return fit(blocks, pairs, tolerance).reordered(*order, found.symmetric)
