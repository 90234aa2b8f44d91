"""Numbers of docs/derivations: windows, SOURCE, damping and the Gaussian posterior."""

from functools import cache

import numpy as np

import dlnflow as dln
from dlnflow.influence import (
    damped_gauss_newton,
    damped_hessian,
    laplace_bif,
    leave_one_out,
    source,
    tangent,
    windowed,
)

QUERIES = ["cat", "sparrow", "pine"]


@cache
def run():
    return dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3)


def even(count):
    return np.unique(np.linspace(0, run().n_steps, count).round().astype(int))


@cache
def steps():
    return even(200)


@cache
def exact():
    return tangent(run(), steps()).values


@cache
def removed():
    return leave_one_out(run(), steps()).values


def off_diagonal(values):
    return values[:, ~np.eye(values.shape[1], dtype=bool)]


def pearson(one, other):
    """Correlation over time (first axis) of every column."""
    a, b = (x - x.mean(0) for x in (one, other))
    return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))


def relative_l2(one, reference):
    return np.sqrt(((one - reference) ** 2).sum(0) / (reference**2).sum(0))


def windows(width):
    """Flow time of the middle of the most helpful window, Pearson and relative L2: ends of both."""
    last = run().n_steps - width
    options = {"window": width, "query": QUERIES, "train": "dog"}
    at = np.arange(0, last + 1, 5)
    whole = windowed(run(), at, **options).values[..., 0]
    first = windowed(run(), at, first_order=True, **options).values[..., 0]
    middle = run().flow_time(at[whole.argmin(0)] + width / 2)
    r, error = pearson(whole, first), relative_l2(first, whole)
    return [*middle, r.min(), r.max(), error.min(), error.max()]


def segments(count):
    """Relative L2 over all pairs and times, median Pearson; the same with Gauss-Newton."""
    found = []
    for curvature in ("hessian", "gauss_newton"):
        curve = off_diagonal(source(run(), steps(), segments=count, curvature=curvature).values)
        reference = off_diagonal(exact())
        found += [
            np.linalg.norm(curve - reference) / np.linalg.norm(reference),
            np.median(pearson(curve, reference)),
        ]
    return found


@cache
def damped(damping):
    """Share of indefinite checkpoints; correlations of Hessian, Gauss-Newton, proximal Hessian.

    Each is the mean over pairs of different items, with the tangent and with the removal.
    """
    forms = (
        damped_hessian(run(), steps(), damping=damping),
        damped_gauss_newton(run(), steps(), damping=damping),
        damped_hessian(run(), steps(), damping=damping, at="proximal"),
    )
    lowest = forms[0].smallest_eigenvalue + forms[0].added_to_diagonal
    found = [float((lowest <= 0).mean())]
    for form in forms:
        curve = off_diagonal(form.values)
        found += [pearson(curve, off_diagonal(x)).mean() for x in (exact(), removed())]
    return found


@cache
def gaussian(order):
    """Influence of dog by the Gaussian posterior at its defaults."""
    return laplace_bif(run(), steps(), order=order, train="dog").isel(train=0)


def terms(query):
    """Largest first-order term, largest trace term; both at the end, the trace in the sum."""
    first, both = (gaussian(order).sel(query=query).values for order in (1, 2))
    return [abs(first).max(), abs(both - first).max(), first[-1], both[-1]]


def order_of(ratio):
    """Correlation with the tangent at both orders, mean over pairs, for lambda N / s_max."""
    n_beta = 1e4 / np.max(run().task.y ** 2)
    localization = ratio * n_beta * run().task.modes.s.max() / run().task.n_items
    found = []
    for order in (1, 2):
        options = {"n_beta": n_beta, "localization": localization, "order": order}
        curve = off_diagonal(laplace_bif(run(), steps(), **options).values)
        found.append(pearson(curve, off_diagonal(exact())).mean())
    return found
