"""Competition of two phases of a posterior: free energies, transitions, covariance between losses.

Contents: `Phase`, `weights`, `transition` -> `Transition` (which phase wins, at which n);
`mixture_covariance`, `covariance_peak`, `zero_weights`, `flips_sign` (what that does to the
covariance of two losses, of which Bayesian influence is a negative multiple); `evidence`,
`half_learned` (free energy and strengths of modes of a two-layer linear network, with all terms).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, inf, log, nan, pi, sqrt

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.theory.evidence import Evidence as Evidence
from dlnflow.theory.evidence import HalfLearned as HalfLearned
from dlnflow.theory.evidence import evidence as evidence
from dlnflow.theory.evidence import half_learned as half_learned
from dlnflow.theory.mixture import CovariancePeak as CovariancePeak
from dlnflow.theory.mixture import MixtureCovariance as MixtureCovariance
from dlnflow.theory.mixture import covariance_peak as covariance_peak
from dlnflow.theory.mixture import flips_sign as flips_sign
from dlnflow.theory.mixture import mixture_covariance as mixture_covariance
from dlnflow.theory.mixture import zero_weights as zero_weights

LARGEST_LOG = 709.0
"""exp of more overflows."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A neighbourhood of parameters with F(n) = n L + lambda log n - (m - 1) log log n + c.

    Parameters
    ----------
    loss : float
        L, the least loss per sample in the neighbourhood, in nats.
    learning_coefficient : float
        lambda >= 0; see `dlnflow.rlct.learning_coefficient`.
    multiplicity : int
        m, at least 1.
    constant : float
        c, the O(1) term: volume of the minimum and prior density.

    Raises
    ------
    ValueError
        If a number is not finite, lambda < 0 or m is not a whole number >= 1.
    """

    loss: float
    learning_coefficient: float
    multiplicity: int = 1
    constant: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "learning_coefficient", "constant"):
            checks.real_number(name, getattr(self, name))
        if self.learning_coefficient < 0:
            raise ValueError(
                f"`learning_coefficient` must be >= 0, got {self.learning_coefficient!r}."
            )
        checks.positive_integer("multiplicity", self.multiplicity)

    def free_energy(self, n: ArrayLike) -> FloatArray:
        """F(n), minus the log of the phase's share of the evidence, up to terms that vanish in n.

        Parameters
        ----------
        n : array_like
            Sample size > 0 (> 1 if the multiplicity is above 1); for a posterior tempered by
            beta, the product n beta.

        Returns
        -------
        array, shape of n

        Raises
        ------
        ValueError
            If some n is outside that range.
        """
        n = _sample_sizes(n, above=0 if self.multiplicity == 1 else 1)
        energy = n * self.loss + self.learning_coefficient * np.log(n) + self.constant
        if self.multiplicity > 1:
            energy = energy - (self.multiplicity - 1) * np.log(np.log(n))
        return energy


def weights(phases: Sequence[Phase], n: ArrayLike) -> FloatArray:
    """Posterior weights exp(-F_k) / sum_j exp(-F_j) of competing phases.

    Parameters
    ----------
    phases : sequence of Phase, length K
        Any number of phases.
    n : array_like
        Sample size, or n beta.

    Returns
    -------
    array, shape (K, *n.shape)
        Each column adds up to one.

    Raises
    ------
    ValueError
        If there is no phase, and as `Phase.free_energy`.
    TypeError
        If one is no Phase.

    Examples
    --------
    >>> weights([Phase(0.1, 1.0), Phase(0.0, 2.0)], [1.0, 35.8, 100.0]).round(2).tolist()
    [[0.48, 0.5, 0.0], [0.52, 0.5, 1.0]]
    """
    if not np.iterable(phases) or not len(phases):
        raise ValueError("`phases` must be a list of at least one Phase.")
    _require_phases(phases)
    return special.softmax(-np.stack([phase.free_energy(n) for phase in phases]), axis=0)


@dataclass(frozen=True, slots=True)
class Transition:
    """The passage from `before` to `after`, the phase that wins as n -> infinity.

    With dX = X_before - X_after, D(n) = n dL + dlambda log n - dm log log n + dc, and `before` has
    weight 1 / (1 + e^D). Build it with `transition`, which orders the phases.

    Attributes
    ----------
    before, after : Phase
        The phase left and the phase entered as n grows.

    Raises
    ------
    ValueError
        If `before` does not lose to `after` as n -> infinity.
    """

    before: Phase
    after: Phase

    def __post_init__(self) -> None:
        if _rank_at_infinity(self.after) >= _rank_at_infinity(self.before):
            raise ValueError(
                f"{self.before} does not lose to {self.after} as n grows; let `transition` "
                "order them."
            )

    @property
    def kind(self) -> str:
        """Type "A" if the loss falls, "B" if it is equal and lower-order terms decide."""
        return "A" if self.before.loss > self.after.loss else "B"

    @property
    def n(self) -> float:
        """The critical sample size: equal weights, weight product at its maximum 1/4."""
        return float(self.sample_size(0.5))

    @property
    def half_maximum(self) -> tuple[float, float]:
        """Sample sizes around `n` with weight product 1/8, where D = -+2 arccosh(sqrt 2).

        The first is NaN if `before` never has more than 85 % of the weight.
        """
        low, high = self.sample_size([0.5 + sqrt(0.125), 0.5 - sqrt(0.125)])
        return float(low), float(high)

    def difference(self, n: ArrayLike) -> FloatArray:
        """D(n) = F_before - F_after, shape of n.

        Parameters
        ----------
        n : array_like
            Sample size > 0 (> 1 if the multiplicities differ), or n beta.

        Returns
        -------
        array, shape of n

        Raises
        ------
        ValueError
            If some n is outside that range.
        """
        d_loss, d_lambda, d_m, d_c = self._differences()
        n = _sample_sizes(n, above=1 if d_m else 0)
        difference = n * d_loss + d_lambda * np.log(n) + d_c
        return difference - d_m * np.log(np.log(n)) if d_m else difference

    def weight(self, n: ArrayLike) -> FloatArray:
        """Posterior weight 1 / (1 + e^D) of `before`, shape of n; arguments as `difference`."""
        return special.expit(-self.difference(n))

    def sample_size(self, weight: ArrayLike = 0.5) -> FloatArray:
        """Largest n at which `before` has a given weight; the inverse of `weight` for large n.

        Parameters
        ----------
        weight : array_like
            Weights strictly between 0 and 1. NaN is passed on.

        Returns
        -------
        array, shape of weight
            NaN where `before` never has that weight; infinity beyond the range of floats. A
            result near 1 means that the free energies are used where they do not hold.

        Raises
        ------
        ValueError
            If a weight is outside (0, 1).
        """
        weight = checks.real_array("weight", weight)
        if np.any((weight <= 0) | (weight >= 1)):
            raise ValueError(f"`weight` must lie strictly between 0 and 1, got {weight}.")
        d_loss, d_lambda, d_m, d_c = self._differences()
        levels = np.ravel(d_c + special.logit(weight))
        log_n = np.array([_last_crossing(d_loss, d_lambda, d_m, c) for c in levels])
        with np.errstate(over="ignore"):
            return np.exp(log_n).reshape(weight.shape)

    def _differences(self) -> tuple[float, float, int, float]:
        u, v = self.before, self.after
        return (
            u.loss - v.loss,
            u.learning_coefficient - v.learning_coefficient,
            u.multiplicity - v.multiplicity,
            u.constant - v.constant,
        )


def transition(first: Phase, second: Phase) -> Transition:
    """Order two phases by who wins as n grows, and make sure that the other one ever did.

    Type A (loss falls, lambda rises), equal multiplicities, k = |dlambda| / dL:
    ``n* = -k W_{-1}(-exp(dc / |dlambda|) / k)``. Type B (equal loss, lambda falls):
    ``n* = exp(-dc / dlambda)``; with unequal multiplicities Lambert's W in log n. Type A with
    unequal multiplicities: a bracketed root.

    Parameters
    ----------
    first, second : Phase
        Two phases, in any order.

    Returns
    -------
    Transition
        Its `n` is the last crossing of the two free energies.

    Raises
    ------
    ValueError
        If one phase is preferred at every n, or the phases differ at most in the constant.
    TypeError
        If one is no Phase.

    References
    ----------
    Lee et al., arXiv 2510.12071 (2025), appendix A; docs/derivations/phases.md.

    Examples
    --------
    >>> change = transition(Phase(0.1, 1.0), Phase(0.0, 2.0))
    >>> change.kind, round(change.n, 2)
    ('A', 35.77)
    """
    _require_phases([first, second])
    after, before = sorted([first, second], key=_rank_at_infinity)
    if _rank_at_infinity(after) == _rank_at_infinity(before):
        raise ValueError(
            "no transition: the phases differ at most in `constant`, so their weights do not "
            "depend on n."
        )
    found = Transition(before, after)
    if np.isnan(found.n):
        raise ValueError(
            f"no transition: {after} is preferred over {before} at every n. The phase that loses "
            "in the end needs a lower `learning_coefficient` or `constant` to win earlier."
        )
    return found


def _require_phases(phases: Sequence[Phase]) -> None:
    for phase in phases:
        if not isinstance(phase, Phase):
            raise TypeError(f"a dlnflow.phases.Phase is needed, got {phase!r}.")


def _rank_at_infinity(phase: Phase) -> tuple[float, float, int]:
    return phase.loss, phase.learning_coefficient, -phase.multiplicity


def _sample_sizes(n: ArrayLike, *, above: int) -> FloatArray:
    n = checks.finite("n", n)
    if not np.all(n > above):
        why = " because log log n enters with multiplicities above 1" if above else ""
        raise ValueError(f"`n` must be > {above}{why}; got {n}.")
    return n


def _last_crossing(a: float, b: float, d: float, c: float) -> float:
    """Log of the largest n with a n + b log n - d log log n + c = 0.

    The first of a, b, -d that is not zero is positive, so the expression ends above zero. Closed
    form unless both a and d differ from zero.

    Returns
    -------
    float
        log n; NaN if the expression is positive at every n (every n > 1 if d != 0).
    """
    if a > 0:
        return _last_root_with_log_log(a, b, d, c) if d else _log_lambert(a, b, c)
    if b > 0:  # the same equation one logarithm up, in log n
        return _exp(_log_lambert(b, -d, c)) if d else -c / b
    return _exp(c / d)


def _log_lambert(slope: float, power: float, constant: float) -> float:
    """Log of the largest z > 0 with slope z + power log z + constant = 0, slope > 0.

    With k = |power| / slope and w = z / k it reads w -+ log w = y, so that w = -W_{-1}(-e^-y) for
    power < 0 (none if y < 1) and w = W_0(e^y) for power > 0.

    Returns
    -------
    float
        log z, or NaN if there is no such z.
    """
    if power == 0:
        return log(-constant / slope) if constant < 0 else nan
    k = abs(power) / slope
    if power < 0:
        y = log(k) + constant / power
        if y < 1:
            return nan
        # W_{-1}(-e^-y) through Wright's omega, which has no e^-y to underflow. Its argument lies on
        # a branch cut, where rounding of pi decides between W_{-1} and W_0: W_{-1} is the smaller.
        return log(k) + log(-min(special.wrightomega(complex(-y, s * pi)).real for s in (1, -1)))
    y = -constant / power - log(k)
    w = special.wrightomega(y)
    return log(k) + (log(w) if y > 0 else y - w)  # y - w does not underflow with w


def _last_root_with_log_log(a: float, b: float, d: float, c: float) -> float:
    """Bracket the root in x = log n > 0 of D(x) = a e^x + b x - d log x + c, a > 0, d != 0."""

    def difference(x: float) -> float:
        return a * exp(x) + b * x - d * log(x) + c

    low = _last_minimum(a, b, d)
    if low > 0 and difference(low) <= 0:
        return _root_above(difference, low)
    if d > 0:  # D -> +infinity at both ends and is positive in between
        return nan
    low = 1.0  # D -> -infinity as x -> 0: one root left of its positive part
    while difference(low) > 0:
        low /= 2
        if low == 0:
            return nan  # n = 1 to all digits: no transition anyone could see
    return _root_above(difference, low)


def _last_minimum(a: float, b: float, d: float) -> float:
    """Place of the last local minimum of D(x) in x > 0; 0 if D has none."""
    # x D'(x) = a x e^x + b x - d is convex, so its last root follows its own minimum.

    def slope(x: float) -> float:
        return a * x * exp(x) + b * x - d

    target = min(max(-b, a), a * exp(LARGEST_LOG - 10)) / a  # of (1 + x) e^x, capped below overflow
    bottom = float(special.lambertw(target * exp(1)).real) - 1
    return min(_root_above(slope, bottom), LARGEST_LOG) if slope(bottom) < 0 else 0.0


def _root_above(function: Callable[[float], float], low: float) -> float:
    """Root of a function that is <= 0 at `low` and has one sign change above it."""
    high = low + 1.0
    while high < LARGEST_LOG and function(high) <= 0:
        high = low + 2 * (high - low)
    high = min(high, LARGEST_LOG)
    if function(high) <= 0:
        return inf
    return optimize.brentq(function, low, high, xtol=1e-300, rtol=1e-15)


def _exp(x: float) -> float:
    return exp(x) if x < LARGEST_LOG else inf if x == x else nan
