"""Estimators of influence over training, one file each.

Every estimator is ``f(run, steps, *, options) -> xarray.DataArray`` and a choice of the response
kernel, or the finite quantity that the kernel linearises; see docs/estimators.md.
"""

from dlnflow.influence.analytic import analytic
from dlnflow.influence.bif import bif
from dlnflow.influence.closed_form_loo import closed_form_loo
from dlnflow.influence.damped_gauss_newton import damped_gauss_newton
from dlnflow.influence.damped_hessian import damped_hessian
from dlnflow.influence.laplace_bif import laplace_bif
from dlnflow.influence.leave_one_out import leave_one_out
from dlnflow.influence.per_step import per_step
from dlnflow.influence.source import source
from dlnflow.influence.tangent import tangent
from dlnflow.influence.tracin import tracin
from dlnflow.influence.windowed import windowed

ESTIMATORS = {
    "analytic": analytic,
    "tangent": tangent,
    "leave_one_out": leave_one_out,
    "closed_form_loo": closed_form_loo,
    "bif": bif,
    "tracin": tracin,
    "windowed": windowed,
    "source": source,
    "damped_hessian": damped_hessian,
    "damped_gauss_newton": damped_gauss_newton,
    "laplace_bif": laplace_bif,
}
"""Estimators by name, as used by `dlnflow influence --estimator`."""

__all__ = ["ESTIMATORS", "per_step", *ESTIMATORS]
