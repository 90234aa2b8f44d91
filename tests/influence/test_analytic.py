"""The closed form against item-by-item differences in 50-digit arithmetic, and its limits."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow.influence import analytic, closed_form
from dlnflow.theory import low_rank
from dlnflow.theory.perturbation import derivative
from dlnflow.theory.saxe import mode_strength_derivatives
from dlnflow.theory.start import matched_strength as strength_of_weights
from tests.reference import dense_influence
from tests.strategies import GAPS, orthonormal, seeds, spectra, spectrum
from tests.tolerances import ALGEBRA, CLOSED_FORM


def matched_strength(run):
    return strength_of_weights(run.initial_weights(copy=False), run.task.modes)


def at_time(task, t, a0, depth=2):
    """Closed form of all pairs at one dimensionless time, shape (N, N)."""
    everyone = np.arange(task.n_items)
    arguments = (task, np.array([t]), a0, depth)
    return closed_form.influence(*arguments, query=everyone, train=everyone)[0]


def item_by_item(task, t, a0, depth=2):
    """The definition with the derivative of the map, one train item at a time."""
    modes = task.modes
    gap = mode_strength_derivatives(t, modes.s, a0, depth=depth).gap  # y - W x would cancel late
    fixed = task.y - (modes.u * modes.s) @ modes.v.T @ task.x
    residual = (modes.u * gap) @ modes.v.T @ task.x + (0 if task.one_hot else fixed)
    columns = []
    for y, x in zip(task.y.T, task.x.T, strict=True):
        change = derivative(modes, np.outer(y, x) / task.whitening, t, a0, depth=depth)
        columns.append(-np.sum(residual * (change @ task.x), axis=0))
    return np.stack(columns, axis=1)


def assert_close(found, exact, tolerance=CLOSED_FORM):
    assert np.abs(found - exact).max() <= tolerance * np.abs(exact).max()


def frame(rng, n_in, n_items, scale=1.0):
    """Whitened inputs X X^T = scale * I that are not square."""
    return np.sqrt(scale) * orthonormal(rng, n_items, n_in).T


# --- against the dense reference ------------------------------------------------------------------


@given(parts=spectra(), t=st.floats(0.02, 8), a0=st.floats(-7, -1))
@settings(max_examples=12)
def test_one_hot_against_the_dense_reference(parts, t, a0):
    """Degenerate, nearly degenerate and distinct; rank-deficient and rectangular."""
    u, s, v = parts
    if len(v) < 2:
        v = np.array([[0.6], [0.8]])
    task = dln.Task((u * s) @ v.T)
    assert_close(at_time(task, t, 10**a0), dense_influence(task.y, task.x, t, 10**a0))


@pytest.mark.parametrize("gap", [0.0, 1e-13, 1e-12, 1e-11, 1e-9, 1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("late", [False, True])
def test_every_gap_against_the_dense_reference(gap, late):
    rng = np.random.default_rng(int(1e6 * gap))
    u, v = orthonormal(rng, 5, 4), orthonormal(rng, 6, 4)
    task = dln.Task((u * spectrum([2, 1, 1], gap)) @ v.T)
    t = 3.0 if late else 1.2
    assert_close(at_time(task, t, 1e-3), dense_influence(task.y, task.x, t, 1e-3))


@given(seed=seeds, gap=GAPS, t=st.floats(0.02, 8), depth=st.just(2))
@settings(max_examples=6)
def test_whitened_frames_against_the_dense_reference(seed, gap, t, depth):
    """More items than inputs: targets have parts that no linear map of the inputs can make."""
    rng = np.random.default_rng(seed)
    x = frame(rng, 3, 6, scale=2.5)
    fit = (orthonormal(rng, 4, 3) * spectrum([2, 1], min(gap, 0.5))) @ orthonormal(rng, 3, 3).T
    noise = rng.standard_normal((4, 6))
    y = fit @ x + 0.3 * noise @ (np.eye(6) - x.T @ x / 2.5)
    task = dln.Task(y, x)
    assert task.whitening == pytest.approx(2.5) and not closed_form.linear(task)
    assert_close(at_time(task, t, 1e-2, depth), dense_influence(y, x, t, 1e-2, depth))


@pytest.mark.parametrize("depth", [3, 5])
def test_deep_against_the_dense_reference(depth):
    rng = np.random.default_rng(depth)
    task = dln.Task((orthonormal(rng, 4, 3) * spectrum([2, 1], 0.2)) @ orthonormal(rng, 4, 3).T)
    for t in (0.5, 2.0):
        exact = dense_influence(task.y, task.x, t, 1e-2, depth)
        assert_close(at_time(task, t, 1e-2, depth), exact)


@pytest.mark.slow
def test_dense_reference_is_the_papers_construction():
    """Rotations A_U, A_V and the basis R of a degenerate block, in 50-digit arithmetic."""
    from tests.reference import paper_influence

    rng = np.random.default_rng(4)
    u, v = orthonormal(rng, 5, 4), orthonormal(rng, 4, 4)
    for gap in (1e-9, 1e-3, 0.2):
        s = spectrum([2, 1, 1], gap)
        y = (u * s) @ v.T
        exact = paper_influence(u, s, v, 1.1, 1e-3)
        assert_close(dense_influence(y, np.eye(4), 1.1, 1e-3), exact, 1e-11)


# --- two routes to the same numbers ---------------------------------------------------------------


@pytest.mark.parametrize("shape", [(90, 80), (40, 90), (90, 40)])
@pytest.mark.parametrize("t", [0.01, 0.4, 1.5, 10.0])
def test_low_rank_route_against_item_by_item(shape, t):
    rng = np.random.default_rng(shape[0])
    task = dln.Task(rng.standard_normal(shape) / 10 ** (np.arange(shape[1]) / shape[1]))
    count = task.modes.rank + (task.modes.rank < task.n_in)
    assert count * (count + 1) // 2 > closed_form.FEW_PAIRS
    assert_close(at_time(task, t, 1e-5), item_by_item(task, t, 1e-5))


def test_sketched_factors_equal_the_whole_decomposition():
    s = np.linspace(30, 1, 200)
    for t in (0.0, 0.001, 0.1, 0.5, 20.0):
        matrix = closed_form.coefficients(s, t, 1e-6, 2, null=True)
        np.testing.assert_array_equal(matrix, matrix.T)
        lam, z = low_rank.factorise(matrix)
        error = np.linalg.norm((z * lam) @ z.T - matrix)
        assert error <= 2 * low_rank.FACTOR_RTOL * np.linalg.norm(matrix)
        assert len(lam) < 40


def test_factors_of_a_matrix_without_low_rank():
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((80, 80))
    matrix += matrix.T
    lam, z = low_rank.factorise(matrix)
    assert len(lam) == 80
    np.testing.assert_allclose((z * lam) @ z.T, matrix, atol=1e-12)


@given(seed=seeds, t=st.floats(0.05, 5), routes=st.booleans())
@settings(max_examples=15)
def test_projector_and_general_forms_agree(seed, t, routes):
    """Where the network can fit every item both forms hold."""
    rng = np.random.default_rng(seed)
    x = frame(rng, 4, 4 if routes else 7, scale=3.0)
    task = dln.Task(rng.standard_normal((3, 4)) @ x, x)
    assert closed_form.linear(task)
    items = closed_form.Items(task, np.arange(task.n_items))
    general = closed_form._general(task, np.array([t]), (1e-3, 2), items, items)[0]
    # Learned items leave the general forms a residual y - W x of rounding size.
    exact = at_time(task, t, 1e-3)
    tolerance = 1e-11 * np.abs(exact).max() + ALGEBRA * np.abs(task.y).max() ** 2
    for other in (general, item_by_item(task, t, 1e-3)):
        assert np.abs(other - exact).max() <= tolerance


def test_deep_general_form_against_item_by_item():
    rng = np.random.default_rng(8)
    task = dln.Task(rng.standard_normal((5, 9)), frame(rng, 4, 9))
    assert_close(at_time(task, 1.0, 1e-2, 4), item_by_item(task, 1.0, 1e-2, 4))


# --- the estimator --------------------------------------------------------------------------------


@pytest.mark.parametrize("whitened", [False, True])
def test_subsets_are_slices(paper_run, whitened):
    run = paper_run
    if whitened:
        rng = np.random.default_rng(0)
        run = dln.Run(dln.Task(rng.standard_normal((4, 9)), frame(rng, 5, 9)), n_steps=2000)
    steps = [200, 700, 1500]
    names = run.task.items
    whole = analytic(run, steps)
    part = analytic(run, steps, query=[names[5], names[1]], train=[names[1]])
    chosen = whole.sel(query=[names[5], names[1]], train=[names[1]])
    assert np.abs(part - chosen.values).max() <= ALGEBRA * np.abs(whole.values).max()
    assert part["query"].values.tolist() == [names[5], names[1]]
    repeated = analytic(run, steps, query=[names[2], names[0]], train=[names[2], names[0]])
    chosen = whole.sel(query=[names[2], names[0]], train=[names[2], names[0]])
    assert np.abs(repeated - chosen.values).max() <= ALGEBRA * np.abs(whole.values).max()


def test_close_to_the_tangent_on_the_papers_task(paper_run):
    """Median correlation over pairs at least 0.95, minimum 0.85; the same sign at the peak."""
    steps = np.unique(np.linspace(0, paper_run.n_steps, 200).astype(int))
    found = analytic(paper_run, steps).values
    truth = dln.influence.tangent(paper_run, steps).values
    pairs = ~np.eye(8, dtype=bool)
    both = zip(found[:, pairs].T, truth[:, pairs].T, strict=True)
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in both])
    assert np.median(r) >= 0.95
    assert r.min() >= 0.85
    assert found[:, 0, 0].min() < 0


def test_one_mode_by_hand():
    """Two items with equal targets, one mode of strength sqrt(2): K = - g s da/ds / 4 for all."""
    run = dln.Run(dln.Task([[1.0, 1.0]]), init_std=1e-2)
    step = run.n_steps // 3
    values = analytic(run, [step], a0=1e-3)
    s, t = np.sqrt(2), run.flow_time(step)
    m = dln.saxe.mode_strength_derivatives(t, s, 1e-3)
    # Besides the mode's strength, its direction among the items turns: a (1 - 1/2) for self.
    along, across = s * m.ds * m.gap / 4, m.a * m.gap / 4
    expected = [[-along - across, -along + across], [-along + across, -along - across]]
    np.testing.assert_allclose(values[0], expected, rtol=1e-12)
    assert values.attrs["a0"] == 1e-3


@pytest.mark.parametrize("times", [1, 2, 7])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("null", [True, False])
def test_pairs_of_projectors_are_summed_alike_for_few_and_many_times(times, symmetric, null):
    rng = np.random.default_rng(0)
    blocks = [np.arange(k, k + 2) for k in range(0, 14, 2)]
    query = rng.standard_normal((9, 14))
    train = query if symmetric else rng.standard_normal((5, 14))
    outside = rng.standard_normal((9, 3))
    rest = outside @ (outside if symmetric else rng.standard_normal((5, 3))).T
    a = rng.standard_normal((times, 7 + null, 7 + null))
    a += np.swapaxes(a, 1, 2)
    p = [query[:, b] @ train[:, b].T for b in blocks] + [rest] * null
    assert (times <= low_rank.FEW_TIMES * len(p)) == (times == 1 or (times == 2 and null))
    expected = np.einsum("tab,aqi,bqi->tqi", a, p, p)
    got = low_rank.combine_projectors(a, query, train, blocks, rest if null else None)
    assert np.abs(got - expected).max() <= ALGEBRA * np.abs(expected).max()


def aligned_weights(task, depth, width, strength):
    """Balanced layers whose product is strength * U V^T, with random frames in between."""
    modes, rng = task.modes, np.random.default_rng(0)
    frames = [orthonormal(rng, width, modes.rank) for _ in range(depth - 1)]
    bases = [modes.v, *frames, modes.u]
    return tuple(strength ** (1 / depth) * a @ b.T for b, a in pairwise(bases))


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_matched_start_of_an_aligned_network_is_its_own(depth, monkeypatch):
    task, width, strength = dln.semantic_hierarchy(), 12, 3e-3
    layers = aligned_weights(task, depth, width, strength)
    run = dln.Run(task, hidden=width, depth=depth, n_steps=10)
    monkeypatch.setattr(dln.Run, "initial_weights", lambda self, copy: layers)
    assert matched_strength(run) == pytest.approx(strength, rel=1e-12)


def test_matched_start_ignores_rotations_inside_blocks_and_has_the_known_mean():
    task = dln.semantic_hierarchy()
    starts = [matched_strength(dln.Run(task, init_std=1e-3, seed=k)) for k in range(20)]
    assert np.mean(starts) == pytest.approx(50 * 1e-6 / 2, rel=0.1)
    deep = [matched_strength(dln.Run(task, init_std=0.1, depth=3, seed=k)) for k in range(20)]
    assert np.mean(deep) == pytest.approx((50 * 0.01 / 2) ** 1.5, rel=0.2)
    run = dln.Run(task, seed=3)
    w1, w2 = run.initial_weights()
    modes = task.modes
    for block in modes.blocks:
        turn = orthonormal(np.random.default_rng(1), len(block), len(block))
        u, v = modes.u[:, block], modes.v[:, block]
        straight = np.sum((w1 @ v + w2.T @ u) ** 2)
        assert np.sum((w1 @ v @ turn + w2.T @ u @ turn) ** 2) == pytest.approx(straight)


def test_time_zero_and_long_after():
    task = dln.semantic_hierarchy()
    np.testing.assert_allclose(at_time(task, 1e4, 1e-3), 0, atol=1e-12)
    assert np.abs(at_time(task, 0.0, 1e-9)).max() < 1e-6


# --- refusals -------------------------------------------------------------------------------------


def test_inputs_must_be_whitened():
    rng = np.random.default_rng(0)
    run = dln.Run(dln.Task(rng.standard_normal((3, 5)), rng.standard_normal((4, 5))), n_steps=10)
    with pytest.raises(ValueError, match=r"whitened inputs.*`tangent` or `leave_one_out`"):
        analytic(run, [5])


def test_adam_has_no_flow_time(paper_run):
    run = dln.Run(paper_run.task, optimizer="adam", n_steps=10)
    with pytest.raises(ValueError, match="'adam'"):
        analytic(run, [5])


def test_narrow_networks_are_refused(paper_run):
    with pytest.raises(ValueError, match="`hidden` is 3"):
        analytic(dln.Run(paper_run.task, hidden=3, n_steps=10), [5])


@pytest.mark.parametrize("a0", [0.0, -1.0, np.nan, "small"])
def test_bad_a0(paper_run, a0):
    with pytest.raises(ValueError, match="`a0`"):
        analytic(paper_run, [5], a0=a0)


def test_items_outside_both_subspaces_have_no_derivative():
    rng = np.random.default_rng(0)
    x = frame(rng, 3, 6)
    y = np.outer([1.0, 2.0, 0.0], [1.0, -1.0, 0.5]) @ x
    y[2] = rng.standard_normal(6) @ (np.eye(6) - x.T @ x)
    run = dln.Run(dln.Task(y, x), n_steps=10)
    with pytest.raises(ValueError, match=r"no derivative for \d train items"):
        analytic(run, [5])


def test_mpmath_precision_is_restored():
    before = mpmath.mp.dps
    dense_influence(np.eye(2), np.eye(2), 1.0, 0.1)
    assert mpmath.mp.dps == before


@pytest.mark.parametrize("decades", [2, 4, 6, 8])
def test_curves_of_weak_items_are_right_beside_strong_ones(decades):
    """Forty items that each have one mode, over many decades: every pair to its own scale."""
    s = np.logspace(decades, 0, 40)
    task = dln.Task(np.diag(s))
    run = dln.Run(task, hidden=40, init_std=1e-3, n_steps=200_000, learning_rate=40 * 2e-3 / s[0])
    steps = np.unique(np.geomspace(1, run.n_steps, 40).astype(int))
    found = np.diagonal(analytic(run, steps, a0=1e-5).values, axis1=1, axis2=2)
    m = dln.saxe.mode_strength_derivatives(run.flow_time(steps)[:, None], s, 1e-5)
    expected = -m.gap * s * m.ds  # an item alone in its mode changes its own strength only
    error = np.abs(found - expected).max(axis=0) / np.abs(expected).max(axis=0)
    assert error.max() < CLOSED_FORM


def test_a_wide_spectrum_of_too_many_modes_says_what_is_not_resolved(monkeypatch):
    monkeypatch.setattr(closed_form, "MANY_PAIRS", 100)
    run = dln.Run(dln.Task(np.diag(np.logspace(5, 0, 40))), n_steps=100, learning_rate=1e-5)
    with pytest.warns(UserWarning, match="span a factor of 1e\\+05"):
        analytic(run, [10])
