"""A language model's own training run: replayed bit by bit, differentiated, held to retraining."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import dlnflow as dln
from dlnflow import lm
from dlnflow.dynamics.schedule import Windows
from dlnflow.lm.exact.derivatives import StepDerivatives
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.model import build
from dlnflow.lm.runs.train import load_data, train

END = 12


@pytest.fixture(scope="module")
def probe(tiny):
    """Repeated sequences, and two queries on them."""
    counts = load_data(tiny[1]).training.counts
    sequences = lm.induction.repeated_sequences(counts, n_sequences=4, period=12, disjoint=False)
    first = np.arange(23) < 11
    member = np.broadcast_to(first, (4, 23))
    return sequences, {
        "induction": lm.queries.repeated_loss(sequences),
        "first half": lm.queries.class_loss(sequences, member),
    }


def in_double(tiny, probe, **changes):
    settings, folder, _ = tiny
    settings = replace(settings, precision="fp32", **changes)
    return lm.TrainingRun(settings, load_data(folder).training, probe[1], double=True)


@pytest.fixture(scope="module")
def exact(tiny, probe):
    """The run in double precision, and the influence of every row at two times."""
    run = in_double(tiny, probe)
    return run, run.per_step([6, END])


@pytest.mark.parametrize("changes", [{}, {"precision": "fp32", "accumulate": 2}])
def test_the_replay_is_the_training_bit_by_bit(tiny, probe, tmp_path, changes):
    settings, folder, ladder = tiny
    if changes:
        settings, folder = replace(settings, **changes), tmp_path
        ladder = train(settings, folder, data=load_data(tiny[1]))
    run = lm.TrainingRun(
        settings, load_data(tiny[1]).training, probe[1], checkpoints=ladder, n_steps=8
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reached = run.weights([0, 1, 4, 8])
    for step, weights in zip([0, 1, 4, 8], reached, strict=True):
        for name, tensor in ladder.load(step).named_parameters():
            assert torch.equal(tensor, weights[name]), (step, name)


def test_a_sweep_that_repeats_stretches_gives_the_points_of_the_way_forward(exact):
    run = exact[0]
    ahead = run.weights(range(END + 1))
    seen = []
    for moment in run._backward(END):
        seen.append(moment.step)
        for point in (moment.before, moment.after):
            weights = run._derivatives.named(point.weights)
            assert all(torch.equal(weights[n], w) for n, w in ahead[point.step].items())
    assert seen == list(range(END))[::-1]


def test_the_replay_says_if_it_is_another_run(tiny, probe):
    settings, folder, ladder = tiny
    other = replace(settings, learning_rate=0.02)
    run = lm.TrainingRun(other, load_data(folder).training, probe[1], checkpoints=ladder)
    with pytest.warns(RuntimeWarning, match="differs from the checkpoint of step 1"):
        run.weights([2])


def test_the_measured_losses_are_those_of_the_checkpoints(tiny, probe):
    run = lm.TrainingRun.of(tiny[1], probe[1])
    got = run.measure([0, 4, END])
    expected = lm.induction.measure(
        Checkpoints.from_directory(tiny[1], [0, 4, END]), probe[0]
    ).loss.sel(half="second")
    np.testing.assert_allclose(got.sel(query="induction"), expected, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"rows": 2, "accumulate": 2}])
def test_the_derivative_along_a_class_of_rows_is_the_limit_of_retraining(tiny, probe, changes):
    run = in_double(tiny, probe, **changes)
    found = run.along({"planted": run.planted, "one": np.arange(4) == 1}, [6, END])
    size = 1e-6  # the first steps of Adam are close to signs: larger changes are not linear
    for name in found.train.values:
        member = run.planted if name == "planted" else np.arange(4) == 1
        change = size * np.tile(member, END)
        up, down = (run.losses([6, END], 1 + sign * change)[0] for sign in (1, -1))
        expected = (up - down) / (2 * size)
        limit = 1e-6 * np.abs(found).max()
        np.testing.assert_allclose(found.sel(train=name), expected, rtol=0, atol=limit)


def test_effects_of_single_rows_add_up_to_the_derivative_along_a_class(exact):
    run, influence = exact
    assert influence.dims == ("time", "query", "step", "row")
    groups = {"planted": run.planted, "other": ~run.planted}
    along = run.along(groups, [6, END])
    for name, member in groups.items():
        total = influence.values[..., member].sum((-1, -2))
        limit = 1e-8 * np.abs(along).max()
        np.testing.assert_allclose(total, along.sel(train=name), rtol=0, atol=float(limit))
    assert not influence.sel(time=6, step=slice(6, None)).any()
    assert influence.planted.values.tolist() == [False, False, False, True]


def test_single_rows_at_single_steps_are_held_to_retraining(exact):
    """A row of every step, weighed a little differently at its step alone."""
    run, influence = exact
    chosen, size = [3], 1e-6
    expected = influence.sel(time=END, query="induction").values[:, chosen]
    every = Windows(np.arange(END), np.arange(1, END + 1), END)
    rows = np.tile(np.eye(4)[chosen], END)  # a window changes the rows of its own step alone
    found = run.branches(every, 1 - size * rows, np.array([0]))[..., 0] / size
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= 1 - 1e-8
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def test_the_verbs_serve_the_estimators(exact):
    run, influence = exact
    names = ["3:1", "5:3"]
    steps = dln.influence.per_step(run, range(END), at=END, train=names)
    for name in names:
        step, row = map(int, name.split(":"))
        got = steps.sel(time=step, train=name)
        np.testing.assert_allclose(got, influence.sel(time=END, step=step, row=row), rtol=1e-10)
        assert np.count_nonzero(steps.sel(train=name)) == got.size
    tangent = dln.influence.tangent(run, [END], train=names)
    np.testing.assert_allclose(tangent[0], steps.sum("time"), rtol=1e-6)
    first = dln.influence.windowed(run, [3], window=4, at=END, train=names, first_order=True)
    np.testing.assert_allclose(first[0], tangent[0], rtol=1e-6)
    removed = dln.influence.windowed(run, [3], window=4, at=END, train=names)
    alone = dln.influence.leave_one_out(run, [END], train=names)
    np.testing.assert_allclose(removed[0], alone[0], rtol=1e-9)  # they are used in the window alone
    inside = dln.influence.windowed(run, [3], window=2, train=names, first_order=True)
    weight = 1 - 1e-5
    limit = dln.influence.windowed(run, [3], window=2, train=names, weight=weight)
    np.testing.assert_allclose(inside, limit, rtol=0, atol=1e-3 * float(np.abs(inside).max()))


def test_single_precision_agrees_with_double(tiny, probe, exact):
    settings = replace(tiny[0], precision="fp32")
    run = lm.TrainingRun(settings, load_data(tiny[1]).training, probe[1])
    expected = exact[1]
    error = np.abs(run.per_step([6, END]) - expected).max() / np.abs(expected).max()
    assert error < 1e-3 and run.per_step([6]).attrs["precision"] == "float32"


def test_a_long_context_is_trained_fused_and_differentiated_written_out(tiny, probe):
    run = in_double(tiny, probe, context=300, rows=2, n_steps=3)
    change = 1e-6 * (np.arange(6) == 2)
    up, down = (run.losses([3], 1 + sign * change)[0, 0] for sign in (1, -1))
    expected = (up - down) / 2e-6
    got = run.per_step()[0, :, 1, 0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert "second" in run.per_step().attrs["attention"]


def test_the_losses_that_train_refuse_a_second_derivative(tiny):
    model = build(tiny[0])
    losses = token_losses(model, torch.randint(0, 300, (2, 9)))
    weight = model.get_output_embeddings().weight
    (gradient,) = torch.autograd.grad(losses.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_a_sweep_that_was_stopped_goes_on(exact, tmp_path, monkeypatch):
    """Stopped between two of the states that it keeps, it ends with the same numbers."""
    run, expected = exact
    path, steps = tmp_path / "sweep.npz", StepDerivatives.back
    calls = []

    def stopped(self, point, rows, z):
        if point.step == 5:
            raise KeyboardInterrupt
        calls.append(point.step)
        return steps(self, point, rows, z)

    monkeypatch.setattr(StepDerivatives, "back", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.per_step([6, END], keep=path)
    assert calls == [11, 10, 9, 8, 7, 6]
    monkeypatch.setattr(StepDerivatives, "back", steps)
    again = run.per_step([6, END], keep=path)
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(run.per_step([6, END], keep=path), expected)  # all is there
    later = run.per_step([6, END], since=5, keep=tmp_path / "later.npz")
    np.testing.assert_array_equal(later, expected.sel(step=slice(5, None)))
    whole = run.per_step([6, END], keep=tmp_path / "later.npz")  # goes on
    np.testing.assert_array_equal(whole, expected)
    with pytest.raises(ValueError, match="before the last"):
        run.per_step([6, END], since=END)
    with pytest.raises(ValueError, match="another times"):
        run.per_step([5, END], keep=path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        run.per_step([6, END], keep=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": {}}, "at least one"),
        ({"queries": [lambda model: 0]}, "dict of functions"),
        ({"queries": {"none": lambda model: 1.0}}, "'none' must return one number"),
        ({"queries": {"all": lambda model: next(model.parameters())}}, "without axes"),
        ({"queries": {"nan": lambda m: next(m.parameters()).sum() * float("nan")}}, "is nan"),
        ({"n_steps": 13}, "at most 12"),
        ({"n_steps": 0}, "`n_steps`"),
    ],
)
def test_what_cannot_be_followed_is_refused(tiny, probe, changes, message):
    given = {"queries": probe[1]} | changes
    with pytest.raises(ValueError, match=message):
        lm.TrainingRun(tiny[0], load_data(tiny[1]).training, **given)


def test_other_bad_input(exact, probe):
    run, sequences = exact[0], probe[0]
    with pytest.raises(ValueError, match=r"shape \(12, 4\)"):
        run.along({"rows": np.ones(5)}, [3])
    with pytest.raises(ValueError, match="must lie in"):
        run.per_step([13])
    with pytest.raises(ValueError, match=r"shape \(n, T - 1\)"):
        lm.queries.class_loss(sequences, np.ones(sequences.shape, bool))
    with pytest.raises(ValueError, match="False everywhere"):
        lm.queries.class_loss(sequences, np.zeros((4, 23), bool))
    with pytest.raises(FileNotFoundError, match="holds no run"):
        lm.TrainingRun.of("nowhere", probe[1])
