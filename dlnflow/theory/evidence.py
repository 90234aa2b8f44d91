"""Evidence of a two-layer linear network with a Gaussian prior: all terms, by integration.

`evidence` gives the free energy and the strengths of modes at any n, `half_learned` the n at which
a mode has half of its strength, both with standard errors. Independent draws from a fitted
proposal are weighted, so that nothing has to mix. docs/derivations/phases.md derives what is
integrated.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log, pi, sqrt
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import special

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow._support.progress import Progress

CHUNK = 20_000
"""Draws at a time."""
FIT_DRAWS = 8_000
FITS = 2
"""Draws of a fit of the proposal, and fits at each n on the way."""
RATIO = 1.5
"""Largest ratio of neighbouring n on the way."""
SHARE = 0.15
"""Part of the draws that come from a wider proposal, which bounds the weights."""
TAILS = 8
"""Degrees of freedom of the t distribution of entries off the diagonal."""
FEW = 100
"""Fewer effective draws than this give no error that could be trusted."""
BESIDE = 1.02
"""Ratio of n at which slopes are taken."""
PILOTS = (10_000, 20_000)
"""Draws of the first steps towards half of a strength."""
PRIORS = (1e-100, 1e100)
"""Precisions whose squares are numbers."""
LARGEST = 1e4
"""n s_j^2 / N beyond which a mode is not followed."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What `evidence` found at K values of n for p modes.

    Attributes
    ----------
    n : array, shape (K,)
        Sample sizes, or n beta.
    free_energy, free_energy_error : array, shape (K,)
        F(n) = -log E_prior[exp(-n L)] in nats, and its standard error.
    strength, strength_error : array, shape (K, p)
        E[u_j^T W v_j] / s_j, and its standard error.
    effective_draws : array, shape (K,)
        (sum w)^2 / sum w^2 of the weights w.
    """

    n: FloatArray
    free_energy: FloatArray
    free_energy_error: FloatArray
    strength: FloatArray
    strength_error: FloatArray
    effective_draws: FloatArray


class HalfLearned(NamedTuple):
    """Where modes are half learned.

    Attributes
    ----------
    n : float
        Sample size, or n beta, at which their mean strength is 1/2.
    error : float
        Standard error of n.
    effective_draws : float
        (sum w)^2 / sum w^2 of the weights there.
    """

    n: float
    error: float
    effective_draws: float


def evidence(
    strengths: ArrayLike,
    widths: Sequence[int],
    n: ArrayLike,
    *,
    prior: float = 1.0,
    draws: int = 50_000,
    seed: int = 0,
) -> Evidence:
    r"""Free energy and mean strengths of the modes of the posterior of W = W_2 W_1.

    With tau = n / N, precision gamma, and the layer at the larger end integrated out, A (h, p)::

        F = -log E_A[ det(1 + tau A A^T / gamma)^(-q/2) exp(-(tau/2) sum_j s_j^2 (1 - P_jj)) ],
        E[u_j^T W v_j] / s_j = E_w[P_jj],    P = A^T (A A^T + gamma / tau)^-1 A,

    A with entries N(0, 1/gamma), p and q the smaller and larger of inputs and outputs, w the
    integrand. Rotations of hidden units are integrated out too; the rest is importance sampling.

    Parameters
    ----------
    strengths : array, shape (J,)
        Singular values s_j >= 0 of the targets, J <= p; missing ones are 0.
    widths : sequence of three int
        Inputs N (one-hot, one per item), hidden units h, outputs.
    n : array, shape (K,)
        Sample sizes > 0, or n beta: the posterior is prior times exp(-n L),
        ``L = |Y - W|^2 / (2 N)``.
    prior : float
        Precision gamma of all weights.
    draws : int
        Draws at each n; errors fall with their square root.
    seed : int
        Fixes all random numbers.

    Returns
    -------
    Evidence
        Exact but for the standard errors. Modes of equal strength are estimated one by one.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Warns
    -----
    RuntimeWarning
        Where fewer than 100 draws are effective, errors are not to be trusted.

    References
    ----------
    docs/derivations/phases.md.

    Examples
    --------
    >>> found = evidence([3.0], [1, 2, 4], [0.01, 1.0, 100.0], draws=2000)
    >>> found.strength[:, 0].round(2).tolist()
    [0.02, 0.54, 0.99]
    """
    network = _checked(strengths, widths, prior)
    n = checks.positive_array("n", np.atleast_1d(n))
    if n.ndim != 1 or not len(n):
        raise ValueError(f"`n` must be one number or a list of numbers, got shape {n.shape}.")
    draws = checks.positive_integer("draws", draws)
    rng = np.random.default_rng(checks.whole_number("seed", seed))
    found: list[tuple[FloatArray, ...]] = [()] * len(n)
    proposal, reached = _prior(network), network.first
    with Progress(len(n), "evidence") as progress:
        for k in np.argsort(n):
            end = n[k] / network.n_items
            for tau in _way(reached, end):
                proposal = _fitted(network, proposal, tau, rng)[0]
            found[k] = _summary(*_weighed(network, proposal, [end], draws, rng)[0])
            reached = max(end, network.first)
            progress.advance(1)
    energy, energy_error, strength, error, effective = map(np.array, zip(*found, strict=True))
    _warn_of_few(effective, draws)
    return Evidence(n, energy, energy_error, strength, error, effective)


def half_learned(
    strengths: ArrayLike,
    widths: Sequence[int],
    modes: int | Sequence[int] = 0,
    *,
    prior: float = 1.0,
    draws: int = 50_000,
    seed: int = 0,
) -> HalfLearned:
    """Sample size at which the mean strength of modes first reaches 1/2, ``E[P_jj] = 1/2``.

    By identity (8) of the derivation this is where ``dF/ds_j = n s_j / (2 N)``, with the free
    energy of the data themselves and all its terms.

    Parameters
    ----------
    strengths, widths, prior, draws, seed :
        As in `evidence`.
    modes : int or sequence of int
        Numbers of the modes whose strengths are averaged, those of one level.

    Returns
    -------
    HalfLearned
        n (or n beta) and its standard error, that of the strength over its slope in n.

    Raises
    ------
    ValueError
        If an argument is out of range, or a mode is not among the h strongest, those that h
        hidden units can learn.

    Warns
    -----
    RuntimeWarning
        As `evidence`.

    Examples
    --------
    >>> found = half_learned([3.0], [1, 2, 4])
    >>> round(found.n, 2), found.error < 0.01
    (0.89, True)
    """
    network = _checked(strengths, widths, prior)
    which = _learnable(modes, network)
    draws = checks.positive_integer("draws", draws)
    rng = np.random.default_rng(checks.whole_number("seed", seed))
    proposal, tau = _bracketed(network, which, rng)
    for size in (*PILOTS, draws):
        proposal = _fitted(network, proposal, tau, rng)[0]
        beside = [tau / BESIDE, tau, tau * BESIDE]
        low, at, high = _weighed(network, proposal, beside, size, rng, which)
        slope = (_mean(*high) - _mean(*low)) / (2 * log(BESIDE))
        if slope <= 0:
            raise ValueError(
                f"the strength of modes {which.tolist()} does not rise at n = "
                f"{tau * network.n_items:.3g} as far as {size} draws show; ask for more `draws`."
            )
        step = (0.5 - _mean(*at)) / slope
        tau *= exp(min(max(step, -log(RATIO)), log(RATIO)))
    _, _, _, error, effective = _summary(*at)
    _warn_of_few(effective, draws)
    n = tau * network.n_items
    return HalfLearned(n, n * float(error[0]) / slope, float(effective))


@dataclass(frozen=True, slots=True)
class _Network:
    """Squared strengths (p,), hidden units h, larger end q, precision, number of items N."""

    squares: FloatArray
    hidden: int
    large: int
    prior: float
    n_items: int

    @property
    def rows(self) -> int:
        """Rows of A after a rotation of hidden units made it upper triangular."""
        return min(self.hidden, len(self.squares))

    @property
    def powers(self) -> FloatArray:
        """Half the degrees of freedom of the squared diagonal of A, chi-squared under the prior."""
        return (self.hidden - np.arange(self.rows)) / 2

    @property
    def first(self) -> float:
        """The tau at which data begin to tell on the prior."""
        return 10 * self.prior**2 / (self.hidden * self.large)

    def log_prior(self, a: FloatArray) -> FloatArray:
        """Log density of the squared diagonal and of what is right of it, (B,)."""
        square = _squared_diagonal(a)
        right = a[:, *_right(a)]
        return scipy.stats.gamma.logpdf(square, self.powers, scale=2 / self.prior).sum(1) - 0.5 * (
            self.prior * (right**2).sum(1) + right.shape[1] * log(2 * pi / self.prior)
        )

    def log_likelihood(self, a: FloatArray, tau: float) -> tuple[FloatArray, FloatArray]:
        """Log of the integrand of F, (B,), and P_jj, (B, p)."""
        ratio = tau / self.prior
        root = np.linalg.cholesky(np.eye(self.rows) + ratio * a @ a.mT)
        share = ratio * (np.linalg.solve(root, a) ** 2).sum(1)
        log_root = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        return -self.large * log_root - tau / 2 * (1 - share) @ self.squares, share


@dataclass(frozen=True, slots=True)
class _Proposal:
    """Gamma distributed squares of the diagonal of A, t distributed entries right of it.

    shape, scale (r,); spread (r, p), of which what is right of the diagonal counts.
    """

    shape: FloatArray
    scale: FloatArray
    spread: FloatArray

    def draw(self, size: int, rng: np.random.Generator) -> FloatArray:
        """Draw A, (size, r, p)."""
        a = np.zeros((size, *self.spread.shape))
        squares = rng.gamma(self.shape, self.scale, (size, len(self.shape)))
        which = _right(a)
        a[:, *which] = self.spread[which] * rng.standard_t(TAILS, (size, len(which[0])))
        k = np.arange(len(self.shape))
        a[:, k, k] = np.sqrt(np.maximum(squares, np.finfo(float).tiny))
        return a

    def log_density(self, a: FloatArray) -> FloatArray:
        """Log density like `_Network.log_prior`."""
        spread = self.spread[_right(a)]
        square = _squared_diagonal(a)
        found = scipy.stats.gamma.logpdf(square, self.shape, scale=self.scale).sum(1)
        found += scipy.stats.t.logpdf(a[:, *_right(a)] / spread, TAILS).sum(1)
        return found - np.log(spread).sum()

    def wider(self, powers: FloatArray) -> "_Proposal":
        """Return one with larger entries, and the power at 0 that the prior has."""
        return _Proposal(powers, 1.5 * self.shape * self.scale / powers, 1.4 * self.spread)


def _right(a: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.triu_indices(a.shape[-2], 1, a.shape[-1])


def _squared_diagonal(a: FloatArray) -> FloatArray:
    return np.diagonal(a, axis1=1, axis2=2) ** 2


def _checked(strengths: ArrayLike, widths: Sequence[int], prior: float) -> _Network:
    if not hasattr(widths, "__len__") or len(widths) != 3:
        raise ValueError(f"`widths` must be (inputs, hidden, outputs), got {widths!r}.")
    n_in, hidden, n_out = (
        checks.positive_integer(f"widths[{k}]", width) for k, width in enumerate(widths)
    )
    strengths = np.atleast_1d(checks.nonnegative("strengths", strengths))
    small = min(n_in, n_out)
    if strengths.ndim != 1 or len(strengths) > small:
        raise ValueError(
            f"`strengths` must list at most {small} singular values, as a map from {n_in} inputs "
            f"to {n_out} outputs has, got shape {strengths.shape}."
        )
    squares = np.zeros(small)
    with np.errstate(over="ignore"):
        squares[: len(strengths)] = strengths**2
    if not np.isfinite(squares).all():
        raise ValueError(f"`strengths` must have finite squares, got {strengths.max():g}.")
    prior = checks.positive("prior", prior)
    if not PRIORS[0] <= prior <= PRIORS[1]:
        raise ValueError(
            f"`prior` must be a precision from {PRIORS[0]:g} to {PRIORS[1]:g}, got {prior:g}; "
            "take another unit of the weights."
        )
    return _Network(squares, hidden, max(n_in, n_out), prior, n_in)


def _learnable(modes: int | Sequence[int], network: _Network) -> FloatArray:
    """Return the numbers of modes, all among those that hidden units can learn."""
    given, _ = checks.number_list("modes", modes)
    which = checks.whole_numbers("modes", given, smallest=0).astype(int)
    squares = network.squares
    last = len(squares) - 1
    if which.max() > last:
        raise ValueError(f"`modes` must be numbers from 0 to {last}, got {modes!r}.")
    stronger = (squares[:, None] >= squares[which]).sum(0)
    if stronger.max() > network.hidden or not squares[which].all():
        raise ValueError(
            f"`modes` {which.tolist()} are not all learned as n grows: {network.hidden} hidden "
            f"units learn the {network.hidden} strongest modes whose strength is above 0."
        )
    return which


def _prior(network: _Network) -> _Proposal:
    shape = network.rows, len(network.squares)
    scale = np.full(network.rows, 2 / network.prior)
    return _Proposal(network.powers, scale, np.full(shape, network.prior**-0.5))


def _way(start: float, end: float) -> FloatArray:
    """Return values of tau from one after `start` to `end`."""
    steps = max(1, ceil(log(max(end / start, 1)) / log(RATIO)))
    return np.geomspace(min(start, end), end, steps + 1)[1:]


def _weighed(
    network: _Network,
    proposal: _Proposal,
    taus: Sequence[float],
    draws: int,
    rng: np.random.Generator,
    which: FloatArray | None = None,
) -> list[tuple[FloatArray, FloatArray]]:
    """Return log weights (draws,) and P_jj (draws, p), or their mean over modes, at every tau."""
    wider, parts = proposal.wider(network.powers), []
    for begin in range(0, draws, CHUNK):
        size = min(CHUNK, draws - begin)
        wide = rng.binomial(size, SHARE)
        a = np.concatenate([proposal.draw(size - wide, rng), wider.draw(wide, rng)])
        density = np.logaddexp(
            log(1 - SHARE) + proposal.log_density(a), log(SHARE) + wider.log_density(a)
        )
        ratio = network.log_prior(a) - density
        part = []
        for tau in taus:
            value, share = network.log_likelihood(a, tau)
            kept = share if which is None else share[:, which].mean(1, keepdims=True)
            part.append((ratio + value, kept))
        parts.append(part)
    return [tuple(map(np.concatenate, zip(*at, strict=True))) for at in zip(*parts, strict=True)]


def _fitted(
    network: _Network, proposal: _Proposal, tau: float, rng: np.random.Generator
) -> tuple[_Proposal, FloatArray]:
    """Return a proposal with the moments of the posterior, and the strengths (p,)."""
    for _ in range(FITS):
        a = proposal.draw(FIT_DRAWS, rng)
        value, share = network.log_likelihood(a, tau)
        log_weights = network.log_prior(a) + value - proposal.log_density(a)
        weights = special.softmax(log_weights)
        strength = weights @ share
        if weights @ weights > 1 / FEW:
            weights = special.softmax(log_weights / 2)  # a step towards it
        square = _squared_diagonal(a)
        mean = weights @ square
        variance = weights @ (square - mean) ** 2
        if not np.all(variance > 0):  # a single draw has all weight; NaN if numbers overflow
            raise ValueError(
                f"n s^2 / N is {tau * network.squares.max():.3g} for the largest of `strengths` "
                f"at n = {tau * network.n_items:.3g}, too much for any draw to be near the "
                "posterior; take smaller `n` or `strengths`."
            )
        shape = mean**2 / variance
        spread = np.sqrt(np.einsum("b,bij->ij", weights, a**2) * (1 - 2 / TAILS))
        proposal = _Proposal(shape, mean / shape, spread)
    return proposal, strength


def _bracketed(
    network: _Network, which: FloatArray, rng: np.random.Generator
) -> tuple[_Proposal, float]:
    """Return tau near which modes are half learned, and the proposal there."""
    squares = network.squares[which]
    # strong modes tell on the prior long before the data of all entries do
    proposal, tau = _prior(network), min(network.first / 1e3, 1 / float(network.squares.max()))
    while tau * squares.min() < LARGEST:
        tau *= RATIO
        proposal, strength = _fitted(network, proposal, tau, rng)
        if strength[which].mean() >= 0.5:
            return proposal, tau / sqrt(RATIO)
    raise ValueError(
        f"modes {which.tolist()} are not half learned at n = {tau * network.n_items:.3g}, where "
        f"n s^2 / N is {LARGEST:g}, and are not followed further; a `prior` of precision "
        f"{network.prior:g} holds them back."
    )


def _mean(log_weights: FloatArray, values: FloatArray) -> float:
    return float(special.softmax(log_weights) @ values[:, 0])


def _summary(log_weights: FloatArray, share: FloatArray) -> tuple[FloatArray, ...]:
    """Return F, its error, strengths, their errors, and the effective number of draws."""
    weights = special.softmax(log_weights)
    mean = weights @ share
    error = np.sqrt(weights**2 @ (share - mean) ** 2)
    energy = log(len(weights)) - special.logsumexp(log_weights)
    inverse = weights @ weights
    return energy, np.sqrt(max(inverse - 1 / len(weights), 0)), mean, error, 1 / inverse


def _warn_of_few(effective: FloatArray, draws: int) -> None:
    least = float(np.min(effective))
    if least < FEW:
        warnings.warn(
            f"{least:.0f} of {draws} draws are effective, too few for errors that could be "
            f"trusted; ask for more `draws`.",
            RuntimeWarning,
            stacklevel=3,
        )
