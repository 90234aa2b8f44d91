"""Numbers of docs/why_peaks_differ.md."""

from functools import cache

import numpy as np
import pandas as pd

import dlnflow as dln
from dlnflow.analysis import explain_offset
from dlnflow.influence import per_step, tracin

QUERIES = ["cat", "sparrow", "pine"]
PLANTS = ["pine", "oak", "rose", "daisy"]
SHARES = {"1 %": 0.01, "10 %": 0.1, "25 %": 0.25, "50 %": 0.5, "100 %": 1.0}
SEEDS = range(8)


def run(seed=0, init_std=1e-3, hidden=50):
    return dln.Run(dln.semantic_hierarchy(), hidden=hidden, init_std=init_std, seed=seed)


@cache
def offsets():
    """Rows of `explain_offset`, one table for each seed, by seed, curve and query."""
    tables = {
        seed: explain_offset(run(seed), query=QUERIES, train="dog").set_index(["curve", "query"])
        for seed in SEEDS
    }
    return pd.concat(tables, names=["seed"])


def mean(curve, query, column):
    """Mean over seeds."""
    return float(offsets().xs((curve, query), level=("curve", "query"))[column].mean())


def removed(share):
    """Offset and Pearson for cat, sparrow and pine."""
    columns = ("peak_offset_flow", "pearson")
    return [mean(f"removed {share:g}", query, c) for query in QUERIES for c in columns]


def closed_form(query):
    """Amplitude in per cent beyond the tangent's, Pearson, peak offset."""
    amplitude = 100 * (mean("analytic", query, "amplitude") - 1)
    others = (mean("analytic", query, c) for c in ("pearson", "peak_offset_flow"))
    return [amplitude, *others]


def local(curve, *columns):
    """Columns for cat, sparrow and pine, one after the other."""
    return [mean(curve, query, column) for column in columns for query in QUERIES]


def plants(name, init_std, hidden=50):
    """Smallest correlation of two plants, and largest relative deviation from their mean."""
    chosen = run(init_std=init_std, hidden=hidden)
    steps = np.unique(np.linspace(0, chosen.n_steps, 400).round().astype(int))
    curves = dln.ESTIMATORS[name](chosen, steps, query=PLANTS, train="dog").values[..., 0].T
    middle = curves.mean(0)
    deviation = np.linalg.norm(curves - middle, axis=1) / np.linalg.norm(middle)
    return [float(np.corrcoef(curves).min()), float(deviation.max())]


def left_over(query, flow_time):
    """|sum| over the sum of |.| of the effects of dog's weight at every step before a time."""
    chosen = run()
    at = 100 * round(flow_time / float(chosen.flow_time(100)))
    effects = per_step(chosen, np.arange(at), at=at, query=query, train="dog").values.ravel()
    return float(abs(effects.sum()) / np.abs(effects).sum())


def tracin_parts(query):
    """Negative part, positive part, sum, and its share of the sum of absolute values."""
    chosen = run()
    steps = np.arange(chosen.n_steps + 1)
    added = np.diff(tracin(chosen, steps, query=query, train="dog").values.ravel())
    negative, positive = added[added < 0].sum(), added[added > 0].sum()
    return [negative, positive, negative + positive, abs(negative + positive) / abs(added).sum()]
