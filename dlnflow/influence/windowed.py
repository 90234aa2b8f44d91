"""Item weights changed for a while only: when in training an item matters."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.dynamics.protocol import Dynamics
from dlnflow.dynamics.schedule import Windows
from dlnflow.influence.estimator import DIFFERENTIABLE, STEPS, Grid, Items, estimator, verb

DEFAULT_WINDOW = 0.05
"""Default width, as a fraction of the run."""


@estimator(
    title="windowed removal",
    choice="an item removed in a window of steps",
    page="derivations/unrolling.md",
    needs=[STEPS, verb("branches")],
)
def windowed(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    window: ArrayLike | None = None,
    weight: float = 0.0,
    at: str | int = "window",
    first_order: bool = False,
    query: Items = None,
    train: Items = None,
) -> xr.DataArray:
    """Influence of an item during one window, [t, t + window), for many start times t at once.

    K[t, q, i] = [ M_q(w = 1) - M_q(w_i = weight during the window) ] / (1 - weight),

    where M_q is the mean of l_q over the steps t + 1, ..., t + window (``at="window"``; times
    ``window`` it is the loss difference integrated over the window), or l_q at a later step.
    Branches leave the run where their window opens; nothing is trained from the beginning.
    As ``weight`` goes to 1 this tends to its derivative, ``first_order=True``: the sum of
    `per_step` over the window, to which no ``weight`` belongs.

    Parameters
    ----------
    run : Run
        Optimizer "gd", "momentum" or "adam"; any depth and inputs.
    steps : sequence of int, optional
        Steps t at which windows open: the ``time`` of the result.
    window : int or list of int, optional
        Width in steps; a list of different widths becomes the leading dim ``window``. Every window
        must lie within the run. Default: a twentieth of the run, where windows are cut at its end
        or at ``at``; where nothing is left of one, its influence is 0.
    weight : float
        Weight of the item in the window: 0 = absent, above 1 = up-weighted; not 1, nor nearer to
        1 than 1e-8, where rounding decides. It does not belong to ``first_order=True``.
    at : {"window", "end"} or int
        Measured inside the window, at the last step of the run, or at a given step, which no
        window may exceed. After the window the item has weight 1 again.
    first_order : bool
        Return the exact derivative with respect to the weight in the window instead, from one
        sweep back through training.
    query, train : item names, optional
        Default: all.

    Returns
    -------
    xarray.DataArray
        dims ([window,] time, query, train); negative = the train item helps the query.
        ``attrs["retrainings"]`` counts branches: short trainings, from where a window opens to
        where it is measured.

    Raises
    ------
    ValueError
        If a window leaves the run or ends after ``at``, ``weight`` is 1 or negative, names or
        steps are invalid, or the optimizer is "flow".
    dlnflow.DivergenceError
        If the run or a branch diverges.

    References
    ----------
    Lee et al. 2025, appendix C.5 (ablation of dog over windows); docs/derivations/unrolling.md.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy())
    >>> inf = windowed(run, [200, 400], window=100, train="dog", query=["cat", "pine"])
    >>> inf.sel(train="dog").values.round(3).tolist()
    [[-0.018, -0.004], [-0.047, 0.011]]
    """
    grid = Grid.of(run, steps, query, train)
    weight = checks.window_weight(weight)
    if checks.flag("first_order", first_order) and (why := _no_derivative(run)):
        raise ValueError(why)
    if first_order and weight != 0:
        raise ValueError(
            f"`weight` {weight:g} does not belong to `first_order=True`, the derivative at weight "
            "1; leave one of them out."
        )
    measured = checks.measured_step(at, run.n_steps, within=True)
    attrs = {"at": str(at), "first_order": int(first_order)}
    attrs |= {"retrainings": 0} if first_order else {"weight": weight}
    if window is None:
        width = max(1, round(DEFAULT_WINDOW * run.n_steps))
        limit = run.n_steps if measured is None else measured
        stops = np.clip(grid.steps + width, None, limit)
        windows = Windows(grid.steps, np.maximum(stops, grid.steps), measured)
        values = _values(grid, windows, weight, first_order)
        attrs |= {} if first_order else {"retrainings": _branches(grid, windows)}
        return grid.result(values, "windowed", attrs=attrs | {"window": width})
    given, single = checks.positive_list("window", window)
    widths = [checks.positive_integer("window", w) for w in given]
    last = run.n_steps if measured is None else measured
    found = []
    for width in widths:
        checks.windows_inside(grid.steps, width, last, run.n_steps)
        windows = Windows(grid.steps, grid.steps + width, measured)
        found.append(_values(grid, windows, weight, first_order))
    attrs |= {} if first_order else {"retrainings": _branches(grid, windows) * len(widths)}
    if single:
        return grid.result(found[0], "windowed", attrs=attrs | {"window": widths[0]})
    return grid.result(np.stack(found), "windowed", attrs=attrs, leading={"window": widths})


def _no_derivative(run: Dynamics) -> str:
    """Why there is no first-order form, which only that option needs; or ""."""
    return DIFFERENTIABLE.refusal("windowed(..., first_order=True)", run)


def _branches(grid: Grid, windows: Windows) -> int:
    """One per train item and window that is not empty."""
    return int(np.sum(windows.widths > 0)) * len(grid.train)


def _values(grid: Grid, windows: Windows, weight: float, first_order: bool) -> FloatArray:
    """Shape (T, n_query, n_train)."""
    run = grid.run
    if first_order:
        return run.window_adjoint(windows, grid.query)[..., grid.train]
    changed = 1 - (1 - weight) * grid.train_directions
    difference = run.branches(windows, changed, grid.query)
    return np.swapaxes(difference, 1, 2) / (1 - weight)
