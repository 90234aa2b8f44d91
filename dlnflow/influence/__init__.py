"""Estimators of influence over training, one file each.

Every estimator is ``f(run, steps=None, *, options) -> xarray.DataArray`` and a choice of the
response kernel, or the finite quantity that the kernel linearises; see docs/estimators.md. The
import of a file below registers its estimator in `ESTIMATORS`.
"""

from dlnflow.influence.analytic import analytic
from dlnflow.influence.bif import bif
from dlnflow.influence.closed_form_loo import closed_form_loo
from dlnflow.influence.damped_gauss_newton import damped_gauss_newton
from dlnflow.influence.damped_hessian import damped_hessian
from dlnflow.influence.dvemb import dvemb
from dlnflow.influence.estimator import ESTIMATORS, Estimator, Items, estimator
from dlnflow.influence.laplace_bif import laplace_bif
from dlnflow.influence.leave_one_out import leave_one_out
from dlnflow.influence.per_step import per_step
from dlnflow.influence.source import source
from dlnflow.influence.tangent import tangent
from dlnflow.influence.tracin import tracin
from dlnflow.influence.windowed import windowed

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Items",
    "analytic",
    "bif",
    "closed_form_loo",
    "damped_gauss_newton",
    "damped_hessian",
    "dvemb",
    "estimator",
    "laplace_bif",
    "leave_one_out",
    "per_step",
    "source",
    "tangent",
    "tracin",
    "windowed",
]
