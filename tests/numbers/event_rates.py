"""Numbers of docs/events.md: events in shuffled targets, and in noise."""

from functools import cache

import numpy as np

import dlnflow as dln

FLOORS = {"default": 0.0, "5 %": 0.05, "10 %": 0.1, "20 %": 0.2, "50 %": 0.5}


@cache
def run():
    return dln.Run(dln.semantic_hierarchy(), init_std=1e-3)


@cache
def shuffled():
    return dln.analysis.shuffled_event_null(run(), shuffles=30).set_index(["floor", "kind"])


@cache
def noise(every):
    """Rates in noise as wide as `bif` at 199 even checkpoints, or at each so many of them."""
    checkpoints = np.linspace(0, run().n_steps, 200)[1:].round().astype(int)
    curves = dln.influence.bif(run(), checkpoints).isel(time=slice(None, None, every))
    return dln.analysis.event_null(curves).set_index(["floor", "kind"])


def rate(found, floor, kind):
    """Share of the null, its interval, and the share in the curves themselves."""
    return found.loc[(floor, kind), ["share", "low", "high", "observed"]].tolist()
