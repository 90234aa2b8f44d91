"""How well estimators agree over training, pair by pair."""

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from dlnflow import checks, result
from dlnflow._support import FloatArray, IntArray
from dlnflow.analysis import extrema

CHUNK = 16_384
"""Curves handled at once; bounds the working memory at a few arrays of this many curves."""


def compare(stacked: xr.DataArray, reference: str | xr.DataArray = "leave_one_out") -> pd.DataFrame:
    """Compare every curve with the reference curve of the same (query, train) pair.

    All sums run over the recorded steps with equal weight, so the numbers depend on the grid: a
    grid that is dense where curves are flat says little. Peak times are those of the largest and
    of the smallest value of the whole curve, interpolated by parabolas, so an offset is
    meaningful where both curves have one main peak and one main trough.

    Parameters
    ----------
    stacked : xarray.DataArray
        Results on one grid, from `dlnflow.stack`; or one result with any sweep dims, if
        `reference` is an array.
    reference : str or xarray.DataArray
        Name of an estimator in `stacked`, or a result on the same grid. Where both have the dim
        ``seed``, every seed is compared with its own reference.

    Returns
    -------
    pandas.DataFrame
        One row per leading coordinate (estimator, seed, ...), ``query`` and ``train``, with

        ``pearson``, ``spearman``
            Correlation over time; NaN for a constant curve.
        ``relative_l2``
            |k - r| / |r| over time, with k the curve and r the reference; NaN if r = 0.
            Meaningless for estimators of arbitrary scale.
        ``peak_offset``, ``trough_offset``
            Step of the maximum (minimum) of k minus that of r; positive = later than the
            reference. NaN unless both lie inside the record, beyond the noise floor.
        ``peak_offset_flow``, ``trough_offset_flow``
            The same in flow time.
        ``sign_agreement``
            Share of equal signs among the steps at which both are beyond their floors.
        ``flips``, ``reference_flips``, ``flip_agreement``
            Sign flips of each, and whether both run through the same sequence of signs.

        The floor is the default of `dlnflow.events`.

    Raises
    ------
    TypeError, ValueError
        If the input is not an influence result, the reference is unknown, or grids differ.

    Examples
    --------
    >>> import numpy as np
    >>> from dlnflow import result
    >>> t = np.arange(101)
    >>> def bump(centre, name):
    ...     curve = np.exp(-(((t - centre) / 10.0) ** 2))[:, None, None]
    ...     return result.influence(curve, t, ["cat"], ["dog"], estimator=name, flow_time=t / 10)
    >>> table = compare(result.stack(bump(50, "early"), bump(53, "late")), reference="early")
    >>> table[["estimator", "peak_offset", "peak_offset_flow"]].round(6).values.tolist()
    [['late', 3.0, 0.3]]
    """
    curves, truth = _split(result.check(stacked), reference)
    leading = curves.dims[:-3]
    order = (*leading, "query", "train", "time")
    k = curves.transpose(*order).values
    truth = truth.reset_coords(drop=True)
    r = truth.broadcast_like(curves.reset_coords(drop=True)).transpose(*order).values
    rows, expected = k.reshape(-1, k.shape[-1]), r.reshape(-1, k.shape[-1])
    floors = extrema.noise_floors(k), extrema.noise_floors(r)
    time = curves.time.values.astype(np.float64)
    parts = [
        _compare_rows(time, curves.flow_time.values, rows[part], expected[part], floors, part)
        for part in np.array_split(np.arange(len(rows)), max(1, len(rows) // CHUNK))
    ]
    labels = pd.MultiIndex.from_product(
        [curves[dim].values for dim in order[:-1]], names=order[:-1]
    ).to_frame(index=False)
    table = pd.concat([labels, pd.concat(parts, ignore_index=True)], axis=1)
    table.attrs["reference"] = str(truth.attrs.get("estimator", reference))
    return table


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise a comparison over the pairs of different items, one row per estimator.

    Parameters
    ----------
    table : pandas.DataFrame
        From `compare`. Without its column ``seed`` (table.drop(columns="seed")) the pairs of all
        seeds are summarised together.

    Returns
    -------
    pandas.DataFrame
        Indexed by the leading coordinates: number of ``pairs``, median and minimum of ``pearson``,
        medians of ``spearman``, ``relative_l2``, ``peak_offset`` and ``trough_offset`` (steps),
        mean ``sign_agreement`` and share of pairs with ``flip_agreement``. Pairs without a value
        (constant curves, no peak) are left out of the respective entry.

    Raises
    ------
    ValueError
        If the table has no pair of different items.
    """
    pairs = table[table["query"] != table["train"]]
    if pairs.empty:
        raise ValueError("the table has no pair of different items to summarise.")
    keys = list(table.columns[: table.columns.get_loc("query")])
    # A comparison of one unlabelled result still makes one row.
    grouped = pairs.groupby(keys if keys else np.zeros(len(pairs)), sort=False)
    return grouped.agg(
        pairs=("pearson", "size"),
        pearson=("pearson", "median"),
        pearson_min=("pearson", "min"),
        spearman=("spearman", "median"),
        relative_l2=("relative_l2", "median"),
        peak_offset=("peak_offset", "median"),
        trough_offset=("trough_offset", "median"),
        sign_agreement=("sign_agreement", "mean"),
        flip_agreement=("flip_agreement", "mean"),
    )


def _split(
    stacked: xr.DataArray, reference: str | xr.DataArray
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the curves to judge and the reference, on one grid."""
    if isinstance(reference, xr.DataArray):
        truth = result.check(reference)
        own = tuple(dim for dim in truth.dims[:-3] if dim != "seed" or dim not in stacked.dims)
        if own:
            raise ValueError(f"`reference` must have dims {result.CORE_DIMS}, got {truth.dims}.")
        try:
            return xr.align(stacked, truth, join="exact")
        except ValueError as error:
            raise ValueError(f"`reference` must stand on the same grid: {error}") from error
    if "estimator" not in stacked.dims:
        raise ValueError(
            "`stacked` has no dim 'estimator'; join results with dlnflow.stack, or give the "
            "reference as an array."
        )
    names = [str(name) for name in stacked.estimator.values]
    checks.one_of("reference", reference, names)
    others = [name for name in names if name != reference]
    truth = stacked.sel(estimator=reference, drop=True).assign_attrs(estimator=reference)
    if set(truth.dims[:-3]) - {"seed"}:
        raise ValueError(f"the reference still has the dims {truth.dims[:-3]}; select one value.")
    return stacked.sel(estimator=others), truth


def _compare_rows(
    time: FloatArray,
    flow_time: FloatArray,
    k: FloatArray,
    r: FloatArray,
    floors: tuple[FloatArray, FloatArray],
    part: IntArray,
) -> pd.DataFrame:
    """All columns for curves k and references r of shape (P, T), whose floors are at `part`."""
    pair = [(k, floors[0][part]), (r, floors[1][part])]
    columns: dict[str, FloatArray] = {
        "pearson": _pearson(k, r),
        "spearman": _pearson(*(scipy.stats.rankdata(x, axis=1) for x in (k, r))),
        "relative_l2": _ratio(_norm(k - r), _norm(r)),
    }
    for name, side in (("peak", 1.0), ("trough", -1.0)):
        steps = [extrema.largest(time, side * curves, floor) for curves, floor in pair]
        flow = [np.interp(step, time, flow_time) for step in steps]
        columns[f"{name}_offset"] = steps[0] - steps[1]
        columns[f"{name}_offset_flow"] = flow[0] - flow[1]
    signs = [extrema.signs(curves, floor) for curves, floor in pair]
    both = signs[0] * signs[1]
    columns["sign_agreement"] = _ratio(np.sum(both > 0, axis=1), np.sum(both != 0, axis=1))
    flips = [np.bincount(extrema.flips(*one).curve, minlength=len(k)) for one in pair]
    columns |= {"flips": flips[0], "reference_flips": flips[1]}
    # Signs alternate, so the first sign and the number of flips fix the whole sequence.
    first = [s[np.arange(len(k)), np.argmax(s != 0, axis=1)] for s in signs]
    columns["flip_agreement"] = (flips[0] == flips[1]) & (first[0] == first[1])
    return pd.DataFrame(columns)


def _pearson(k: FloatArray, r: FloatArray) -> FloatArray:
    """Correlation of rows; NaN, without a warning, where a row is constant."""
    k, r = _centred(k), _centred(r)
    return np.clip(_ratio(np.sum(k * r, axis=1), _norm(k) * _norm(r)), -1.0, 1.0)


def _centred(rows: FloatArray) -> FloatArray:
    """Subtract means and scale to a range of 1; a constant row gives exact zeros."""
    spread = np.ptp(rows, axis=1, keepdims=True)
    shifted = rows - rows.min(axis=1, keepdims=True)
    scaled = shifted / np.where(spread > 0, spread, 1.0)
    return scaled - scaled.mean(axis=1, keepdims=True)


def _norm(rows: FloatArray) -> FloatArray:
    return np.linalg.norm(rows, axis=1)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)
