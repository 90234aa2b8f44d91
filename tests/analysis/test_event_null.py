"""Rates of events in noise against their exact law, and in shuffled targets against a loop."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

import dlnflow as dln
from dlnflow import result
from dlnflow.analysis import event_null, shuffled_event_null
from tests.influence.small_runs import small_run

N_TIMES = 30


def flat(n_times=N_TIMES, **coords):
    """Two pairs of curves without any event."""
    zero = np.zeros((n_times, 2, 1))
    time = np.arange(n_times)
    array = result.influence(zero, time, ["a", "b"], ["c"], estimator="demo", flow_time=time)
    return array.assign_coords({k: (array.dims, np.full(zero.shape, v)) for k, v in coords.items()})


def row(table, floor, kind):
    return table[(table["floor"] == floor) & (table["kind"] == kind)].iloc[0]


def share_of_flips(floor, quantile=None, n_times=N_TIMES):
    """P(one sample beyond +floor and one beyond -floor) of independent normal samples."""
    beyond = norm.sf(floor)
    return 1 - 2 * (1 - beyond) ** n_times + (1 - 2 * beyond) ** n_times


@pytest.mark.parametrize("floor", [1.5, 2.0, 3.0])
def test_flips_of_white_noise_have_their_exact_rate(floor):
    found = row(event_null(flat(), [floor], curves=4000), floor, "sign_flip")
    expected = share_of_flips(floor)
    assert abs(found["share"] - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)
    assert found["low"] < found["share"] < found["high"]


def test_peaks_of_white_noise_are_bounded_by_local_maxima_beyond_the_floor():
    """(T - 2) P(x > floor and both neighbours below x) before prominence, exact for floor 0."""
    table = event_null(flat(), [1e-9, 2.0, 3.0], curves=4000)
    for floor, share_kept in ((1e-9, 0.999), (2.0, 0.9), (3.0, 0.95)):
        most = (N_TIMES - 2) * (1 - norm.cdf(floor) ** 3) / 3
        for kind in ("peak", "trough"):
            count = row(table, floor, kind)["per_curve"]
            if floor < 1:  # for troughs and peaks that are below and above 0 alike
                most = (N_TIMES - 2) / 3
            error = 4 * np.sqrt(most / 4000)
            assert share_kept * most - error < count < most + error


def test_intervals_hold_the_true_rate_as_often_as_they_say():
    expected, held = share_of_flips(2.0), 0
    for seed in range(60):
        found = row(event_null(flat(), [2.0], curves=80, seed=seed), 2.0, "sign_flip")
        held += found["low"] <= expected <= found["high"]
    assert held >= 53  # 95 % or more; 52 or fewer of 60 has probability 0.01


def test_standard_errors_are_believed_by_events_and_the_rate_falls():
    """Floors count in standard errors, whatever these are, and a flip needs two of them."""
    plain = event_null(flat(), [1.0], curves=4000)
    wide = event_null(flat(standard_error=7.0), [1.0], curves=4000)
    assert row(wide, 1.0, "sign_flip")["share"] < row(plain, 1.0, "sign_flip")["share"]
    expected = share_of_flips(2.0)  # beyond two standard errors on both sides
    got = row(wide, 1.0, "sign_flip")["share"]
    assert abs(got - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)


def test_errors_that_are_themselves_estimated_keep_the_rate():
    """A Student law beyond its own quantile is as frequent as a normal one beyond 2 errors."""
    few = event_null(flat(standard_error=0.1, dof=3.0), [1e-9], curves=4000)
    expected = share_of_flips(2.0)
    got = row(few, 1e-9, "sign_flip")["share"]
    assert abs(got - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)


def test_noise_that_changes_slowly_has_fewer_events():
    white, slow = (
        row(event_null(flat(), [1.0], correlation=r, curves=500), 1.0, "peak")["per_curve"]
        for r in (0.0, 0.95)
    )
    assert slow < 0.5 * white


def test_the_observed_share_counts_pairs_of_different_items():
    time = np.arange(60)
    bump = np.exp(-(((time - 30) / 8) ** 2))
    values = np.stack([np.stack([bump, 0 * bump]), np.stack([bump, bump])])  # (query, train, T)
    curves = result.influence(
        np.moveaxis(values, -1, 0), time, ["a", "b"], ["b", "a"], estimator="demo", flow_time=time
    )
    table = event_null(curves, [3.0], curves=50)
    assert row(table, 0.0, "peak")["observed"] == 1.0  # (a, b) and (b, a); not (a, a), (b, b)
    assert np.isnan(row(table, 3.0, "peak")["observed"])  # no standard error to multiply
    known = curves.assign_coords(standard_error=(curves.dims, np.full(curves.shape, 0.1)))
    table = event_null(known, [3.0, 11.0], curves=50)
    assert [row(table, f, "peak")["observed"] for f in (3.0, 11.0)] == [1.0, 0.0]


def torch_run(loss="mse"):
    torch.manual_seed(1)
    generator = np.random.default_rng(1)
    y = generator.normal(size=(5, 2)) if loss == "mse" else np.array([0, 1, 1, 0, 1])
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return dln.TorchRun(
        model, (generator.normal(size=(5, 3)), y), loss=loss, learning_rate=0.3, n_steps=60
    )


@pytest.mark.parametrize("kind", ["linear", "mse", "cross_entropy"])
def test_shuffled_targets_give_the_rates_of_a_plain_loop(kind):
    run = small_run() if kind == "linear" else torch_run(kind)
    steps = np.arange(0, 61, 2)
    found = shuffled_event_null(run, steps=steps, floors=[0.1], shuffles=3, seed=4)
    shares = []
    for generator in np.random.default_rng(4).spawn(3):
        if kind == "linear":
            other = run.with_targets(generator.permuted(run.task.y, axis=1))
        else:
            y = run.data[1].numpy()
            other = run.with_targets(
                generator.permuted(y, axis=0) if kind == "mse" else generator.permutation(y)
            )
        curves = dln.influence.tangent(other, steps)
        floor = 0.1 * np.abs(curves).max("time").reset_coords(drop=True)
        table = dln.events(curves, floor)
        table = table[(table["query"] != table["train"]) & (table["kind"] == "peak")]
        pairs = table.groupby(["query", "train"]).ngroups
        shares.append(pairs / (len(run.items) * (len(run.items) - 1)))
    assert row(found, 0.1, "peak")["share"] == pytest.approx(np.mean(shares))
    assert np.std(shares) > 0
    low, high = row(found, 0.1, "peak")[["low", "high"]]
    half = 4.302652729911275 * np.std(shares, ddof=1) / np.sqrt(3)  # Student, 2 degrees
    assert high == pytest.approx(min(1, np.mean(shares) + half))
    assert low == pytest.approx(max(0, np.mean(shares) - half))


@pytest.mark.parametrize("kind", ["linear", "mse"])
def test_a_run_on_its_own_targets_is_the_run(kind):
    run = small_run() if kind == "linear" else torch_run()
    again = run.with_targets(run.task.y if kind == "linear" else run.data[1])
    both = [dln.influence.tangent(one, [10, 60]) for one in (run, again)]
    np.testing.assert_array_equal(*both)
    assert repr(again) == repr(run)


def test_targets_of_given_weights_and_separate_queries_can_be_exchanged():
    task = dln.semantic_hierarchy(2)
    run = dln.Run(task, initial=dln.Run(task, hidden=3).initial_weights(), n_steps=10)
    np.testing.assert_array_equal(
        run.with_targets(task.y[:, ::-1]).initial_weights()[0], run.initial_weights()[0]
    )
    model = nn.Linear(2, 1).double()
    model.bias.requires_grad_(False)
    data = np.eye(2), np.ones((2, 1))
    run = dln.TorchRun(
        model, data, learning_rate=0.1, n_steps=3, queries=(["new"], [[1.0, 1.0]], [[0.5]])
    )
    other = run.with_targets(2 * data[1])
    assert other.queries == ("new",) or list(other.queries) == ["new"]
    assert set(other.weights([3])[0]) == {"weight"}
    assert float(run.data[1][0]) == 1 and float(other.data[1][0]) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"floors": [0.0]}, "`floors` must be > 0"),
        ({"curves": 0}, "`curves`"),
        ({"correlation": 1.0}, r"`correlation` must lie in \[0, 1\)"),
        ({"influence": flat(2)}, "at least three times"),
    ],
)
def test_bad_input_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        event_null(**({"influence": flat()} | change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"floors": [1.0]}, "shares below 1"),
        ({"shuffles": 1}, "at least 2"),
        ({"estimator": "tangnt"}, "Did you mean 'tangent'"),
        ({"query": ["item1"], "train": ["item1"]}, "pair of different items"),
    ],
)
def test_bad_input_of_shuffles_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        shuffled_event_null(small_run(n_steps=20), **change)
