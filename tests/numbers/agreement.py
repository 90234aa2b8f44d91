"""Numbers of docs/measured.md, "Agreement of estimators": eight seeds of the paper's task."""

from functools import cache

import numpy as np

import dlnflow as dln
from dlnflow.influence import analytic, leave_one_out, tangent

SEEDS = range(8)


def pearson(one, other):
    a, b = (x - x.mean(0) for x in (one, other))
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def off_diagonal(influence):
    values = influence.values
    return values[:, ~np.eye(values.shape[1], dtype=bool)]


def runs(**options):
    """Runs of eight seeds, each with 200 even steps."""
    for seed in SEEDS:
        run = dln.Run(dln.semantic_hierarchy(), seed=seed, **options)
        yield run, np.unique(np.linspace(0, run.n_steps, 200).round().astype(int))


@cache
def pairs(other, optimizer="gd"):
    """Correlations over time of `tangent` with another estimator, (seed, pair)."""
    return np.array(
        [
            pearson(off_diagonal(tangent(run, steps)), off_diagonal(other(run, steps)))
            for run, steps in runs(init_std=1e-3, optimizer=optimizer)
        ]
    )


def closed_form():
    """Median and minimum over all pairs, smallest median of a seed."""
    found = pairs(analytic)
    return [np.median(found), found.min(), np.median(found, axis=1).min()]


def removal(optimizer="gd"):
    """Ends of the medians of seeds, ends of single pairs."""
    found = pairs(leave_one_out, optimizer)
    medians = np.median(found, axis=1)
    return [medians.min(), medians.max(), found.min(), found.max()]


def deep():
    """Depth 3, dog on others: ends of medians, of cat, of the rest."""
    medians, cat, rest = [], [], []
    for run, steps in runs(init_std=0.01, depth=3):
        others = {"train": "dog", "query": [name for name in run.task.items if name != "dog"]}
        exact, closed = (one(run, steps, **others).values[..., 0] for one in (tangent, analytic))
        found = dict(zip(others["query"], pearson(exact, closed), strict=True))
        medians.append(np.median(list(found.values())))
        cat.append(found.pop("cat"))
        rest += found.values()
    return [end(values) for values in (medians, cat, rest) for end in (min, max)]
