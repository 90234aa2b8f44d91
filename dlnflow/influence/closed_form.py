"""Numbers of the closed form: coefficients of mode pairs, and items in the singular basis."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dlnflow._support import FloatArray, IntArray, each
from dlnflow.task import Task
from dlnflow.theory import coupled, low_rank
from dlnflow.theory.perturbation import divided_differences
from dlnflow.theory.saxe import mode_strength_derivatives

WORK = "closed form"
"""What the bar calls it."""
LINEAR_RTOL = 1e-12
"""Targets are a linear function of inputs when Y = S X to this, relative to Y."""
NULL_RTOL = 1e-10
"""An item has no part in a null space if it is this small, relative to the largest item."""
FEW_PAIRS = 512
"""Up to this many pairs of distinct singular values, products of projectors are combined."""
WIDE = 30.0
"""With a wider spectrum than this ratio all pairs are combined also for more of them,"""
MANY_PAIRS = 2**15
"""up to this many; beyond, a warning says what is not resolved if the ratio is above"""
VERY_WIDE = 1e4
"""this."""


@dataclass(frozen=True)
class Items:
    """Items in the singular basis of S, and what is left of them.

    ``x`` (n, r) = X^T V, ``y`` (n, r) = Y^T U, ``x_rest`` (n, n_in) and ``y_rest`` (n, d_out).
    """

    task: Task
    chosen: IntArray

    @cached_property
    def x(self) -> FloatArray:
        """Inputs of the chosen items in the input modes, shape (n, r)."""
        v = self.task.modes.v
        if not self.task.one_hot:
            return self.task.x[:, self.chosen].T @ v
        everyone = np.array_equal(self.chosen, np.arange(self.task.n_items))
        return v if everyone else v[self.chosen]

    @cached_property
    def y(self) -> FloatArray:
        """Targets of the chosen items in the output modes, shape (n, r)."""
        return self.task.y[:, self.chosen].T @ self.task.modes.u

    @cached_property
    def x_rest(self) -> FloatArray:
        """What of the inputs no mode spans."""
        return self.task.x[:, self.chosen].T - self.x @ self.task.modes.v.T

    @cached_property
    def y_rest(self) -> FloatArray:
        """What of the targets no mode spans."""
        return self.task.y[:, self.chosen].T - self.y @ self.task.modes.u.T


def influence(
    task: Task,
    times: FloatArray,
    a0: float,
    depth: int,
    *,
    query: IntArray,
    train: IntArray,
    exact: bool = False,
) -> FloatArray:
    """K[t, q, i] = - r_q^T dW_i x_q at dimensionless times, shape (T, Q, I).

    Raises
    ------
    ValueError
        If the derivative does not exist for one of the train items, or `exact` and targets are
        not a linear function of inputs.
    """
    items_q = Items(task, query)
    items_i = items_q if np.array_equal(query, train) else Items(task, train)
    if linear(task):
        return _linear(task, times, (a0, depth), items_q, items_i, exact=exact)
    if exact:
        raise ValueError(
            "`analytic` has the exact response only for targets that are a linear function of the "
            "inputs (one-hot inputs always); use response='correlation', or `tangent`."
        )
    return _general(task, times, (a0, depth), items_q, items_i)


def linear(task: Task) -> bool:
    """Whether Y = S X, so that the network can fit every item."""
    if task.one_hot:
        return True
    modes = task.modes
    error = task.y - (modes.u * modes.s) @ (modes.v.T @ task.x)
    return bool(np.abs(error).max() <= LINEAR_RTOL * np.abs(task.y).max())


def coefficients(s: FloatArray, t: float, a0: float, depth: int, null: bool) -> FloatArray:
    """A_ab = [(g_a + g_b)(s_a + s_b) Gam_ab + (g_a - g_b)(s_a - s_b) Del_ab] / 4.

    g = s - a is what is still to be learned. With `null`, a last row and column for the null
    space, A_a0 = g_a a_a / 2 and A_00 = 0.
    """
    m = mode_strength_derivatives(t, s, a0, depth=depth)
    size = len(s)
    matrix = np.zeros((size + null, size + null))
    for rows in low_rank.chunks(size, low_rank.CHUNK_ELEMENTS // size):
        gam, del_ = divided_differences(s, t, a0, depth=depth, rows=rows)
        gam *= m.gap[rows, None] + m.gap
        gam *= s[rows, None] + s
        del_ *= m.gap[rows, None] - m.gap
        del_ *= s[rows, None] - s
        gam += del_
        gam /= 4
        matrix[rows, :size] = gam
    if null:
        matrix[-1, :size] = matrix[:size, -1] = m.gap * m.a / 2
    return matrix


def _linear(
    task: Task,
    times: FloatArray,
    setting: tuple[float, int],
    query: Items,
    train: Items,
    *,
    exact: bool,
) -> FloatArray:
    """K = - sum_ab A_ab P_a o P_b / c, by projectors if there are few, else by low rank."""
    modes, scale = task.modes, task.whitening
    null = modes.rank < task.n_in
    rest = _outside(query, train) if null else None
    matrices: Iterable[FloatArray]
    if exact:
        matrices = coupled.coefficients(modes.distinct, times, *setting, null=null)
    else:
        matrices = (coefficients(modes.distinct, t, *setting, null=null) for t in each(times, WORK))
    count = len(modes.blocks) + null
    if _exact(modes.distinct, count):
        values = low_rank.combine_projectors(
            np.stack(list(matrices)), query.x, train.x, modes.blocks, rest
        )
    else:
        values = low_rank.sum_of_squares(
            list(_expanded(matrices, modes.blocks, null)), query.x, train.x, rest
        )
    values /= -scale
    return values


def _exact(distinct: FloatArray, count: int) -> bool:
    """Whether all pairs of projectors are combined, instead of a low-rank form.

    The low-rank form is accurate relative to the largest influence at the time. With a wide
    spectrum that would bury items that have weak modes only, whose influence goes with s^2.
    """
    pairs = count * (count + 1) // 2
    wide = distinct[0] > WIDE * distinct[-1]
    if pairs > MANY_PAIRS and distinct[0] >= VERY_WIDE * distinct[-1]:
        warnings.warn(
            f"`analytic`: singular values span a factor of {distinct[0] / distinct[-1]:.1g}; with "
            f"{count} distinct ones, influence is accurate to about 1e-13 of the largest at each "
            "time, so that curves far below it are not resolved. Drop features of negligible "
            "size, or scale items alike.",
            stacklevel=5,
        )
    return pairs <= (MANY_PAIRS if wide else FEW_PAIRS)


def _expanded(
    matrices: Iterable[FloatArray], blocks: tuple[IntArray, ...], null: bool
) -> Iterator[low_rank.Factors]:
    """Factors over distinct singular values, repeated for the modes of a block."""
    sizes = [len(block) for block in blocks] + [1] * null
    for matrix in matrices:
        lam, z = low_rank.factorise(matrix)
        yield low_rank.Factors(lam, np.repeat(z, sizes, axis=0))


def _outside(query: Items, train: Items) -> FloatArray:
    """x_q . x_i outside of the modes, shape (Q, I); one-hot items are never written out."""
    if query.task.one_hot:
        return (query.chosen[:, None] == train.chosen) - query.x @ train.x.T
    return query.x_rest @ train.x_rest.T


def _general(
    task: Task, times: FloatArray, setting: tuple[float, int], query: Items, train: Items
) -> FloatArray:
    """K of items whose targets no linear map of the inputs makes exactly.

    With r = y - a x in singular coordinates and M+- = (Gam +- Del) / 2,

        -c K_qi = sum_jk M+_jk r_qj y_ij x_qk x_ik + M-_jk r_qj x_ij x_qk y_ik
                  + (y_rest_q . y_rest_i) sum_k (a_k / s_k) x_qk x_ik
                  + (x_rest_q . x_rest_i) sum_j (a_j / s_j) r_qj y_ij.
    """
    _check_derivative(task, train)
    modes = task.modes
    sizes = [len(block) for block in modes.blocks]
    values = np.zeros((len(times), len(query.chosen), len(train.chosen)))
    for out, t in zip(values, each(times, WORK), strict=True):
        gam, del_ = divided_differences(modes.distinct, t, setting[0], depth=setting[1])
        m = mode_strength_derivatives(t, modes.s, setting[0], depth=setting[1])
        residual = query.y - m.a * query.x
        for half, first, second in (
            ((gam + del_) / 2, (residual, train.y), (query.x, train.x)),
            ((gam - del_) / 2, (residual, train.x), (query.x, train.y)),
        ):
            lam, z = low_rank.factorise(half)
            terms = low_rank.Factors(lam, np.repeat(z, sizes, axis=0))
            low_rank.sum_of_products(terms, first, second, out)
        gain = m.a / modes.s
        for rows in low_rank.chunks(len(out), low_rank.CHUNK_ELEMENTS // out.shape[1]):
            out[rows] += (query.y_rest[rows] @ train.y_rest.T) * (
                (query.x[rows] * gain) @ train.x.T
            )
            out[rows] += (query.x_rest[rows] @ train.x_rest.T) * (
                (residual[rows] * gain) @ train.y.T
            )
    values /= -task.whitening
    return values


def _check_derivative(task: Task, train: Items) -> None:
    """Refuse items that would create new modes: outside of both singular subspaces."""
    outside_x, outside_y = (np.linalg.norm(part, axis=1) for part in (train.x_rest, train.y_rest))
    size_x = np.linalg.norm(task.x, axis=0).max()
    size_y = np.linalg.norm(task.y, axis=0).max()
    bad = np.flatnonzero((outside_x > NULL_RTOL * size_x) & (outside_y > NULL_RTOL * size_y))
    if len(bad):
        names = ", ".join(repr(task.items[train.chosen[k]]) for k in bad[:3])
        raise ValueError(
            f"`analytic` has no derivative for {len(bad)} train items ({names}...): they point "
            "out of both singular subspaces of Y X^T, so that more weight on them creates a new "
            "mode that starts at a0 instead of 0. Use `tangent` or `leave_one_out`."
        )
