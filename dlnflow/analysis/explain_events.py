"""Which distinction of the data every peak, trough and sign flip belongs to.

The closed form is a sum over pairs of modes (docs/derivations/perturbation.md), so that every
value of a curve is a sum of contributions of single modes, half of each pair to either of its two.
A mode is a distinct singular value: a block of equal ones enters through its projectors only, and
nothing here depends on the choice of singular vectors inside it.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, influence, result
from dlnflow._support import FloatArray, IntArray, each
from dlnflow.analysis.compare import compare
from dlnflow.analysis.distinctions import Distinctions
from dlnflow.analysis.events import events
from dlnflow.dynamics import Dynamics
from dlnflow.influence import closed_form
from dlnflow.influence.estimator import Items, title
from dlnflow.task import Task
from dlnflow.theory.low_rank import chunks
from dlnflow.theory.perturbation import divided_differences
from dlnflow.theory.saxe import half_time, mode_strength_derivatives

APPROXIMATED = (
    "Modes are those of the closed form: aligned modes of one initial strength, and only the "
    "input-output correlation reweighted. Half of each pair of modes goes to either of the two; "
    "a pair of a mode and the null space goes to the mode."
)
NO_EVENT = "no such event in the closed form"
SMALLEST_SHARE = 0.1
"""A mode beyond the first is listed with an extremum if it carries this much of it."""
ROUNDING = 1e-9
"""Shares that differ by less are equal, so that rounding orders nothing."""
PIECE_NUMBERS = 2**21
"""Products of loadings that are held at once."""
EVALUATIONS, MOST_TIMES = 2**26, 1024
"""Entries of coefficient matrices that are computed, and times at which they are."""


def explain_events(
    run: Dynamics,
    curves: xr.DataArray | None = None,
    *,
    leading: int = 2,
    a0: float | None = None,
    query: Items = None,
    train: Items = None,
) -> pd.DataFrame:
    """Name the modes that carry every peak, trough and sign flip of influence curves.

    K_qi = - sum_ab A_ab(t) P_a o P_b / c is split into contributions C_a of modes,

        C_a = - P_a o (sum_b A_ab P_b) / c  (and the part with the null space),  sum_a C_a = K.

    At an extremum the share of a mode is C_a / K; shares sum to 1, and a mode that pushes the other
    way has a negative one. At a sign flip contributions cancel: the mode that pushes hardest in
    the direction of before and the one that pushes hardest in that of after are named, each with
    its share of what pushes that way.

    Parameters
    ----------
    run : Run
        One that `analytic` takes: whitened inputs, an optimizer with a flow time.
    curves : xarray.DataArray, optional
        Influence of any estimator, or several stacked, on this run. Default: `analytic` at
        the run's own grid. Each event belongs to the event of the closed form of the same pair,
        kind and sign that is nearest to it in flow time, if it is also the nearest to that one.
    leading : int
        Most modes that are listed with an extremum.
    a0 : float, optional
        Initial strength of every mode, as for `analytic`.
    query, train : item names, optional
        Default: all. For the default curves only; given curves have their own.

    Returns
    -------
    pandas.DataFrame
        One row per event and leading mode, in the order of `events`. Columns: leading dims,
        ``query``, ``train``, ``kind``, ``step``, ``flow_time``, ``value``, ``sign`` as in `events`;

        ``mode``
            1 for the largest distinct singular value, 2 for the next; missing without an event.
        ``distinction``
            What of the data the mode tells apart: items on the side of the train item first.
        ``share``
            See above.
        ``fidelity``
            1 - |K - K_closed| / |K|, of the heights of both events; of a flip: of the distance
            between the largest values on both sides. 1 for the closed form, negative if it is off
            by more than the curve's own size (sampled influence has another scale).
        ``correlation``
            Pearson correlation of the curve with the closed form over the recorded steps.
        ``offset``
            Flow time of the event minus that of the closed form.
        ``role``
            "carries"; of a flip "before" and "after"; "none" without an event.
        ``event``
            Number of the event: rows of one event share it.

        ``attrs``: ``approximated``, ``a0``, ``singular_values``, ``half_times`` (flow time at which
        each mode is half learned) and ``time_shift``, by how much flow times were moved so that
        coefficients are needed at few times (0 for few modes).

    Raises
    ------
    TypeError, ValueError
        If `analytic` does not take the run, or `curves` are not influence curves of it.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3)
    >>> table = explain_events(run, query="cat", train="dog")
    >>> table[["kind", "mode", "share", "distinction"]].round(2).values.tolist()[0]
    ['trough', 1, 0.74, 'all items; features: living']
    >>> event_sentences(table)[2].split(": ")[0]
    'Dog harms cat most at step 1460'
    """
    leading = checks.positive_integer("leading", leading)
    if curves is None:
        closed = curves = influence.analytic(run, a0=a0, query=query, train=train)
    else:
        closed = _closed_form(run, curves, a0, (query, train))
    table = _matched(_sized_events(curves), _sized_events(closed))
    keys = [*curves.dims[:-3], "query", "train"]
    pearson = compare(curves, reference=closed)[[*keys, "pearson"]]
    table = table.merge(pearson.rename(columns={"pearson": "correlation"}), on=keys, how="left")
    table, shift = _with_modes(table, run, closed.attrs["a0"], leading)
    order = [*keys, "kind", "step", "flow_time", "value", "sign"]
    order += ["mode", "distinction", "share"]
    table = table[[*order, "fidelity", "correlation", "offset", "role", "event"]]
    table.attrs = {
        "approximated": APPROXIMATED,
        "estimator": str(curves.attrs["estimator"]),
        "a0": closed.attrs["a0"],
        "singular_values": run.task.modes.distinct.tolist(),
        "half_times": half_time(
            run.task.modes.distinct, closed.attrs["a0"], depth=run.depth
        ).tolist(),
        "time_shift": shift,
    }
    return table


def _closed_form(
    run: Dynamics, curves: xr.DataArray, a0: float | None, chosen: tuple[Items, Items]
) -> xr.DataArray:
    """Curves of the closed form on the grid of given curves, which must be those of the run."""
    influence.analytic.record.require(run)
    result.check(curves)
    if any(names is not None for names in chosen):
        raise ValueError("`query` and `train` are those of `curves`; leave them out.")
    items = {name: curves[name].values.tolist() for name in ("query", "train")}
    closed = influence.analytic(run, curves.time.values, a0=a0, **items)
    if not np.allclose(curves.flow_time, closed.flow_time, rtol=1e-6, atol=0):
        raise ValueError(
            "`curves` are not of this run: its steps have other flow times. Give the run that "
            "they were computed from."
        )
    return closed


def _sized_events(curves: xr.DataArray) -> pd.DataFrame:
    """Events with ``size``: the value of an extremum, the distance that a flip passes through."""
    table = events(curves)
    keys = [*curves.dims[:-3], "train", "query"]
    table["size"] = table["value"]
    rows = np.abs(curves.transpose(*keys, "time").values).reshape(-1, curves.sizes["time"])
    flips = np.flatnonzero(table["kind"] == "sign_flip")
    places = [pd.Index(curves[key].values).get_indexer(table[key].iloc[flips]) for key in keys]
    row = np.ravel_multi_index(places, [curves.sizes[key] for key in keys])
    after = np.searchsorted(curves.time.values, table["step"].iloc[flips])
    # Largest value before, between and after the flips of every curve that has some.
    own, first = np.unique(row, return_index=True)
    offset = np.searchsorted(own, row) * rows.shape[1]
    starts = np.insert(offset + after, first, offset[first])
    if len(flips):
        largest = np.maximum.reduceat(rows[own].ravel(), starts)
        place = np.arange(len(flips)) + np.searchsorted(own, row) + 1  # one more start per curve
        table.loc[flips, "size"] = largest[place] + largest[place - 1]
    return table.drop(columns=["prominence", "floor"])


def _matched(table: pd.DataFrame, closed: pd.DataFrame) -> pd.DataFrame:
    """Events with ``closed_time``, ``offset`` and ``fidelity``, NaN without an own partner."""
    by = ["query", "train", "kind", "sign"]
    dims = list(table.columns[: table.columns.get_loc("train")])
    table["event"] = np.arange(len(table))
    closed = closed.assign(closed=np.arange(len(closed)), closed_time=closed["flow_time"])
    closed = closed.sort_values("flow_time", kind="stable")
    groups = table.groupby(dims, sort=False) if dims else [((), table)]
    parts = [_nearest(part, closed, by) for _, part in groups]
    partner = pd.concat(parts) if parts else _nearest(table, closed, by)
    table = table.merge(partner, on="event", how="left")
    table["offset"] = table["flow_time"] - table["closed_time"]
    table["fidelity"] = 1 - (table["size"] - table["closed_size"]).abs() / table["size"].abs()
    return table


def _nearest(part: pd.DataFrame, closed: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Columns event, closed_time and closed_size of the events that have a partner."""
    part = part.sort_values("flow_time", kind="stable")
    own, other = part[[*by, "flow_time", "event"]], closed[[*by, "flow_time", "closed"]]
    options = {"on": "flow_time", "by": by, "direction": "nearest"}
    forth = pd.merge_asof(own, other, **options).dropna(subset="closed")
    back = pd.merge_asof(other, own, **options).dropna(subset="event")
    mutual = forth[["event", "closed"]].astype(int).merge(back[["event", "closed"]].astype(int))
    sizes = closed[["closed", "closed_time", "size"]].rename(columns={"size": "closed_size"})
    return mutual.merge(sizes, on="closed").drop(columns="closed")


def _with_modes(
    table: pd.DataFrame, run: Dynamics, a0: float, leading: int
) -> tuple[pd.DataFrame, float]:
    """One row per event and leading mode, and the largest shift of a time."""
    task = run.task
    known = table["closed_time"].notna().to_numpy()
    times, shift = _few_times(table.loc[known, "closed_time"].to_numpy(), len(task.modes.blocks))
    query, train = (
        pd.Index(task.items).get_indexer(table.loc[known, column]) for column in ("query", "train")
    )
    parts = mode_contributions(task, times, query, train, a0=a0, depth=run.depth)
    flip = (table.loc[known, "kind"] == "sign_flip").to_numpy()
    sign = table.loc[known, "sign"].to_numpy()[flip]
    chosen = [
        (np.flatnonzero(~flip)[row], mode, share, "carries")
        for row, mode, share in [_leading_modes(parts[~flip], leading)]
    ]
    for role, side in (("before", -sign), ("after", sign)):
        chosen.append((np.flatnonzero(flip), *_pushing_mode(parts[flip], side), role))
    place, mode, share = (np.concatenate(column) for column in list(zip(*chosen, strict=True))[:3])
    names = Distinctions(task)
    whose = zip(mode.tolist(), train[place].tolist(), query[place].tolist(), strict=True)
    listed = pd.DataFrame(
        {
            "event": np.flatnonzero(known)[place],
            "mode": mode + 1,
            "distinction": [names.between(*one) for one in whose],
            "share": share,
            "role": np.repeat([role for *_, role in chosen], [len(one[0]) for one in chosen]),
        }
    ).astype({"mode": "Int64", "distinction": object, "role": object})
    listed = table[["event"]].merge(listed.sort_values("event", kind="stable"), how="left")
    listed = listed.fillna({"distinction": NO_EVENT, "role": "none"})
    return table.merge(listed, on="event").reset_index(drop=True), shift


def _few_times(times: FloatArray, modes: int) -> tuple[FloatArray, float]:
    """Times moved to the nearest of so few that coefficients cost little, and the largest move."""
    count = int(np.clip(EVALUATIONS // modes**2, 16, MOST_TIMES))
    distinct = np.unique(times)
    if len(distinct) <= count:
        return times, 0.0
    ranks = np.linspace(0, len(distinct) - 1, count // 2).round().astype(int)
    even = np.linspace(distinct[0], distinct[-1], count // 2)[1:-1]
    kept = np.unique([*distinct[ranks], *even])  # where events are dense, and never far from one
    middle = (kept[1:] + kept[:-1]) / 2
    moved = kept[np.searchsorted(middle, times)]
    return moved, float(np.abs(moved - times).max())


def _leading_modes(parts: FloatArray, leading: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Rows, modes and shares: the modes with the largest shares of extrema (E, m)."""
    shares = parts / parts.sum(axis=1, keepdims=True)
    order = np.argsort(-np.round(shares / ROUNDING), axis=1, kind="stable")[:, :leading]
    largest = np.take_along_axis(shares, order, axis=1)
    kept = largest >= SMALLEST_SHARE
    kept[:, 0] = True
    return np.nonzero(kept)[0], order[kept], largest[kept]


def _pushing_mode(parts: FloatArray, sign: FloatArray) -> tuple[IntArray, FloatArray]:
    """Return the modes (E,) that push flips (E, m) hardest to one side, and their shares of it."""
    size, side = np.abs(parts).max(axis=1, keepdims=True), sign[:, None] * parts
    # One mode alone can change sign; rounding then leaves nothing on one side.
    side = np.where(side.max(axis=1, keepdims=True) > 0, side, np.abs(parts))
    mode = np.argmax(np.round(side / (ROUNDING * size)), axis=1)
    return mode, side[np.arange(len(side)), mode] / np.maximum(side, 0).sum(axis=1)


def mode_contributions(
    task: Task, times: ArrayLike, query: ArrayLike, train: ArrayLike, *, a0: float, depth: int = 2
) -> FloatArray:
    """Contribution of every mode to the closed form of K_qi(t), one value of K per row.

    Linear targets (Y = S X), with g = s - a the gap and P_0 the null space,

        C_a = - P_a o (sum_b A_ab P_b + g_a a_a P_0) / c,

    else the same split of the general form: half of each pair of modes to either, all of a term
    that has one mode to that one.

    Parameters
    ----------
    task : Task
        Whitened inputs.
    times : array, shape (E,)
        Flow times.
    query, train : arrays of int, shape (E,)
        Positions of items.
    a0 : float
        Initial strength of every mode.
    depth : int
        Number of weight matrices.

    Returns
    -------
    array, shape (E, m)
        m distinct singular values, descending; rows sum to K of `analytic`.

    Examples
    --------
    >>> import dlnflow as dln
    >>> task = dln.semantic_hierarchy()
    >>> parts = mode_contributions(task, [1.5], [1], [0], a0=1e-4)
    >>> parts.round(2).tolist()
    [[-0.35, -0.25, -0.19, 0.19]]
    """
    times, query, train = np.asarray(times), np.asarray(query), np.asarray(train)
    parts = np.empty((len(times), len(task.modes.blocks)))
    if not len(times):
        return parts
    needed = np.unique([query, train])
    items = closed_form.Items(task, needed)
    pairs = (np.searchsorted(needed, query), np.searchsorted(needed, train))
    at_time = _linear_parts if closed_form.linear(task) else _general_parts
    length = PIECE_NUMBERS // task.modes.rank
    order = np.argsort(times, kind="stable")
    starts = np.flatnonzero(np.diff(times[order], prepend=np.nan))
    for rows in each(np.split(order, starts[1:]), "naming the modes of events"):
        of_pairs = at_time(items, times[rows[0]], a0, depth)
        for piece in chunks(len(rows), length):
            some = rows[piece]
            parts[some] = of_pairs(pairs[0][some], pairs[1][some])
    parts /= -task.whitening
    return parts


Parts = Callable[[IntArray, IntArray], FloatArray]


def _linear_parts(items: closed_form.Items, t: float, a0: float, depth: int) -> Parts:
    """Contributions, times -c, of pairs of items at one time where Y = S X."""
    modes = items.task.modes
    matrix = closed_form.coefficients(modes.distinct, t, a0, depth, null=False)
    strength = mode_strength_derivatives(t, modes.distinct, a0, depth=depth)

    def of_pairs(query: IntArray, train: IntArray) -> FloatArray:
        shared = _by_block(items.x[query] * items.x[train], modes.blocks)
        inner = shared @ matrix
        if modes.rank < items.task.n_in:
            rest = _input_products(items, query, train) - shared.sum(axis=1)
            inner += rest[:, None] * (strength.gap * strength.a)
        return shared * inner

    return of_pairs


def _general_parts(items: closed_form.Items, t: float, a0: float, depth: int) -> Parts:
    """Return the same for any targets: the terms of `influence.closed_form`."""
    task, modes = items.task, items.task.modes
    gam, del_ = divided_differences(modes.distinct, t, a0, depth=depth)
    strength = mode_strength_derivatives(t, modes.distinct, a0, depth=depth)
    gain = strength.a / modes.distinct

    def of_pairs(query: IntArray, train: IntArray) -> FloatArray:
        x, y, other_x, other_y = items.x[query], items.y[query], items.x[train], items.y[train]
        xx, xy, yx, yy = (
            _by_block(first * second, modes.blocks)
            for first, second in ((x, other_x), (x, other_y), (y, other_x), (y, other_y))
        )
        ry, rx = yy - strength.a * xy, yx - strength.a * xx
        total = np.zeros_like(xx)
        for half, first, second in (((gam + del_) / 2, ry, xx), ((gam - del_) / 2, rx, xy)):
            total += (first * (second @ half) + second * (first @ half)) / 2
        rest_x = _input_products(items, query, train) - xx.sum(axis=1)
        rest_y = _products(task.y, items.chosen, query, train) - yy.sum(axis=1)
        return total + gain * (rest_y[:, None] * xx + rest_x[:, None] * ry)

    return of_pairs


def _by_block(products: FloatArray, blocks: Sequence[IntArray]) -> FloatArray:
    """Sums over the modes of every block, shape (E, m)."""
    return np.add.reduceat(products, [block[0] for block in blocks], axis=1)


def _input_products(items: closed_form.Items, query: IntArray, train: IntArray) -> FloatArray:
    """x_q . x_i; one-hot inputs are never written out."""
    if items.task.one_hot:
        return (query == train).astype(np.float64)
    return _products(items.task.x, items.chosen, query, train)


def _products(
    columns: FloatArray, chosen: IntArray, query: IntArray, train: IntArray
) -> FloatArray:
    """Dot products of columns of the chosen items, pair by pair."""
    return np.einsum("de,de->e", columns[:, chosen[query]], columns[:, chosen[train]])


WORDS = {
    ("peak", True): "{train} harms {query} most at step {step:.0f}",
    ("peak", False): "{train} helps {query} least at step {step:.0f}",
    ("trough", False): "{train} helps {query} most at step {step:.0f}",
    ("trough", True): "{train} harms {query} least at step {step:.0f}",
    ("sign_flip", True): "{train} stops helping {query} and begins to harm it at step {step:.0f}",
    ("sign_flip", False): "{train} stops harming {query} and begins to help it at step {step:.0f}",
}
"""By kind, and whether the value is positive, or is so after the flip."""


def event_sentences(table: pd.DataFrame, *, brief: bool = False) -> list[str]:
    """One sentence per event of a table of `explain_events`.

    Parameters
    ----------
    table : pandas.DataFrame
        All of it, or all rows of some events.
    brief : bool
        Name modes by their numbers only, and say nothing on other estimators.

    Returns
    -------
    list of str
        In the order of events. A curve of another estimator than the closed form has how far the
        two events are apart, and the fidelity, at the end.
    """
    estimator = str(table.attrs.get("estimator", "analytic"))
    events_ = groupby(table.to_dict("records"), key=lambda row: row["event"])
    return [_sentence(list(rows), estimator, brief) for _, rows in events_]


def _sentence(rows: list[dict], estimator: str, brief: bool) -> str:
    first = rows[0]
    text = WORDS[first["kind"], bool(first["sign"] > 0)].format(**first)
    text = text[0].upper() + text[1:]
    if pd.isna(first["mode"]):
        return f"{text}: {NO_EVENT}."
    kind = first["kind"]
    if brief:
        return f"{text}: {_brief(rows)}."
    carried = [f"mode {row['mode']} ({row['distinction']})" for row in rows]
    if kind == "sign_flip":
        before, after = ("helps", "harms") if first["sign"] > 0 else ("harms", "helps")
        text += f": it still {before} by {carried[0]} and {after} by {carried[-1]}"
    elif first["share"] > 1:
        text += f": {carried[0]} would make {first['share']:.1f} times this {kind}, others resist"
    else:
        shares = [f"{row['share']:.0%} of this {kind} is" for row in rows]
        text += ": " + ", ".join(map(" ".join, zip(shares, carried, strict=True)))
    if first.get("estimator", estimator) == "analytic":
        return f"{text}."
    when = "later" if first["offset"] < 0 else "earlier"
    apart = f"{abs(first['offset']):.2g} {when} in flow time"
    return f"{text} ({title('analytic')}: {apart}, fidelity {first['fidelity']:.2f})."


def _brief(rows: list[dict]) -> str:
    """Return modes by number, with their shares, or which gives way to which."""
    if rows[0]["kind"] == "sign_flip":
        return f"mode {rows[0]['mode']} gives way to mode {rows[-1]['mode']}"
    return ", ".join(f"mode {row['mode']} ({row['share']:.0%})" for row in rows)
