"""The events of influence curves, one curve and one event at a time: the reference."""

from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.signal import find_peaks

from dlnflow.analysis.events import COLUMNS


def events_by_curve(influence, floors):
    """Return the table of `dlnflow.analysis.events`; `floors` has the dims but time."""
    curves = influence.transpose(..., "train", "query", "time")
    floors = floors.transpose(..., "train", "query").values
    time = curves.time.values.astype(np.float64)
    found = [
        (*(curves[dim].values[k] for dim, k in zip(curves.dims[:-1], place, strict=True)), *event)
        for place in np.ndindex(curves.shape[:-1])
        for event in _of_one_curve(time, curves.values[place], floors[place])
    ]
    table = pd.DataFrame(found, columns=[*curves.dims[:-1], *COLUMNS])
    table["flow_time"] = np.interp(table["step"], time, curves.flow_time.values)
    return table


def _of_one_curve(time, curve, floor):
    if not np.abs(curve).max() > floor:  # also if it contains NaN
        return []
    found = []
    for kind, side in (("peak", 1.0), ("trough", -1.0)):
        at, about = find_peaks(side * curve, prominence=floor)
        for k, prominence in zip(at, about["prominences"], strict=True):
            if abs(curve[k]) < floor:
                continue
            step, value = _vertex(time[k - 1 : k + 2], curve[k - 1 : k + 2])
            found.append((kind, step, np.nan, value, np.sign(value), prominence, floor))
    for before, after in _flips(curve, floor):
        step = _crossing(time, curve, before, after)
        found.append(("sign_flip", step, np.nan, 0.0, np.sign(curve[after]), np.nan, floor))
    return sorted(found, key=lambda event: event[1])


def _vertex(times, values):
    before, after = times[1] - times[0], times[2] - times[1]
    rise, fall = (values[1] - values[0]) / before, (values[2] - values[1]) / after
    slope = (rise * after + fall * before) / (before + after)
    curvature = (fall - rise) / (before + after)
    shift = -slope / (2 * curvature) if curvature != 0 else 0.0
    return times[1] + shift, values[1] + slope * shift / 2


def _flips(curve, floor):
    beyond = [k for k, value in enumerate(curve) if abs(value) > floor]
    return [(j, k) for j, k in pairwise(beyond) if np.sign(curve[j]) != np.sign(curve[k])]


def _crossing(time, curve, before, after):
    inside = before + np.flatnonzero(curve[before : after + 1])
    change = np.flatnonzero(np.diff(np.sign(curve[inside])))
    if len(change) == 1:
        before, after = inside[change[0]], inside[change[0] + 1]
    share = curve[before] / (curve[before] - curve[after])
    return time[before] + share * (time[after] - time[before])
