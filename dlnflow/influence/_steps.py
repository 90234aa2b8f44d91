"""Options of the estimators that follow a discrete optimizer step by step."""

from dlnflow import _checks
from dlnflow.training import Run


def refuse_flow(estimator: str, run: Run) -> None:
    """Refuse gradient flow, which has no steps.

    Raises
    ------
    ValueError
        If the optimizer is "flow".
    """
    if run.optimizer == "flow":
        raise ValueError(
            f"`{estimator}` follows the steps of an optimizer and gradient flow has none; use "
            'optimizer="gd" with a small `learning_rate`, whose error is of first order in it.'
        )


def measured(at: str | int, run: Run, *, within: bool) -> int | None:
    """Return the step of the measurement; None for "window", allowed if `within`.

    Raises
    ------
    ValueError
        If `at` is another word, or no step of the run.
    """
    if isinstance(at, str):
        _checks.one_of("at", at, ("window", "end") if within else ("end",))
        return None if at == "window" else run.n_steps
    at = _checks.positive_integer("at", at)
    if at > run.n_steps:
        raise ValueError(f"`at` must be at most {run.n_steps}, the length of the run; got {at}.")
    return at
