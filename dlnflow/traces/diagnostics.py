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

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dlnflow._support.typing import FloatArray
from dlnflow.traces import ess
from dlnflow.traces.format import DIMS

R_HAT_LIMIT = 1.05
"""Above this, chains disagree."""
ESS_LIMIT = 200.0
"""Below this, error bars are themselves uncertain by more than 5 %."""
LOSS_BOUND = 100.0
"""Multiple of the expected scale of the loss beyond which a chain counts as diverged."""


def loss_bound(traces: xr.DataArray) -> float:
    """Return the excess over the checkpoint's mean loss beyond which a chain has diverged."""
    scale = float(np.abs(traces.checkpoint_loss).max())
    excess = traces.attrs["n_parameters"] / (2 * np.min(traces.attrs["n_beta"]))
    return LOSS_BOUND * (scale + float(excess))


def diverged(traces: xr.DataArray, bound: float | None = None) -> xr.DataArray:
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
    """
    bound = loss_bound(traces) if bound is None else bound
    worst = traces.astype(np.float64).mean("item", skipna=False).max("draw", skipna=False)
    excess = worst.reset_coords(drop=True) - traces.checkpoint_loss.mean("item", skipna=False)
    return (~(excess <= bound)).transpose("time", "chain").rename("diverged")


def kept_chains(traces: xr.DataArray) -> list[FloatArray]:
    """Return the losses (kept chains, draws, items) of every checkpoint in float64."""
    # Empty where too few chains are left to be anything but "diverged".
    bad = diverged(traces).values
    needed = min(2, traces.sizes["chain"])
    losses = traces.transpose(*DIMS).values
    kept = (losses[t][~bad[t]].astype(np.float64) for t in range(len(losses)))
    return [block if len(block) >= needed else block[:0] for block in kept]


def products(losses: FloatArray, query: NDArray, train: NDArray) -> FloatArray:
    """Return d_query d_train, shape (chains, draws, query, train), centred per chain."""
    d = losses - losses.mean(axis=1, keepdims=True)
    return d[:, :, query, None] * d[:, :, None, train]


def stuck(losses: FloatArray) -> bool:
    """Say whether a chain of losses (chains, draws, items) never moves: one point, not a sample."""
    # Items whose loss cannot change are harmless beside others that move.
    return bool((np.ptp(losses, axis=1) == 0).all(axis=-1).any())


def r_hat(values: FloatArray) -> FloatArray:
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
    """Return the ESS of the mean of values (chains, draws, ...); 0 without chains."""
    if len(values) == 0:
        return np.zeros(values.shape[2:])
    scaled, constant = _scaled(values)
    found = ess.effective_size(scaled.reshape(*scaled.shape[:2], -1)).reshape(scaled.shape[2:])
    return np.where(constant, float(values.shape[0] * values.shape[1]), found)


def _scaled(values: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return values at scale 1 with constant columns replaced by noise, and which those are."""
    # Losses may be 1e-8 with fluctuations of 1e-12, whose squares would underflow in the ratio of
    # variances.
    values = values - values.mean(axis=(0, 1), keepdims=True)
    spread = values.std(axis=(0, 1))
    constant = spread <= np.finfo(float).tiny
    scaled = values / np.where(constant, 1.0, spread)
    if constant.any():
        noise = np.random.default_rng(0).standard_normal(values.shape[:2])
        scaled[:, :, constant] = noise.reshape(*noise.shape, 1)
    return scaled, constant


def mean_and_error(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean over chains and draws, and its standard error sd / sqrt(ESS)."""
    # NaN for both without chains.
    if len(values) == 0:
        nothing = np.full(values.shape[2:], np.nan)
        return nothing, nothing
    error = values.std(axis=(0, 1), ddof=1) / np.sqrt(effective_size(values))
    return values.mean(axis=(0, 1)), error


def summary(traces: xr.DataArray) -> xr.Dataset:
    """Judge every checkpoint.

    Parameters
    ----------
    traces : DataArray, dims (time, chain, draw, item)
        Loss traces.

    Returns
    -------
    Dataset
        Per time: `verdict` (text), `r_hat` (the largest over losses and products), `ess` (the
        smallest), `noise_floor` = 1/sqrt(ess), `n_diverged`, and `diverged_chains`, their numbers
        as text.
    """
    rows = [_judge(block) for block in kept_chains(traces)]
    bad = diverged(traces)
    names = [" ".join(map(str, traces.chain.values[row])) for row in bad.values]
    worst_r, least = np.array(rows, dtype=np.float64).T
    verdicts = [_verdict(r, e) for r, e in zip(worst_r, least, strict=True)]
    with np.errstate(divide="ignore"):
        floor = 1 / np.sqrt(least)
    return xr.Dataset(
        {
            "verdict": ("time", np.array(verdicts, dtype=str)),
            "r_hat": ("time", worst_r),
            "ess": ("time", least),
            "noise_floor": ("time", floor),
            "n_diverged": ("time", bad.sum("chain").values),
            "diverged_chains": ("time", np.array(names, dtype=str)),
        },
        coords={"time": traces.time.values},
    )


def _judge(losses: FloatArray) -> tuple[float, float]:
    """Return the worst R-hat and the smallest ESS of losses (chains, draws, items) and squares."""
    # The products of an item with itself stand for all products: the slowest direction shows in
    # the variances.
    if len(losses) == 0:
        return np.inf, 0.0
    if stuck(losses):
        return np.inf, 1.0
    d = losses - losses.mean(axis=1, keepdims=True)
    both = np.concatenate([losses, d**2], axis=2)
    return float(r_hat(both).max()), float(effective_size(both).min())


def _verdict(worst_r: float, least: float) -> str:
    """Return the verdict of the module docstring."""
    if least == 0:
        return "diverged"
    if not worst_r <= R_HAT_LIMIT:
        return "not mixed"
    return "mixed" if least >= ESS_LIMIT else "short"
