"""From a run to loss traces: settings filled in, checkpoints trained, chains sampled."""

from typing import Any

import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow.dynamics.linear import Run
from dlnflow.sampling import suggested, toy
from dlnflow.sampling.settings import Settings

STABLE = 4.0
"""step_size times the largest curvature of U at which `sgld` and `underdamped` blow up."""


def trace_run(
    run: Run,
    steps: ArrayLike,
    *,
    kernel: str = "underdamped",
    weights: ArrayLike | None = None,
    **settings: Any,
) -> xr.DataArray:
    """Sample the localised posterior at checkpoints of a two-layer run.

    Parameters
    ----------
    run : Run
        Two layers.
    steps : sequence of int
        Checkpoints.
    kernel : {"sgld", "rmsprop_sgld", "mala", "underdamped"}
        How the chains move. "underdamped" has no bias on Gaussian targets and, per step, the
        largest effective sample size.
    weights : array, shape (N,), optional
        Item weights w_i >= 0; default 1. Recorded as the coordinate `weight`.
    **settings
        Fields of `dlnflow.sampling.Settings`, among them the options of the kernel, e.g.
        kernel_options={"freeze_after": 500, "stability": 0.1}; n_beta, localization, step_size
        and burn_in are filled in where they are left out, as by `suggest(run)`: from the whole
        run, whatever `steps` are.

    Returns
    -------
    xarray.DataArray, dims (time, chain, draw, item)
        Losses of all items.

    Raises
    ------
    ValueError
        If a setting is out of range or the step is beyond stability at a checkpoint.
    """
    steps = checks.recorded_steps(steps, run.n_steps)
    unknown = sorted(set(settings) - set(Settings.__dataclass_fields__))
    if unknown:
        raise ValueError(
            f"unknown sampling option `{unknown[0]}`."
            + checks.did_you_mean(unknown[0], list(Settings.__dataclass_fields__))
        )
    suggested.require_two_layers(run)
    full = Settings(**suggested.complete(run, settings, kernel))
    w1, w2 = suggested.checkpoints(run, steps)
    # MALA rejects, and the step of RMSProp-SGLD is not `step_size`.
    if kernel in ("sgld", "underdamped"):
        stiffness = suggested.stiffest(run, w1, w2, full.n_beta, full.localization)
        _check_stable(stiffness, full.step_size, kernel)
    return toy.sample(w1, w2, run.task, time=steps, kernel=kernel, settings=full, weights=weights)


def _check_stable(stiffness: float, step_size: float, kernel: str) -> None:
    """Refuse a step at which the linearised chain grows.

    Raises
    ------
    ValueError
        If step_size * stiffness >= 4.
    """
    if step_size * stiffness >= STABLE:
        raise ValueError(
            f"`step_size` = {step_size:g} is beyond stability: step_size * curvature = "
            f"{step_size * stiffness:.3g} >= {STABLE:g}. Use at most "
            f"{suggested.RELATIVE_STEP[kernel] / stiffness:.2g}, or lower `n_beta`."
        )
