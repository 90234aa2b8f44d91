"""Damped influence against dense matrices over all parameters, and the response of a minimum."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import ArpackNoConvergence

import dlnflow as dln
from dlnflow.dynamics.curvature import extremes, resolvent
from dlnflow.dynamics.curvature.extremes import extreme_eigenvalues
from dlnflow.dynamics.curvature.networks import Networks
from dlnflow.dynamics.curvature.proximal import proximal_points
from tests.influence.dense import RUNS, STEPS, Dense, relative
from tests.tolerances import ALGEBRA, CLOSED_FORM, TANGENT_VS_DIFFERENCE

DAMPINGS = [0.03, 0.4, 1.5, 20.0]
damped_hessian = dln.influence.damped_hessian


def _quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return damped_hessian(*arguments, **options)


@pytest.mark.parametrize("name", RUNS)
def test_checkpoint_form_is_the_dense_solve(name):
    run = RUNS[name]
    found, dense = _quiet(run, STEPS, damping=DAMPINGS), Dense(run)
    trajectory = run.train(STEPS)
    for time in range(len(STEPS)):
        theta = dense.at(trajectory, time)
        eigenvalues = np.linalg.eigvalsh(dense.hessian(theta))
        largest = np.abs(eigenvalues).max()
        at_time = found.isel(time=time)
        lam = np.array(DAMPINGS) * largest
        assert np.abs(at_time.added_to_diagonal - lam).max() <= ALGEBRA * lam.max()
        assert np.abs(at_time.smallest_eigenvalue - eigenvalues[0]).max() <= ALGEBRA * largest
        for index, value in enumerate(lam):
            expected = dense.influence(theta, value)
            assert relative(at_time.values[index], expected) <= CLOSED_FORM


@pytest.mark.parametrize("name", RUNS)
def test_proximal_form_is_the_dense_solve_at_the_minimum(name):
    run = RUNS[name]
    dampings = [0.05, 1.0]
    found = damped_hessian(run, STEPS, damping=dampings, damping_is="absolute", at="proximal")
    dense, trajectory = Dense(run), run.train(STEPS)
    for index, lam in enumerate(dampings):
        for time in range(len(STEPS)):
            theta, _ = dense.proximal(dense.at(trajectory, time), lam)
            expected = dense.influence(theta, lam)
            assert relative(found.values[index, time], expected) <= 1e-8
            smallest = np.linalg.eigvalsh(dense.hessian(theta))[0]
            assert float(found.smallest_eigenvalue[index, time]) == pytest.approx(
                smallest, abs=1e-8
            )


def test_proximal_form_is_the_response_of_the_minimum_to_an_item_weight():
    run, lam, eps = RUNS["more items than inputs"], 0.3, 1e-5
    found = damped_hessian(run, [60], damping=lam, damping_is="absolute", at="proximal").values[0]
    theta_0 = Dense(run).at(run.train([60]), 0)
    for item in (0, 4):
        ends = []
        for sign in (1, -1):
            weights = np.ones(7)
            weights[item] += sign * eps
            dense = Dense(run, weights)
            ends.append(dense.values(dense.proximal(theta_0, lam)[0]))
        difference = (ends[0] - ends[1]) / (2 * eps)
        assert relative(found[:, item], difference) <= TANGENT_VS_DIFFERENCE


@pytest.mark.parametrize("name", ["wide", "narrow", "a single hidden unit"])
def test_no_other_start_leads_below_the_proximal_point(name):
    """Where |G| < lambda the point is the global minimum, also when lambda is far below |H|."""
    run, lam = RUNS[name], 0.02
    dense, rng = Dense(run), np.random.default_rng(0)
    points = run.curvature(np.array([0])).points
    centre = proximal_points(points, np.array([lam]))
    moved = np.sum((centre.w1 - points.w1) ** 2) + np.sum((centre.w2 - points.w2) ** 2)
    loss = 0.5 * np.sum(centre.residual**2) / run.task.n_items
    theta_0 = dense.at(run.train([0]), 0)
    lowest = loss + lam / 2 * moved
    others = [dense.proximal(theta_0, lam, rng.standard_normal(len(theta_0)))[1] for _ in range(4)]
    assert min(others) >= lowest * (1 - 1e-9)
    assert min(others) == pytest.approx(lowest, rel=1e-6)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 4), st.integers(2, 4), st.integers(0, 3)),
    exponent=st.floats(-5, -0.5),
    std=st.sampled_from([1e-6, 1e-3, 0.5]),
)
def test_proximal_point_is_stationary_and_stable_from_any_start(seed, sizes, exponent, std):
    """Small lambda and tiny weights: the barrier of the dual is sharp there."""
    d, n, h = sizes[0], sizes[1], sum(sizes)
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((d, n))
    points = Networks(
        std * rng.standard_normal((1, h, n)),
        std * rng.standard_normal((1, d, h)),
        np.eye(n),
        y,
        0,
        False,
    )
    lam = np.array([10.0**exponent * np.linalg.norm(y, 2) / n])
    centre = proximal_points(points, lam)
    g = centre.correlation
    slopes = [
        lam * (centre.w1 - points.w1) - np.swapaxes(centre.w2, 1, 2) @ g,
        lam * (centre.w2 - points.w2) - g @ np.swapaxes(centre.w1, 1, 2),
    ]
    scale = np.linalg.norm(y) / n * max(np.linalg.norm(centre.w1), np.linalg.norm(centre.w2))
    assert max(np.abs(s).max() for s in slopes) <= 1e-10 * scale
    assert np.linalg.norm(g[0], 2) < lam[0]
    smallest, _ = extreme_eigenvalues(centre)
    assert smallest[0] + lam[0] > 0


@pytest.mark.parametrize(("hidden", "seed"), [(1, 0), (2, 1), (2, 2), (4, 3)])
def test_proximal_point_of_a_narrow_network_is_a_minimum(hidden, seed):
    """Fewer hidden units than unstable modes: the dual has no interior maximum."""
    rng = np.random.default_rng(seed)
    shapes = (1, hidden, 5), (1, 4, hidden)
    points = Networks(
        *(0.3 * rng.standard_normal(s) for s in shapes),
        np.eye(5),
        rng.standard_normal((4, 5)),
        0,
        False,
    )
    lam = np.array([1e-3])
    centre = proximal_points(points, lam)
    assert np.linalg.norm(centre.correlation[0], 2) > lam[0]
    assert np.linalg.eigvalsh(centre.hessian(0))[0] + lam[0] > 0


def test_exact_saddle_has_no_isolated_proximal_point():
    zero = Networks(np.zeros((1, 3, 2)), np.zeros((1, 2, 3)), np.eye(2), np.eye(2), 0, False)
    held = proximal_points(zero, np.array([0.6]))  # |G| = 1/2
    assert not np.any(held.w1) and not np.any(held.w2)
    with pytest.raises(ValueError, match=r"no isolated proximal point.*larger damping"):
        proximal_points(zero, np.array([0.4]))


def test_fitted_network_has_no_coupling():
    """G = 0, where singular vectors are arbitrary: the Hessian is Gauss-Newton."""
    rng = np.random.default_rng(3)
    w1, w2 = rng.standard_normal((1, 5, 3)), rng.standard_normal((1, 4, 5))
    points = Networks(w1, w2, np.eye(3), (w2 @ w1)[0], 0, False)
    everything = np.arange(3)
    found = resolvent.hessian_influence(points, np.array([[0.1]]), everything, everything)
    assert not np.any(found)
    assert extreme_eigenvalues(points)[0][0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e-12, -1e-9, 1e-6, 3e-5, 2e-4])
def test_damping_at_a_singular_value_of_the_correlation(offset):
    """Both sides of the branch that avoids the pole of D, which H + lambda does not have."""
    run = RUNS["narrow"]
    points = run.curvature(np.array([60])).points
    for sigma in np.linalg.svd(points.correlation[0], compute_uv=False):
        lam = sigma * (1 + offset)
        found = _quiet(run, [60], damping=lam, damping_is="absolute").values[0]
        dense = Dense(run)
        expected = dense.influence(dense.at(run.train([60]), 0), lam)
        assert relative(found, expected) <= 1e-9


def test_large_damping_gives_the_gradient_kernel_at_first_order():
    run, scale = RUNS["wide"], np.array([1e2, 2e2, 4e2])
    found = damped_hessian(run, [60], damping=scale, damping_is="absolute").values[:, 0]
    dense = Dense(run)
    g = dense.gradients(dense.at(run.train([60]), 0))
    errors = np.abs(found * scale[:, None, None] + g @ g.T / 3).max(axis=(1, 2))
    slopes = np.log2(errors[:-1] / errors[1:])
    assert np.all(np.abs(slopes - 1) < 0.05)


def test_indefinite_checkpoints_are_named_in_one_warning():
    run = RUNS["wide"]
    with pytest.warns(UserWarning, match="at 2 of 3 checkpoints") as caught:
        found = damped_hessian(run, STEPS, damping=[0.1, 0.5])
    assert len(caught) == 1 and caught[0].filename == __file__
    indefinite = (found.smallest_eigenvalue + found.added_to_diagonal <= 0).any("damping")
    assert indefinite.values.tolist() == [True, True, False]
    damped_hessian(run, STEPS, damping=3.0)  # definite everywhere: no warning


def test_scalar_list_and_subsets_agree():
    run = RUNS["more items than inputs"]
    whole = damped_hessian(run, STEPS, damping=[2.0, 5.0])
    names = list(run.task.items)
    part = damped_hessian(run, STEPS, damping=5.0, query=[names[4], names[0]], train=names[2])
    chosen = whole.sel(damping=5.0, query=[names[4], names[0]], train=[names[2]])
    assert relative(part.values, chosen.values) <= ALGEBRA
    assert part.attrs["damping"] == 5.0 and part.added_to_diagonal.dims == ("time",)


def test_result_is_saved_and_stacked(tmp_path):
    run = RUNS["wide"]
    found = damped_hessian(run, STEPS, damping=[2.0, 5.0])
    again = dln.load(dln.save(found, tmp_path / "damped.nc"))
    assert again.identical(found)
    both = dln.stack(dln.influence.tangent(run, STEPS), found.sel(damping=2.0, drop=True))
    assert both.estimator.values.tolist() == ["tangent", "damped_hessian"]


def test_chunks_and_lanczos_change_nothing(monkeypatch):
    run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3)
    steps = [0, 400, 900, 2000]
    points = run.curvature(np.array(steps)).points
    found = _quiet(run, steps, damping=0.5).values
    small, large = extreme_eigenvalues(points)
    monkeypatch.setattr(resolvent, "CHUNK_ENTRIES", 1)
    monkeypatch.setattr(extremes, "DENSE_SIZE", 10**6)
    exact = extreme_eigenvalues(points)
    assert np.abs(small - exact[0]).max() <= ALGEBRA and relative(large, exact[1]) <= ALGEBRA
    assert relative(_quiet(run, steps, damping=0.5).values, found) <= CLOSED_FORM


def test_lanczos_finds_both_ends_of_a_narrow_network(monkeypatch):
    """No unused hidden directions, so that the smallest eigenvalue is not simply -|G|."""
    run = dln.Run(dln.semantic_hierarchy(), hidden=6)
    points = run.curvature(np.linspace(0, run.n_steps, 7).astype(int)).points
    small, large = extreme_eigenvalues(points)
    monkeypatch.setattr(extremes, "DENSE_SIZE", 10**6)
    exact_small, exact_large = extreme_eigenvalues(points)
    assert relative(large, exact_large) <= ALGEBRA
    assert np.all(np.abs(small - exact_small) <= 1e-9 * exact_large)
    norms = np.linalg.norm(points.correlation, 2, axis=(1, 2))
    assert np.all(small >= -norms) and np.any(small > -0.999 * norms)


def test_lanczos_that_gives_up_is_replaced(monkeypatch):
    points = dln.Run(dln.semantic_hierarchy()).curvature(np.array([5])).points
    expected = extreme_eigenvalues(points)[1]

    def stuck(*_, **__):
        raise ArpackNoConvergence("no convergence", np.empty(0), np.empty((0, 0)))

    monkeypatch.setattr(extremes, "eigsh", stuck)
    assert relative(extreme_eigenvalues(points)[1], expected) <= ALGEBRA


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "`damping` must be > 0, got 0"),
        ({"damping": [1.0, -2.0]}, "`damping` must be > 0, got -2"),
        ({"damping": []}, "`damping` must be a number or a list"),
        ({"damping": [1.0, 1.0]}, "`damping` must list different numbers"),
        ({"damping": np.nan}, "`damping` must be a finite number"),
        ({"damping": "much"}, "`damping` must be a finite number"),
        ({"damping_is": "relativ"}, "Did you mean 'relative'"),
        ({"at": "proximl"}, "Did you mean 'proximal'"),
        ({"query": "nobody"}, "unknown item 'nobody'"),
    ],
)
@pytest.mark.parametrize("estimator", ["damped_hessian", "damped_gauss_newton"])
def test_bad_options_are_named(estimator, options, message):
    with pytest.raises(ValueError, match=message):
        dln.ESTIMATORS[estimator](RUNS["wide"], [0], **options)


@pytest.mark.parametrize("estimator", ["damped_hessian", "damped_gauss_newton", "laplace_bif"])
def test_deeper_networks_are_refused(estimator):
    run = dln.Run(dln.semantic_hierarchy(2), hidden=4, depth=3, init_std=0.3, n_steps=10)
    with pytest.raises(ValueError, match=rf"`{estimator}`.*two layers.*depth 3"):
        dln.ESTIMATORS[estimator](run, [0])


@pytest.mark.filterwarnings("ignore:laplace_bif")  # it has left the saddle
def test_dampings_beyond_rounding_are_refused_with_the_way_out(paper_run):
    for damping, way in ((1e-300, "larger"), (1e-15, "larger"), (1e300, "smaller")):
        with pytest.raises(ValueError, match=f"lost in rounding. Use a {way} one"):
            damped_hessian(paper_run, [0, 400], damping=damping, at="proximal")
    with pytest.raises(ValueError, match=r"Use a larger one"):
        dln.influence.laplace_bif(paper_run, [400], localization=1e-300)
    with pytest.raises(ValueError, match=r"inf is above .* Use a smaller one"):
        dln.influence.laplace_bif(paper_run, [400], localization=1e300, n_beta=1e-300)


def test_a_large_damping_stays_at_the_checkpoint(paper_run):
    for damping in (1e8, 1e20, 1e90):
        both = [
            damped_hessian(paper_run, [0, 400], damping=damping, at=at)
            for at in ("proximal", "checkpoint")
        ]
        np.testing.assert_allclose(*both, rtol=1e-6)


@pytest.mark.parametrize("damping", [None, "0.1", True, [0.1, None], ["a"], [True], np.nan])
def test_a_damping_is_a_number(paper_run, damping):
    with pytest.raises(ValueError, match="`damping` must be a finite number or a list of such"):
        damped_hessian(paper_run, [400], damping=damping)
