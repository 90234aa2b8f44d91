"""What the command does with a person's own table where nothing is said: work of seconds.

The built-in tasks keep the run of the paper. A table gets gradient flow, which is integrated in
far fewer steps than a learning rate needs, a hidden layer that follows its rank, and as many of
the default estimators as take seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dlnflow as dln
from dlnflow._support.terminal import say
from dlnflow.dynamics import Dynamics
from dlnflow.task import Task

ESTIMATORS = ("analytic", "tangent", "leave_one_out")
"""By default, from the cheapest question to the truth."""
HIDDEN_PER_MODE, LEAST_HIDDEN = 2, 16
"""With as many hidden units as modes, the last modes start in what the others leave of the hidden
space, and the closed form, whose modes start alike, predicts retraining worse."""
PATIENCE, PATIENCE_FOR_NAMED = 2.5, 40.0
"""Estimated seconds that the defaults may take together, for all items and for named ones,"""
ALWAYS = 16
"""unless there are as few items as this."""
OVERHEAD, RATE = 0.01, 1.5e10
"""Seconds of one flow with its derivative besides its operations, and operations per second."""
EVALUATIONS, PER_TIME = 2500, 5
"""Evaluations of a flow of five tables: about the first plus the second times s_1 t."""
PER_REMOVAL = 0.5
"""Cost of training without an item, relative to a derivative along its weight."""


def settings(task: Task, given: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """Complete settings of a run of a table.

    Parameters
    ----------
    task : Task
    given : mapping
        What the command line says; it stays.
    asked : sequence of str
        Estimators that are asked for. If one of them needs steps, the run has them.

    Returns
    -------
    dict
        Arguments of `dlnflow.Run`.
    """
    hidden = max(LEAST_HIDDEN, HIDDEN_PER_MODE * task.modes.rank)
    chosen = {"hidden": hidden, **given}
    if "optimizer" in given:
        return chosen
    flow = dln.Run(task, **chosen, optimizer="flow")
    refused = [name for name in asked if dln.ESTIMATORS[name].refusal(flow)]
    if not refused:
        return {**chosen, "optimizer": "flow"}
    steps = dln.Run(task, **chosen)
    helps = any(not dln.ESTIMATORS[name].refusal(steps) for name in refused)
    return chosen if helps else {**chosen, "optimizer": "flow"}


class Choice(NamedTuple):
    """Estimators that are run, and estimated seconds of those that are not."""

    names: list[str]
    left_out: dict[str, float]

    def note(self) -> str:
        """Say what is left out and how to ask for it; empty if nothing is."""
        if not self.left_out:
            return ""
        costs = " and ".join(f"{name} (about {s:.0f} s)" for name, s in self.left_out.items())
        flags = " ".join(f"-e {name}" for name in (*self.names, *self.left_out))
        return (
            f"Not computed by default for so many items: {costs}. Ask for them with {flags}, or "
            "for few items with --train."
        )


def estimators(
    run: Dynamics, train: Sequence[str] | None, asked: Sequence[str] | None = None, n_runs: int = 1
) -> Choice:
    """Choose estimators by what they are expected to cost, where none is asked for.

    Parameters
    ----------
    run : Run
    train : sequence of str, optional
        Train items; None for all.
    asked : sequence of str, optional
        Estimators that are asked for, which are taken as they are.
    n_runs : int
        How many such runs there are.

    Returns
    -------
    Choice
    """
    if asked:
        return Choice(list(asked), {})
    if not run.linear:
        return Choice([name for name in ESTIMATORS if not _said(run, name)], {})
    cost = expected_seconds(run, len(run.items) if train is None else len(set(train)))
    patience = PATIENCE if train is None else PATIENCE_FOR_NAMED
    names, total, left_out = [], 0.0, {}
    for name, seconds in sorted(cost.items(), key=lambda pair: pair[1]):
        total += seconds * n_runs
        if total <= patience or run.task.n_items <= ALWAYS:
            names.append(name)
        else:
            left_out[name] = round(seconds * n_runs, 1)
    return Choice([name for name in ESTIMATORS if name in names], left_out)


def _said(run: Dynamics, name: str) -> bool:
    """Whether a run of the user's own is refused, which is said."""
    reason = dln.ESTIMATORS[name].refusal(run)
    if reason:
        say(f"left out: {reason}", err=True)
    return bool(reason)


def expected_seconds(run: Dynamics, n_train: int) -> dict[str, float]:
    """Estimate what the default estimators cost on one core.

    A derivative of the flow in modal coordinates costs h^2 (3 m + 2 r) operations per evaluation
    and train item, for h hidden units, m modes and r features.

    Parameters
    ----------
    run : Run
        It has two layers; deeper ones cost more.
    n_train : int

    Returns
    -------
    dict
        Estimator to seconds.
    """
    task = run.task
    evaluations = run.n_steps
    if run.traits.continuous:
        evaluations = EVALUATIONS + PER_TIME * task.modes.s[0] * float(run.flow_time(run.n_steps))
    each = run.hidden**2 * (3 * task.modes.rank + 2 * task.n_out) * evaluations / RATE
    derivative = (n_train + 1) * (OVERHEAD + each)
    return {"analytic": 0.0, "tangent": derivative, "leave_one_out": PER_REMOVAL * derivative}
