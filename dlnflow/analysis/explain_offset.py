"""Why the peaks of different estimators do not align, one cause at a time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from dlnflow import checks, influence, result
from dlnflow._support import FloatArray, IntArray
from dlnflow.analysis import extrema
from dlnflow.analysis.compare import compare
from dlnflow.checks import SMALLEST_FRACTION
from dlnflow.dynamics import Dynamics
from dlnflow.influence import Items

FRACTIONS = (0.01, 0.1, 0.25, 0.5, 1.0)
"""Default shares of an item's weight that are removed."""
CAUSES = ("removed share", "reweighted term", "propagation")


def explain_offset(
    run: Dynamics,
    *,
    fractions: float | Sequence[float] = FRACTIONS,
    points: int = 400,
    query: Items = None,
    train: Items = None,
) -> pd.DataFrame:
    """Compare the exact derivative of training with its relatives that differ in one respect.

    Every curve is held against `tangent`, the exact response to an infinitesimal change of an
    item's weight. Three ladders of curves start there:

    ``removed share``
        `leave_one_out` with growing ``fraction``, up to full removal: what a finite change does.
    ``reweighted term``
        `analytic`: only the input-output correlation is reweighted, not that of the inputs, and
        modes are aligned from the start. What the closed form leaves out.
    ``propagation``
        `tracin` with the sum of all displacements but no Hessian (``displacement``), with
        gradients of query and item at the same step (``dot product, summed``), and at the
        present step alone (``dot product, local``): what forgetting the past does.

    Parameters
    ----------
    run : Run
        Curves that do not exist for it (the closed form without whitened inputs, or for Adam; the
        displacement for gradient flow) are left out; ``attrs["left_out"]`` says why.
    fractions : float or sequence of float
        Removed shares, each nonzero and at most 1, all different.
    points : int
        Recorded steps, evenly over the run; no more than there are.
    query : item names, optional
        Default: all.
    train : item names, optional
        Default: the first item.

    Returns
    -------
    pandas.DataFrame
        One row per ``cause``, ``curve``, ``query`` and ``train``; first the tangent itself, whose
        cause is ``"reference"``. Columns:

        ``peak_step``, ``trough_step``, ``peak_flow``, ``trough_flow``
            When K is largest (most harmful) and smallest (most helpful), interpolated; NaN below
            the noise floor or at an end of the run.
        ``peak_offset``, ``trough_offset`` and the same with ``_flow``
            Time minus that of the tangent; positive = later.
        ``pearson``
            Correlation with the tangent over time.
        ``amplitude``
            |K| / |tangent| over time; for the local dot product, which is the effect of one
            step, this is no more than a scale.

        ``attrs["left_out"]`` maps left-out curves to reasons.

    Raises
    ------
    TypeError
        If `run` is not a Run.
    ValueError
        If an item, a fraction or the number of points is invalid.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    docs/why_peaks_differ.md shows and reads this table.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3)
    >>> table = explain_offset(run, query="cat", fractions=[0.01, 1], points=200)
    >>> table[["curve", "peak_offset_flow"]].round(2).values.tolist()[:3]
    [['tangent', 0.0], ['removed 0.01', 0.01], ['removed 1', 0.57]]
    """
    influence.tangent.record.require(run)
    shares = _shares(fractions)
    points = checks.positive_integer("points", points)
    if points < 3:
        raise ValueError(f"`points` must be at least 3 for a peak to have two sides, got {points}.")
    points = min(points, run.n_steps + 1)
    steps = np.unique(np.linspace(0, run.n_steps, points).round().astype(np.int64))
    train = run.task.items[0] if train is None else train
    items = {"query": query, "train": train}
    tangent = influence.tangent(run, steps, **items)
    curves, left_out = _curves_by_cause(run, steps, shares, items)
    tables = [_itself(tangent)]
    tables += [_against(tangent, *key, curve) for key, curve in curves.items()]
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {"reference": "tangent", "left_out": left_out}
    return table


def _shares(fractions: float | Sequence[float]) -> dict[str, float]:
    """Removed shares by a label that tells them apart."""
    listed = fractions if np.iterable(fractions) else [fractions]
    shares = [checks.real_number("fractions", share) for share in listed]
    if len(set(shares)) < len(shares) or not shares:
        raise ValueError(f"`fractions` must list different numbers, got {shares}.")
    if any(share > 1 or abs(share) < SMALLEST_FRACTION for share in shares):
        raise ValueError(
            "`fractions` must be at most 1 (1 = remove the item) and at least "
            f"{SMALLEST_FRACTION:g} in size; got {shares}."
        )
    short = [f"{share:g}" for share in shares]
    return {s if short.count(s) == 1 else repr(x): x for s, x in zip(short, shares, strict=True)}


def _curves_by_cause(
    run: Dynamics, steps: IntArray, shares: dict[str, float], items: dict[str, Items]
) -> tuple[dict[tuple[str, str], xr.DataArray], dict[str, str]]:
    """All curves but the tangent by (cause, name), and the reasons for those that do not exist."""
    share, term, propagation = CAUSES
    curves = {
        (share, f"removed {label}"): influence.leave_one_out(run, steps, fraction=removed, **items)
        for label, removed in shares.items()
    }
    left_out = {}
    analytic = influence.ESTIMATORS["analytic"]
    for cause, name, estimator, options in (
        (term, "analytic", analytic, {}),
        (propagation, "displacement", influence.tracin, {"query_at": "final"}),
        (propagation, "dot product, summed", influence.tracin, {}),
        (propagation, "dot product, local", influence.tracin, {"cumulative": False}),
    ):
        try:
            curves[cause, name] = estimator(run, steps, **items, **options)
        except ValueError as error:
            left_out[name] = str(error)
    return curves, left_out


def _itself(tangent: xr.DataArray) -> pd.DataFrame:
    """Rows of the tangent: the others' form with no offset from itself."""
    rows = _against(tangent, "reference", "itself", tangent)
    rows["curve"] = "tangent"
    return rows


def _against(tangent: xr.DataArray, cause: str, name: str, curve: xr.DataArray) -> pd.DataFrame:
    """Rows of one curve, one per pair of items."""
    joined = result.stack(tangent, curve.assign_attrs(estimator=name))
    table = compare(joined, reference="tangent")
    rows = table[["query", "train"]].copy()
    rows.insert(0, "curve", name)
    rows.insert(0, "cause", cause)
    times = _extrema(curve)
    for column in (
        *("peak_step", "trough_step", "peak_flow", "trough_flow"),
        *("peak_offset", "trough_offset", "peak_offset_flow", "trough_offset_flow", "pearson"),
    ):
        rows[column] = times[column] if column in times else table[column]
    rows["amplitude"] = _norms(curve) / _norms(tangent)
    return rows


def _rows(curve: xr.DataArray) -> FloatArray:
    """Curves of all pairs, query by query, shape (pairs, T)."""
    return curve.transpose("query", "train", "time").values.reshape(-1, curve.sizes["time"])


def _extrema(curve: xr.DataArray) -> dict[str, FloatArray]:
    rows, time = _rows(curve), curve.time.values.astype(np.float64)
    floor, found = extrema.noise_floor(rows), {}
    for name, side in (("peak", 1.0), ("trough", -1.0)):
        found[f"{name}_step"] = extrema.largest(time, side * rows, floor)
        found[f"{name}_flow"] = np.interp(found[f"{name}_step"], time, curve.flow_time.values)
    return found


def _norms(curve: xr.DataArray) -> FloatArray:
    return np.linalg.norm(_rows(curve), axis=1)
