"""Smallest and largest curvature of L over all parameters, without forming the Hessian.

J^T J >= 0 and the spectrum of T is symmetric, so that H = J^T J - T x I lies above -|G|, and its
largest eigenvalue is its largest in absolute value.
"""

from collections.abc import Callable

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from dlnflow._support import FloatArray, each
from dlnflow.dynamics.curvature import resolvent
from dlnflow.dynamics.curvature.networks import Networks

Product = Callable[[FloatArray], FloatArray]

DENSE_SIZE = 64
"""Matrices up to this size are diagonalised; larger ones go to Lanczos."""
LANCZOS_TOL = 1e-11
"""Residual of the largest eigenvalue, relative to it; bounds its error."""
INVERSE_TOL = 1e-8
"""The same for the inverse near its pole, where it bounds the error relative to `MARGIN` |G|."""
LANCZOS_VECTORS = 40
MAX_RESTARTS = 300
MARGIN = 1e-2
"""The smallest eigenvalue is found with the inverse of H + (1 + this) |G|, positive definite."""
SMALL = 1e-6
"""|G| below this, relative to the largest eigenvalue, is replaced by it in that shift."""


def extreme_eigenvalues(points: Networks, *, largest: bool = True) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest eigenvalue of the Hessian over all parameters, each of shape (T,).

    An unused hidden direction attains -|G|, and then the smallest eigenvalue costs nothing;
    ``largest=False`` leaves the other one out (NaN).
    """
    floor = -np.linalg.norm(points.correlation, 2, axis=(1, 2))
    top = np.full(len(points), np.nan)
    if largest or not points.spare:
        top = np.maximum(_largest(points), -floor)
    if points.spare:
        return floor, top
    shift = (1 + MARGIN) * np.maximum(-floor, SMALL * top)
    bottom = np.maximum(_smallest(points, shift), floor)
    return (np.minimum(bottom, 0.0) if points.unused_inputs else bottom), top


def _largest(points: Networks) -> FloatArray:
    values, start = np.empty(len(points)), None
    for time in each(range(len(points)), "largest eigenvalues"):

        def product(v: FloatArray, time: int = time) -> FloatArray:
            return points.hessian_product(time, v.reshape(-1))

        found = _lanczos(product, _size(points), start, LANCZOS_TOL)
        if found is None:
            values[time] = linalg.eigvalsh(points.hessian(time))[-1]
        else:
            values[time], start = found
    return values


def _smallest(points: Networks, shift: FloatArray) -> FloatArray:
    """By the inverse of H + shift, in which it stands out from the many eigenvalues near zero."""
    values, start = np.empty(len(points)), None
    for time in each(range(len(points)), "smallest eigenvalues"):
        found = None
        if _size(points) > DENSE_SIZE:
            here = slice(time, time + 1)
            product = _inverse(points.at(here), shift[here])
            found = _lanczos(product, _size(points), start, INVERSE_TOL)
        if found is None:
            values[time] = linalg.eigvalsh(points.hessian(time))[0]
        else:
            values[time], start = 1 / found[0] - shift[time], found[1]
    return values


def _inverse(points: Networks, shift: FloatArray) -> Product:
    """The product with (H + shift)^-1, factorised once, in the singular basis of G."""
    basis = resolvent.frame(points)
    matrix = resolvent.kernel(basis, shift)[0]
    factor = linalg.cho_factor(np.eye(len(matrix)) + matrix)
    size, shapes = points.w1.size, (points.w1.shape, points.w2.shape)

    def product(v: FloatArray) -> FloatArray:
        v = v.reshape(-1)
        changes = v[:size].reshape(shapes[0]), v[size:].reshape(shapes[1])
        p, q = resolvent.inverse_product(
            basis, shift, lambda f: linalg.cho_solve(factor, f.T).T, changes
        )
        return np.concatenate([p.ravel(), q.ravel()])

    return product


def _lanczos(
    product: Product, size: int, start: FloatArray | None, tol: float
) -> tuple[float, FloatArray] | None:
    """Largest eigenvalue and its vector; None where the matrix should be diagonalised instead."""
    if size <= DENSE_SIZE:
        return None
    nudge = np.cos(np.arange(1.0, size + 1))  # a fixed vector without symmetry
    v0 = nudge if start is None else start + 1e-3 * nudge / np.sqrt(size)
    # ARPACK takes eigenvalues below 4e-11 for zero: the matrix is put in a unit of its own.
    unit = 2.0 ** np.round(np.log2(np.linalg.norm(product(v0)) / np.linalg.norm(v0)))
    operator = LinearOperator((size, size), lambda v: product(v) / unit, dtype=np.float64)
    try:
        values, vectors = eigsh(
            operator, 1, which="LA", v0=v0, ncv=LANCZOS_VECTORS, tol=tol, maxiter=MAX_RESTARTS
        )
    except ArpackError:
        return None  # a cluster at the edge of the spectrum
    return float(values[0]) * float(unit), vectors[:, 0]


def _size(points: Networks) -> int:
    return points.w1[0].size + points.w2[0].size
