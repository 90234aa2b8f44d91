"""The finite effect of removing a training item, by retraining."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence.estimator import Grid, Items, estimator, verb


@estimator(
    title="leave-one-out",
    choice="an item removed for the whole run, by retraining",
    page="derivations/response.md",
    needs=[verb("losses")],
)
def leave_one_out(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    fraction: float | None = None,
    at_weight: float = 1.0,
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence as the loss difference between training with and without an item.

    K[t, q, i] = [ l_q(theta_t; w_i = a) - l_q(theta_t; w_i = a - fraction) ] / fraction,

    with a = ``at_weight`` and all other weights 1. Both trainings start from the same weights and
    use the same optimizer; l_q is the loss on the unchanged query item. Removal of an item of
    weight 1 (fraction 1) takes its term out of the objective, which keeps its factor 1/N; that is
    the same as setting its input and its output to zero. As ``fraction`` goes to 0 this becomes
    `tangent` at that weight.

    All retrainings run together as one batch.

    Parameters
    ----------
    run : Run
        Any optimizer, depth and inputs.
    steps : sequence of int, optional
        Strictly increasing within the run.
    fraction : float, optional
        How much of the item's weight is removed, nonzero and at most `at_weight` (negative:
        added). Default: all of it; for an item of weight 0, -1, its introduction.
    at_weight : float
        Weight >= 0 of the train item: 1 for one that is trained on, 0 for one that is not.
    query, train : item names, optional
        Default: all. One retraining per train item.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query.

    Raises
    ------
    ValueError
        If steps, names, `fraction` or `at_weight` are invalid.
    dlnflow.DivergenceError
        If a run diverges.

    References
    ----------
    Lee et al. 2025, "Influence Dynamics and Stagewise Data Attribution", eq. 3 and appendix C.3.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = leave_one_out(run, [400, 800], query=["cat", "pine"], train="dog")
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.265, 0.012], [-0.116, -0.001]]
    """
    grid = Grid.of(run, steps, query, train)
    at_weight = grid.at_weight(at_weight)
    if fraction is None:
        fraction = at_weight or -1.0
    fraction, items = checks.removed_fraction(fraction, at_weight), grid.train_directions
    before = np.ones((1, len(run.items))) if at_weight == 1 else 1 + (at_weight - 1) * items
    after = 1 + (at_weight - fraction - 1) * items
    losses = run.losses(grid.steps, np.concatenate([before, after]), query=grid.query)
    difference = (losses[: len(before)] - losses[len(before) :]) / fraction  # (n_train, T, n_query)
    attrs = {"fraction": fraction, "retrainings": len(before) - 1 + len(grid.train)}
    if at_weight != 1:
        attrs |= {"at_weight": at_weight, "retrainings": len(before) + len(after)}
    return grid.result(np.moveaxis(difference, 0, -1), "leave_one_out", attrs=attrs)
