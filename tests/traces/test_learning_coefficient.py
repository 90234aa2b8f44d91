"""Learning coefficients of parts of data and weights: they add up, and one layer is exact."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow import sampling
from dlnflow.theory.one_layer import layer_posterior
from dlnflow.traces import llc
from tests.traces import samples
from tests.traces.samples import autoregressive, make, random_classes, random_traces


def whole(**options):
    return random_traces(**options).assign_attrs(n_train=9)


def test_parts_of_the_data_average_to_the_whole():
    traces = whole()
    every, observed, items = llc(traces), llc(traces, "observed"), llc(traces, "item")
    np.testing.assert_allclose(observed.llc, every.llc, rtol=1e-10)
    np.testing.assert_allclose(items.llc.mean("item"), every.llc, rtol=1e-10)
    halves = np.arange(9)[:, None] // 5 == np.arange(2)
    parts = llc(traces, halves).llc.values
    np.testing.assert_allclose(parts @ halves.sum(0) / 9, every.llc, rtol=1e-10)
    assert llc(traces, random_classes()).llc.dims == ("time", "token_class")


def test_items_and_classes_are_n_beta_times_the_excess():
    traces, classes = whole(), random_classes()
    excess = 30.0 * (traces - traces.checkpoint_loss).mean(("chain", "draw")).values
    np.testing.assert_allclose(llc(traces, "item").llc, excess, rtol=1e-10)
    weights = classes.values / classes.values.sum(0)
    np.testing.assert_allclose(llc(traces, classes).llc, excess @ weights, rtol=1e-10)


@pytest.mark.parametrize("layer", [1, 2])
def test_weight_restricted_it_is_the_closed_form_at_every_checkpoint(layer):
    run = dln.Run(dln.semantic_hierarchy(), hidden=12, init_std=1e-2)
    steps = [0, run.n_steps // 4, run.n_steps // 2, run.n_steps]
    options = sampling.suggest(run) | {"chains": 16, "draws": 300}
    found = llc(sampling.trace_run(run, steps, restrict=f"layer{layer}", **options))
    assert set(found.verdict.values) == {"mixed"}
    trained, task = run.train(steps), run.task
    chosen = {name: options[name] for name in ("n_beta", "localization")}
    for t in range(len(steps)):
        pair = trained.w1[t], trained.w2[t]
        exact = layer_posterior(pair, layer, task.x, task.y, **chosen)
        value = options["n_beta"] * (exact.mean - exact.checkpoint_loss).mean()
        assert float(found.llc[t]) == pytest.approx(value, abs=4 * float(found.standard_error[t]))
    assert found.at_minimum.values[-1] and found.llc[-1] > 0


def test_of_one_layer_at_a_minimum_it_is_half_its_directions():
    """rank(A) rank(B X) / 2 as localization vanishes: what `rlct` says of a regular model."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((3, 6)), rng.standard_normal((5, 3))
    x = rng.standard_normal((6, 40))
    for layer, directions in ((1, 3 * 6), (2, 5 * 3)):
        found = layer_posterior((w1, w2), layer, x, w2 @ w1 @ x, n_beta=1e8, localization=1e-3)
        assert 1e8 * found.mean.mean() == pytest.approx(directions / 2, rel=1e-6)
    # a wide network whose whole is known: with the other layer full, one layer holds it all
    exact = dln.rlct.learning_coefficient((6, 6, 5), 5).coefficient
    wide = rng.standard_normal((6, 6)), rng.standard_normal((5, 6))
    found = layer_posterior(wide, 1, x, wide[1] @ wide[0] @ x, n_beta=1e8, localization=1e-3)
    assert 1e8 * found.mean.mean() == pytest.approx(exact, rel=1e-6)


def test_a_checkpoint_that_the_posterior_leaves_is_no_minimum():
    z = 1 + 0.01 * autoregressive(4, 400, 3, 0.3)[None]
    down = llc(make(z - 0.1, n_train=3), "observed")
    assert not down.at_minimum.item() and down.llc.item() == pytest.approx(-3, abs=0.1)
    assert llc(make(z + 0.1, n_train=3)).at_minimum.item()
    assert llc(make(z + 0.1, n_train=3), "item").at_minimum.values.all()


def test_intervals_of_classes_cover():
    """Rows differ in their excess; chains are AR(1)."""
    repeats, chains, draws, n_rows = 200, 6, 60, 10
    rng = np.random.default_rng(1)
    rows = 0.3 * rng.standard_normal((repeats, 1, 1, n_rows, 1))
    noise = autoregressive(repeats * chains, draws, n_rows * 3, 0.3, 2)
    noise = noise.reshape(repeats, chains, draws, n_rows, 3)
    values = (2 + rows + noise).reshape(repeats, chains, draws, -1)
    traces = make(values, np.repeat(np.arange(n_rows), 3), n_beta=1.0)
    found = llc(traces, "observed")
    ends = dln.traces.interval(
        found.llc.assign_coords(standard_error=found.standard_error, dof=found.dof)
    )
    assert 0.92 <= ((ends.lower <= 1) & (ends.upper >= 1)).values.mean() <= 0.98


def test_what_it_cannot_be_of_is_refused():
    traces = random_traces()
    with pytest.raises(ValueError, match='of="observed"'):
        llc(traces)
    with pytest.raises(ValueError, match="`of`"):
        llc(traces, "items")
    with pytest.raises(ValueError, match="item weights other than 1"):
        llc(traces.assign_coords(weight=("item", np.full(9, 2.0))), "item")


def test_diverged_chains_give_nan():
    traces = samples.random_traces(shape=(2, 3, 12, 9)).assign_attrs(n_train=9)
    traces[0] = np.nan
    for of in (None, "observed", "item", random_classes()):
        found = llc(traces, of)
        assert np.isnan(found.llc.values[0]).all() and np.isfinite(found.llc.values[1]).all()
        assert found.verdict.values[0] == "diverged"
