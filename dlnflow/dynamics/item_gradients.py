"""Gradients of single losses, as factors: grad_l l_i = - error_l[:, i] input_l[:, i]^T."""

import numpy as np

from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import network
from dlnflow.dynamics.network import Pass, Weights


def item_pass(weights: Weights, x: FloatArray | None, y: FloatArray) -> Pass:
    """Forward and backward pass of every item's own loss l_i, without the factor 1/N."""
    return network.propagate(weights, x, y, np.ones((1, y.shape[1])))


def of_items(products: Pass, items: IntArray) -> Weights:
    """Full gradients of l_i for the chosen items, shapes (K, out, in) per layer."""
    return [
        -np.einsum("ai,bi->iab", error[:, items], _columns(below, error.shape[1], items))
        for error, below in zip(products.errors, products.inputs, strict=True)
    ]


def gram(products: Pass, query: IntArray, train: IntArray) -> FloatArray:
    """Dot products grad l_q . grad l_i over all parameters, shape (n_query, n_train).

    Every layer's gradient is an outer product, so its share is the entrywise product of the Gram
    matrices of errors and of inputs; no gradient is formed.
    """
    total = np.zeros((len(query), len(train)))
    for error, below in zip(products.errors, products.inputs, strict=True):
        seen_by_query, seen_by_train = (
            _columns(below, error.shape[1], items) for items in (query, train)
        )
        total += (error[:, query].T @ error[:, train]) * (seen_by_query.T @ seen_by_train)
    return total


def weighted_gram(products: Pass, metric: Weights, query: IntArray, train: IntArray) -> FloatArray:
    """Products grad l_q^T diag(metric) grad l_i; forms the gradients, one layer at a time."""
    pairs = zip(of_items(products, query), of_items(products, train), metric, strict=True)
    return sum(
        (p * g_q).reshape(len(query), -1) @ g_i.reshape(len(train), -1).T for g_q, g_i, p in pairs
    )


def dot(vectors: Weights, products: Pass) -> FloatArray:
    """vector_k . grad l_i for every direction k and item i, shape (K, N); in factors as well.

    With the pass of the objective in place of `item_pass` the factor 1/N is included.
    """
    total = 0.0
    for v, error, below in zip(vectors, products.errors, products.inputs, strict=True):
        seen = v if below is None else v @ below
        total = total - np.einsum("kai,ai->ki", seen, error)
    return total


def _columns(below: FloatArray | None, n_items: int, items: IntArray) -> FloatArray:
    return np.eye(n_items)[:, items] if below is None else below[:, items]
