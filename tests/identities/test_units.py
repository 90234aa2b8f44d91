"""Estimates are the same in any unit: features times c give influence times c^2.

With y -> c y, the weights of L layers scale by c^(1/L), time by c^(2/L - 2) and losses by c^2; what
has no unit stays. All defaults follow the data, so that nothing else has to be given. Adam is left
out: the epsilon of torch.optim is a gradient, so that its training itself depends on the unit.
"""

import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow.task import LARGEST_X, LARGEST_Y

N_STEPS = 240
OPTIONS = {"bif": {"chains": 2, "draws": 20, "dtype": "float64"}}
KINDS = {
    "gd": {},
    "momentum": {"optimizer": "momentum"},
    "flow": {"optimizer": "flow"},
    "deep": {"depth": 3, "n_steps": 60},
    "deep flow": {"depth": 3, "optimizer": "flow"},
}
ROUNDING = 1e-14
"""Of finite differences of losses, relative to the losses; those of the task are about 1."""
EXPONENTS = st.floats(-60, 60)


def _task(scale=1.0, *, inputs=None):
    """4 items, 5 features of at most 1; inputs, if any, times a scale."""
    rng = np.random.default_rng(4)
    y, x = rng.standard_normal((5, 4)), rng.standard_normal((3, 4))
    y, x = y / np.abs(y).max(), x / np.abs(x).max()
    return dln.Task(scale * y, None if inputs is None else inputs * x)


def _run(kind, task):
    return dln.Run(task, **{"hidden": 7, "n_steps": N_STEPS, **KINDS[kind]})


def _curves(name, kind, task):
    run = _run(kind, task)
    return dln.ESTIMATORS[name](run, [1, 30, run.n_steps], **OPTIONS.get(name, {})).values


@functools.cache
def _known(name, kind, inputs):
    """Curves of the data in their own unit, computed once."""
    return _curves(name, kind, _task(inputs=inputs))


def _taken():
    """Every estimator with every kind of run that it takes, but sampling once."""
    for name, record in dln.ESTIMATORS.items():
        for inputs in (None, 1.0):
            for kind in KINDS:
                fits = not record.refusal(_run(kind, _task(inputs=inputs)))
                if fits and (name != "bif" or kind == "gd"):
                    yield pytest.param(
                        name, kind, inputs, id=f"{name}-{kind}-{'x' if inputs else 'one-hot'}"
                    )


def _check(scaled, expected, factor):
    atol = 1e-9 * np.abs(expected).max() + ROUNDING
    np.testing.assert_allclose(scaled / factor, expected, rtol=1e-9, atol=atol)
    assert np.abs(expected).max() > 0


@pytest.mark.filterwarnings("ignore:(damped_hessian|laplace_bif|source)")
@pytest.mark.parametrize(("name", "kind", "inputs"), list(_taken()))
@given(exponent=EXPONENTS)
@example(exponent=-60.0)
@example(exponent=60.0)
@settings(max_examples=4)
def test_influence_scales_with_the_square_of_the_features(name, kind, inputs, exponent):
    scale = 10.0**exponent
    scaled = _curves(name, kind, _task(scale, inputs=inputs))
    _check(scaled, _known(name, kind, inputs), scale**2)


@pytest.mark.parametrize("name", ["tangent", "leave_one_out", "closed_form_loo", "laplace_bif"])
@pytest.mark.parametrize("inputs", [1e-30, 1e30])
def test_the_unit_of_the_inputs_does_not_matter(name, inputs):
    expected = _curves(name, "gd", _task(inputs=1.0))
    _check(_curves(name, "gd", _task(inputs=inputs)), expected, 1.0)


@given(exponent=EXPONENTS)
def test_defaults_follow_the_data(exponent):
    base, scale = dln.Run(_task()), 10.0**exponent
    run = dln.Run(_task(scale))
    assert run.n_steps == base.n_steps
    assert run.init_std == pytest.approx(base.init_std * scale**0.5, rel=1e-12)
    assert run.learning_rate == pytest.approx(base.learning_rate / scale, rel=1e-12)
    assert np.allclose(run.flow_time(base.grid()) * scale, base.flow_time(base.grid()), atol=0)
    assert dln.Run(dln.semantic_hierarchy()).init_std == 0.01  # features of 0 and 1


@pytest.mark.parametrize(("y", "x"), [(1e61, 1), (1e-61, 1), (1e150, 1), (1, 1e31), (1, 1e-100)])
def test_units_in_which_squares_overflow_are_refused(y, x):
    with pytest.raises(ValueError, match="Choose another unit: multiply"):
        _task(y, inputs=x)
    assert LARGEST_Y == 1e60 and LARGEST_X == 1e30


def test_sampling_in_single_precision_refuses_what_it_cannot_hold():
    expected = dln.influence.bif(_run("gd", _task()), [60], chains=2, draws=20)
    scaled = dln.influence.bif(_run("gd", _task(4.0**18)), [60], chains=2, draws=20)
    _check(scaled.values, expected.values, 4.0**36)
    with pytest.raises(ValueError, match="Give dtype='float64', or choose another unit"):
        dln.influence.bif(_run("gd", _task(1e-13)), [60], chains=2, draws=20)


@pytest.mark.parametrize("optimizer", ["gd", "momentum"])
def test_modes_that_do_not_grow_are_no_division_by_zero(optimizer):
    """The rate of a null mode is the imbalance of the start: rounding, for a small one."""
    task = _task()
    start, tiny = (
        dln.influence.closed_form_loo(
            dln.Run(task, hidden=7, init_std=std, n_steps=100, optimizer=optimizer), [50, 100]
        )
        for std in (1e-4, 1e-9)
    )
    assert np.isfinite(tiny).all() and np.abs(tiny).max() < np.abs(start).max()
