"""The finite effect of removing a training item, without retraining."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.dynamics import defaults
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import (
    FOLLOWS_FLOW,
    FULL_BATCH,
    LINEAR,
    TWO_LAYERS,
    Grid,
    Items,
    estimator,
)
from dlnflow.influence.removal import Removal

SOLUTIONS = ("riccati", "gram")
IMBALANCE_LIMIT = 0.003
"""Largest imbalance of the start, relative to the largest strength, for the closed form."""
STIFF = 30.0
"""Gradient flow, which has no stable step, is integrated up to this many times as large weights."""


@estimator(
    title="closed-form leave-one-out",
    choice="the same from the flow, without training",
    page="derivations/flow.md",
    needs=[LINEAR, TWO_LAYERS, FOLLOWS_FLOW, FULL_BATCH],
)
def closed_form_loo(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    fraction: float | list[float] = 1.0,
    solution: str | None = None,
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence as the effect of removing an item, predicted from the initial weights.

        K[t, q, i] = [ l_q(W(t); w = 1) - l_q(W(t); w_i = 1 - fraction) ] / fraction

    with both maps W(t) from the gradient flow started at the run's own initial weights: nothing is
    trained, nothing is fitted. Same quantity and sign as `leave_one_out`.

    Approximations: the finite step of an optimizer enters through growth rates (Riccati, error of
    first order in the step) or a modified equation (Gram, of second order); for momentum at its
    default step the worst pairs are off by 23 % and 8.7 % (docs/derivations/flow.md). The Riccati
    form also takes the start as balanced, which the default allows up to an imbalance of 0.3 %.
    Both vanish in the Gram form of ``optimizer="flow"``.

    Parameters
    ----------
    run : Run
        Two layers; optimizer "gd", "momentum" or "flow", any inputs.
    steps : sequence of int, optional
        Strictly increasing within the run.
    fraction : float or list of float
        How much of the item's weight is removed, nonzero and at most 1 (negative: added, while
        gradient descent by this run's steps stays stable: a weight of at most the stable learning
        rate over the run's, 30 times that for flow). A list adds the leading dim ``fraction``.
    solution : {"riccati", "gram"}, optional
        "riccati": closed form; exists for full removal when X^T X = c I (one-hot items among
        them), and takes the start as balanced. "gram": the Gram flow, integrated numerically,
        for any start, inputs and fraction. Default: the closed form where it exists and the
        start is balanced to `IMBALANCE_LIMIT`, else the Gram flow. The attribute ``solution``
        says which was used.
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train), or (fraction, time, query, train); negative = the train item
        helps the query.

    Raises
    ------
    ValueError
        If the run has another depth or uses Adam, or an option is invalid.
    FloatingPointError
        If the Gram flow cannot be integrated.

    References
    ----------
    docs/derivations/flow.md; Fukumizu 1998; Braun et al. 2022 (the Riccati solution).

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = closed_form_loo(run, [400, 600], query=["cat", "pine"], train="dog")
    >>> inf.sel(time=600, train="dog").values.round(2).tolist()
    [-0.27, -0.0]
    """
    grid = Grid.of(run, steps, query, train)
    values, single = checks.number_list("fraction", fraction)
    fractions = [checks.removed_fraction(f) for f in values.tolist()]
    _check_added(run, min(fractions))
    removal = Removal.of(run, grid.steps, grid.query)
    used = [_choose(removal, f, solution) for f in fractions]
    values = np.empty((len(fractions), len(grid.steps), len(grid.query), len(grid.train)))
    for name in set(used):
        chosen = np.array([u == name for u in used])
        values[chosen] = _influence(removal, grid, np.array(fractions)[chosen], name)
    attrs = {
        "solution": ", ".join(sorted(set(used))),
        "imbalance": removal.imbalance(),
    }
    if single:
        return grid.result(values[0], "closed_form_loo", attrs=attrs | {"fraction": fractions[0]})
    return grid.result(values, "closed_form_loo", attrs=attrs, leading={"fraction": fractions})


def _influence(removal: Removal, grid: Grid, fractions: FloatArray, solution: str) -> FloatArray:
    """Loss differences, shape (F, T, n_query, n_train)."""
    if solution == "riccati":  # full removal only: all fractions are 1
        losses = removal.riccati_losses(np.concatenate([[-1], grid.train]))[None]
        full, without = losses[:, 0], losses[:, 1:]
    else:
        one = np.ones(grid.run.task.n_items)
        weights = one - fractions[:, None, None] * grid.train_directions
        losses = removal.gram_losses(np.concatenate([one[None], weights.reshape(-1, len(one))]))
        full, without = losses[:1], losses[1:].reshape(*weights.shape[:2], *losses.shape[1:])
    difference = (full[:, None] - without) / fractions[:, None, None, None]
    return np.moveaxis(difference, 1, -1)


def _choose(removal: Removal, fraction: float, solution: str | None) -> str:
    """Pick the solution for one fraction, or refuse one that does not exist."""
    exists = fraction == 1 and removal.scale is not None
    if solution is None:
        return "riccati" if exists and removal.imbalance() <= IMBALANCE_LIMIT else "gram"
    checks.one_of("solution", solution, SOLUTIONS)
    if solution == "riccati" and not exists:
        why = (
            f"a removal of {fraction:g} leaves unequal item weights"
            if removal.scale is not None
            else "the inputs are not orthogonal and of equal length (X^T X = c I)"
        )
        raise ValueError(
            f"`solution` 'riccati' does not exist here: {why}. Use 'gram', or leave it out."
        )
    return solution


def _check_added(run: Dynamics, smallest: float) -> None:
    """Refuse an item weight at which steps diverge: the flow neither predicts them nor ends."""
    factor = STIFF if run.traits.continuous else run.traits.stability
    limit = factor * defaults.stable_learning_rate(run.task, run.depth) / run.learning_rate
    if smallest < 0 and 1 - smallest > limit:
        raise ValueError(
            f"`fraction` {smallest:g} gives an item the weight {1 - smallest:g}, for which the "
            f"`learning_rate` of this run is too large: it takes weights up to {limit:.4g}. Use a "
            "`fraction` closer to 0, or a run with a smaller `learning_rate`."
        )
