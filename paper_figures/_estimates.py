"""Values with standard errors and degrees of freedom, and what follows for sums of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlnflow.traces.intervals import t_quantile
from paper_figures._verdicts import Number


class Estimate(NamedTuple):
    """A value, its standard error, and the degrees of freedom of that."""

    value: float
    error: float
    dof: float


def together(errors: Sequence[float], dof: Sequence[float]) -> tuple[float, float]:
    """Return the error of a sum and its degrees of freedom, by Welch and Satterthwaite."""
    errors = np.asarray(errors)
    error = np.sqrt(np.sum(errors**2))
    return float(error), float(error**4 / np.sum(errors**4 / np.asarray(dof)))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return a minus b, as if they were independent."""
    return Estimate(a.value - b.value, *together([a.error, b.error], [a.dof, b.dof]))


def interval(estimate: Estimate) -> Number:
    """Return a value with its 95 % t interval."""
    half = float(t_quantile(estimate.dof)) * estimate.error
    return Number(estimate.value, estimate.value - half, estimate.value + half)
