"""Settings from the curvature of a whole run, so that the default chains mix.

    D_t = (1/N) (W X - Y) X^T at step t, for 33 steps t along the whole run
    negative curvature of the mean loss at a saddle      >= -max_t |D_t|
    largest curvature while sampling                     <= (|W1|^2 + |W2|^2) |X X^T| / N + |D_t|

with |W| the spectral norm, enlarged by the chain's own spread 1/sqrt(localization). Then

    localization = 10 n_beta max_t |D_t|   ten times what keeps the posterior at a saddle local
    step_size    = relative_step / (n_beta * curvature + localization), as the kernel declares
    burn_in      = 20 / (step_size * localization)    ten relaxation times of a flat direction

The steps t never depend on which checkpoints are sampled, so that adding a checkpoint changes
nothing in the others.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow.dynamics import Dynamics

N_BETA = 1e4
"""Default inverse temperature, times the square of the largest feature: fluctuations of the outputs
are then about 1 % of it, in any unit."""
MAX_BURN_IN = 5000
"""Given settings that need longer are left to the verdict."""
LOCALIZATION_FACTOR = 10.0
"""localization / (n_beta * largest negative curvature). Above 1 the saddle is held; far above it
the BIF follows retraining best (docs/sampling.md). `laplace_bif` takes 2, which only holds it."""


def suggest(
    run: Dynamics,
    steps: ArrayLike | None = None,
    *,
    n_beta: float | None = None,
    kernel: str = "underdamped",
) -> dict[str, Any]:
    """Return n_beta, localization, step_size and burn_in for a run.

    The localization is five times the default of `dlnflow.influence.laplace_bif`, with which it
    shares n_beta: 10 and not 2 times what just holds a saddle, because sampled influence then
    follows retraining much better (docs/sampling.md). Give both the same to compare them.

    Parameters
    ----------
    run : Dynamics
        A run of two layers.
    steps : sequence of int, optional
        Where the curvature is taken; default 33 steps along the run, as in `bif`. One setting
        serves all checkpoints, so that a curve over training is not a curve of settings.
    n_beta : float, optional
        Default `default_n_beta`, 1e4 where the largest feature is 1.
    kernel : str
        Name in `dlnflow.sampling.KERNELS`; the step size depends on it.

    Returns
    -------
    dict
        Keyword arguments of `dlnflow.influence.bif`.

    Raises
    ------
    ValueError
        If the run has more than two layers, or is perfect at every step (give `localization` by
        hand then).

    Examples
    --------
    >>> import dlnflow as dln
    >>> found = suggest(dln.Run(dln.semantic_hierarchy()))
    >>> sorted(found)
    ['burn_in', 'localization', 'n_beta', 'step_size']
    """
    n_beta = default_n_beta(run) if n_beta is None else checks.positive("n_beta", n_beta)
    return complete(run, {"n_beta": n_beta}, kernel, steps)


def default_n_beta(run: Dynamics) -> float:
    """Return `N_BETA` / max |y|^2: an inverse temperature is one over a loss, in its unit.

    Returns
    -------
    float
    """
    return N_BETA / float(np.abs(run.task.y).max()) ** 2


def along(run: Dynamics) -> list[int]:
    """Return 33 steps along the run, both ends included (all of a shorter run)."""
    return np.unique(np.linspace(0, run.n_steps, 33).astype(int)).tolist()


def _relative_step(kernel: str) -> float:
    """Return eps times curvature for a kernel.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the kernel is unknown, or its step does not follow from the curvature.
    """
    from dlnflow.sampling import kernels  # torch is not needed for the constants of this module

    traits = kernels.named(kernel).traits
    if traits.relative_step is None:
        why = (
            "it does not declare its `relative_step`"
            if traits.effective_step in (None, kernels.spec.STEP_SIZE)
            else f"its effective step is {traits.effective_step}, which no curvature bound fixes "
            "beforehand"
        )
        raise ValueError(f"kernel {kernel!r} needs a `step_size`: {why}.")
    return traits.relative_step


def complete(
    run: Dynamics, given: dict[str, Any], kernel: str, steps: ArrayLike | None = None
) -> dict[str, Any]:
    """Fill in what the user left out from the curvature at `steps`, consistently with `given`.

    The run is only trained if a localization or a step size is missing.

    Returns
    -------
    dict
        The settings, completed.

    Raises
    ------
    ValueError
        If a given number is out of range, or nothing sets a scale.
    """
    left_out = ("n_beta", "localization", "step_size", "burn_in")
    given = {k: v for k, v in given.items() if v is not None or k not in left_out}
    for name in ("n_beta", "localization", "step_size"):
        if name in given:
            checks.positive(name, given[name])
    n_beta = given.setdefault("n_beta", default_n_beta(run))
    if not {"localization", "step_size"} <= set(given):
        w1, w2 = checkpoints(run, along(run) if steps is None else steps)
    if "localization" not in given:
        saddle = float(residual_norm(run, w1, w2).max())
        if not saddle > 0:
            raise ValueError(
                "the run fits the task perfectly from start to end, so nothing sets a scale; give "
                "`localization`."
            )
        given["localization"] = LOCALIZATION_FACTOR * n_beta * saddle
    if "step_size" not in given:
        stiffness = curvature(run, w1, w2, n_beta, given["localization"])
        given["step_size"] = _relative_step(kernel) / stiffness
    relaxed = 20 / (given["step_size"] * given["localization"])
    given.setdefault("burn_in", int(min(MAX_BURN_IN, np.ceil(relaxed))))
    return given


def checkpoints(run: Dynamics, steps: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Return W1 (T, h, n_in) and W2 (T, d_out, h).

    Returns
    -------
    tuple of arrays
        W1 and W2.

    Raises
    ------
    ValueError
        If the run has more than two layers.
    """
    require_two_layers(run)
    return _trained(run, tuple(checks.recorded_steps(steps, run.n_steps).tolist()))


def require_two_layers(run: Dynamics) -> None:
    """Refuse a deeper run, before anything is trained.

    Raises
    ------
    ValueError
        If the run has more than two layers.
    """
    torch_model = "For other networks use dlnflow.sampling.sample on a torch model."
    checks.two_layers("bif", run.depth, instead=torch_model)


@lru_cache(maxsize=2)
def _trained(run: Dynamics, steps: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Train once for all settings of a sweep; a Run never changes and is its own key."""
    # Two entries: the steps that set the defaults and those that are sampled.
    trajectory = run.train(steps)
    layers = trajectory.w1, trajectory.w2
    for w in layers:
        w.flags.writeable = False
    return layers


def stiffest(
    run: Dynamics, w1: FloatArray, w2: FloatArray, n_beta: float, localization: float
) -> float:
    """Return the largest curvature of U at the checkpoints themselves, without noise."""
    return n_beta * float(_loss_curvature(run, w1, w2, 0.0).max()) + localization


def residual_norm(run: Dynamics, w1: FloatArray, w2: FloatArray) -> FloatArray:
    """Return the spectral norm of D_t = (1/N) (W X - Y) X^T, shape (T,)."""
    task = run.task
    d = (w2 @ w1 @ task.x - task.y) @ task.x.T / task.n_items
    return np.linalg.norm(d, 2, axis=(1, 2))


def curvature(
    run: Dynamics, w1: FloatArray, w2: FloatArray, n_beta: float, localization: float
) -> float:
    """Return an upper bound on the curvature of U over checkpoints and typical draws."""
    spread = 1 / np.sqrt(localization)
    return n_beta * float(_loss_curvature(run, w1, w2, spread).max()) + localization


def _loss_curvature(run: Dynamics, w1: FloatArray, w2: FloatArray, spread: float) -> FloatArray:
    """Return (|W1|^2 + |W2|^2) |X X^T| / N + |D| per checkpoint, with weights off by `spread`."""
    layers = [
        np.linalg.norm(w, 2, axis=(1, 2)) + spread * (np.sqrt(w.shape[1]) + np.sqrt(w.shape[2]))
        for w in (w1, w2)
    ]
    scale = np.linalg.norm(run.task.x, 2) ** 2 / run.task.n_items
    return (layers[0] ** 2 + layers[1] ** 2) * scale + residual_norm(run, w1, w2)
