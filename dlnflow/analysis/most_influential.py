"""Who helps and harms others most, who is helped and harmed most, by which pairs, and why.

Curves are read a few times at once, so that influence of all pairs may stay in its store.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dlnflow import checks, result
from dlnflow._support import FloatArray, IntArray
from dlnflow.analysis.distinctions import Distinctions
from dlnflow.analysis.explain_events import mode_contributions
from dlnflow.dynamics import Dynamics

LISTS = {
    "helps others": (-1, 0),
    "harms others": (1, 0),
    "is helped": (-1, 1),
    "is harmed": (1, 1),
    "pair helps": (-1, None),
    "pair harms": (1, None),
}
"""Sign of the values that a list ranks, and over which axis of (query, train) they are summed."""
COLUMNS = [
    *("list", "rank", "train", "query", "value", "step", "flow_time"),
    *("mode", "distinction", "share", "strongest", "strongest_value", "strongest_step", "mutual"),
]
READ_NUMBERS = 2**23
"""Numbers that are read at once, unless a single time has more."""
SMALLEST = 1e-3
"""What is listed, relative to the largest |value| of its kind: the floor of events."""
SAME_RTOL = 1e-9
"""Values that differ by less, relatively, are equal, so that rounding orders nothing."""


def most_influential(run: Dynamics, curves: xr.DataArray, top: int = 5) -> pd.DataFrame:
    """Items and pairs with the largest influence, the step, and the mode that carries it.

        S_i(t) = sum_{q != i} K_qi(t)    what item i does to the loss of all others together,
        R_q(t) = sum_{i != q} K_qi(t)    what all others do to query q,

    each at its lowest (helps) and highest (harms) value over the recorded steps; and pairs q != i
    by K_qi at its lowest and highest. Lists leave out what is below 0.1 % of the largest |value|
    of its kind at any time.

    Parameters
    ----------
    run : Run
        What the curves are of.
    curves : xarray.DataArray
        dims (time, query, train), in memory or opened from a store; never read as a whole.
    top : int
        Most rows of each list.

    Returns
    -------
    pandas.DataFrame
        One row per entry. Columns:

        ``list``, ``rank``
            One of the keys of `LISTS`; 1 is the largest.
        ``train``, ``query``
            Missing where a row sums over them.
        ``value``, ``step``, ``flow_time``
            The extreme of S, R or K in loss per unit of item weight; negative = helps.
        ``mode``, ``distinction``, ``share``
            The mode with the largest share of the value there, and what it tells apart, as in
            `explain_events`; of a sum, the shares of the summed contributions. Missing for
            estimators other than `analytic`, whose modes they are.
        ``strongest``, ``strongest_value``, ``strongest_step``
            The other item of the largest single K in the same direction at any step.
        ``mutual``
            Whether K_iq is the same as K_qi: such a pair has one row.

    Raises
    ------
    TypeError, ValueError
        If `curves` are not influence curves of the run, or have further dims.

    Notes
    -----
    Steps are recorded ones, not interpolated. A mode that enters with others of its block is one
    distinct singular value.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3)
    >>> table = most_influential(run, dln.influence.analytic(run), top=1)
    >>> table[["list", "train", "query"]].iloc[-1].tolist(), int(table["step"].iloc[-1])
    (['pair harms', 'dog', 'cat'], 1469)
    """
    top = checks.positive_integer("top", top)
    _check(run, curves)
    found = _Extremes(curves, 2 * top)  # both directions of a pair may be among them
    for first, values in _planes(curves):
        found.add(first, values)
    rows = []
    for name, (sign, axis) in LISTS.items():
        entries = found.pair_rows(sign) if axis is None else found.item_rows(sign, axis)
        rows += [{"list": name, "rank": k} | row for k, row in enumerate(entries[:top], start=1)]
    explain = _Explained(run, curves)
    table = pd.DataFrame([row | explain(row) for row in rows], columns=COLUMNS)
    return table.astype({"mode": "Int64", "strongest_step": "Int64"})


def _check(run: Dynamics, curves: xr.DataArray) -> None:
    result.check(curves)
    if curves.dims != result.CORE_DIMS:
        raise ValueError(
            f"`curves` must have the dims (time, query, train), got {curves.dims}; select one "
            "value of the others with .sel(...)."
        )
    same = np.allclose(curves.flow_time, run.flow_time(curves.time.values), rtol=1e-6, atol=0)
    known = {*curves["query"].values.tolist(), *curves["train"].values.tolist()} <= {*run.items}
    if not (known and (same or np.isnan(curves.flow_time.values).all())):
        raise ValueError("`curves` are not of this run: its items or flow times are others.")


def _planes(curves: xr.DataArray) -> Iterator[tuple[int, FloatArray]]:
    """Yield the position of the first of a few times, and their values; whole chunks of a store."""
    size = curves.sizes["query"] * curves.sizes["train"]
    length = max(1, READ_NUMBERS // size)
    chunk = (curves.encoding.get("preferred_chunks") or {}).get("time", 1)
    length = max(1, length // chunk) * chunk
    for first in range(0, curves.sizes["time"], length):
        yield first, curves.isel(time=slice(first, first + length)).values


class _Best:
    """Largest value of every item over time, with its time and, where it has one, partner."""

    def __init__(self, count: int) -> None:
        self.value = np.full(count, -np.inf)
        self.at, self.partner = np.zeros((2, count), dtype=np.int64)

    def add(self, at: int, values: FloatArray, partner: IntArray | None = None) -> None:
        better = values > self.value
        self.value[better], self.at[better] = values[better], at
        if partner is not None:
            self.partner[better] = partner[better]


class _Pairs:
    """The pairs with the largest positive values over time, each once, in descending order.

    Its largest value is among the largest of its own time, so that nothing else is kept.
    """

    def __init__(self, count: int, width: int) -> None:
        self.count, self.width = count, width
        self.value, self.at, self.pair = np.zeros(0), *np.zeros((2, 0), dtype=np.int64)

    def add(self, at: int, values: FloatArray, sign: int) -> None:
        least = (1 - SAME_RTOL) * self.value[-1] if len(self.value) == self.count else 0.0
        pair = np.flatnonzero(values > least if sign > 0 else values < -least)
        found = sign * values[pair]
        if len(pair) > self.count:
            least = np.partition(found, len(pair) - self.count)[-self.count]
            kept = found >= (1 - SAME_RTOL) * least
            pair, found = pair[kept], found[kept]
        value = np.concatenate([self.value, found])
        when = np.concatenate([self.at, np.full(len(pair), at)])
        pair = np.concatenate([self.pair, pair])
        rounded = np.round(value / (SAME_RTOL * value.max(initial=0.0) or 1.0))
        order = np.lexsort((pair // self.width, pair % self.width, -rounded))
        _, first = np.unique(pair[order], return_index=True)
        kept = order[np.sort(first)][: self.count]
        self.value, self.at, self.pair = value[kept], when[kept], pair[kept]


class _Extremes:
    """What is kept while times pass: extremes of every item, and the largest pairs."""

    def __init__(self, curves: xr.DataArray, pairs: int) -> None:
        self.curves = curves
        self.names = tuple(curves[dim].values for dim in ("query", "train"))
        _, *self.same = np.intersect1d(*self.names, return_indices=True)
        sides = [side for side in LISTS.values() if side[1] is not None]
        self.sums = {(sign, axis): _Best(len(self.names[1 - axis])) for sign, axis in sides}
        self.single = {(sign, axis): _Best(len(self.names[1 - axis])) for sign, axis in sides}
        self.pairs = {sign: _Pairs(pairs, len(self.names[1])) for sign in (-1, 1)}

    def add(self, first: int, values: FloatArray) -> None:
        """Take in consecutive times, shape (T, query, train)."""
        for at, values_at in enumerate(values, start=first):
            plane = values_at.copy()
            plane[tuple(self.same)] = 0.0
            for sign, axis in self.sums:
                partner = plane.argmax(axis=axis) if sign > 0 else plane.argmin(axis=axis)
                largest = np.take_along_axis(plane, np.expand_dims(partner, axis), axis)
                self.sums[sign, axis].add(at, sign * plane.sum(axis=axis))
                self.single[sign, axis].add(at, sign * largest.ravel(), partner)
            for sign, pairs in self.pairs.items():
                pairs.add(at, plane.ravel(), sign)

    def _row(self, at: int, value: float, query: int | None, train: int | None) -> dict[str, Any]:
        """Name what is found at a time; a sum has no name."""
        names = zip(("query", "train"), self.names, (query, train), strict=True)
        row: dict[str, Any] = {
            dim: None if place is None else str(known[place]) for dim, known, place in names
        }
        when = {n: self.curves[n].values[at].item() for n in ("time", "flow_time")}
        return row | {"value": value, "step": when["time"], "flow_time": when["flow_time"]}

    def item_rows(self, sign: int, axis: int) -> list[dict[str, Any]]:
        """Return all items by their sum over an axis, the largest first."""
        sums, single = self.sums[sign, axis], self.single[sign, axis]
        largest = max(self.sums[side, axis].value.max() for side in (-1, 1))
        order = np.argsort(-np.round(sums.value / (SAME_RTOL * largest or 1.0)), kind="stable")
        rows = []
        for item in order[sums.value[order] > SMALLEST * largest]:
            place = (None, item) if axis == 0 else (item, None)
            row = self._row(sums.at[item], float(sign * sums.value[item]), *place)
            row |= {
                "strongest": str(self.names[axis][single.partner[item]]),
                "strongest_value": float(sign * single.value[item]),
                "strongest_step": self.curves["time"].values[single.at[item]].item(),
            }
            rows.append(row)
        return rows

    def pair_rows(self, sign: int) -> list[dict[str, Any]]:
        """Return pairs, the largest first; one row for both directions where they are the same."""
        pairs = self.pairs[sign]
        largest = max(side.value.max(initial=0.0) for side in self.pairs.values())
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for value, at, pair in zip(pairs.value, pairs.at, pairs.pair, strict=True):
            row = self._row(at, float(sign * value), *divmod(pair, len(self.names[1])))
            row["mutual"] = self._mutual(at, row)
            twin = (row["train"], row["query"])
            if value > SMALLEST * largest and not (row["mutual"] and twin in rows):
                rows[twin[::-1]] = row
        return list(rows.values())

    def _mutual(self, at: int, row: dict[str, Any]) -> bool:
        places = [
            np.flatnonzero(known == row[other])
            for known, other in zip(self.names, ("train", "query"), strict=True)
        ]
        if not all(map(len, places)):
            return False
        other = self.curves.isel(time=int(at), query=places[0][0], train=places[1][0]).values
        return bool(np.isclose(other, row["value"], rtol=SAME_RTOL, atol=0))


class _Explained:
    """Which mode carries a row, in the closed form."""

    def __init__(self, run: Dynamics, curves: xr.DataArray) -> None:
        self.run, self.curves = run, curves
        about = curves.attrs
        self.known = about["estimator"] == "analytic" and about["response"] == "correlation"
        self.names = Distinctions(run.task) if self.known else None
        self.positions = {name: k for k, name in enumerate(run.items)}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.names is None:
            return {}
        places = [self._places(row, dim) for dim in ("query", "train")]
        pairs = np.array([(q, i) for q in places[0] for i in places[1] if q != i]).T
        parts = mode_contributions(
            self.run.task,
            np.full(pairs.shape[1], row["flow_time"]),
            *pairs,
            a0=self.curves.attrs["a0"],
            depth=self.run.depth,
        ).sum(axis=0)
        shares = parts / parts.sum()
        mode = int(np.argmax(np.round(shares / SAME_RTOL)))
        first, other = (row[dim] or row["strongest"] for dim in ("train", "query"))
        if row["train"] is None:  # what a query is told apart by, along its own direction
            first, other = other, first
        words = self.names.between(mode, self.positions[first], self.positions[other])
        return {"mode": mode + 1, "distinction": words, "share": float(shares[mode])}

    def _places(self, row: dict[str, Any], dim: str) -> list[int]:
        names = self.curves[dim].values.tolist() if row[dim] is None else [row[dim]]
        return [self.positions[name] for name in names]
