"""Have the chains mixed? Error bars and verdicts from loss traces; numpy and xarray only.

With d = loss minus the chain's own mean and p = d_query d_train:

    ESS     effective sample size over all kept chains (autocorrelation and between-chain spread)
    R-hat   split R-hat; near 1 when every half of every chain has the same law
    floor   1 / sqrt(ESS): correlations smaller than this are noise

Verdict of a checkpoint, the first that applies:

    diverged    fewer than two chains are left (or one, if only one was run)
    not mixed   R-hat of a loss or of a squared deviation d^2 above 1.05, or a chain that never
                moves: all its losses are the same at every draw
    short       ESS of a loss or of a squared deviation below 200
    mixed

A chain has diverged if a loss is not finite, or if its mean loss at any draw exceeds that of the
checkpoint by 100 (max |checkpoint loss| + P / (2 n_beta)); the second term is the excess of a
regular model with P parameters. Losses may be negative (minus the log of a density).
Diverged chains are left out of everything here and named by `diverged`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft

from dlnflow._support import FloatArray
from dlnflow.traces.format import KeptSums, at, check_traces

R_HAT_LIMIT = 1.05
"""Above this, chains disagree."""
ESS_LIMIT = 200.0
"""Below this, error bars are themselves uncertain by more than 5 %."""
DRAWS_PER_DOF = 20.0
"""Effective draws per degree of freedom of an error sd / sqrt(ESS).

Measured on products of Gaussian series of known covariance as 2 mean(s^2)^2 / var(s^2): 15 to 20
for autocorrelations from 0.5 to 0.8, 1 to 16 chains and 200 to 1,000 draws; 10 for white noise.
"""
BLOCK = 256
"""Items that are judged at the same time."""
LOSS_BOUND = 100.0
"""Multiple of the expected scale of the loss beyond which a chain counts as diverged."""


def summary(traces: xr.DataArray | KeptSums) -> xr.Dataset:
    """Judge every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces, or their class sums.

    Returns
    -------
    Dataset
        Per time: `verdict` (text), `r_hat` (the largest over losses and products), `ess` (the
        smallest), `noise_floor` = 1/sqrt(ess), `n_diverged`, and `diverged_chains`, their numbers
        as text.

    Raises
    ------
    TypeError, ValueError
        If they are no loss traces.
    """
    if isinstance(traces, KeptSums):
        return judged(traces.mean_losses(), traces.judged())
    traces = check_traces(traces)
    found = list(map(_judged, checkpoints(traces)))
    return judged(traces, found)


class Judged(NamedTuple):
    """The worst R-hat and the smallest ESS of a checkpoint, and which chains diverged."""

    r_hat: float
    ess: float
    diverged: NDArray[np.bool_]


def judged(traces: xr.DataArray, found: Sequence[Judged]) -> xr.Dataset:
    """Return what `summary` does, from what was found at every checkpoint."""
    bad = np.array([one.diverged for one in found])
    names = [" ".join(map(str, traces.chain.values[row])) for row in bad]
    worst_r, least = (np.array([one[k] for one in found], dtype=np.float64) for k in (0, 1))
    verdicts = [_verdict(r, e) for r, e in zip(worst_r, least, strict=True)]
    with np.errstate(divide="ignore"):
        floor = 1 / np.sqrt(least)
    return xr.Dataset(
        {
            "verdict": ("time", np.array(verdicts, dtype=str)),
            "r_hat": ("time", worst_r),
            "ess": ("time", least),
            "noise_floor": ("time", floor),
            "n_diverged": ("time", bad.sum(1)),
            "diverged_chains": ("time", np.array(names, dtype=str)),
        },
        coords={"time": traces.time.values},
    )


def r_hat(traces: xr.DataArray) -> xr.DataArray:
    """Return split R-hat of the losses, dims (time, item)."""
    return _per_item(traces, split_r_hat, "r_hat")


def ess(traces: xr.DataArray) -> xr.DataArray:
    """Return the effective sample size of the losses, dims (time, item)."""
    return _per_item(traces, effective_size, "ess")


def r_hat_products(traces: xr.DataArray) -> xr.DataArray:
    """Return split R-hat of the loss products, dims (time, query, train)."""
    return _per_pair(traces, split_r_hat, "r_hat")


def ess_products(traces: xr.DataArray) -> xr.DataArray:
    """Return the effective sample size of the loss products, dims (time, query, train)."""
    return _per_pair(traces, effective_size, "ess")


def loss_bound(traces: xr.DataArray) -> float:
    """Return the excess over the checkpoint's mean loss beyond which a chain has diverged."""
    return excess_bound(float(np.abs(traces.checkpoint_loss).max()), traces.attrs)


def excess_bound(scale: float, attrs: Mapping[str, Any]) -> float:
    """Return `loss_bound` from the largest |loss| at the checkpoints, and the attributes."""
    return LOSS_BOUND * (scale + float(attrs["n_parameters"] / (2 * np.min(attrs["n_beta"]))))


def level(losses: NDArray) -> FloatArray:
    """Return the mean over items at every draw of losses (chains, draws, K), (chains, draws)."""
    with np.errstate(invalid="ignore", over="ignore"):
        return losses.mean(-1, dtype=np.float64)


def below(highest: FloatArray, bound: float) -> NDArray[np.bool_]:
    """Return which chains never passed a bound, from their highest mean loss (chains,)."""
    with np.errstate(invalid="ignore"):
        return highest <= bound


def diverged(traces: xr.DataArray | KeptSums, bound: float | None = None) -> xr.DataArray:
    """Say which chains diverged.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.
    bound : float, optional
        Excess over the checkpoint's mean loss that no draw may have; default
        `loss_bound(traces)`.

    Returns
    -------
    DataArray of bool, dims (time, chain)

    Raises
    ------
    TypeError, ValueError
        If they are no loss traces.
    """
    if isinstance(traces, KeptSums) and bound is None:
        bad = np.array([one.diverged for one in traces.judged()])
        traces = traces.mean_losses()
    else:
        traces = check_traces(traces)
        bad = ~np.array(list(map(attrgetter("good"), checkpoints(traces, bound))))
    coords = {"time": traces.time.values, "chain": traces.chain.values}
    return xr.DataArray(bad, coords, ("time", "chain"), name="diverged")


class Checkpoint(NamedTuple):
    """Losses (chains, draws, K) of one checkpoint, and which chains did not diverge, (chains,)."""

    losses: NDArray
    good: NDArray[np.bool_]

    @property
    def kept(self) -> NDArray:
        """Return the losses of the chains that did not diverge; none if fewer than two are left.

        One is enough where only one was run.
        """
        return self.losses if self.good.all() else self.losses[self.which]

    @property
    def which(self) -> list[int]:
        """Return the positions of the chains in `kept`."""
        enough = self.good.sum() >= min(2, len(self.good))
        return np.flatnonzero(self.good).tolist() if enough else []


def checkpoints(traces: xr.DataArray, bound: float | None = None) -> Iterator[Checkpoint]:
    """Read checkpoint after checkpoint, each once.

    Only one is in memory at a time if whoever asks for the next lets go of the last before: by
    `map`, or by `del` at the end of a loop.

    Parameters
    ----------
    traces : DataArray
        From `check_traces`.
    bound : float, optional
        As in `diverged`.

    Yields
    ------
    Checkpoint
        Losses as they are stored.
    """
    bound = loss_bound(traces) if bound is None else bound
    start = traces.checkpoint_loss.transpose("time", "item").values
    for t in range(len(traces)):
        yield _checkpoint(at(traces, t), start[t].mean() + bound)


def _checkpoint(losses: NDArray, highest: float) -> Checkpoint:
    with np.errstate(invalid="ignore"):
        worst = level(losses).max(1)
    return Checkpoint(losses, below(worst, highest))


def blocks_of(losses: NDArray, which: Sequence[int]) -> Iterator[FloatArray]:
    """Yield the losses (chains, draws, K) of some chains and `BLOCK` items, in float64."""
    for start in range(0, losses.shape[-1], BLOCK):
        yield losses[..., start : start + BLOCK][which].astype(np.float64)


def stuck(losses: FloatArray) -> bool:
    """Say whether a chain of losses (chains, draws, items) never moves: one point, not a sample."""
    return bool(_still(losses).any())


def _still(losses: FloatArray) -> NDArray[np.bool_]:
    """Return which chains never move; items that cannot are harmless beside others that do."""
    return (np.ptp(losses, axis=1) == 0).all(axis=-1)


def item_excess(one: Checkpoint, start: FloatArray) -> FloatArray:
    """Return what every kept chain finds for every item, E[l_k] - l_k(theta_t), (chains, K)."""
    # differences first: the excess may be far smaller than the losses
    parts = [
        [
            (one.losses[c][:, k : k + BLOCK] - start[k : k + BLOCK]).mean(0)
            for k in range(0, len(start), BLOCK)
        ]
        for c in one.which
    ]
    return np.array([np.concatenate(part) for part in parts])


def split_r_hat(values: FloatArray) -> FloatArray:
    """Return split R-hat of values (chains, draws, ...); 1 for constants, infinite if empty."""
    # A single chain is compared with itself, half against half.
    from arviz_stats.base import array_stats

    if len(values) == 0:
        return np.full(values.shape[2:], np.inf)
    if len(values) == 1:
        half = values.shape[1] // 2
        values = np.concatenate([values[:, :half], values[:, -half:]])
    scaled, constant = _scaled(values)
    found = array_stats.rhat(scaled, chain_axis=0, draw_axis=1, method="split")
    return np.where(constant, 1.0, found)


def effective_size(values: FloatArray) -> FloatArray:
    """Return the ESS of the mean of values (chains, draws, ...); 0 without chains; draws >= 4.

    With rho_t the autocorrelation at lag t, from within-chain autocovariances of split chains and
    the variance over all of them, and P_k = rho_{2k} + rho_{2k+1},

        ESS = (chains draws) / tau,   tau = -1 + 2 sum_{k < last} min_{j <= k} P_j + rho_{2 last},

    where `last` is the first pair that is not positive: Geyer's initial positive and monotone
    sequences, as in arviz-stats (`array_stats.ess(method="mean")`), which goes through series one
    by one in Python; a training curve has thousands of them. Tests hold the two equal.
    """
    if len(values) == 0:
        return np.zeros(values.shape[2:])
    scaled, constant = _scaled(values)
    found = _geyer(scaled.reshape(*scaled.shape[:2], -1)).reshape(scaled.shape[2:])
    return np.where(constant, float(values.shape[0] * values.shape[1]), found)


def mean_and_error(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean over chains and draws, standard error sd / sqrt(ESS), degrees of freedom of it.

    All NaN without chains. See `DRAWS_PER_DOF`.
    """
    if len(values) == 0:
        return (np.full(values.shape[2:], np.nan),) * 3
    size = effective_size(values)
    unit = _unit(values)  # squares of products of losses leave float64 in extreme units
    error = unit * (values / unit).std(axis=(0, 1), ddof=1) / np.sqrt(size)
    return values.mean(axis=(0, 1)), error, np.maximum(size / DRAWS_PER_DOF, 1.0)


def _scaled(values: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return values at scale 1 with constant columns replaced by noise, and which those are."""
    # Losses may be 1e-8 with fluctuations of 1e-12, whose squares would underflow in the ratio of
    # variances.
    values = values - values.mean(axis=(0, 1), keepdims=True)
    constant = np.abs(values).max(axis=(0, 1)) <= np.finfo(float).tiny
    values = values / _unit(values)
    spread = values.std(axis=(0, 1))
    scaled = values / np.where(constant, 1.0, spread)
    if constant.any():
        noise = np.random.default_rng(0).standard_normal(values.shape[:2])
        scaled[:, :, constant] = noise.reshape(*noise.shape, 1)
    return scaled, constant


def _unit(values: FloatArray) -> FloatArray:
    """Return a power of 2 near the largest |value| of each column, so that nothing is rounded."""
    largest = np.abs(values).max(axis=(0, 1))
    return np.ldexp(1.0, np.frexp(np.where(np.isfinite(largest), largest, 1.0))[1])


def _geyer(values: FloatArray) -> FloatArray:
    """Return the ESS of values (chains, draws, K) at scale 1, shape (K,)."""
    half = values.shape[1] // 2
    split = np.concatenate([values[:, :half], values[:, -half:]])
    chains, draws = split.shape[:2]
    covariance = _autocovariance(split).mean(0)  # (draws, K)
    variance = covariance[0] * draws / (draws - 1.0)
    total = covariance[0] + (split.mean(1).var(0, ddof=1) if chains > 1 else 0.0)
    rho = 1.0 - (variance - covariance) / total
    rho[0] = 1.0
    # The reference looks at lags up to draws - 2.
    pairs = max((draws - 3) // 2 + 1, 1)
    even, odd = rho[0 : 2 * pairs : 2], rho[1 : 2 * pairs : 2]
    sums = even + odd
    stop = sums <= 0
    last = np.where(stop.any(0), stop.argmax(0), pairs - 1)
    before = np.arange(pairs)[:, None] < last
    decreasing = np.minimum.accumulate(sums, axis=0)
    edge = np.take_along_axis(even, last[None], axis=0)[0]
    # A negative edge counts only where its pair was kept, at the cut.
    edge = np.where(stop.any(0), np.maximum(edge, 0.0), edge)
    tau = -1.0 + 2.0 * np.sum(decreasing, axis=0, where=before) + edge
    count = chains * draws
    return count / np.maximum(tau, 1 / np.log10(count))


def _autocovariance(series: FloatArray) -> FloatArray:
    """Return autocovariances at all lags along axis 1, divided by the length."""
    draws = series.shape[1]
    size = fft.next_fast_len(2 * draws, real=True)
    spectrum = fft.rfft(series - series.mean(1, keepdims=True), size, axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return fft.irfft(power, size, axis=1)[:, :draws] / draws


def _judged(one: Checkpoint) -> Judged:
    """Return what is found of all items and of their squared deviations."""
    return Judged(*judge(one), ~one.good)


def judge(one: Checkpoint) -> tuple[float, float]:
    """Return the worst R-hat and the smallest ESS of kept losses and of their squares."""
    # The products of an item with itself stand for all products: the slowest direction shows in
    # the variances.
    if not one.which:
        return np.inf, 0.0
    worst, least, moves = -np.inf, np.inf, False
    for block in blocks_of(one.losses, one.which):
        moves = moves | ~_still(block)
        d = block - block.mean(axis=1, keepdims=True)
        both = np.concatenate([block, d**2], axis=2)
        # maximum and minimum keep NaN, as those over all items at once do
        worst = float(np.maximum(worst, split_r_hat(both).max()))
        least = float(np.minimum(least, effective_size(both).min()))
    return (worst, least) if np.all(moves) else (np.inf, 1.0)


def _verdict(worst_r: float, least: float) -> str:
    """Return the verdict of the module docstring."""
    if least == 0:
        return "diverged"
    if not worst_r <= R_HAT_LIMIT:
        return "not mixed"
    return "mixed" if least >= ESS_LIMIT else "short"


def _per_item(
    traces: xr.DataArray, measure: Callable[[FloatArray], FloatArray], name: str
) -> xr.DataArray:
    traces = check_traces(traces)

    def measured(one: Checkpoint) -> FloatArray:
        return np.concatenate([measure(block) for block in blocks_of(one.losses, one.which)])

    values = np.stack(list(map(measured, checkpoints(traces))))
    coords = {"time": traces.time.values, "item": traces["item"].values}
    return xr.DataArray(values, coords, ("time", "item"), name=name)


def _per_pair(
    traces: xr.DataArray, measure: Callable[[FloatArray], FloatArray], name: str
) -> xr.DataArray:
    traces = check_traces(traces)
    rows = []
    for one in checkpoints(traces):
        d = one.kept.astype(np.float64)
        d -= d.mean(1, keepdims=True)
        rows.append(np.array([measure(d[:, :, k, None] * d) for k in range(d.shape[2])]))
        del one, d
    items = traces["item"].values
    coords = {"time": traces.time.values, "query": items, "train": items}
    return xr.DataArray(np.stack(rows), coords, ("time", "query", "train"), name=name)
