"""Everything that reads loss traces of any model: numpy, xarray and scipy, no torch.

Loss traces are an array with dims (time, chain, draw, item) that says what was sampled.

Format
    labelled            loss traces from arrays and a description of the posterior
    check_traces        loss traces in the standard order, refused if they lack something

Influence, negative = the train item helps
    influence           of every item on every item, with errors: a covariance or correlation
    groups              mean over pairs of two classes of items, with errors of chains and rows
    matrix              of every item on every item, in blocks, without errors
    top_k               the items that help each item most, without holding the matrix
    neighbours          how often the items that help most are of the same class, against chance
    class_sums          all that `groups` needs of many tokens, in a hundredth of their size
    llc                 the local learning coefficient
    susceptibility      response of an observable to every token or class, per component

Can it be believed?
    interval            lower and upper ends from standard errors and their degrees of freedom
    summary             verdict, R-hat, effective size and noise floor of every checkpoint
    diverged            which chains diverged
    r_hat, ess          of every item's losses
    r_hat_products, ess_products
                        of the products that a covariance averages
"""

from dlnflow.traces.class_sums import class_sums
from dlnflow.traces.diagnostics import (
    diverged,
    ess,
    ess_products,
    r_hat,
    r_hat_products,
    summary,
)
from dlnflow.traces.format import check_traces, labelled
from dlnflow.traces.groups import groups
from dlnflow.traces.influence import influence
from dlnflow.traces.intervals import interval
from dlnflow.traces.learning_coefficient import llc
from dlnflow.traces.neighbours import neighbours
from dlnflow.traces.pairs import matrix, top_k
from dlnflow.traces.susceptibility import susceptibility

__all__ = [
    "check_traces",
    "class_sums",
    "diverged",
    "ess",
    "ess_products",
    "groups",
    "influence",
    "interval",
    "labelled",
    "llc",
    "matrix",
    "neighbours",
    "r_hat",
    "r_hat_products",
    "summary",
    "susceptibility",
    "top_k",
]
