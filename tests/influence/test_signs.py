"""Every estimator on one mode, where the sign of influence is known by hand.

Two items with the same feature y > 0 share one mode of strength s; from a small start the map
undershoots, and more weight on either item strengthens the mode and lowers both losses: while the
mode is learned every influence is negative. An item with the opposite feature is the same mode with
the opposite sign of its input, and helps as well.
"""

import numpy as np
import pytest

import dlnflow as dln

OPTIONS = {
    "bif": {"draws": 400, "burn_in": 200, "chains": 4, "normalised": True},
    "windowed": {"window": 20},
    "damped_hessian": {"damping": 1.0, "at": "proximal"},
}


def one_mode(second):
    return dln.Run(
        dln.Task([[2.0, second]]), hidden=3, init_std=0.05, learning_rate=0.005, n_steps=600
    )


@pytest.mark.parametrize("second", [2.0, -2.0], ids=["same", "opposite"])
@pytest.mark.parametrize("name", list(dln.ESTIMATORS))
def test_an_item_of_the_mode_helps_while_it_is_learned(name, second):
    run = one_mode(second)
    half = dln.saxe.half_time(run.task.modes.s[0], 3 * 0.05**2 / 2)
    step = int(half / run.flow_time(1))
    options = OPTIONS.get(name, {})
    if name == "per_step":
        step, options = step // 2, {"at": step}
    found = dln.ESTIMATORS[name](run, [step], **options)[0].values
    assert np.all(found < 0), f"{name}: {found}"


def test_an_unrelated_item_does_nothing_in_its_own_mode():
    """Orthogonal features of one strength: two modes that never meet in the closed form."""
    run = dln.Run(dln.Task(2 * np.eye(2)), hidden=4, init_std=1e-3, n_steps=400)
    found = dln.influence.analytic(run, [200])[0].values
    assert np.all(np.diag(found) < 0)
    assert np.abs(found[0, 1]) < 1e-12 * np.abs(found[0, 0])
