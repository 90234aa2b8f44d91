"""Numbers of docs/sampling.md."""

from functools import cache

import numpy as np

import dlnflow as dln
from dlnflow.influence import bif, leave_one_out, tangent
from dlnflow.sampling import suggest

N_BETA = 1e4
RATIOS = [0.5, 1, 2, 4, 10, 100, 1000]
HELD = RATIOS[2:]
"""Below, chains leave the saddles, and where they go depends on rounding."""


@cache
def run():
    return dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3)


@cache
def references():
    steps = np.unique(np.linspace(0, run().n_steps, 40).round().astype(int))
    return steps, leave_one_out(run(), steps).values, tangent(run(), steps).values


def agreement(values, reference):
    """Median Pearson over time of pairs of different items, and the value over all entries."""
    pairs = ~np.eye(values.shape[1], dtype=bool)
    a, b = (x[:, pairs] - x[:, pairs].mean(0) for x in (values, reference))
    each = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return [float(np.median(each)), float(np.corrcoef(values.ravel(), reference.ravel())[0, 1])]


def localization(ratio):
    """BIF against LOO and tangent, normalised BIF against LOO, smallest ESS."""
    steps, removed, exact = references()
    most = suggest(run(), n_beta=N_BETA)["localization"] / 10
    options = {"n_beta": N_BETA, "localization": ratio * most, "draws": 1000}
    plain = bif(run(), steps, **options)
    normalised = bif(run(), steps, normalised=True, errors=False, **options)
    return [
        *agreement(plain.values, removed),
        *agreement(plain.values, exact),
        *agreement(normalised.values, removed),
        float(plain.ess.min()),
    ]
