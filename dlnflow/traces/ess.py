"""Effective sample size of many series at once.

The estimator of arviz-stats (`array_stats.ess(method="mean")`: split chains, Geyer's initial
positive and monotone sequences), which goes through series one by one in Python; a training curve
has thousands of them. Tests hold the two equal.
"""

import numpy as np
from scipy import fft

from dlnflow._support.typing import FloatArray


def effective_size(values: FloatArray) -> FloatArray:
    """Return the ESS of the mean of values (chains, draws, K), shape (K,); draws >= 4.

    With rho_t the autocorrelation at lag t, from within-chain autocovariances and the variance
    over all chains, and P_k = rho_{2k} + rho_{2k+1},

        ESS = (chains draws) / tau,   tau = -1 + 2 sum_{k < last} min_{j <= k} P_j + rho_{2 last},

    where `last` is the first pair that is not positive.
    """
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
