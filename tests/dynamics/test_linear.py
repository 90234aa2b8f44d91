"""Runs: each optimizer against torch or an ODE, batches, schedules, divergence, bad input."""

import itertools

import numpy as np
import pytest
import torch

import dlnflow as dln
from tests.tolerances import ALGEBRA

STEPS = [0, 1, 7, 60]


def _torch_trajectory(run, optimizer, steps, weights):
    """Train the same network with torch.nn and torch.optim, item weights applied in the loss."""
    layers = [
        torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=torch.float64)
        for w in run.initial_weights()
    ]
    for layer, w in zip(layers, run.initial_weights(), strict=True):
        layer.weight.data = torch.from_numpy(w.copy())
    model = torch.nn.Sequential(*layers)
    rule = {
        "gd": lambda p: torch.optim.SGD(p, run.learning_rate),
        "momentum": lambda p: torch.optim.SGD(p, run.learning_rate, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, run.learning_rate),
    }[optimizer](model.parameters())
    x, y = (torch.from_numpy(a.T.copy()) for a in (run.task.x, run.task.y))
    kept = []
    for step in range(steps[-1] + 1):
        if step in steps:
            kept.append([layer.weight.detach().numpy().copy() for layer in layers])
        rule.zero_grad()
        item_losses = 0.5 * ((y - model(x)) ** 2).sum(1)
        (torch.from_numpy(weights) * item_losses).mean().backward()
        rule.step()
    return [np.stack([k[layer] for k in kept]) for layer in range(len(layers))]


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam"])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("one_hot", [True, False])
def test_training_is_that_of_torch(optimizer, depth, one_hot):
    rng = np.random.default_rng(3)
    x = None if one_hot else rng.standard_normal((3, 4))
    task = dln.Task(rng.standard_normal((5, 4)), x)
    run = dln.Run(
        task,
        hidden=12,
        init_std=0.3,
        learning_rate=0.02,
        n_steps=60,
        optimizer=optimizer,
        depth=depth,
    )
    weights = np.array([1.0, 0.0, 0.5, 2.0])
    trajectory = run.train(STEPS, weights)
    truth = _torch_trajectory(run, optimizer, STEPS, weights)
    expected = truth[0]
    for w in truth[1:]:
        expected = w @ expected
    assert np.abs(trajectory.w - expected).max() < ALGEBRA * np.abs(expected).max()
    if depth == 2:
        assert np.abs(trajectory.w1 - truth[0]).max() < ALGEBRA
        assert np.abs(trajectory.w2 - truth[1]).max() < ALGEBRA


@pytest.mark.parametrize("hidden", [1, 2, 50])
def test_flow_keeps_its_conserved_quantity_and_is_the_limit_of_descent(hidden):
    """W2^T W2 - W1 W1^T is constant; descent converges to the flow at first order in the step."""
    task = dln.semantic_hierarchy(3)
    base = {"hidden": hidden, "init_std": 0.1, "n_steps": 320}
    flow = dln.Run(task, optimizer="flow", learning_rate=0.05, **base).train([0, 100, 320])
    balance = np.swapaxes(flow.w2, 1, 2) @ flow.w2 - flow.w1 @ np.swapaxes(flow.w1, 1, 2)
    assert np.abs(balance - balance[0]).max() < 1e-9
    errors = []
    for halvings in range(3):
        run = dln.Run(
            task, learning_rate=0.05 / 2**halvings, **base | {"n_steps": 100 * 2**halvings}
        )
        errors.append(np.abs(run.train([run.n_steps]).w[0] - flow.w[1]).max())
    slopes = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(slopes - 1) < 0.1)


def test_batch_of_ablations_equals_one_by_one():
    run = dln.Run(dln.semantic_hierarchy(3), hidden=50, init_std=1e-2)
    steps = np.unique(np.linspace(0, run.n_steps, 20).astype(int))
    weights = np.vstack([np.ones(4), 1 - np.eye(4)])
    together = run.losses(steps, weights)
    for row, batch in zip(weights, together, strict=True):
        alone = run.train(steps, row).loss.values
        assert np.abs(alone - batch).max() <= ALGEBRA * np.abs(alone).max()


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "adam", "flow"])
def test_a_schedule_equals_training_in_pieces(optimizer):
    """Weights that change at steps 10 and 25; before the window nothing differs from baseline."""
    task = dln.semantic_hierarchy(3)
    run = dln.Run(task, init_std=0.1, learning_rate=0.02, n_steps=60, optimizer=optimizer)
    inside = np.array([0.0, 1, 1, 1])
    steps = list(range(0, 61, 5))
    window = dln.Schedule.window(np.ones(4), inside, start=10, stop=25)
    changed = run.train(steps, window).loss.values
    baseline = run.train(steps).loss.values
    assert np.abs(changed[:3] - baseline[:3]).max() < 1e-10
    assert np.abs(changed[3:] - baseline[3:]).max() > 1e-4
    everywhere = run.train(steps, dln.Schedule.window(np.ones(4), inside, start=0, stop=60))
    constant = run.train(steps, inside)
    assert np.abs(everywhere.loss.values - constant.loss.values).max() < 1e-10


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_std": 1e-4},
        {"init_std": 0.3},
        {"optimizer": "momentum"},
        {"optimizer": "adam"},
        {"optimizer": "flow"},
        {"depth": 3, "init_std": 0.05},
        {"hidden": 2},
        {"hidden": 2000},
    ],
    ids=str,
)
def test_default_step_and_length_learn_every_mode(options):
    task = dln.semantic_hierarchy(3)
    run = dln.Run(task, **options)
    learned = np.linalg.svd(run.train([run.n_steps]).w[0], compute_uv=False)[:4]
    expected = np.where(np.arange(4) < run.hidden, task.modes.s, 0.0)
    # Below the rank of the data the network learns the strongest modes that fit.
    assert np.abs(learned - expected).max() < 2e-3 * expected[0]


def test_default_length_suits_correlated_inputs():
    rng = np.random.default_rng(0)
    task = dln.Task(rng.standard_normal((3, 6)), rng.standard_normal((4, 6)))
    run = dln.Run(task)
    least_squares = np.linalg.lstsq(task.x.T, task.y.T, rcond=None)[0].T
    assert np.abs(run.train([run.n_steps]).w[0] - least_squares).max() < 0.02


def test_width_does_not_change_the_reduced_size():
    sizes = {
        h: dln.Run(dln.semantic_hierarchy(), hidden=h).problem.weights[0].shape for h in (50, 5000)
    }
    assert set(sizes.values()) == {(23, 8)}


def test_flow_time_has_unit_rate_modes():
    """For aligned small modes a(t) obeys da/dt = 2 a (s - a) in flow time, for any scale of x."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    task = dln.Task(dln.semantic_hierarchy(3).y, 1.7 * rotation)
    run = dln.Run(task, init_std=1e-3, optimizer="flow")
    trajectory = run.train(np.arange(0, run.n_steps, 5))
    t, a = run.flow_time(trajectory.steps), trajectory.mode_strengths[:, 0]
    s = task.modes.s[0]
    middle = np.argmin(np.abs(a - s / 2))
    rate = (a[middle + 1] - a[middle - 1]) / (t[middle + 1] - t[middle - 1])
    assert rate == pytest.approx(2 * a[middle] * (s - a[middle]), rel=1e-2)
    assert np.all(np.isnan(dln.Run(task, optimizer="adam").flow_time([1, 2])))


@pytest.mark.parametrize("optimizer", ["gd", "momentum"])
def test_divergence_is_reported_with_step_and_bound(optimizer):
    run = dln.Run(dln.semantic_hierarchy(), learning_rate=30.0, n_steps=2000, optimizer=optimizer)
    with pytest.raises(dln.DivergenceError, match=r"step \d+.*learning_rate=30.* below [23]"):
        run.train([2000])
    with pytest.raises(dln.DivergenceError):
        dln.influence.leave_one_out(run, [2000])
    with pytest.raises(dln.DivergenceError):
        dln.influence.tangent(run, [2000])


def test_adam_diverges_without_a_bound_of_gradient_descent():
    run = dln.Run(dln.semantic_hierarchy(3), learning_rate=1e3, n_steps=20, optimizer="adam")
    with pytest.raises(dln.DivergenceError, match=r"step \d+.*=1000 is too large\. `learning_rate"):
        run.train([20])
    assert np.isnan(run.stable_learning_rate)
    assert dln.Run(run.task, optimizer="flow").stable_learning_rate == np.inf


def test_one_diverged_network_of_a_batch_is_enough():
    problem = dln.Run(dln.semantic_hierarchy(3)).problem
    residual = np.zeros((9, *problem.y.shape))
    residual[4, 0, 0] = np.sqrt(0.99 * problem.error_limit)
    problem.check(residual, 7)
    residual[4, 0, 0] = np.sqrt(1.01 * problem.error_limit)
    with pytest.raises(dln.DivergenceError, match="step 7"):
        problem.check(residual, 7)


def test_the_stable_bound_separates_convergence_from_divergence():
    task = dln.semantic_hierarchy(3)
    bound = dln.Run(task).stable_learning_rate
    good = dln.Run(task, learning_rate=0.9 * bound, n_steps=2000).train([2000])
    assert float(good.loss.max()) < 1e-12
    bad = dln.Run(task, learning_rate=1.1 * bound, n_steps=2000, init_std=0.01)
    try:  # beyond the bound the solution is unstable: it blows up or keeps oscillating
        assert float(bad.train([2000]).loss.max()) > 1e-6
    except dln.DivergenceError:
        pass


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hidden": 0}, "`hidden`"),
        ({"hidden": 2.5}, "`hidden`"),
        ({"init_std": 0}, "`init_std`"),
        ({"init_std": np.nan}, "`init_std`"),
        ({"learning_rate": -1}, "`learning_rate`"),
        ({"n_steps": 0}, "`n_steps`"),
        ({"depth": 1}, "`depth`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": "a"}, "`seed`"),
        ({"optimizer": "adm"}, "Did you mean 'adam'"),
    ],
)
def test_bad_settings_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        dln.Run(dln.semantic_hierarchy(3), **options)


def test_a_task_is_required():
    with pytest.raises(TypeError, match=r"must be a dlnflow\.Task"):
        dln.Run(np.eye(3))


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([], "non-empty"),
        ([0, 5, 5], "5 follows 5"),
        ([3, 2], "2 follows 3"),
        ([-1, 2], r"got -1\.$"),
        ([0, 10**9], "larger `n_steps`"),
        ([0.5], "whole numbers"),
        (["a"], "whole numbers"),
        ([[1, 2]], "shape"),
        ([np.nan], "whole numbers"),
        ([0, np.inf], "whole numbers"),
        ([1, [2]], "`steps`"),
    ],
)
def test_bad_steps_are_refused_before_work_starts(steps, reason):
    run = dln.Run(dln.semantic_hierarchy(3))
    for call in (run.train, lambda s: dln.influence.tangent(run, s)):
        with pytest.raises(ValueError, match=reason):
            call(steps)


def test_bad_item_weights_are_refused():
    run = dln.Run(dln.semantic_hierarchy(3))
    with pytest.raises(ValueError, match="one weight per item, 4"):
        run.train([1], np.ones(3))
    with pytest.raises(ValueError, match=r">= 0"):
        run.train([1], [1, 1, 1, -1])
    with pytest.raises(ValueError, match="one network"):
        run.train([1], np.ones((2, 4)))
    for starts, length in (([], 0), ([0.5, 2], 2)):
        with pytest.raises(ValueError, match="whole steps"):
            dln.Schedule(starts, np.ones((length, 4)))
    for starts in ([1, 2], [0, 0]):
        with pytest.raises(ValueError, match="increase strictly from 0"):
            dln.Schedule(starts, np.ones((2, 4)))
    with pytest.raises(ValueError, match="0 <= start < stop"):
        dln.Schedule.window(np.ones(4), np.zeros(4), start=5, stop=5)


def test_a_run_too_long_for_its_slowest_mode_says_so():
    y = np.diag([1.0, 1e-6])
    with pytest.warns(UserWarning, match="1 of 2 modes need"):
        run = dln.Run(dln.Task(y))
    assert run.n_steps == 200_000


def test_schedule_lookup_matches_its_segments():
    schedule = dln.Schedule([0, 4, 9], np.arange(6.0).reshape(3, 2))
    covered = itertools.chain.from_iterable(
        (weights for _ in range(first, last)) for first, last, weights in schedule.segments(12)
    )
    assert all(np.array_equal(schedule.at(k), w) for k, w in enumerate(covered))


@pytest.mark.parametrize(
    ("scale", "options"),
    [(1e-8, {}), (1.0, {"init_std": 5.0}), (1e4, {}), (1.0, {"init_std": 1.0, "depth": 3})],
    ids=str,
)
def test_default_step_is_stable_for_small_features_and_large_starts(scale, options):
    task = dln.Task(scale * dln.semantic_hierarchy(3).y)
    run = dln.Run(task, n_steps=300, **options)
    losses = run.train([0, 20, 100, 300]).loss.sum("item").values
    assert np.all(np.diff(losses) < 0)


def test_divergence_is_seen_at_the_last_recorded_step():
    run = dln.Run(dln.semantic_hierarchy(), learning_rate=50.0, n_steps=40)
    for last in (3, 4, 5):
        with pytest.raises(dln.DivergenceError):
            run.train([0, last])
        with pytest.raises(dln.DivergenceError):
            dln.influence.tangent(run, [0, last])


def test_settings_are_stored_as_plain_numbers():
    run = dln.Run(dln.semantic_hierarchy(3), hidden=6.0, depth=np.int64(2), n_steps=10.0)
    assert (run.hidden, run.depth, run.n_steps) == (6, 2, 10) and run.train([10.0]).w.shape
    for bad in ({"hidden": True}, {"seed": True}, {"init_std": 1j}, {"optimizer": ["gd"]}):
        with pytest.raises(ValueError, match="`" + next(iter(bad))):
            dln.Run(dln.semantic_hierarchy(3), **bad)


def test_a_default_length_without_any_learning_is_refused():
    task = dln.semantic_hierarchy(3)
    for setting in ({"init_std": 1e9}, {"learning_rate": 1e-9}):
        with pytest.raises(ValueError, match="no mode is learned within 200000 steps"):
            dln.Run(task, **setting)
        assert dln.Run(task, n_steps=5, **setting).n_steps == 5
