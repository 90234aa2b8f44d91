"""All item pairs of a quadratic form in singular modes, at the cost of a few matrix products.

Influence in closed form is a sum over pairs of modes, e.g. K_qi = - sum_jk A_jk (x_qj x_ij)
(x_qk x_ik). Directly that costs N^2 r^2 per time; a symmetric A of low rank, A = sum_r lam_r z_r
z_r^T, makes it - sum_r lam_r (X_q diag(z_r) X_i^T)^2 entrywise, one product per term.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import linalg

from dlnflow._support import FloatArray, IntArray, each

FACTOR_RTOL = 2e-14
"""What is left out of a coefficient matrix, in Frobenius norm relative to the whole.

The largest entry of K can be smaller than the largest coefficient by about the number of items.
"""
DENSE_SIZE = 64
"""Up to this size all eigenvalues are computed; above, the range is sampled first."""
SKETCH = 64
"""First number of sampled directions; doubled until `FACTOR_RTOL` is met."""
CHUNK_ELEMENTS = 2**17
"""Size of entrywise temporaries, about what a processor cache holds."""
FEW_TIMES = 0.25
"""Up to this many times per projector, sums over pairs are made anew for every time."""
PRODUCT_ELEMENTS = 2**19
"""Size of one matrix product, large enough for its threads to pay."""


class Factors(NamedTuple):
    """A = z @ diag(lam) @ z.T, z of shape (m, R)."""

    lam: FloatArray
    z: FloatArray


def factorise(matrix: FloatArray) -> Factors:
    """Symmetric matrix as a short sum of squares, to `FACTOR_RTOL`.

    For a large matrix the eigenvalues are sought within the range of A applied to random vectors
    (with a fixed seed). The residual is then computed, not estimated, and more vectors are taken
    if it is large.

    Parameters
    ----------
    matrix : array, shape (m, m)
        Symmetric.

    Returns
    -------
    Factors
        Terms in descending order of |lam|.
    """
    size = len(matrix)
    bound = FACTOR_RTOL * np.linalg.norm(matrix)
    sketch = SKETCH
    rng = np.random.default_rng(0)
    while size > DENSE_SIZE and sketch <= size // 4:
        basis = matrix @ rng.standard_normal((size, sketch))
        for _ in range(2):
            basis = matrix @ linalg.qr(basis, mode="economic")[0]
        basis = linalg.qr(basis, mode="economic")[0]
        image = matrix @ basis
        inner = basis.T @ image
        if _distance(matrix, basis, inner) <= bound:
            lam, z = linalg.eigh((inner + inner.T) / 2)
            return _significant(lam, basis @ z, bound)
        sketch *= 2
    return _significant(*linalg.eigh(matrix), bound)


def _distance(matrix: FloatArray, basis: FloatArray, inner: FloatArray) -> float:
    """Frobenius norm of A - Q B Q^T, row by row to save memory."""
    right = inner @ basis.T
    total = 0.0
    for rows in chunks(len(matrix), CHUNK_ELEMENTS // len(matrix)):
        total += np.sum((matrix[rows] - basis[rows] @ right) ** 2)
    return float(np.sqrt(total))


def _significant(lam: FloatArray, z: FloatArray, bound: float) -> Factors:
    order = np.argsort(-np.abs(lam))
    tails = np.sqrt(np.cumsum(lam[order[::-1]] ** 2))[::-1]
    keep = order[tails > bound]
    return Factors(lam[keep], z[:, keep])


def chunks(count: int, length: int) -> list[slice]:
    """Consecutive slices of at most `length` (at least 1) that cover range(count)."""
    length = max(length, 1)
    return [slice(k, min(k + length, count)) for k in range(0, count, length)]


def sum_of_squares(
    terms: Sequence[Factors],
    query: FloatArray,
    train: FloatArray,
    rest: FloatArray | None,
) -> FloatArray:
    """sum_r lam_r [query diag(z_r) train^T + z_r,null P_0]^2 entrywise, for every time.

    Parameters
    ----------
    terms : sequence of Factors, length T
        z of shape (r, R), or (r + 1, R) with the null space last if `rest` is given.
    query, train : arrays, shapes (Q, r), (I, r)
        Coordinates of items in the singular basis.
    rest : array, shape (Q, I), optional
        P_0, the inner products of what is left of the items outside of it.

    Returns
    -------
    array, shape (T, Q, I)
    """
    symmetric = query is train
    values = np.zeros((len(terms), len(query), len(train)))
    for rows in chunks(len(query), PRODUCT_ELEMENTS // len(train)):
        columns = slice(rows.start if symmetric else 0, len(train))
        null = None if rest is None else rest[rows, columns]
        left, right = query[rows], train[columns].T
        scaled, product = np.empty(left.shape), np.empty((len(left), right.shape[1]))
        for (lam, z), plane in zip(each(terms, "pairs of items"), values, strict=True):
            out = plane[rows, columns]
            for weight, vector in zip(lam, z.T, strict=True):
                np.multiply(left, vector[: left.shape[1]], out=scaled)
                np.matmul(scaled, right, out=product)
                if null is not None:
                    product += vector[-1] * null
                product *= product
                product *= weight
                out += product
        del scaled, product
        if symmetric:
            _mirror(values, rows)
    return values


def _mirror(values: FloatArray, rows: slice) -> None:
    """Copy what is right of the diagonal block of `rows` to below it."""
    rest = slice(rows.stop, None)
    values[:, rest, rows] = np.swapaxes(values[:, rows, rest], 1, 2)


def combine_projectors(
    coefficients: FloatArray,
    query: FloatArray,
    train: FloatArray,
    blocks: Sequence[IntArray],
    rest: FloatArray | None,
) -> FloatArray:
    """sum_ab A_ab(t) P_a o P_b over few projectors, all pairs of items as columns of a product.

    Parameters
    ----------
    coefficients : array, shape (T, m, m)
        Symmetric; the last index is the null space if `rest` is given.
    query, train, rest
        As for `sum_of_squares`.
    blocks : sequence of index arrays
        Consecutive modes of every projector P_a = query_a train_a^T.

    Returns
    -------
    array, shape (T, Q, I)
    """
    size = coefficients.shape[1]
    values = np.empty((len(coefficients), len(query), len(train)))
    symmetric = query is train
    combined = _contracted if len(values) <= FEW_TIMES * size else _by_products
    for rows in each(chunks(len(query), PRODUCT_ELEMENTS // (size * len(train))), "pairs of items"):
        columns = slice(rows.start if symmetric else 0, len(train))
        flat = np.empty((size, rows.stop - rows.start, len(train) - columns.start))
        for projector, block in zip(flat, blocks, strict=False):
            modes = slice(block[0], block[-1] + 1)
            np.matmul(query[rows, modes], train[columns, modes].T, out=projector)
        if rest is not None:
            flat[-1] = rest[rows, columns]
        values[:, rows, columns] = combined(coefficients, flat.reshape(size, -1)).reshape(
            len(values), *flat.shape[1:]
        )
        if symmetric:
            _mirror(values, rows)
    return values


def _contracted(coefficients: FloatArray, projectors: FloatArray) -> FloatArray:
    """sum_a P_a o (sum_b A_ab(t) P_b), one small product per time; shape (T, n)."""
    values = np.empty((len(coefficients), projectors.shape[1]))
    for part in chunks(projectors.shape[1], CHUNK_ELEMENTS // len(projectors)):
        for out, matrix in zip(values, coefficients, strict=True):
            inner = matrix @ projectors[:, part]
            np.einsum("ap,ap->p", inner, projectors[:, part], out=out[part])
    return values


def _by_products(coefficients: FloatArray, projectors: FloatArray) -> FloatArray:
    """Return the same from all P_a o P_b, made once for all times: (time, ab) x (ab, n)."""
    first, second = np.triu_indices(len(projectors))
    weights = coefficients[:, first, second] * np.where(first == second, 1.0, 2.0)
    values = np.empty((len(coefficients), projectors.shape[1]))
    for part in chunks(projectors.shape[1], CHUNK_ELEMENTS // len(first)):
        factors = projectors[:, part]
        products = np.empty((len(first), factors.shape[1]))
        for product, a, b in zip(products, first, second, strict=True):
            np.multiply(factors[a], factors[b], out=product)
        values[:, part] = weights @ products
    return values


def sum_of_products(
    terms: Factors,
    first: tuple[FloatArray, FloatArray],
    second: tuple[FloatArray, FloatArray],
    out: FloatArray,
) -> None:
    """Add sum_r lam_r [q1 diag(z_r) i1^T] o [q2 diag(z_r) i2^T] to `out`, shape (Q, I)."""
    for rows in chunks(len(out), PRODUCT_ELEMENTS // out.shape[1]):
        for weight, vector in zip(terms.lam, terms.z.T, strict=True):
            product = (first[0][rows] * (weight * vector)) @ first[1].T
            product *= (second[0][rows] * vector) @ second[1].T
            out[rows] += product
