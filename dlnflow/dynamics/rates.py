"""Learning rates that change over training: a warm-up, then a decay."""

import math
from collections.abc import Callable

from dlnflow import checks

RateSchedule = Callable[[int], float]
"""Step, from 0 -> factor of the learning rate of that step, as in torch's LambdaLR."""


def constant(*, warmup: int = 0) -> RateSchedule:
    """Return (k + 1) / warmup at the first `warmup` steps k, and 1 from then on.

    Parameters
    ----------
    warmup : int
        Length of the linear warm-up, in steps.

    Returns
    -------
    function of a step
    """
    return _warmed(warmup, lambda _: 1.0)


def linear(horizon: int, *, warmup: int = 0, final: float = 0.0) -> RateSchedule:
    """Return a straight line from 1 after the warm-up to `final` at step `horizon`.

    Parameters
    ----------
    horizon : int
        Step from which on the factor is `final`.
    warmup : int
        Length of the linear warm-up, in steps.
    final : float
        Factor of the learning rate that is left.

    Returns
    -------
    function of a step

    Raises
    ------
    ValueError
        If `horizon` is not beyond the warm-up, or a number is out of range.
    """
    share = _share(horizon, warmup)
    low = checks.real_number("final", final)
    return _warmed(warmup, lambda step: low + (1 - low) * (1 - share(step)))


def cosine(horizon: int, *, warmup: int = 0, final: float = 0.0) -> RateSchedule:
    """Return final + (1 - final) (1 + cos(pi s)) / 2, s from 0 after the warm-up to 1 at `horizon`.

    Parameters
    ----------
    horizon, warmup, final
        As in `linear`.

    Returns
    -------
    function of a step

    Raises
    ------
    ValueError
        As `linear`.

    Examples
    --------
    >>> rate = cosine(100, warmup=10, final=0.1)
    >>> [round(rate(step), 3) for step in (0, 9, 10, 55, 100, 200)]
    [0.1, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    share = _share(horizon, warmup)
    low = checks.real_number("final", final)
    return _warmed(
        warmup, lambda step: low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share(step)))
    )


def _share(horizon: int, warmup: int) -> RateSchedule:
    """How much of the way from the end of the warm-up to the horizon lies behind a step."""
    horizon = checks.positive_integer("horizon", horizon)
    length = horizon - checks.whole_number("warmup", warmup)
    if length < 1:
        raise ValueError(f"`horizon` must be beyond `warmup`, {warmup}; got {horizon}.")
    return lambda step: min(1.0, (step - warmup) / length)


def _warmed(warmup: int, after: RateSchedule) -> RateSchedule:
    warmup = checks.whole_number("warmup", warmup)
    return lambda step: (step + 1) / warmup if step < warmup else after(step)
