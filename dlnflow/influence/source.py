"""Unrolled differentiation with training cut into a few stationary segments (SOURCE)."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import IntArray
from dlnflow.dynamics.protocol import Dynamics, Segment, Vectors
from dlnflow.influence.estimator import (
    DISPLACEMENT,
    NARROW,
    STEPS,
    TWO_LAYERS,
    Grid,
    Items,
    estimator,
    verb,
)

DEFAULT_SEGMENTS = 3


@estimator(
    title="SOURCE",
    choice="Phi constant in a few segments of training",
    page="derivations/unrolling.md",
    needs=[TWO_LAYERS, STEPS, NARROW, DISPLACEMENT, verb("segments")],
)
def source(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    segments: int | None = None,
    filter: str = "discrete",
    curvature: str = "hessian",
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence through products of a few averaged propagators (SOURCE).

    The steps up to the last requested one are cut into equal segments. With H_l and g_l the
    averages of the Hessian and of grad l_i over the K_l steps of segment l, the response d of the
    weights starts at 0 and passes a segment as if both were constant,

        d <- F d - (1/N) (1 - F) H_l^-1 g_l,      F = (1 - eta H_l)^K_l  or  exp(-eta K_l H_l),

    and K[t, q, i] = grad l_q(theta_t) . d(t). At a time inside a segment, K_l counts the steps
    so far, with the averages of the whole segment; the value is the published one where the
    segments end, in particular at the last step.

    Approximation: curvature and gradients are stationary within a segment. For gradient descent,
    segments of one step with the discrete filter are `tangent`; the error of fewer segments falls
    with the square of their length. The exponential filter, the published one, keeps an error
    proportional to eta.

    Other optimizers have P, what they make of a gradient (as in `tracin`), in place of eta: the
    discrete filter is d <- d - P H d - mean(P g / N), with P averaged over the segment. How moments
    remember, how P itself answers to a gradient, and weight decay are left out.

    Torch models above 4,000 parameters have, in place of the mean of all steps of a segment, the
    mean Hessian of 8 of them, evenly spaced, by products.

    Parameters
    ----------
    run : Run
        Two layers if it is linear; discrete steps.
    steps : sequence of int, optional
    segments : int, optional
        From 1 to the last requested step. Default: 3, or as many as there are steps.
    filter : {"discrete", "exponential"}
        Discrete: the averaged steps themselves; no eigenvalue is needed. Exponential: one
        eigendecomposition per segment, for gradient descent.
    curvature : {"hessian", "gauss_newton"}
        The full Hessian, which is indefinite near saddles, or the part without residuals, which
        never is and which the published method uses.
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query.

    Raises
    ------
    ValueError
        If there are more segments than steps, an option, name or step is invalid, the run does
        not have two layers or has no steps, the network is too large, or the exponential filter is
        asked for with another optimizer than gradient descent.
    dlnflow.DivergenceError
        If the run diverges.

    References
    ----------
    Bae et al. 2024, "Training data attribution via approximate unrolled differentiation";
    docs/derivations/unrolling.md.

    Examples
    --------
    >>> import numpy as np
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(3), n_steps=60)
    >>> exact = dln.influence.tangent(run, [60])
    >>> error = [abs(source(run, [60], segments=n) - exact).max() / abs(exact).max()
    ...     for n in (1, 60)]
    >>> bool(error[0] > 1e-3), bool(error[1] < 1e-12)
    (True, True)
    """
    grid = Grid.of(run, steps, query, train)
    checks.one_of("filter", filter, ("discrete", "exponential"))
    checks.one_of("curvature", curvature, ("hessian", "gauss_newton"))
    if filter == "exponential" and not run.traits.plain:
        raise ValueError(
            "`filter='exponential'` is a function of the Hessian alone, for optimizer \"gd\" at "
            "one rate. Use filter='discrete', which takes any steps."
        )
    bounds = _bounds(segments, int(grid.steps[-1]))
    respond = _discrete if filter == "discrete" else _exponential
    values, d = np.zeros((len(grid.steps), len(grid.query), len(grid.train))), None
    rows = {int(step): row for row, step in enumerate(grid.steps)}
    for segment in run.segments(bounds, grid.steps, grid.train, matrix=curvature):
        d = [0 * part for part in segment.displacements] if d is None else d
        end = segment.first + segment.steps
        inside = [step for step in rows if segment.first < step <= end]
        local = [step - segment.first for step in sorted({*inside, end})]
        for step, moved in respond(segment, d, local, run.learning_rate):
            if segment.first + step in rows:
                row = rows[segment.first + step]
                values[row] = segment.along(segment.first + step, moved, grid.query)
        d = moved
    attrs = {"segments": len(bounds) - 1, "filter": filter, "curvature": curvature}
    return grid.result(values, "source", attrs=attrs)


def _discrete(
    segment: Segment, d: Vectors, steps: list[int], rate: float
) -> Iterator[tuple[int, Vectors]]:
    """D <- d - P (H d + g / N), for gradient descent the filter (1 - rate H)^k step by step."""
    wanted = set(steps)
    for step in range(1, steps[-1] + 1):
        pulls = zip(d, segment.pull(d), segment.displacements, strict=True)
        d = [part - (pulled + moved) for part, pulled, moved in pulls]
        if step in wanted:
            yield step, d


def _exponential(
    segment: Segment, d: Vectors, steps: list[int], rate: float
) -> Iterator[tuple[int, Vectors]]:
    """exp(-k rate H) d - (1 - exp(-k rate H)) H^-1 g / N in the eigenbasis of H."""
    sigma, vectors = segment.eigen
    start = segment.flat(d) @ vectors
    g = segment.flat(segment.displacements) @ vectors / rate
    safe = np.where(sigma == 0, 1.0, sigma)
    for step in steps:
        time = rate * step
        gain = np.where(sigma == 0, time, -np.expm1(-time * sigma) / safe)
        yield step, segment.vectors((np.exp(-time * sigma) * start - gain * g) @ vectors.T)


def _bounds(segments: int | None, last: int) -> IntArray:
    """Ends of the segments, of lengths that differ by at most one step."""
    if segments is None:
        if last == 0:
            return np.zeros(1, dtype=np.int64)
        segments = min(DEFAULT_SEGMENTS, last)
    segments = checks.positive_integer("segments", segments)
    if segments > last:
        raise ValueError(
            f"`segments` must be at most the last of `steps`, {last}: a segment has at least one "
            f"step; got {segments}."
        )
    return np.arange(segments + 1) * last // segments
