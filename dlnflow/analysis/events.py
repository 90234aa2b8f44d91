"""When something happens in an influence curve: peaks, troughs and sign flips."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.signal import find_peaks

from dlnflow import result
from dlnflow._typing import FloatArray
from dlnflow.analysis import _curves

COLUMNS = ("kind", "step", "flow_time", "value", "sign", "prominence", "floor")
DEFAULT_RULE = (
    f"the larger of {_curves.CURVE_FRACTION:.0%} of the curve's own largest |value| and "
    f"{_curves.OVERALL_FRACTION:.1%} of that of all curves of the estimator"
)
"""The noise floor where none is given."""


def events(influence: xr.DataArray, floor: float | xr.DataArray | None = None) -> pd.DataFrame:
    """Find peaks, troughs and sign flips of every curve K(t), above a noise floor.

    An extremum counts if both its |value| and its prominence (scipy.signal.find_peaks) reach the
    floor; its time is the vertex of the parabola through the three samples around it. A sign flip
    counts if the curve goes from beyond +floor to beyond -floor or back; its time is where the
    line between the samples around the sign change meets zero. Both are exact to second order in
    the spacing of the recorded steps. The ends of the record are never extrema.

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
    time = curves.time.values.astype(np.float64)
    found = [
        event
        for row, finding in enumerate(_flips_by_row(rows, floors))
        for event in _of_one_curve(row, time, rows[row], floors[row], finding)
    ]
    table = pd.DataFrame(found, columns=["row", *COLUMNS])
    table["flow_time"] = np.interp(table["step"], time, curves.flow_time.values)
    positions = np.unravel_index(table.pop("row").to_numpy(dtype=np.int64), curves.shape[:-1])
    for column, (dim, position) in enumerate(zip(curves.dims[:-1], positions, strict=True)):
        table.insert(column, dim, curves[dim].values[position])
    table.attrs["floor"] = DEFAULT_RULE if floor is None else "given by the caller"
    return table


def _of_one_curve(
    row: int, time: FloatArray, curve: FloatArray, floor: float, flips: list[tuple]
) -> list[tuple]:
    """Rows (row, *COLUMNS) of one curve, in order of time; flow_time is filled in later."""
    if not np.abs(curve).max() > floor:
        return []
    found = []
    for kind, side in (("peak", 1.0), ("trough", -1.0)):
        at, about = find_peaks(side * curve, prominence=floor)
        for k, prominence in zip(at, about["prominences"], strict=True):
            if abs(curve[k]) < floor:
                continue
            step, value = _curves.vertex(time[k - 1 : k + 2], curve[k - 1 : k + 2])
            found.append((row, kind, step, np.nan, value, np.sign(value), prominence, floor))
    for before, after, sign in flips:
        step = _curves.crossing(time, curve, before, after)
        found.append((row, "sign_flip", step, np.nan, 0.0, sign, np.nan, floor))
    return sorted(found, key=lambda event: event[2])


def _flips_by_row(rows: FloatArray, floors: FloatArray) -> list[list[tuple]]:
    grouped: list[list[tuple]] = [[] for _ in rows]
    for row, *finding in zip(*_curves.flips(rows, floors), strict=True):
        grouped[row].append(tuple(finding))
    return grouped


def _floors(curves: xr.DataArray, floor: float | xr.DataArray | None) -> FloatArray:
    """One floor per curve, flattened in the order of `curves`."""
    if floor is None:
        families = curves.values.reshape(-1, *curves.shape[-3:])
        return np.concatenate([_curves.noise_floor(f.reshape(-1, f.shape[-1])) for f in families])
    one_per_curve = xr.zeros_like(curves.isel(time=0, drop=True))
    with xr.set_options(arithmetic_join="exact"):
        given = (one_per_curve + floor).transpose(*one_per_curve.dims)
    if not np.all(given >= 0):
        raise ValueError("`floor` must be >= 0 and not NaN for every curve.")
    return given.values.ravel()
