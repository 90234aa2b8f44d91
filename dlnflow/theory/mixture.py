"""Covariance of losses under a posterior that is a mixture of phases."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray

WEIGHT_SUM_ATOL = 1e-9
"""Weights of phases must add up to one within this."""


class MixtureCovariance(NamedTuple):
    """A covariance split over the phases of a mixture.

    Attributes
    ----------
    within : array, shape (..., N, N)
        sum_k pi_k C_k.
    between : array, shape (..., N, N)
        sum_k pi_k (mu_k - mubar)(mu_k - mubar)^T.
    """

    within: FloatArray
    between: FloatArray

    @property
    def total(self) -> FloatArray:
        """Covariance of the mixture, the sum of both parts."""
        return self.within + self.between


class CovariancePeak(NamedTuple):
    """Extremum of a two-phase covariance in the weight of its first phase; NaN where there is none.

    Attributes
    ----------
    weight : array
        Weight pi* of the first phase.
    covariance : array
        The covariance there.
    """

    weight: FloatArray
    covariance: FloatArray


def mixture_covariance(
    weights: ArrayLike, means: ArrayLike, covariances: ArrayLike
) -> MixtureCovariance:
    """Covariance of a mixture, exact for any partition of the posterior into phases.

    ``Cov = sum_k pi_k C_k + sum_k pi_k (mu_k - mubar)(mu_k - mubar)^T`` with ``mubar = sum_k pi_k
    mu_k``. With two phases the second sum is ``pi (1 - pi) d d^T``, d = mu_1 - mu_2: largest where
    the phases are equally likely, zero far from the transition.

    Parameters
    ----------
    weights : array_like, shape (K, ...)
        pi_k >= 0, adding up to one over the first axis, e.g. from `weights`.
    means : array_like, shape (K, N)
        Mean losses of N items in each phase.
    covariances : array_like, shape (K, N, N)
        Covariances of the losses within each phase.

    Returns
    -------
    MixtureCovariance
        Parts of shape (..., N, N). Bayesian influence is minus (n beta / N) times their sum.

    Raises
    ------
    ValueError
        If shapes disagree, entries are not finite, or the weights are no distribution.

    Examples
    --------
    >>> parts = mixture_covariance([0.5, 0.5], [[1.0, 2.0], [0.0, 0.0]], np.zeros((2, 2, 2)))
    >>> parts.total.tolist()
    [[0.25, 0.5], [0.5, 1.0]]
    """
    pi = checks.finite("weights", weights)
    mu = checks.finite("means", means)
    c = checks.finite("covariances", covariances)
    _check_mixture(pi, mu, c)
    within = np.einsum("k...,kij->...ij", pi, c)
    deviation = mu - np.einsum("k...,ki->...i", pi, mu)[..., None, :]  # (..., K, N)
    between = np.einsum("k...,...ki,...kj->...ij", pi, deviation, deviation)
    return MixtureCovariance(within, between)


def covariance_peak(first: ArrayLike, second: ArrayLike, product: ArrayLike) -> CovariancePeak:
    """Where, and how high, the covariance of a pair of losses peaks between two phases.

    ``Cov(pi) = pi C_1 + (1 - pi) C_2 + pi (1 - pi) d_i d_j`` has its extremum at
    ``pi* = 1/2 + (C_1 - C_2) / (2 d_i d_j)``, inside (0, 1) iff ``|C_1 - C_2| < |d_i d_j|``, and
    equals ``C_2 + d_i d_j pi*^2`` there. It lies at 1/2 only if ``C_1 = C_2``. Approximation: C_1,
    C_2 and d are held fixed, although they change with n too, if more slowly than pi.

    Parameters
    ----------
    first, second : array_like
        C_1, C_2: covariances of the pair within each phase.
    product : array_like
        d_i d_j: product of the two jumps of the mean loss, first minus second phase.

    Returns
    -------
    CovariancePeak
        Broadcast over all three; NaN where the covariance is monotone in pi. A maximum if
        d_i d_j > 0, a minimum if it is < 0. `Transition.sample_size` turns the weight into n.

    Raises
    ------
    ValueError
        If an argument is not finite, or they do not broadcast.

    Examples
    --------
    >>> peak = covariance_peak(0.0, 0.0, [1.0, -1.0])
    >>> peak.weight.tolist(), peak.covariance.tolist()
    ([0.5, 0.5], [0.25, -0.25])
    """
    c1, c2, d = _pair(first, second, product)
    inside = np.abs(c1 - c2) < np.abs(d)
    pi = np.where(inside, 0.5 + (c1 - c2) / (2 * np.where(inside, d, 1.0)), np.nan)
    return CovariancePeak(pi, c2 + d * pi**2)


def zero_weights(first: ArrayLike, second: ArrayLike, product: ArrayLike) -> FloatArray:
    """Weights of the first phase at which the covariance of a pair of losses vanishes.

    Roots in (0, 1) of ``pi C_1 + (1 - pi) C_2 + pi (1 - pi) d_i d_j``: one if C_1 and C_2 have
    opposite signs; two, or none, if they have the same (see `flips_sign`).

    Parameters
    ----------
    first, second, product : array_like
        C_1, C_2 and d_i d_j, as in `covariance_peak`.

    Returns
    -------
    array, shape (..., 2)
        Ascending, filled up with NaN.

    Raises
    ------
    ValueError
        If an argument is not finite, or they do not broadcast.

    Examples
    --------
    >>> zero_weights(0.03, 0.03, -0.16).round(4).tolist()
    [0.25, 0.75]
    """
    c1, c2, d = _pair(first, second, product)
    b = c1 - c2 + d  # -d pi^2 + b pi + c2 = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        q = -(b + np.copysign(np.sqrt(b**2 + 4 * d * c2), b)) / 2  # no cancellation
        roots = np.stack([q / -d, c2 / q], axis=-1)
    return np.sort(np.where((roots > 0) & (roots < 1), roots, np.nan), axis=-1)


def flips_sign(first: ArrayLike, second: ArrayLike, product: ArrayLike) -> np.ndarray:
    """Whether the covariance takes, in between, the sign opposite to the one of both phases.

    ``d_i d_j`` must have the other sign and ``sqrt|d_i d_j| > sqrt|C_1| + sqrt|C_2|``. At pi = 1/2
    itself the sign differs under the stronger condition ``|d_i d_j| > 2 |C_1 + C_2|``.

    Parameters
    ----------
    first, second, product : array_like
        C_1, C_2 and d_i d_j, as in `covariance_peak`.

    Returns
    -------
    array of bool
        False where C_1 and C_2 differ in sign or one is zero: no transient flip is defined there.

    Raises
    ------
    ValueError
        If an argument is not finite, or they do not broadcast.

    Examples
    --------
    >>> flips_sign(0.03, 0.03, [-0.16, -0.12, 0.16]).tolist()
    [True, False, False]
    """
    c1, c2, d = _pair(first, second, product)
    opposite = (c1 * d < 0) & (c2 * d < 0)
    return opposite & (np.sqrt(np.abs(d)) > np.sqrt(np.abs(c1)) + np.sqrt(np.abs(c2)))


def _pair(first: ArrayLike, second: ArrayLike, product: ArrayLike) -> tuple[FloatArray, ...]:
    given = {"first": first, "second": second, "product": product}
    return np.broadcast_arrays(*(checks.finite(name, value) for name, value in given.items()))


def _check_mixture(pi: FloatArray, mu: FloatArray, c: FloatArray) -> None:
    if mu.ndim != 2 or pi.ndim < 1 or len(pi) != len(mu) or c.shape != (*mu.shape, mu.shape[1]):
        raise ValueError(
            "expected `weights` (K, ...), `means` (K, N) and `covariances` (K, N, N); got shapes "
            f"{pi.shape}, {mu.shape} and {c.shape}."
        )
    if not (np.all(pi >= 0) and np.allclose(pi.sum(axis=0), 1, rtol=0, atol=WEIGHT_SUM_ATOL)):
        raise ValueError(
            "`weights` must be >= 0 and add up to one over the phases (the first axis); got "
            f"minimum {np.min(pi):g} and sums between {np.min(pi.sum(0)):g} and "
            f"{np.max(pi.sum(0)):g}."
        )
