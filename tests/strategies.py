"""Hypothesis strategies whose inputs satisfy the preconditions by construction."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

seeds = st.integers(0, 2**32 - 1)

GAPS = st.one_of(st.just(0.0), st.floats(-13, -0.5).map(lambda e: 10.0**e))
"""Gaps between neighbouring singular values: none, nearly none, and clear ones.

They fall on both sides of the tolerance under which values count as equal (1e-12) and of every
switch between formulas.
"""


def orthonormal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Random matrix with orthonormal columns."""
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def spectrum(blocks: Sequence[int], gap: float, largest: float = 2.0) -> np.ndarray:
    """Descending values, *exactly* repeated within a block, `gap` times `largest` apart."""
    distinct = largest * (1 - gap * np.arange(len(blocks)))
    if distinct[-1] <= 0:
        raise ValueError(f"{len(blocks)} blocks {gap} apart do not fit above zero.")
    return np.repeat(distinct, blocks)


@st.composite
def spectra(draw, blocks: Sequence[int] | None = None, gap=GAPS, extra: int = 2):
    """(U, s, V) with s from `spectrum`, V^T V = U^T U = 1 and up to `extra` null dimensions a side.

    ``U @ diag(s) @ V.T`` is rectangular and rank-deficient in general.
    """
    if blocks is None:
        blocks = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    gap = draw(gap) if isinstance(gap, st.SearchStrategy) else gap
    largest = draw(st.floats(0.5, 4))
    s = spectrum(blocks, min(gap, 0.9 / max(len(blocks) - 1, 1)), largest)
    rng = np.random.default_rng(draw(seeds))
    d_out, n_in = (len(s) + draw(st.integers(0, extra)) for _ in range(2))
    return orthonormal(rng, d_out, len(s)), s, orthonormal(rng, n_in, len(s))
