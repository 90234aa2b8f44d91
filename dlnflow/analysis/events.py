"""When something happens in an influence curve: peaks, troughs and sign flips."""

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from pandas.api.extensions import ExtensionArray

from dlnflow import result
from dlnflow._support import FloatArray, IntArray, each
from dlnflow.analysis import extrema
from dlnflow.traces.intervals import TWO_SIGMA, interval

COLUMNS = ("kind", "step", "flow_time", "value", "sign", "prominence", "floor")
DEFAULT_RULE = (
    f"the larger of {extrema.CURVE_FRACTION:.0%} of the curve's own largest |value| and "
    f"{extrema.OVERALL_FRACTION:.1%} of that of all curves of the estimator"
)
"""The noise floor where none is given."""
KINDS = ("peak", "trough", "sign_flip")
"""In the order in which simultaneous events of a curve are listed."""
CHUNK_NUMBERS = 2**18
"""Numbers of all curves that are looked at together, so that temporaries stay small."""


def events(influence: xr.DataArray, floor: float | xr.DataArray | None = None) -> pd.DataFrame:
    """Find peaks, troughs and sign flips of every curve K(t), above a noise floor.

    An extremum counts if both its |value| and its prominence (scipy.signal.find_peaks) reach the
    floor; its time is the vertex of the parabola through the three samples around it. A sign flip
    counts if the curve goes from beyond +floor to beyond -floor or back; its time is where the
    line between the samples around the sign change meets zero. Both are exact to second order in
    the spacing of the recorded steps. The ends of the record are never extrema. A curve with a
    value that is not finite has no events. Where the result has a coordinate ``standard_error``
    (sampled influence), both sides of a flip must also differ from zero by 2 standard errors, or by
    more where these have few degrees of freedom (`dlnflow.traces.interval` at 95.4 %).

    Parameters
    ----------
    influence : xarray.DataArray
        An influence result, dims (..., time, query, train).
    floor : float or DataArray, optional
        What |value| counts as different from zero, in the units of `influence`; an array is
        broadcast against the curves (one floor per pair, say from Monte-Carlo errors).
        Default: the larger of 1 % of the largest |value| of the curve itself and 0.1 % of that of
        all curves of the same estimator (or other leading coordinate). Without a floor, rounding
        noise at the start and the end of training would count as flips.

    Returns
    -------
    pandas.DataFrame
        One row per event, in the order of curves and then of time. Columns: the leading dims,
        ``train``, ``query``, ``kind`` ("peak": local maximum, most harmful; "trough": local
        minimum, most helpful; "sign_flip"), ``step`` (optimiser steps, interpolated),
        ``flow_time``, ``value``, ``sign`` (of the value; of a flip: afterwards), ``prominence``
        (NaN for flips) and ``floor`` (that of the curve). ``attrs["floor"]`` states the rule.

    Raises
    ------
    TypeError, ValueError
        If `influence` is not an influence result, or a floor is negative or NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from dlnflow import result
    >>> t = np.arange(101)
    >>> curve = np.sin(2 * np.pi * t / 100)[:, None, None]
    >>> da = result.influence(curve, t, ["cat"], ["dog"], estimator="demo", flow_time=t / 100)
    >>> events(da)[["kind", "step", "value"]].round(3).values.tolist()
    [['peak', 25.0, 1.0], ['sign_flip', 50.0, 0.0], ['trough', 75.0, -1.0]]
    """
    curves = result.check(influence).transpose(..., "train", "query", "time")
    rows = np.ascontiguousarray(curves.values.reshape(-1, curves.sizes["time"]))
    floors = _floors(curves, floor)
    unsure = _unsure(curves, rows)
    time = curves.time.values.astype(np.float64)
    length = max(1, CHUNK_NUMBERS // len(time))
    parts = [
        _of_rows(time, rows, floors, unsure, slice(k, k + length))
        for k in each(range(0, len(rows), length), "looking for events")
    ]
    curve, kind, *found = map(np.concatenate, zip(*parts, strict=True))
    step, value, sign, prominence = found
    columns = (_repeated(KINDS, kind), step, np.nan, value, sign, prominence, floors[curve])
    table = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    table["flow_time"] = np.interp(table["step"], time, curves.flow_time.values)
    positions = np.unravel_index(curve, curves.shape[:-1])
    for column, (dim, position) in enumerate(zip(curves.dims[:-1], positions, strict=True)):
        table.insert(column, dim, _repeated(curves[dim].values, position))
    table.attrs["floor"] = DEFAULT_RULE if floor is None else "given by the caller"
    return table


def _unsure(curves: xr.DataArray, rows: FloatArray) -> NDArray[np.bool_] | None:
    """Whether intervals of values (P, T) hold zero; None without standard errors."""
    if "standard_error" not in curves.coords:
        return None
    ends = interval(curves, TWO_SIGMA)
    return ((ends.lower < 0) & (ends.upper > 0)).values.reshape(rows.shape)


def _of_rows(
    time: FloatArray,
    rows: FloatArray,
    floors: FloatArray,
    unsure: NDArray[np.bool_] | None,
    part: slice,
) -> tuple[NDArray, ...]:
    """Curve, kind, step, value, sign and prominence of events, in order of curve and time."""
    largest = np.abs(rows[part]).max(axis=1)
    some = part.start + np.flatnonzero((largest > floors[part]) & np.isfinite(largest))
    rows, floors = rows[some], floors[some]
    flips = extrema.flips(rows if unsure is None else np.where(unsure[some], 0.0, rows), floors)
    steps = extrema.crossings(time, rows, flips)
    unknown = np.full(len(steps), np.nan)
    parts = [
        _extrema(time, rows, floors, 1),
        _extrema(time, rows, floors, -1),
        (flips.curve, steps, np.zeros(len(steps)), flips.sign, unknown),
    ]
    kind = np.repeat(np.arange(len(KINDS)), [len(found[0]) for found in parts])
    curve, step, *rest = map(np.concatenate, zip(*parts, strict=True))
    order = np.lexsort((step, curve))
    return tuple(column[order] for column in (some[curve], kind, step, *rest))


def _extrema(
    time: FloatArray, rows: FloatArray, floors: FloatArray, side: int
) -> tuple[FloatArray, ...]:
    """Return curve, step, value, sign and prominence of peaks (side 1) or troughs (side -1)."""
    curve, at, prominence = extrema.maxima(side * rows, floors)
    around = [at - 1, at, at + 1]
    step, value = extrema.vertex(
        tuple(time[k] for k in around), tuple(rows[curve, k] for k in around)
    )
    return curve, step, value, np.sign(value), prominence


def _repeated(labels: ArrayLike, positions: IntArray) -> ExtensionArray:
    """Labels at positions, made into strings of pandas before they are repeated, for speed."""
    return pd.Series(labels).array.take(positions)


def _floors(curves: xr.DataArray, floor: float | xr.DataArray | None) -> FloatArray:
    """One floor per curve, flattened in the order of `curves`."""
    if floor is None:
        return extrema.noise_floors(curves.values)
    one_per_curve = xr.zeros_like(curves.isel(time=0, drop=True))
    with xr.set_options(arithmetic_join="exact"):
        given = (one_per_curve + floor).transpose(*one_per_curve.dims)
    if not np.all(given >= 0):
        raise ValueError("`floor` must be >= 0 and not NaN for every curve.")
    return given.values.ravel()
