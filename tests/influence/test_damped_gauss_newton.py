"""Damped Gauss-Newton influence against dense matrices over all parameters."""

import numpy as np
import pytest

import dlnflow as dln
from tests.influence.dense import RUNS, STEPS, Dense, relative
from tests.tolerances import ALGEBRA, CLOSED_FORM

damped_gauss_newton = dln.influence.damped_gauss_newton


@pytest.mark.parametrize("name", RUNS)
def test_equals_the_dense_solve_without_warning(name):
    run, dampings = RUNS[name], [1e-3, 0.1, 2.0]
    found = damped_gauss_newton(run, STEPS, damping=dampings)
    dense, trajectory = Dense(run), run.train(STEPS)
    for time in range(len(STEPS)):
        theta = dense.at(trajectory, time)
        scale = np.abs(np.linalg.eigvalsh(dense.hessian(theta))).max()
        matrix = dense.gauss_newton(theta)
        for index, damping in enumerate(dampings):
            expected = dense.influence(theta, damping * scale, matrix)
            assert relative(found.values[index, time], expected) <= CLOSED_FORM


def test_proximal_form_moves_gradients_and_matrix():
    run, lam = RUNS["more items than inputs"], 0.3
    found = damped_gauss_newton(run, [60], damping=lam, damping_is="absolute", at="proximal")
    dense = Dense(run)
    theta, _ = dense.proximal(dense.at(run.train([60]), 0), lam)
    expected = dense.influence(theta, lam, dense.gauss_newton(theta))
    assert relative(found.values[0], expected) <= 1e-8


def test_subset_is_a_slice_and_self_influence_never_harms(paper_run):
    steps = [0, 500, 1500, paper_run.n_steps]
    whole = damped_gauss_newton(paper_run, steps, damping=[0.01, 1.0])
    part = damped_gauss_newton(paper_run, steps, damping=1.0, query=["pine", "cat"], train="dog")
    chosen = whole.sel(damping=1.0, query=["pine", "cat"], train=["dog"])
    assert np.abs(part - chosen).max() <= ALGEBRA * np.abs(whole).max()
    assert np.all(np.einsum("...ii->...i", whole.values) <= 0)


def test_missing_step_and_wrong_run_are_named(paper_run):
    with pytest.raises(ValueError, match="`steps` must lie in"):
        damped_gauss_newton(paper_run, [paper_run.n_steps + 1])
    with pytest.raises(TypeError, match=r"`run` must be a dlnflow\.Run"):
        damped_gauss_newton(paper_run.task, [0])
