"""Susceptibilities: the identity behind them, closed forms, intervals, and what is refused."""

import numpy as np
import pytest
import xarray as xr

import dlnflow as dln
from dlnflow import sampling
from dlnflow.theory.one_layer import layer_posterior
from dlnflow.traces import groups, influence, interval, susceptibility
from tests.traces import samples
from tests.traces.samples import autoregressive, make


def observed(values, name="phi"):
    return xr.DataArray(values, dims=("time", "chain", "draw"), name=name)


@pytest.mark.parametrize("perturbation", ["mixture", "weight"])
def test_it_is_the_derivative_of_the_expectation(perturbation):
    """Reweighting the same draws by exp(-n_beta h (l_k - L)) is what a share h does."""
    rng = np.random.default_rng(0)
    losses = rng.standard_normal((1, 1, 4000, 5)) ** 2
    phi = losses[..., 0] * losses[..., 1] + rng.standard_normal((1, 1, 4000))
    traces = make(losses, n_beta=3.0, n_train=7)
    found = susceptibility(traces, observable=observed(phi), perturbation=perturbation)
    flat, h = losses[0, 0], 1e-6
    extra = flat - flat.mean(1, keepdims=True) if perturbation == "mixture" else flat / 7
    for k in range(5):
        ends = []
        for side in (-h, h):
            weight = np.exp(-3.0 * side * (extra[:, k] - extra[:, k].mean()))
            ends.append(np.sum(weight * phi[0, 0]) / weight.sum())
        slope = (ends[1] - ends[0]) / (2 * h)
        assert float(found[0, k]) == pytest.approx(slope * 4000 / 3999, rel=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_of_an_items_own_loss_it_is_its_influence(normalised):
    traces = samples.random_traces(rows=False, shape=(2, 3, 40, 9))
    exact = influence(traces, normalised)
    own = traces.isel(item=4)
    found = susceptibility(
        traces, observable=own.reset_coords(drop=True), perturbation="weight", normalised=normalised
    )
    expected = exact.sel(query="i4")
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-10)
    others = np.arange(9) != 4  # the correlation of a loss with itself has no error
    for name in ("standard_error", "dof"):
        a, b = (x[name].values[:, others] for x in (found, expected))
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_shares_of_all_items_add_up_to_nothing():
    traces = samples.random_traces()
    found = susceptibility(traces)
    np.testing.assert_allclose(found.mean("item"), 0, atol=1e-12)
    every = susceptibility(traces, np.ones((9, 1), bool))
    np.testing.assert_allclose(every, 0, atol=1e-12)
    assert found.attrs["units"] == "observable per share of the data"


@pytest.mark.parametrize("normalised", [False, True])
def test_a_class_is_the_mean_of_its_items(normalised):
    traces, classes = samples.random_traces(), samples.random_classes()
    one = susceptibility(traces, normalised=normalised)
    found = susceptibility(traces, classes, normalised=normalised)
    members = classes.values.astype(float)
    np.testing.assert_allclose(found, one.values @ (members / members.sum(0)), rtol=1e-10)
    assert np.all(found.standard_error > 0) and np.all(found.dof >= 1)


def test_class_errors_are_those_of_groups():
    """The observable as one more item without a row: pairs of it with a class have both errors."""
    traces = samples.random_traces(seed=3)
    phi = np.random.default_rng(1).standard_normal((2, 3, 12, 1))
    wide = make(np.concatenate([traces.values, phi], axis=-1), n_train=10)
    classes = np.zeros((10, 2), bool)
    classes[:9:2, 0] = classes[9, 1] = True
    by_pairs = groups(wide, classes, normalised=False).isel(query=1, train=0)
    alone = make(traces.values, n_train=10)
    options = {"observable": observed(phi[..., 0]), "perturbation": "weight"}
    found = susceptibility(alone, classes[:9, :1], **options).isel(token_class=0)
    np.testing.assert_allclose(found, by_pairs, rtol=1e-10)
    np.testing.assert_allclose(found.standard_error, by_pairs.chain_error, rtol=1e-10)
    # rows of one item each: the jackknife error of a mean is sd / sqrt(n)
    each = alone.assign_coords(row=("item", np.arange(9)))
    values = susceptibility(alone, **options).values[:, :9:2]
    rows = values.std(1, ddof=1) / np.sqrt(5)
    found = susceptibility(each, classes[:9, :1], **options).isel(token_class=0)
    assert np.all(found.standard_error <= np.hypot(rows, by_pairs.chain_error) * (1 + 1e-9))
    assert np.all(found.standard_error >= np.maximum(rows, by_pairs.chain_error) * (1 - 1e-9))


@pytest.mark.parametrize("layer", [1, 2])
def test_of_one_layer_of_a_linear_network_it_is_the_closed_form(layer):
    run = dln.Run(dln.semantic_hierarchy(), hidden=12, init_std=1e-2)
    steps = [run.n_steps // 4, run.n_steps // 2, run.n_steps]
    options = sampling.suggest(run) | {"chains": 16, "draws": 300}
    traces = sampling.trace_run(run, steps, restrict=f"layer{layer}", **options)
    found = susceptibility(traces)
    assert set(found.verdict.values) == {"mixed"}
    trained, task = run.train(steps), run.task
    chosen = {name: options[name] for name in ("n_beta", "localization")}
    z = []
    for t in range(len(steps)):
        layers = trained.w1[t], trained.w2[t]
        exact = layer_posterior(layers, layer, task.x, task.y, **chosen)
        with_mean = exact.covariance.mean(0)
        chi = -options["n_beta"] * (with_mean - with_mean.mean())
        z.append((found.values[t] - chi) / found.standard_error.values[t])
    assert np.mean(np.abs(z) <= 3) >= 0.95
    assert np.abs(z).max() > 0.1  # errors are no excuse


def test_intervals_of_items_and_classes_cover():
    """Losses share a cause with the observable; rows differ in how much, chains are AR(1)."""
    repeats, chains, draws, n_rows, n = 150, 6, 120, 10, 4
    rng = np.random.default_rng(0)
    flat = autoregressive(repeats * chains, draws, 1 + n_rows * n, 0.3, 5)
    cause, noise = flat[..., :1], flat[..., 1:]
    a = 1 + 0.4 * rng.choice([-1, 1], (repeats, 1, 1, n_rows, 1))
    shape = (repeats, chains, draws)
    losses = (a * cause.reshape(*shape, 1, 1)).repeat(n, -1).reshape(*shape, -1)
    losses = losses + noise.reshape(*shape, -1)
    traces = make(losses, np.repeat(np.arange(n_rows), n), n_beta=10.0, n_train=10)
    phi = observed(cause.reshape(shape))
    classes = np.ones((n_rows * n, 1), bool)
    options = {"observable": phi, "perturbation": "weight"}
    ends = interval(susceptibility(traces, classes, **options))
    assert 0.92 <= ((ends.lower <= -1) & (ends.upper >= -1)).values.mean() <= 0.98
    exact = -a.repeat(n, -1).reshape(repeats, -1)
    ends = interval(susceptibility(traces, **options))
    assert 0.93 <= ((ends.lower <= exact) & (ends.upper >= exact)).values.mean() <= 0.97


def recorded(traces):
    values = {"sum": traces.values.sum(-1), "other": -2 * traces.values.sum(-1)}
    return traces.assign_coords({n: (("time", "chain", "draw"), v) for n, v in values.items()})


def test_recorded_observables_are_asked_for_by_name():
    traces = recorded(samples.random_traces())
    found = susceptibility(traces, observable="other")
    mean = susceptibility(traces)  # the sum is nine times the mean
    np.testing.assert_allclose(found, -18 * mean, rtol=1e-9)
    assert found.attrs["observable"] == "other"
    with pytest.raises(ValueError, match=r"'othr' was not recorded.*Did you mean"):
        susceptibility(traces, observable="othr")


def test_components_stand_side_by_side():
    a, b = samples.random_traces(0), samples.random_traces(1)
    found = susceptibility({"head": a, "mlp": b}, samples.random_classes())
    assert found.dims == ("component", "time", "token_class")
    xr.testing.assert_allclose(
        found.sel(component="mlp").reset_coords(drop=True),
        susceptibility(b, samples.random_classes()).reset_coords(drop=True),
    )
    assert found.verdict.dims == ("component", "time")
    with pytest.raises(ValueError, match="'mlp' have another `time`"):
        susceptibility({"head": a, "mlp": b.isel(time=[0])})


def test_diverged_chains_are_left_out_and_named():
    traces = samples.random_traces(shape=(2, 4, 12, 9))
    bad = traces.copy(deep=True)
    bad[0, 1] = np.nan
    kept = traces.isel(chain=[0, 2, 3])
    found = susceptibility(bad)
    np.testing.assert_allclose(found[0], susceptibility(kept)[0], rtol=1e-10)
    np.testing.assert_allclose(found[1], susceptibility(traces)[1], rtol=1e-10)
    assert found.diverged_chains.values.tolist() == ["1", ""]
    bad[0] = np.nan
    gone = susceptibility(bad, samples.random_classes())
    assert gone.verdict.values[0] == "diverged" and np.isnan(gone[0]).all()


def test_an_observable_that_does_not_mix_is_said():
    rng = np.random.default_rng(0)
    traces = make(rng.standard_normal((1, 4, 400, 3)))
    stuck = observed(rng.standard_normal((1, 4, 400)) + 5 * np.arange(4)[:, None])
    assert susceptibility(traces).verdict.item() == "mixed"
    assert susceptibility(traces, observable=stuck).verdict.item() == "not mixed"


def test_observables_that_do_not_fit_are_refused():
    traces = samples.random_traces()
    with pytest.raises(ValueError, match="one value per draw"):
        susceptibility(traces, observable=traces.isel(item=0, draw=slice(5)))
    with pytest.raises(ValueError, match="`observable`"):
        susceptibility(traces, observable=traces.isel(item=0).reset_coords(drop=True) * np.nan)
    with pytest.raises(ValueError, match="`perturbation`"):
        susceptibility(traces, perturbation="share")
    with pytest.raises(ValueError, match="at least one component"):
        susceptibility({})
