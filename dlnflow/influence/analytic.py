"""The closed form of the paper: aligned modes, perturbed input-output correlation."""

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.influence import closed_form
from dlnflow.influence.estimator import (
    FLOW_TIME,
    FULL_BATCH,
    LINEAR,
    RANK,
    WHITENED,
    Grid,
    Items,
    estimator,
)
from dlnflow.theory.start import matched_strength


@estimator(
    title="analytic closed form",
    choice="the closed form of the paper: aligned modes",
    page="derivations/perturbation.md",
    needs=[LINEAR, WHITENED, FLOW_TIME, FULL_BATCH, RANK],
    separate_times=True,
)
def analytic(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    a0: float | None = None,
    response: str = "correlation",
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence from the mode equation, without training.

        K[t, q, i] = - r_q(t)^T (dW_i) x_q,   dW_i = derivative of f_t(S) along y_i x_i^T / c,

    with S = Y X^T / c = U diag(s) V^T, X X^T = c I, f_t(s) = a(t; s, a0) the mode strength and
    r_q = y_q - W x_q. For targets that are a linear function of the inputs (one-hot inputs
    always) this is K = - sum_ab A_ab(t) P_a o P_b / c over distinct singular values, with
    P_a = X^T V_a V_a^T X and `o` the entrywise product.

    Parameters
    ----------
    run : Run
        Whitened inputs; any depth; an optimizer with a flow time (all but Adam).
    steps : sequence of int, optional
        Times at which influence is wanted, strictly increasing within the run.
    a0 : float, optional
        Initial strength of every mode. Default: what the run's own initial
        weights stand for, `dlnflow.theory.start.matched_strength`.
    response : {"correlation", "exact"}
        What the weight of an item changes: the input-output correlation, with the network aligned
        to the changed modes (the paper), or the data, with the initial weights as they are: the
        exact tangent of an aligned balanced start, from a linear equation per pair of modes. For
        targets that are a linear function of the inputs.
    query, train : item names, optional
        Default: all. Cost and memory are proportional to the number of pairs.

    Returns
    -------
    xarray.DataArray
        dims (time, query, train); negative = the train item helps the query. ``attrs["a0"]`` is
        the initial strength used.

    Raises
    ------
    ValueError
        If inputs are not whitened, the optimizer has no flow time, the network is narrower than
        the rank of the target, or the derivative does not exist; if an argument is invalid.
    FloatingPointError
        If ``response="exact"`` cannot be integrated.

    Notes
    -----
    What is approximated: all modes start aligned with the singular vectors and at one strength;
    only the input-output correlation is reweighted (unless ``response="exact"``), so a reweighted
    item moves the fixed point that is learned; steps are continuous time. `tangent` makes none of
    these approximations.

    References
    ----------
    Lee, Smith, Adam, Hoogland 2025, "Influence dynamics and stagewise data attribution";
    docs/derivations/perturbation.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = analytic(run, [400, 800], query=["cat", "pine"], train="dog")
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.518, 0.043], [0.206, -0.0]]
    """
    grid = Grid.of(run, steps, query, train)
    checks.one_of("response", response, ("correlation", "exact"))
    if a0 is None:
        a0 = matched_strength(run.initial_weights(copy=False), run.task.modes)
    a0 = checks.positive("a0", a0)
    values = closed_form.influence(
        run.task,
        grid.flow_time,
        a0,
        run.depth,
        query=grid.query,
        train=grid.train,
        exact=response == "exact",
    )
    return grid.result(values, "analytic", attrs={"a0": a0, "response": response})
