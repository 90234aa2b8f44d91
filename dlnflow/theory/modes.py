"""Singular modes of a matrix, with exactly degenerate blocks."""

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from dlnflow._support import FloatArray, IntArray

DEGENERACY_RTOL = 1e-13
"""Singular values closer than this, relative to the largest, are equal; smaller ones are zero.

An SVD in float64 moves singular values by a few 1e-16 of the largest, up to 1e-14 for a thousand
items, so that exactly repeated values come out this close. A wider tolerance would cost accuracy:
a late residual e^(-2 s t) amplifies a change of s by 2 s t.
"""


@dataclass(frozen=True, slots=True)
class Modes:
    """Thin singular value decomposition ``u @ diag(s) @ v.T`` of rank r.

    Attributes
    ----------
    u : array, shape (d_out, r)
        Left singular vectors (output side), orthonormal columns.
    s : array, shape (r,)
        Singular values > 0 in descending order, *identical* within a degenerate block.
    v : array, shape (n_in, r)
        Right singular vectors (input side), orthonormal columns.
    blocks : tuple of index arrays
        Indices of equal singular values, in descending order of the value. Inside a block the
        vectors are defined up to a common rotation; only ``u_B @ v_B.T``, ``v_B @ v_B.T`` and
        ``u_B @ u_B.T`` are properties of the matrix.
    rtol : float
        The relative tolerance under which values count as equal, or as zero.
    """

    u: FloatArray
    s: FloatArray
    v: FloatArray
    blocks: tuple[IntArray, ...]
    rtol: float

    @property
    def rank(self) -> int:
        """Number of modes r."""
        return len(self.s)

    @property
    def distinct(self) -> FloatArray:
        """One singular value per block, shape (n_blocks,), descending."""
        return np.array([self.s[block[0]] for block in self.blocks])

    def projectors(self) -> FloatArray:
        """Projectors V_a V_a^T onto each block, shape (n_blocks, n_in, n_in)."""
        return np.stack([self.v[:, b] @ self.v[:, b].T for b in self.blocks])


def modes_of(matrix: FloatArray, rtol: float = DEGENERACY_RTOL) -> Modes:
    """Singular value decomposition with repeated values recognised as blocks.

    Parameters
    ----------
    matrix : array, shape (d_out, n_in)
        Any real matrix that is not zero.
    rtol : float
        Values within ``rtol * s_max`` of the first of a block belong to it and are replaced by
        the block's mean; values at or below ``rtol * s_max`` are dropped.

    Returns
    -------
    Modes
        The thin decomposition. ``u @ diag(s) @ v.T`` differs from `matrix` by at most
        about ``rtol * s_max``.

    Raises
    ------
    ValueError
        If the matrix is zero, so that there is no mode.

    Examples
    --------
    >>> import numpy as np
    >>> modes = modes_of(np.diag([3.0, 1.0, 1.0, 0.0]))
    >>> modes.s.tolist(), [b.tolist() for b in modes.blocks]
    ([3.0, 1.0, 1.0], [[0], [1, 2]])
    """
    u, s, vt = linalg.svd(matrix, full_matrices=False)
    if s[0] == 0:
        raise ValueError("a zero matrix has no modes: all features are zero.")
    rank = int(np.sum(s > rtol * s[0]))
    u, s, vt = u[:, :rank], s[:rank].copy(), vt[:rank]
    blocks = _blocks(s, rtol * s[0])
    for block in blocks:
        s[block] = s[block].mean()
    return Modes(u, s, vt.T.copy(), blocks, rtol)


def _blocks(s: FloatArray, tolerance: float) -> tuple[IntArray, ...]:
    """Group descending values by their distance to the first of the group, so none can chain."""
    starts = [0]
    for index in range(1, len(s)):
        if s[starts[-1]] - s[index] > tolerance:
            starts.append(index)
    return tuple(np.array(part) for part in np.split(np.arange(len(s)), starts[1:]))
