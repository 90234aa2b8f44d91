"""What a page of a table knows of the run: its losses, its modes, its representations, its tree."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlnflow import influence
from dlnflow._support import FloatArray, IntArray
from dlnflow.analysis import tree
from dlnflow.dynamics import Dynamics
from dlnflow.explore import document
from dlnflow.explore.low_rank_curves import fit
from dlnflow.influence import closed_form

FRAME_NUMBERS = 2**24
"""Numbers of weights and representations that are held at once."""
COEFFICIENTS = 2**26
"""Entries of coefficient matrices that are computed for a page,"""
COEFFICIENT_RTOL = 1e-6
"""and how well they are kept, relative to the largest."""
COMPONENTS = 3
"""Of the picture of representations."""


def content(
    run: Dynamics, steps: IntArray, shown: tuple[list[str], NDArray[np.intp]], closed: float
) -> dict[str, Any]:
    """Train once more and return what is drawn beside influence, as JSON has it.

    Parameters
    ----------
    run : Run or TorchRun
    steps : (T,) int array
        Recorded steps of the influence.
    shown : (list of str, array)
        The train items in the order in which they are shown, and their tree.
    closed : float
        Largest |influence| of the closed form, which its floor of events follows.

    Returns
    -------
    dict
        `frames` (places among the steps), `loss` (F, N) and its `loss_names`; and, of a deep
        linear network, `strength` (F, m) and the `goals` of modes, `representation`, `tree` and,
        where the closed form takes the run, `modes`; the others None.
    """
    if not run.linear:
        loss = run.losses(steps, np.ones((1, len(run.items))))[0]
        empty = dict.fromkeys(("strength", "goals", "representation", "tree", "modes"))
        about = {"frames": list(range(len(steps))), "loss_names": [str(q) for q in run.queries]}
        return about | {"loss": document.floats(loss)} | empty
    frames = _frames(run, len(steps))
    trajectory = run.train(steps[frames])
    blocks = run.task.modes.blocks
    strengths = trajectory.mode_strengths
    mean = np.stack([strengths[:, block].mean(axis=1) for block in blocks], axis=1)
    return {
        "frames": frames.tolist(),
        "loss_names": list(run.task.items),
        "loss": document.floats(trajectory.loss.values),
        "goals": run.task.modes.distinct.tolist(),
        "strength": document.floats(mean),
        "representation": _representation(trajectory),
        "tree": _tree(run, trajectory.hidden, *shown),
        "modes": None if influence.analytic.record.refusal(run) else _modes(run, steps, closed),
    }


def _frames(run: Dynamics, count: int) -> IntArray:
    """Places among the steps, all of them if so many weights can be held."""
    task = run.task
    width = min(run.hidden, task.n_in + task.n_out)
    each = width * (task.n_items + task.n_in + task.n_out) + task.n_out * task.n_in
    most = int(np.clip(FRAME_NUMBERS // each, 24, count))
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))


def _representation(trajectory: Any) -> dict[str, Any]:
    from dlnflow.analysis import embedding  # loads scikit-learn

    components = min(COMPONENTS, trajectory.hidden.shape[1], trajectory.hidden.shape[2])
    found = embedding.embedding(trajectory, components, common_drift=False)
    return {
        "components": components,
        "places": document.floats(found.values),
        "explained": found.explained.values.round(4).tolist(),
    }


def _tree(
    run: Dynamics, hidden: FloatArray, names: list[str], joins: NDArray[np.intp]
) -> dict[str, Any]:
    chosen = [run.items.index(name) for name in names]
    heights = tree.heights(joins, hidden[:, :, chosen])
    return {"joins": joins.tolist(), "heights": document.floats(heights)}


def in_order(run: Dynamics, names: list[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Return items so that alike ones stand together, and their tree by their features."""
    if not run.linear:
        return names, np.zeros((0, 2), dtype=np.intp)
    joins = tree.item_tree(run.task.y.T[[run.items.index(name) for name in names]])
    order = tree.leaf_order(joins)
    return [names[k] for k in order], tree.relabelled(joins, order)


def _modes(run: Dynamics, steps: IntArray, closed: float) -> dict[str, Any] | None:
    """Loadings and coefficients of the closed form.

    A[t, a, b] of `closed_form.coefficients` is kept like curves of pairs of modes, and a last
    column for the null space, so that the page splits any curve into parts of modes:

        C_a = - P_a (sum_b A_ab P_b + A_a0 P_0) / c,    P_a = sum over block a of x_q x_i.

    Returns
    -------
    dict or None
        None if targets are not linear in the inputs.
    """
    task, modes = run.task, run.task.modes
    if not closed_form.linear(task):
        return None
    count = len(modes.blocks)
    most = int(np.clip(COEFFICIENTS // count**2, 16, len(steps)))
    times = np.unique(np.linspace(0, len(steps) - 1, most).round().astype(np.int64))
    some = [run.items[0]]
    one = influence.analytic(run, steps[times], query=some, train=some)
    a0 = one.attrs["a0"]
    rows, columns = np.triu_indices(count)
    table = np.empty((len(times), len(rows) + count))
    for k, t in enumerate(one.flow_time.values):
        matrix = closed_form.coefficients(modes.distinct, t, a0, run.depth, null=True)
        table[k] = np.concatenate([matrix[rows, columns], 2 * matrix[-1, :-1]])
    kept = fit(lambda: iter([(slice(None), table)]), table.shape[1], _tolerance(table))
    everyone = closed_form.Items(task, np.arange(task.n_items))
    return {
        "times": times.tolist(),
        "coefficients": kept.content(),
        "items": document.floats(everyone.x),
        "features": document.floats(modes.u),
        "feature_names": list(task.features),
        "sizes": [len(block) for block in modes.blocks],
        "strength": modes.distinct.tolist(),
        "whitening": float(task.whitening),
        "a0": float(a0),
        "largest": closed,
    }


def _tolerance(table: NDArray) -> float:
    return COEFFICIENT_RTOL * float(np.abs(table).max())
