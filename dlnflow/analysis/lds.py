"""Linear datamodelling score: how well sums of influence rank what random subsets do to a loss."""

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, result
from dlnflow._support import FloatArray, IntArray
from dlnflow._support.progress import Progress
from dlnflow.dynamics import Dynamics
from dlnflow.influence import ESTIMATORS

Names = str | Sequence[str] | None
SUBSETS = 100
"""Most subsets that are drawn where no number is given."""
BOOTSTRAPS = 200
TIED = 1e-9
"""Values count as equal within this share of their range,"""
ROUNDING = 1e-13
"""or of their size."""


def lds(
    run: Dynamics,
    estimators: str | xr.DataArray | Sequence[str | xr.DataArray],
    steps: ArrayLike | None = None,
    *,
    subsets: int | None = None,
    fraction: float = 0.5,
    seed: int = 0,
    query: Names = None,
    train: Names = None,
) -> xr.Dataset:
    """Linear datamodelling score of estimators over training, against retraining on subsets.

    score[t, q] = Spearman over subsets S of ( sum_{i in S} K[t, q, i], l_q(theta_t trained on S) )

    where w_i = 1 for the items of S and 0 for the others. With the sign of K, 1 is a perfect
    ranking. Summing over the removed items with the opposite sign changes the sum by a constant
    and the score not at all. All retrainings are one batch of `run.losses`.

    The loss of an item depends on nothing as much as on whether it is in S itself, so that an
    influence that is -1 of every item on itself and 0 otherwise scores high. ``others`` therefore
    ranks only the subsets that keep q; for a query that is not drawn from it is the score itself.

    Parameters
    ----------
    run : Run or TorchRun
    estimators : str, DataArray or sequence of these
        Names in `dlnflow.ESTIMATORS`, at their defaults, or influence results of this run, with
        any leading dims if it is a single one. Where time is the step of a change (`windowed`,
        `per_step`), the score holds it to retraining for the whole run, which is another question.
    steps : sequence of int, optional
        Default: those of the first result given, else the run's grid.
    subsets : int, optional
        How many different subsets, at least 3. Default: 100, or as many as there are.
    fraction : float
        Share of the items that every subset keeps, rounded to whole items, in (0, 1).
    seed : int
        Seed of the subsets and of the bootstrap.
    query, train : item names, optional
        `train` are the items that subsets are drawn from; the others are always kept. Default:
        those of the first result given, else all.

    Returns
    -------
    xarray.Dataset
        ``score`` and ``others``, dims (*leading, time, query), with leading "estimator" unless a
        single result was given; ``lds`` and ``lds_others``, dims (*leading, time), their means over
        the queries that have one; and each of the four with ``_error``, the standard deviation over
        200 bootstrap draws of the subsets, which does not hold what other items or seeds would
        change. NaN where all losses or all sums agree, as at step 0. ``attrs`` have subsets, kept
        (items per subset), train_items and seed.

    Raises
    ------
    TypeError
        If `run` is no run or an estimator is neither a name nor an influence result.
    ValueError
        If a name, step or option is invalid, or a result lacks steps or items.
    dlnflow.DivergenceError
        If the training on a subset diverges.

    References
    ----------
    Park et al. 2023, "TRAK: Attributing model behavior at scale", section 2.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> found = lds(run, ["closed_form_loo", "tracin"], [400, 800], subsets=40)
    >>> found.lds.dims, bool((found.lds_others[0] > found.lds_others[1]).all())
    (('estimator', 'time'), True)
    """
    if not isinstance(run, Dynamics):
        raise TypeError(f"`run` must be a dlnflow.Run, got {type(run).__name__}.")
    given = [estimators] if isinstance(estimators, str | xr.DataArray) else list(estimators)
    on = _grid(run, given, steps, query, train)
    seed = checks.whole_number("seed", seed)
    generator = np.random.default_rng(seed)
    kept = _subsets(len(on["train"]), subsets, fraction, generator)
    curves = [_curve(run, one, on) for one in given]
    influence = curves[0] if isinstance(estimators, xr.DataArray) else result.stack(*curves)
    weights = np.ones((len(kept), len(run.items)))
    weights[:, checks.positions("train", on["train"], run.items)] = kept
    measured = checks.positions("query", on["query"], run.queries)
    truth = np.moveaxis(run.losses(on["time"], weights, query=measured), 0, -1)
    predicted = influence.values @ kept.T  # (..., T, n_query, subsets)
    draws = generator.multinomial(len(kept), np.full(len(kept), 1 / len(kept)), BOOTSTRAPS)
    draws = np.vstack([np.ones(len(kept)), draws])
    with_own = [_own(name, on["train"], kept) for name in on["query"]]
    found = {
        "score": _scores(predicted, truth, draws, [np.ones(len(kept))] * len(measured)),
        "others": _scores(predicted, truth, draws, with_own),
    }
    attrs = {"subsets": len(kept), "kept": int(kept[0].sum())}
    return _labelled(influence, found).assign_attrs(
        attrs | {"train_items": len(on["train"]), "seed": seed}
    )


def _grid(
    run: Dynamics,
    given: Sequence[str | xr.DataArray],
    steps: ArrayLike | None,
    query: Names,
    train: Names,
) -> dict[str, list]:
    """Labels of every dim; what is not given comes from the first result, else from the run."""
    if not given:
        raise ValueError("`estimators` must name at least one estimator.")
    for one in given:
        if isinstance(one, str):
            ESTIMATORS[checks.one_of("estimators", one, list(ESTIMATORS))].require(run)
        elif not isinstance(one, xr.DataArray):
            raise TypeError(
                f"`estimators` must hold names or influence results, got {type(one).__name__}."
            )
    first = next((result.check(one) for one in given if isinstance(one, xr.DataArray)), None)
    if first is not None:
        steps = first.time.values if steps is None else steps
        query = first["query"].values.tolist() if query is None else query
        train = first["train"].values.tolist() if train is None else train
    steps = run.grid() if steps is None else checks.recorded_steps(steps, run.n_steps)
    queries = checks.positions("query", query, run.queries)
    items = checks.positions("train", train, run.items)
    return {
        "time": np.asarray(steps).tolist(),
        "query": [run.queries[k] for k in queries],
        "train": [run.items[k] for k in items],
    }


def _curve(run: Dynamics, one: str | xr.DataArray, on: dict[str, list]) -> xr.DataArray:
    """Compute an estimator, or select these steps and items of a result that has them."""
    if isinstance(one, str):
        return ESTIMATORS[one](run, on["time"], query=on["query"], train=on["train"])
    for dim, wanted in on.items():
        missing = set(wanted) - set(result.check(one)[dim].values.tolist())
        if missing:
            raise ValueError(
                f"the result of {one.attrs.get('estimator')!r} lacks {len(missing)} of "
                f"{len(wanted)} labels on `{dim}`, one is {min(missing)!r}. Compute it for the "
                "same steps and items."
            )
    return one.sel(on)


def _subsets(
    n_items: int, subsets: int | None, fraction: float, generator: np.random.Generator
) -> IntArray:
    """Different subsets of one size, as rows of 0 and 1; shape (subsets, n_items)."""
    fraction = checks.positive("fraction", fraction)
    size = round(fraction * n_items)
    if not 0 < size < n_items:
        raise ValueError(
            f"`fraction` {fraction:g} of {n_items} items keeps {size} of them; between 1 and "
            f"{n_items - 1} must stay, so choose e.g. 0.5."
        )
    most = math.comb(n_items, size)
    count = min(SUBSETS, most) if subsets is None else checks.positive_integer("subsets", subsets)
    if not 3 <= count <= most:
        raise ValueError(
            f"`subsets` must lie in [3, {most}]: there are {most} different subsets of {size} of "
            f"{n_items} items; got {count}."
        )
    found: set[tuple[int, ...]] = set()
    rows = []
    while len(rows) < count:
        chosen = tuple(sorted(generator.choice(n_items, size, replace=False).tolist()))
        if chosen not in found:
            found.add(chosen)
            rows.append(np.isin(np.arange(n_items), chosen))
    return np.array(rows, dtype=np.int64)


def _own(query: str, train: list[str], kept: IntArray) -> IntArray:
    """Whether subsets keep the query, (S,); all of them do if it is not drawn from."""
    return kept[:, train.index(query)] if query in train else np.ones(len(kept), dtype=np.int64)


def _scores(
    predicted: FloatArray, truth: FloatArray, draws: FloatArray, among: Sequence[IntArray]
) -> FloatArray:
    """Spearman of (..., T, Q, S) and (T, Q, S) for multiplicities (D, S) within among[q]."""
    found = np.empty((*predicted.shape[:-1], len(draws)))
    with Progress(math.prod(truth.shape[:-1]), "ranking subsets") as progress:
        for place in np.ndindex(truth.shape[:-1]):
            times = draws * among[place[-1]]
            expected = _ranks(truth[place], times)
            for before in np.ndindex(predicted.shape[: -truth.ndim]):
                here = before + place
                found[here] = _pearson(_ranks(predicted[here], times), expected, times)
            progress.advance()
    return found


def _mean(values: FloatArray, axis: int) -> FloatArray:
    """Mean of what is finite; NaN where nothing is."""
    counted = np.isfinite(values)
    number = counted.sum(axis)
    total = np.where(counted, values, 0.0).sum(axis)
    return np.where(number, total / np.where(number, number, 1), np.nan)


def _ranks(values: FloatArray, draws: FloatArray) -> FloatArray:
    """Ranks of values (S,) that occur so many times, up to a constant; shape (D, S)."""
    if not np.all(np.isfinite(values)):
        return np.full(draws.shape, np.nan)
    difference = values[:, None] - values
    limit = max(TIED * np.ptp(values), ROUNDING * np.abs(values).max())
    below = np.where(np.abs(difference) <= limit, 0.5, difference > 0)
    return draws @ below.T


def _pearson(a: FloatArray, b: FloatArray, draws: FloatArray) -> FloatArray:
    """Correlation of rows (D, S) whose entries occur so many times; NaN for a constant one."""
    total = np.maximum(draws.sum(1, keepdims=True), 1)
    a, b = (part - (draws * part).sum(1, keepdims=True) / total for part in (a, b))
    covariance, va, vb = ((draws * part).sum(1) for part in (a * b, a * a, b * b))
    scale = np.sqrt(va * vb)
    # Ranks are multiples of 1/2, so what is below this is rounding of their mean.
    known = scale > 1e-6
    return np.where(known, covariance / np.where(known, scale, 1.0), np.nan)


def _labelled(influence: xr.DataArray, found: dict[str, FloatArray]) -> xr.Dataset:
    """Scores (..., T, Q, D) as a dataset; the first draw is the sample itself."""
    variables = {}
    for name, mean in (("score", "lds"), ("others", "lds_others")):
        variables[name] = influence.dims[:-1], found[name]
        variables[mean] = influence.dims[:-2], _mean(found[name], -2)
    parts = {name: (dims, values[..., 0]) for name, (dims, values) in variables.items()}
    errors = {f"{name}_error": (d, _spread(values)) for name, (d, values) in variables.items()}
    kept = (*influence.dims[:-1], "flow_time")
    return xr.Dataset(parts | errors, {name: influence[name] for name in kept})


def _spread(values: FloatArray) -> FloatArray:
    """Standard deviation of all draws but the first; NaN where the sample has no value."""
    known = np.isfinite(values[..., 0])
    draws = np.where(known[..., None], values[..., 1:], 0.0)
    return np.where(known, np.nanstd(draws, axis=-1), np.nan)
