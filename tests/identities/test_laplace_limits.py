"""Limits of the closed-form Bayesian influence, by the order at which they are reached."""

import numpy as np
import pytest

import dlnflow as dln
from tests.influence.dense import RUNS, STEPS, Dense

NAMES = ["wide", "narrow", "more items than inputs"]


def _slopes(errors):
    return np.log2(errors[:-1] / errors[1:])


@pytest.mark.parametrize("name", NAMES)
def test_large_n_beta_gives_damped_influence_at_the_proximal_point(name):
    """n_beta -> infinity at fixed lambda: the difference is exactly the trace over 2 n_beta."""
    run, lam, betas = RUNS[name], 2.0, 1e3 * 2.0 ** np.arange(4)
    damped = dln.influence.damped_hessian(
        run, STEPS, damping=lam, damping_is="absolute", at="proximal"
    ).values
    bifs = [dln.influence.laplace_bif(run, STEPS, n_beta=b, localization=lam * b) for b in betas]
    errors = np.array([np.abs(b.values - damped).max() for b in bifs])
    assert np.all(np.abs(_slopes(errors) - 1) < 1e-3)
    first = dln.influence.laplace_bif(run, STEPS, n_beta=7.0, localization=7.0 * lam, order=1)
    assert np.abs(first.values - damped).max() <= 1e-12 * np.abs(damped).max()


@pytest.mark.parametrize("name", NAMES)
def test_large_localization_gives_the_gradient_kernel(name):
    """K * localization -> -(n_beta/N) grad l_i . grad l_q at first order in 1/localization."""
    run, n_beta, pulls = RUNS[name], 50.0, 1e5 * 2.0 ** np.arange(4)
    found = dln.influence.laplace_bif(run, STEPS, n_beta=n_beta, localization=pulls).values
    dense, trajectory = Dense(run), run.train(STEPS)
    gradients = np.stack([dense.gradients(dense.at(trajectory, t)) for t in range(len(STEPS))])
    kernel = -n_beta / run.task.n_items * gradients @ gradients.mT
    errors = np.abs(found * pulls[:, None, None, None] - kernel).max(axis=(1, 2, 3))
    assert np.all(np.abs(_slopes(errors) - 1) < 0.01)
    assert errors[-1] <= 1e-3 * np.abs(kernel).max()


def test_width_matters_only_through_fluctuations_of_unused_directions():
    """Wider at equal used directions: order 1 is unchanged, order 2 grows linearly."""
    from dataclasses import replace

    from dlnflow.dynamics.curvature.gaussian import fluctuations

    points = RUNS["wide"].curvature(np.array([60])).points
    lam, items = np.array([2.0]), np.arange(3)
    traces = [fluctuations(replace(points, spare=k), lam, items) for k in (0, 10, 20)]
    assert np.allclose(traces[2] - traces[1], traces[1] - traces[0], rtol=1e-10, atol=0)
    assert np.all(np.diagonal(traces[1] - traces[0], axis1=1, axis2=2) > 0)
