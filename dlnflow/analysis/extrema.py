"""Curves as rows of an array: interpolated extrema, sign changes and the floor of both."""

from typing import NamedTuple

import numpy as np
import scipy

from dlnflow._support import FloatArray, IntArray

CURVE_FRACTION = 1e-2
"""A value counts as different from zero beyond this fraction of the curve's own largest |value|,"""
OVERALL_FRACTION = 1e-3
"""and beyond this fraction of the largest |value| of all curves that are looked at together."""


def noise_floor(curves: FloatArray, overall: float | None = None) -> FloatArray:
    """Default floor per curve: the larger of 1 % of its own and 0.1 % of the overall maximum.

    Parameters
    ----------
    curves : array, shape (P, T)
    overall : float, optional
        Largest |value| of the whole family, if `curves` is only a part of it.

    Returns
    -------
    array, shape (P,)
    """
    own = np.abs(curves).max(axis=1)
    overall = own.max(initial=0.0) if overall is None else overall
    return np.maximum(CURVE_FRACTION * own, OVERALL_FRACTION * overall)


def noise_floors(values: FloatArray) -> FloatArray:
    """Default floor of all curves, where those of one leading index are looked at together.

    Parameters
    ----------
    values : array, shape (..., n, m, T)
        Curves of n x m pairs of items, in either order.

    Returns
    -------
    array, shape (P,)
        Flattened in the order of `values`.
    """
    families = values.reshape(-1, *values.shape[-3:])
    return np.concatenate([noise_floor(f.reshape(-1, f.shape[-1])) for f in families])


def vertex(
    times: tuple[FloatArray, ...], values: tuple[FloatArray, ...]
) -> tuple[FloatArray, FloatArray]:
    """Extremum of the parabola through three points at unequal spacing.

    With slopes m1, m2 left and right of the middle point, the parabola has slope
    d = (m1 h2 + m2 h1)/(h1 + h2) there and curvature 2c = 2 (m2 - m1)/(h1 + h2), so the vertex
    is d/(2c) before it. If the middle value is the largest (or smallest) of the three, the vertex
    lies within half a spacing of it. Error in time O(h^2) for smooth curves.

    Parameters
    ----------
    times, values : three arrays each
        Before, at and after the extreme sample; they broadcast.

    Returns
    -------
    (time, value) : arrays
        The middle point itself where the three points lie on a line.
    """
    before, after = times[1] - times[0], times[2] - times[1]
    rise, fall = (values[1] - values[0]) / before, (values[2] - values[1]) / after
    slope = (rise * after + fall * before) / (before + after)
    curvature = (fall - rise) / (before + after)
    curved = curvature != 0
    shift = np.where(curved, -slope / (2 * np.where(curved, curvature, 1.0)), 0.0)
    return times[1] + shift, values[1] + slope * shift / 2


def largest(time: FloatArray, curves: FloatArray, floor: FloatArray) -> FloatArray:
    """Interpolated time of the global maximum of each curve.

    Parameters
    ----------
    time : array, shape (T,)
    curves : array, shape (P, T)
    floor : array, shape (P,)

    Returns
    -------
    array, shape (P,)
        NaN where the maximum does not exceed the floor or stands at either end of the record,
        where it may be the edge of something larger.
    """
    middle = curves.argmax(axis=1)
    rows = np.arange(len(curves))
    inside = (middle > 0) & (middle < len(time) - 1) & (curves[rows, middle] > floor)
    if len(time) < 3:
        return np.full(len(curves), np.nan)
    at = np.clip(middle, 1, len(time) - 2)
    around = [at - 1, at, at + 1]
    when, _ = vertex(tuple(time[k] for k in around), tuple(curves[rows, k] for k in around))
    return np.where(inside, when, np.nan)


class Flips(NamedTuple):
    """Sign changes beyond the floor.

    Row ``curve`` is beyond it on one side last at sample ``before``, on the other side first at
    sample ``after``; ``sign`` is the sign afterwards.
    """

    curve: IntArray
    before: IntArray
    after: IntArray
    sign: FloatArray


def signs(curves: FloatArray, floor: FloatArray) -> FloatArray:
    """Return +1 or -1 where a curve is beyond its floor, else 0; shape (P, T)."""
    return np.where(np.abs(curves) > floor[:, None], np.sign(curves), 0.0)


def flips(curves: FloatArray, floor: FloatArray) -> Flips:
    """Find where curves pass from beyond +floor to beyond -floor or back.

    Parameters
    ----------
    curves : array, shape (P, T)
    floor : array, shape (P,)

    Returns
    -------
    Flips
        In order of curve, then time.
    """
    both = np.flatnonzero((curves.max(axis=1) > floor) & (curves.min(axis=1) < -floor))
    sign = signs(curves[both], floor[both])
    index = np.where(sign != 0, np.arange(curves.shape[1]), 0)
    latest = np.maximum.accumulate(index, axis=1)  # last sample beyond the floor, or 0
    held = np.take_along_axis(sign, latest, axis=1)
    curve, before = np.nonzero(held[:, 1:] * held[:, :-1] < 0)
    return Flips(both[curve], latest[curve, before], before + 1, held[curve, before + 1])


def crossings(time: FloatArray, curves: FloatArray, flips: Flips) -> FloatArray:
    """Times at which curves pass zero between two samples of opposite sign.

    Linear between the two samples around the sign change, if there is just one in between:
    error O(h^2). If noise inside the floor changes sign several times, linear between the two
    samples that are beyond the floor.

    Parameters
    ----------
    time : array, shape (T,)
    curves : array, shape (P, T)
        Without NaN.
    flips : Flips
        F of them.

    Returns
    -------
    array, shape (F,)
    """
    _, before, after, _ = flips
    flipping, curve = np.unique(flips.curve, return_inverse=True)
    curves = curves[flipping]
    length = len(time)
    row, sample = np.nonzero(curves)
    sign = np.sign(curves[row, sample])
    change = np.flatnonzero((row[1:] == row[:-1]) & (sign[1:] != sign[:-1]))
    # Both ends of a flip are nonzero, so changes that begin inside it also end inside it.
    place = row[change] * length + sample[change]
    first = np.searchsorted(place, curve * length + before)
    single = np.searchsorted(place, curve * length + after) - first == 1
    only = change[first[single]]
    left, right = before.copy(), after.copy()
    left[single], right[single] = sample[only], sample[only + 1]
    share = curves[curve, left] / (curves[curve, left] - curves[curve, right])
    return time[left] + share * (time[right] - time[left])


class Maxima(NamedTuple):
    """Local maxima: row ``curve`` has one at sample ``at``, in the middle of a flat top."""

    curve: IntArray
    at: IntArray
    prominence: FloatArray


def maxima(curves: FloatArray, floor: FloatArray) -> Maxima:
    """Find local maxima whose |value| and prominence reach the floor, never at either end.

    Prominence is the height above the higher of the two lowest points that are passed before
    the curve rises above the maximum, or ends, on either side (as in scipy.signal).

    Parameters
    ----------
    curves : array, shape (P, T)
        Finite.
    floor : array, shape (P,)

    Returns
    -------
    Maxima
        In order of curve, then time.
    """
    width = curves.shape[1] + 1
    # One long signal with an infinite sample after every curve: it bounds the way down from a
    # maximum just as the end of the curve does, and no first or last sample can be a maximum.
    fenced = np.full((len(curves), width), np.inf)
    fenced[:, :-1] = curves
    signal = fenced.ravel()
    peaks, _ = scipy.signal.find_peaks(signal)
    peaks = peaks[np.isfinite(signal[peaks])]
    peaks = peaks[np.abs(signal[peaks]) >= floor[peaks // width]]
    prominence = scipy.signal.peak_prominences(signal, peaks)[0]
    peaks, prominence = (a[prominence >= floor[peaks // width]] for a in (peaks, prominence))
    return Maxima(peaks // width, peaks % width, prominence)
