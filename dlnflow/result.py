"""The labelled result that every estimator returns, and the only place where its sign is set."""

import io
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow._support import chunked
from dlnflow._support.files import atomic_path
from dlnflow._support.hashes import sha256_array, sha256_json

SIGN = "d loss(query) / d weight(train): negative = the train item helps the query"
UNITS = "loss per unit of item weight"
CORRELATION = "minus the Pearson correlation"
"""Units of normalised influence."""
MEAN_LOSS = "(1/N) sum_i w_i l_i"
"""What any model is trained on."""
OBJECTIVE = f"{MEAN_LOSS},  l_i = 1/2 |y_i - W x_i|^2"
CORE_DIMS = ("time", "query", "train")
FLOW_UNITS = "time of da/dt = L a^(2-2/L) (s - a)"
NO_FLOW = "none: the optimizer has no flow time"
"""Units of `flow_time`, so that a flow time that was lost differs from one that never was."""
CHECKSUM = "checksum"
"""Attribute of a file: sha256 of the values, labels and attributes in it."""
SAMPLED = ("standard_error", "dof", "verdict")
"""Coordinates that say how far a sampled result can be believed."""


def influence(
    values: ArrayLike,
    time: ArrayLike,
    query: Sequence[str],
    train: Sequence[str],
    *,
    estimator: str,
    flow_time: ArrayLike,
    attrs: Mapping[str, object] | None = None,
    leading: Mapping[str, ArrayLike] | None = None,
) -> xr.DataArray:
    """Build the labelled influence array; every estimator ends here.

    Parameters
    ----------
    values : array, shape (..., T, n_query, n_train)
        K = d l_query / d w_train. A finite removal enters as l(full) - l(without), a sampled
        covariance as -(n_beta/N) Cov.
    time : array of int, shape (T,)
        Optimiser steps, strictly increasing.
    query, train : sequences of str
        Item labels.
    estimator : str
        Name in `dlnflow.ESTIMATORS`.
    flow_time : array, shape (T,)
        The same times in units of da/dt = L a^(2-2/L) (s - a); NaN where there is none.
    attrs : mapping, optional
        Options of the estimator, recorded with the result. Values must be text or numbers.
    leading : mapping of dimension name to coordinate, optional
        Sweeps, in the order of the leading axes of `values`.

    Returns
    -------
    xarray.DataArray
        Name ``influence``, dims (*leading, time, query, train).

    Raises
    ------
    ValueError
        If shapes and labels disagree.
    """
    leading = dict(leading or {})
    coords: dict[str, object] = {name: np.asarray(value) for name, value in leading.items()}
    coords |= {
        "time": np.asarray(time, dtype=np.int64),
        "query": np.asarray(list(query), dtype=str),
        "train": np.asarray(list(train), dtype=str),
        "flow_time": ("time", np.asarray(flow_time, dtype=np.float64)),
    }
    about = {"estimator": estimator, "sign": SIGN, "units": UNITS, "objective": OBJECTIVE}
    array = xr.DataArray(
        np.asarray(values, dtype=np.float64),
        dims=(*leading, *CORE_DIMS),
        coords=coords,
        name="influence",
        attrs=about | dict(attrs or {}),
    )
    array.time.attrs["units"] = "optimiser steps"
    array.flow_time.attrs["units"] = NO_FLOW if _all_nan(array.flow_time) else FLOW_UNITS
    return check(array)


def check(array: xr.DataArray) -> xr.DataArray:
    """Return `array` if it keeps the contract of an influence result.

    Parameters
    ----------
    array : xarray.DataArray

    Returns
    -------
    xarray.DataArray
        The same object.

    Raises
    ------
    TypeError
        If it is not a DataArray.
    ValueError
        If name, dims, labels, time, flow time, units or sign are not those of an influence result.
    """
    if not isinstance(array, xr.DataArray):
        raise TypeError(f"expected an xarray.DataArray, got {type(array).__name__}.")
    if array.name != "influence" or array.dims[-3:] != CORE_DIMS or "method" in array.dims:
        raise ValueError(
            "expected a DataArray named 'influence' with last dims (time, query, train) and no "
            f"dim 'method'; got name {array.name!r}, dims {array.dims}. To keep a dim of one item, "
            "select a list: .sel(query=['cat'])."
        )
    missing = [n for n in (*array.dims, "flow_time") if n not in array.coords]
    if missing:
        raise ValueError(f"an influence result needs coordinates for {', '.join(missing)}.")
    _check_times(array)
    for name in ("query", "train"):
        if len(np.unique(array[name].values)) < array.sizes[name]:
            raise ValueError(f"labels of `{name}` must all differ.")
    if array.attrs.get("sign") != SIGN:
        raise ValueError(
            f"the sign of an influence result is {SIGN!r}; got {array.attrs.get('sign')!r}. "
            "Build results with dlnflow.result.influence."
        )
    if array.attrs.get("units") not in (UNITS, CORRELATION):
        raise ValueError(
            f"the units of an influence result are {UNITS!r}, or {CORRELATION!r} where it is "
            f"normalised; got {array.attrs.get('units')!r}."
        )
    return array


def _check_times(array: xr.DataArray) -> None:
    """Refuse steps and flow times that no run can have.

    Raises
    ------
    ValueError
        If they are negative or do not increase, or if flow times are missing.
    """
    time, flow_time = array.time.values, array.flow_time.values
    if time.dtype.kind not in "iu" or np.any(np.diff(time) <= 0) or np.any(time < 0):
        raise ValueError("`time` must be strictly increasing whole steps, none negative.")
    if array.flow_time.dims != ("time",) or flow_time.dtype.kind != "f":
        raise ValueError("`flow_time` must hold one number per step.")
    if _all_nan(array.flow_time):
        if array.flow_time.attrs.get("units") == FLOW_UNITS:
            raise ValueError(
                "`flow_time` is NaN everywhere, though its units say that the run has one; build "
                "the result again with run.flow_time(steps)."
            )
        return
    known = np.all(np.isfinite(flow_time)) and np.all(flow_time >= 0)
    if not known or np.any(np.diff(flow_time) <= 0):
        raise ValueError(
            "`flow_time` must be >= 0 and strictly increasing, or NaN everywhere for an optimizer "
            "that has none."
        )


def _all_nan(flow_time: xr.DataArray) -> bool:
    return bool(np.all(np.isnan(flow_time.values)))


def stack(*arrays: xr.DataArray) -> xr.DataArray:
    """Join results of several estimators along a new leading dimension ``estimator``.

    Parameters
    ----------
    *arrays : xarray.DataArray
        Influence results on one grid; sweeps must be selected down to one value first, but for
        the dim ``seed``, which all must have or none.

    Returns
    -------
    xarray.DataArray
        dims (estimator, time, query, train), after estimator also seed where the results have it,
        labelled by each result's estimator. `verdict`, `standard_error` and `dof` of sampled
        results are kept ("" and NaN for the others).

    Raises
    ------
    ValueError
        If grids, labels or signs differ (nothing is joined silently), if two results have the
        same estimator name, or if one still has a sweep dimension.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> both = dln.stack(
    ...     dln.influence.analytic(run, [100, 200]), dln.influence.leave_one_out(run, [100, 200])
    ... )
    >>> both.dims, both.estimator.values.tolist()
    (('estimator', 'time', 'query', 'train'), ['analytic', 'leave_one_out'])
    """
    if not arrays:
        raise ValueError("give at least one influence result to stack.")
    for array in arrays:
        extra = ", ".join(str(dim) for dim in check(array).dims[:-3] if dim != "seed")
        if extra:
            raise ValueError(
                f"{array.attrs['estimator']!r} still has the dim {extra}; select one value with "
                ".sel(...) before stacking."
            )
    names = [str(array.attrs["estimator"]) for array in arrays]
    if len(set(names)) < len(names):
        raise ValueError(f"estimators must differ, got {', '.join(names)}.")
    return joined(arrays, "estimator", names).assign_attrs(estimator=", ".join(names))


def joined(
    arrays: Sequence[xr.DataArray], dim: str, labels: Sequence[str] | Sequence[int]
) -> xr.DataArray:
    """Join results on one grid along a new leading dimension, with the attributes all share.

    Parameters
    ----------
    arrays : sequence of DataArray
        With the same dims.
    dim : str
    labels : sequence
        Labels of the new dimension, one per array.

    Returns
    -------
    xarray.DataArray
        dims (dim, *those of the arrays).

    Raises
    ------
    ValueError
        If grids, labels or units differ.
    """
    for array, label in zip(arrays[1:], labels[1:], strict=True):
        _same_grid(arrays[0], array, labels[0], label)
    shared = dict(arrays[0].attrs)
    for array in arrays[1:]:
        shared = {k: v for k, v in shared.items() if np.array_equal(array.attrs.get(k), v)}
    alike = _alike(arrays)
    whole = xr.concat(
        alike,
        xr.Variable(dim, np.asarray(labels)),
        join="exact",
        coords=[name for name in SAMPLED if name in alike[0].coords],
        compat="override",
        combine_attrs="drop",
    ).transpose(dim, *arrays[0].dims)
    for name in ("time", "flow_time"):
        whole[name].attrs.update(arrays[0][name].attrs)
    return check(whole.assign_attrs(shared))


def _alike(arrays: Sequence[xr.DataArray]) -> list[xr.DataArray]:
    """Return the arrays with equal coordinates: the grid's and, if any was sampled, `SAMPLED`."""
    sampled = {name for name in SAMPLED if any(name in array.coords for array in arrays)}
    kept = {*arrays[0].dims, "flow_time", *sampled}
    alike = []
    for array in arrays:
        none = {
            "standard_error": (array.dims, np.full(array.shape, np.nan)),
            "dof": (array.dims, np.full(array.shape, np.nan)),
            "verdict": (array.dims[:-2], np.full(array.shape[:-2], "", dtype="<U9")),
        }
        missing = {name: none[name] for name in sampled - set(array.coords)}
        alike.append(array.drop_vars(set(array.coords) - kept).assign_coords(missing))
    return alike


def _same_grid(first: xr.DataArray, other: xr.DataArray, first_name: str, name: str) -> None:
    if first.dims != other.dims:
        raise ValueError(
            f"{first_name!r} has the dims {first.dims}, {name!r} {other.dims}; compute both for "
            "the same seeds, or select one."
        )
    for dim in first.dims:
        a, b = first[dim].values, other[dim].values
        if len(a) != len(b) or np.any(a != b):
            raise ValueError(
                f"{first_name!r} and {name!r} differ in `{dim}`: {a[:4]}... ({len(a)}) against "
                f"{b[:4]}... ({len(b)}). Compute both on the same steps and items."
            )
    for key in ("units", "objective"):
        if first.attrs.get(key) != other.attrs.get(key):
            raise ValueError(f"{first_name!r} and {name!r} differ in {key}.")


def save(array: xr.DataArray, path: str | PathLike[str]) -> Path:
    """Write a result to a netCDF file, atomically: the file is complete or unchanged.

    The file carries a checksum of its values, labels and attributes, which `load` checks.

    Parameters
    ----------
    array : xarray.DataArray
        An influence result.
    path : path-like
        Usually ending in ``.nc``. An existing file is replaced only when the new one is whole.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    TypeError, ValueError
        If `array` is not an influence result, or `path` is a folder.
    """
    check(array)
    path = Path(path)
    dataset = array.to_dataset(promote_attrs=False).assign_attrs({CHECKSUM: checksum(array)})
    with atomic_path(path) as temporary:
        dataset.to_netcdf(temporary, engine="scipy")
    return path


def load(path: str | PathLike[str]) -> xr.DataArray:
    """Read a result that `save` wrote, or open a store of `analysis.all_pairs`.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    xarray.DataArray
        Exactly what was saved. Files of versions that wrote no checksum come with a warning. Of a
        store only the labels are read; values follow when they are asked for, chunk by chunk.

    Raises
    ------
    ValueError
        If the file is damaged, is not a netCDF file or does not hold an influence result; if a
        store is not complete.
    FileNotFoundError
        If there is no such file.
    ModuleNotFoundError
        If it is a store and zarr is not installed (the store extra).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.is_dir():
        return check(chunked.opened(path))
    content = path.read_bytes()  # a file that cannot be read at all is no damaged one
    try:
        array, stored = _decoded(content)
        if stored is not None and checksum(array) != stored:
            raise ValueError("values, labels or attributes differ from those that were saved")
    except Exception as error:  # what a parser makes of damaged bytes can be any error
        raise ValueError(
            f"{path} is damaged, or not a netCDF file written by dlnflow: {error}. Compute the "
            "result again and save it with dlnflow.save, or take a copy of the file."
        ) from error
    if stored is None:
        warnings.warn(
            f"{path} has no checksum, as files of earlier versions: damage cannot be told. Once "
            "you trust it, write it again with dlnflow.save.",
            stacklevel=2,
        )
    try:
        return check(array)
    except ValueError as error:
        raise ValueError(f"{path} does not hold an influence result: {error}") from error


def checksum(array: xr.DataArray) -> str:
    """Return the sha256 of values, labels and attributes, the same before and after storage.

    Parameters
    ----------
    array : xarray.DataArray

    Returns
    -------
    str
    """
    parts = {str(name): _content(array[name]) for name in array.coords}
    return sha256_json([str(array.name), _content(array), parts])


def _content(array: xr.DataArray) -> list[object]:
    """Dims, attributes and a hash of values, in the types that a netCDF file gives back."""
    values = array.values
    if values.dtype.kind in "iu":
        values = values.astype("<i8")
    elif values.dtype.kind in "SOTU":
        values = values.astype(str)
        values = np.char.encode(values, "utf-8")
    elif values.dtype.kind == "f":
        values = values.astype(values.dtype.newbyteorder("<"))
    attrs = {str(name): _attribute(value) for name, value in array.attrs.items()}
    return [list(map(str, array.dims)), sha256_array(values), attrs]


def _attribute(value: object) -> object:
    """Text as it is, numbers as a list: a file does not tell 2 from [2], nor True from 1."""
    if isinstance(value, str):
        return value.rstrip("\0")
    return [
        part.hex() if isinstance(part, float) else int(part) for part in np.ravel(value).tolist()
    ]


def _decoded(content: bytes) -> tuple[xr.DataArray, str | None]:
    """Read the array in a netCDF file and its checksum.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    (DataArray, str or None)
        None where the file has no checksum.

    Raises
    ------
    ValueError
        If there is another array, or another attribute in place of the checksum. Whatever xarray
        raises for bytes that are no netCDF file.
    """
    dataset = xr.load_dataset(io.BytesIO(content), engine="scipy")
    if len(dataset.data_vars) != 1:
        raise ValueError(f"it holds {len(dataset.data_vars)} arrays, not one")
    stored = dataset.attrs.pop(CHECKSUM, None)
    if dataset.attrs:
        raise ValueError(f"it has the attribute {next(iter(dataset.attrs))!r}")
    (name,) = dataset.data_vars
    array = dataset[name]
    for name in array.coords:
        attrs = array[name].attrs
        if array[name].dtype.kind in "iu":
            array = array.assign_coords({name: array[name].astype(np.int64)})
            array[name].attrs.update(attrs)
        elif array[name].dtype.kind in "SOT":
            array = array.assign_coords({name: array[name].astype(str)})
            array[name].attrs.update(attrs)
    if stored is None and "flow_time" in array.coords and _all_nan(array.flow_time):
        array.flow_time.attrs["units"] = NO_FLOW  # which earlier versions did not write
    return array, stored
