"""Damped influence at aligned checkpoints: the closed form, mode pair by mode pair.

With W1 = Rm diag(sqrt a) V^T, W2 = U diag(sqrt a) Rm^T and one-hot inputs, the Hessian of
sum_k l_k couples only (P_jk, Q_jk, P_kj, Q_kj), the changes of both layers between two modes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow.dynamics.curvature.extremes import extreme_eigenvalues
from dlnflow.dynamics.curvature.networks import Networks
from dlnflow.dynamics.curvature.proximal import proximal_points
from dlnflow.dynamics.curvature.resolvent import hessian_influence
from dlnflow.dynamics.curvature.two_layers import gauss_newton_influence
from tests.influence.dense import relative
from tests.tolerances import ALGEBRA, CLOSED_FORM_VS_ODE

TASKS = {
    "degenerate blocks": dln.semantic_hierarchy(),
    "shallow": dln.semantic_hierarchy(2),
    "distinct": dln.Task(np.random.default_rng(0).standard_normal((6, 4))),
    "more items than features": dln.Task(np.random.default_rng(1).standard_normal((3, 5))),
}
PARTS = st.tuples(st.sampled_from(sorted(TASKS)), st.floats(0.02, 0.98), st.floats(0.05, 20.0))


def _aligned(task, a, hidden=11):
    modes, root = task.modes, np.sqrt(a)
    rotation = np.linalg.qr(np.random.default_rng(9).standard_normal((hidden, len(a))))[0]
    w1, w2 = (rotation * root) @ modes.v.T, (modes.u * root) @ rotation.T
    return Networks(w1[None], w2[None], np.eye(task.n_items), task.y, 0, False)


def _complete(task, a):
    """(V, a, g) with the input directions that carry no mode: strength and gap zero."""
    v, n = task.modes.v, task.n_items
    rest = np.linalg.svd(v, full_matrices=True)[0][:, len(a) :]
    missing = np.zeros(n - len(a))
    return np.hstack([v, rest]), np.append(a, missing), np.append(task.modes.s - a, missing)


def _hessian_form(task, a, lam):
    """Sum over j <= k of 2 x 2 and 4 x 4 solves, for the sum of losses."""
    v, a, g = _complete(task, a)
    r, total = np.sqrt(a), np.zeros((len(a), len(a)))
    for j in range(len(a)):
        block = [[a[j], a[j] - g[j]], [a[j] - g[j], a[j]]]
        slope = -np.outer(v[:, j] ** 2, [r[j] * g[j]] * 2)
        total += slope @ np.linalg.solve(block + lam * np.eye(2), slope.T)
        for k in range(j + 1, len(a)):
            c = r[j] * r[k]
            block = [
                [a[j], c, 0, -g[k]],
                [c, a[k], -g[j], 0],
                [0, -g[j], a[k], c],
                [-g[k], 0, c, a[j]],
            ]
            ends = [r[j] * g[j], r[k] * g[j], r[k] * g[k], r[j] * g[k]]
            slope = -np.outer(v[:, j] * v[:, k], ends)
            total += slope @ np.linalg.solve(block + lam * np.eye(4), slope.T)
    return -total


def _gauss_newton_form(task, a, lam):
    v, a, g = _complete(task, a)
    sums = a[:, None] + a
    weights = g[:, None] ** 2 * sums / (sums + lam)
    return -np.einsum("jk,ij,ik,qj,qk->qi", weights, v, v, v, v)


@given(PARTS)
def test_hessian_form_equals_the_general_code(parts):
    name, fraction, lam = parts
    task = TASKS[name]
    # Strengths at one time: strong modes ahead. lambda is kept off the poles of H + lambda.
    a = task.modes.s * fraction ** (task.modes.s[0] / task.modes.s)
    lam = lam + np.max(task.modes.s - a)
    points, items = _aligned(task, a), np.arange(task.n_items)
    found = hessian_influence(points, np.array([[lam / task.n_items]]), items, items)[0, 0]
    assert relative(found, _hessian_form(task, a, lam)) <= CLOSED_FORM_VS_ODE
    smallest, _ = extreme_eigenvalues(points)
    assert smallest[0] == pytest.approx(-np.max(task.modes.s - a) / task.n_items, rel=1e-9)


@given(PARTS)
def test_gauss_newton_form_equals_the_general_code(parts):
    name, fraction, lam = parts
    task = TASKS[name]
    a = task.modes.s * fraction ** (task.modes.s[0] / task.modes.s)
    items, scaled = np.arange(task.n_items), np.array([[lam / task.n_items]])
    found = gauss_newton_influence(_aligned(task, a), scaled, items, items)[0, 0]
    assert relative(found, _gauss_newton_form(task, a, lam)) <= 10 * ALGEBRA


@settings(max_examples=10)
@given(PARTS)
def test_proximal_point_is_the_root_of_a_cubic_per_mode(parts):
    """b^3 - (s - lambda) b - lambda b0 = 0 with b0^2 = a, b^2 = a*: the largest root."""
    name, fraction, lam = parts
    task = TASKS[name]
    a = task.modes.s * fraction ** (task.modes.s[0] / task.modes.s)
    roots = [
        max(np.roots([1, 0, lam - s, -lam * b]).real)
        for s, b in zip(task.modes.s, np.sqrt(a), strict=True)
    ]
    expected = np.square(roots)
    centre = proximal_points(_aligned(task, a), np.array([lam / task.n_items]))
    w = centre.w2[0] @ centre.w1[0]
    assert relative(w, (task.modes.u * expected) @ task.modes.v.T) <= 1e-8
    items = np.arange(task.n_items)
    found = hessian_influence(centre, np.array([[lam / task.n_items]]), items, items)[0, 0]
    closed = _hessian_form(task, expected, lam)
    assert np.abs(found - closed).max() <= 1e-7 * np.abs(closed).max() + 1e-12
