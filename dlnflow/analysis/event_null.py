"""How often events are found where there is nothing: in noise, and in shuffled targets."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy
import xarray as xr
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from dlnflow import checks, result
from dlnflow._support import FloatArray
from dlnflow._support.progress import each
from dlnflow.analysis.events import KINDS, events
from dlnflow.dynamics import Dynamics
from dlnflow.influence import ESTIMATORS

Names = str | Sequence[str] | None
LEVEL = 0.95
"""Probability of the intervals."""
SIGMAS = (1.0, 2.0, 3.0, 4.0, 5.0)
"""Floors for noise, in standard errors,"""
SHARES = (0.02, 0.05, 0.1, 0.2, 0.5)
"""and for shuffled targets, in shares of the largest |value| of the curve."""
DEFAULT = "default"


def event_null(
    influence: xr.DataArray,
    floors: ArrayLike = SIGMAS,
    *,
    curves: int = 1000,
    correlation: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Rate of events in curves of pure noise, as wide and as often recorded as these, per floor.

    A noise curve is

        K(t_k) = e(t_k) z_k,    z_k = r z_{k-1} + sqrt(1 - r^2) g_k,    g_k ~ N(0, 1),

    with e the standard errors of a curve drawn from `influence`, or 1 where it has none, and r the
    correlation of neighbouring times. Standard errors with nu degrees of freedom are themselves
    drawn, e sqrt(chi^2_nu / nu), and flips have to differ from zero as they say. What `events`
    finds in these curves is false; what it finds in `influence` beyond that rate is not noise.

    Parameters
    ----------
    influence : xarray.DataArray
        An influence result with at least three times; its values count for ``observed`` only.
    floors : sequence of float
        Multiples of the standard error (its root mean square over a curve). The default floor of
        `events` comes before them.
    curves : int
        How many are drawn.
    correlation : float
        r in [0, 1). 0 belongs to checkpoints that are sampled on their own.
    seed : int

    Returns
    -------
    pandas.DataFrame
        One row per floor and kind of event ("any" is one of the three): ``floor`` (0 = the default
        of `events`), ``unit``, ``kind``, ``share`` of the noise curves with at least one such
        event, ``low`` and ``high`` (95 %, Clopper-Pearson), ``per_curve`` (mean number), and
        ``observed``, the share of the pairs of different items in `influence` with the same floor;
        NaN for multiples of an error that it does not have.

    Raises
    ------
    TypeError
        If `influence` is no DataArray.
    ValueError
        If it is no influence result, has no pair of different items, or a number is out of range.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> found = event_null(dln.influence.tangent(run, run.grid(20)), [3.0], curves=200)
    >>> found[["floor", "kind"]].values.tolist()[3:5]
    [[0.0, 'any'], [3.0, 'peak']]
    """
    given = result.check(influence)
    if given.sizes["time"] < 3:
        raise ValueError("`influence` must have at least three times, or there are no events.")
    multiples = np.atleast_1d(checks.positive_array("floors", floors))
    curves = checks.positive_integer("curves", curves)
    generator = np.random.default_rng(checks.whole_number("seed", seed))
    noise = _noise(given, curves, _correlation(correlation), generator)
    sampled = "standard_error" in given.coords
    rows = []
    for multiple in (0.0, *multiples.tolist()):
        found = _counts(noise, multiple * _width(noise) if multiple else None)
        observed = {kind: np.nan for kind in found}
        if sampled or not multiple:
            observed = _rates(_counts(given, multiple * _width(given) if multiple else None))
        for kind, count in found.items():
            some = scipy.stats.binomtest(int((count > 0).sum()), curves).proportion_ci(LEVEL)
            share = float((count > 0).mean())
            unit = "standard errors" if multiple else DEFAULT
            about = (multiple, unit, kind, share, some.low, some.high)
            rows.append((*about, float(count.mean()), observed[kind]))
    return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = ("floor", "unit", "kind", "share", "low", "high", "per_curve", "observed")


def shuffled_event_null(
    run: Dynamics,
    estimator: str = "tangent",
    steps: ArrayLike | None = None,
    *,
    floors: ArrayLike = SHARES,
    shuffles: int = 10,
    seed: int = 0,
    query: Names = None,
    train: Names = None,
) -> pd.DataFrame:
    """Rate of events where items have nothing to do with each other: targets are shuffled.

    The run is repeated from the same weights on shuffled targets. For a linear network, and for a
    torch model with the loss "mse" and targets (N, d), every feature is permuted over the items on
    its own, which keeps how often it occurs and undoes what items share; for other losses the
    whole target is. An event that is as frequent there belongs to training, and not to the
    structure of these data.

    Parameters
    ----------
    run : Run or TorchRun
    estimator : str
        Name in `dlnflow.ESTIMATORS`, at its defaults.
    steps : sequence of int, optional
        Default: the run's grid.
    floors : sequence of float
        Shares of the largest |value| of the curve itself, in (0, 1). The default floor of `events`
        comes before them.
    shuffles : int
        How many, at least 2.
    seed : int
        Seed of the shuffles.
    query, train : item names, optional
        Default: all. Only pairs of different items count.

    Returns
    -------
    pandas.DataFrame
        As `event_null`, with one curve per pair: ``share`` is the mean over shuffles of the share
        of pairs. ``low`` and ``high`` come from the spread over shuffles (95 %, Student), since
        the curves of one run are not independent; if all shuffles agree, from the binomial law of
        that many. ``observed`` is the share in the run itself.

    Raises
    ------
    TypeError
        If `run` is no run.
    ValueError
        If a name or number is out of range, or there is no pair of different items.
    dlnflow.DivergenceError
        If a run diverges on shuffled targets.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> found = shuffled_event_null(run, steps=run.grid(40), floors=[0.2], shuffles=3)
    >>> found.columns.tolist() == list(COLUMNS), len(found)
    (True, 8)
    """
    chosen = ESTIMATORS[checks.one_of("estimator", estimator, list(ESTIMATORS))]
    chosen.require(run)
    shares = np.atleast_1d(checks.positive_array("floors", floors))
    if np.any(shares >= 1):
        raise ValueError(f"`floors` must be shares below 1, got {shares.max():g}.")
    count = checks.positive_integer("shuffles", shuffles)
    if count < 2:
        raise ValueError("`shuffles` must be at least 2, or their spread is not known.")
    seeds = np.random.default_rng(checks.whole_number("seed", seed)).spawn(count)
    steps = run.grid() if steps is None else checks.recorded_steps(steps, run.n_steps)

    def curves(one: Dynamics) -> xr.DataArray:
        return chosen(one, steps, query=query, train=train)

    real = curves(run)
    nulls = [curves(_shuffled(run, one)) for one in each(seeds, "running on shuffled targets")]
    rows = []
    for share in (0.0, *shares.tolist()):
        found = [_counts(one, share * _largest(one) if share else None) for one in nulls]
        observed = _rates(_counts(real, share * _largest(real) if share else None))
        unit = "share of largest" if share else DEFAULT
        for kind in found[0]:
            rates = np.array([_rates(one)[kind] for one in found])
            mean = float(np.mean([one[kind].mean() for one in found]))
            about = (share, unit, kind, float(rates.mean()), *_over_runs(rates))
            rows.append((*about, mean, observed[kind]))
    return pd.DataFrame(rows, columns=COLUMNS)


def _correlation(value: float) -> float:
    """Return a correlation in [0, 1); refuse another number."""
    value = checks.real_number("correlation", value)
    if not 0 <= value < 1:
        raise ValueError(f"`correlation` must lie in [0, 1), got {value:g}.")
    return value


def _noise(
    given: xr.DataArray, count: int, correlation: float, generator: np.random.Generator
) -> xr.DataArray:
    """Noise curves (time, curve, 1) as an influence result, with standard errors if `given` has."""
    shape = given.sizes["time"], count
    z = generator.standard_normal(shape)
    for k in range(1, len(z)):
        z[k] = correlation * z[k - 1] + np.sqrt(1 - correlation**2) * z[k]
    names = [f"noise{k}" for k in range(count)]
    coords: dict[str, FloatArray] = {}
    if "standard_error" in given.coords:
        at = generator.integers(np.prod(given.isel(time=0).shape), size=count)
        error = _of_curves(given.standard_error, given)[at].T
        dof = np.full(error.shape, np.inf)
        if "dof" in given.coords:
            dof = _of_curves(given.dof, given)[at].T
        known = np.isfinite(dof)
        chi = generator.chisquare(np.where(known, dof, 1.0)) / np.where(known, dof, 1.0)
        z = error * z
        coords = {"standard_error": error * np.where(known, np.sqrt(chi), 1.0), "dof": dof}
    noise = result.influence(
        z[..., None],
        given.time.values,
        names,
        ["none"],
        estimator="noise",
        flow_time=given.flow_time.values,
    )
    return noise.assign_coords({k: (noise.dims, v[..., None]) for k, v in coords.items()})


def _of_curves(coordinate: xr.DataArray, given: xr.DataArray) -> FloatArray:
    """A coordinate of all curves, shape (P, T)."""
    whole = coordinate.reset_coords(drop=True).broadcast_like(given.reset_coords(drop=True))
    return whole.transpose(..., "query", "train", "time").values.reshape(-1, given.sizes["time"])


def _width(curves: xr.DataArray) -> xr.DataArray:
    """Root mean square of the standard errors of every curve; 1 where there are none."""
    if "standard_error" in curves.coords:
        return np.sqrt((curves.standard_error.reset_coords(drop=True) ** 2).mean("time"))
    return xr.ones_like(curves.isel(time=0, drop=True).reset_coords(drop=True))


def _largest(curves: xr.DataArray) -> xr.DataArray:
    return np.abs(curves.reset_coords(drop=True)).max("time")


def _counts(curves: xr.DataArray, floor: xr.DataArray | None) -> dict[str, FloatArray]:
    """Number of events by kind, and of any, in every known curve of different items; each (P,)."""
    rows = curves.transpose(..., "query", "train", "time")
    different = (curves["query"] != curves["train"]).transpose("query", "train").values
    counted = (np.isfinite(rows.values).all(-1) & different).ravel()
    if not counted.any():
        raise ValueError("give at least one pair of different items, with known influence.")
    table = events(curves, floor)
    places = [pd.Index(rows[dim].values).get_indexer(table[dim]) for dim in rows.dims[:-1]]
    place = np.ravel_multi_index(places, rows.shape[:-1])
    kinds = table["kind"].values
    found = {
        kind: np.bincount(place[kinds == kind], minlength=len(counted))[counted] for kind in KINDS
    }
    return found | {"any": sum(found.values())}


def _rates(counts: dict[str, FloatArray]) -> dict[str, float]:
    """Share of curves with at least one event."""
    return {kind: float((count > 0).mean()) for kind, count in counts.items()}


def _over_runs(rates: FloatArray) -> tuple[float, float]:
    """Interval of the mean of shares of several runs."""
    spread = rates.std(ddof=1) / np.sqrt(len(rates))
    if spread == 0 and rates[0] in (0.0, 1.0):
        some = scipy.stats.binomtest(int(rates.sum()), len(rates)).proportion_ci(LEVEL)
        return float(some.low), float(some.high)
    half = stdtrit(len(rates) - 1, (1 + LEVEL) / 2) * spread
    return max(0.0, float(rates.mean() - half)), min(1.0, float(rates.mean() + half))


def _shuffled(run: Dynamics, generator: np.random.Generator) -> Dynamics:
    """The run on shuffled targets."""
    if run.linear:
        return run.with_targets(generator.permuted(run.task.y, axis=1))
    targets = run.data[1].detach().cpu().numpy()
    if run.loss == "mse" and targets.ndim == 2:
        return run.with_targets(generator.permuted(targets, axis=0))
    return run.with_targets(generator.permutation(targets, axis=0))
