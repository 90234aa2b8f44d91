"""Options of the estimators that follow a discrete optimizer step by step."""

from dlnflow import checks
from dlnflow.dynamics.linear import Run


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
    words = ("window", "end") if within else ("end",)
    if isinstance(at, str) and at in words:
        return None if at == "window" else run.n_steps
    try:
        at = checks.positive_integer("at", at)
    except ValueError as error:
        allowed = " or ".join(map(repr, words))
        near = checks.did_you_mean(at, words) if isinstance(at, str) else ""
        raise ValueError(
            f"`at` must be {allowed} or a step >= 1 of the run; got {checks.shown(at)}.{near}"
        ) from error
    if at > run.n_steps:
        raise ValueError(f"`at` must be at most {run.n_steps}, the length of the run; got {at}.")
    return at
