"""What estimators ask of a run, so that a refusal comes before any work."""

from collections.abc import Callable

from dlnflow import checks
from dlnflow.dynamics.linear import Run
from dlnflow.influence import discrete_steps
from dlnflow.influence.analytic import check_run as whitened_with_flow_time
from dlnflow.influence.closed_form_loo import check_run as two_layers_along_the_flow
from dlnflow.influence.source import check_run as two_layers_by_gradient_descent

CHECKS: dict[str, Callable[[Run], None]] = {
    "analytic": whitened_with_flow_time,
    "closed_form_loo": two_layers_along_the_flow,
    "source": two_layers_by_gradient_descent,
    "windowed": lambda run: discrete_steps.refuse_flow("windowed", run),
    **{
        name: lambda run, name=name: checks.two_layers(name, run.depth)
        for name in ("damped_hessian", "damped_gauss_newton", "laplace_bif", "bif")
    },
}
"""Estimators that do not take every run; the same functions guard the estimators themselves."""


def refusal(estimator: str, run: Run) -> str:
    """Return the message with which the estimator would refuse the run, without training; or ""."""
    try:
        CHECKS.get(estimator, lambda _: None)(run)
    except ValueError as error:
        return str(error)
    return ""
