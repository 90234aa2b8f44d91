"""Singular modes: reconstruction, exact blocks, rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

from dlnflow.theory.modes import DEGENERACY_RTOL, modes_of
from tests.tolerances import ALGEBRA


def _matrix(s, shape, seed):
    u = ortho_group.rvs(shape[0], random_state=seed)[:, : len(s)]
    v = ortho_group.rvs(shape[1], random_state=seed + 1)[:, : len(s)]
    return u @ np.diag(s) @ v.T


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    exponent=st.sampled_from([-15, -14.5, -12, -11, -6, -3, -1]),
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 1000),
)
def test_blocks_are_found_on_both_sides_of_the_tolerance(sizes, exponent, extra, seed):
    """Block a has size sizes[a]; neighbouring values are 10^exponent of the largest apart."""
    gap = 10.0**exponent
    s = np.concatenate([np.full(size, 2.0 - 2.0 * gap * k) for k, size in enumerate(sizes)])
    shape = (max(2, len(s) + extra[0]), max(2, len(s) + extra[1]))
    matrix = _matrix(s, shape, seed)
    modes = modes_of(matrix)
    merged = gap * (len(sizes) - 1) < DEGENERACY_RTOL / 2
    expected = [len(s)] if merged else sizes
    assert [len(block) for block in modes.blocks] == expected
    assert all(len(set(modes.s[block])) == 1 for block in modes.blocks)
    rebuilt = modes.u @ np.diag(modes.s) @ modes.v.T
    assert np.abs(rebuilt - matrix).max() <= 4 * DEGENERACY_RTOL
    assert np.abs(modes.projectors().sum(0) - modes.v @ modes.v.T).max() < ALGEBRA


def test_rank_deficiency_drops_zero_modes():
    matrix = _matrix(np.array([3.0, 1.0]), (5, 4), 7)
    modes = modes_of(matrix)
    assert modes.rank == 2 and modes.u.shape == (5, 2) and modes.v.shape == (4, 2)


def test_a_chain_of_close_values_does_not_merge_into_one_block():
    """Ten values half a tolerance apart span more than one block, though neighbours are close."""
    s = 1.0 - 0.6 * DEGENERACY_RTOL * np.arange(10)
    blocks = modes_of(np.diag(s)).blocks
    assert len(blocks) > 1 and sum(map(len, blocks)) == 10


def test_zero_matrix_is_refused():
    with pytest.raises(ValueError, match="no modes"):
        modes_of(np.zeros((3, 2)))
