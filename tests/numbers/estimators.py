"""Numbers of docs/estimators.md: agreement with the two ways of retraining, and scores."""

import warnings
from functools import cache

import numpy as np

import dlnflow as dln

COLUMNS = ["pearson", "pearson_min", "relative_l2", "peak_offset", "trough_offset", "flips_agree"]


@cache
def run():
    return dln.Run(dln.semantic_hierarchy(), init_std=1e-3)


@cache
def curves():
    """All estimators at 200 even steps, at their defaults."""
    steps = np.unique(np.linspace(0, run().n_steps, 200).round().astype(int))
    chosen = [one for name, one in dln.ESTIMATORS.items() if name != "per_step"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the damped Hessian at saddles
        return dln.stack(*(one(run(), steps) for one in chosen))


def agreement(reference):
    """Estimator -> Pearson, minimum, relative L2, peak, trough, flips in per cent."""
    found = dln.analysis.summary(dln.compare(curves(), reference=reference))
    return found


@cache
def scores():
    """Mean `lds` and `lds_others` over steps, and the latter at four flow times with errors."""
    return dln.analysis.lds(run(), curves())
