"""The linear datamodelling score: a plain loop, a linear truth, and influence that says nothing."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import dlnflow as dln
from dlnflow.analysis import lds
from tests.influence.small_runs import small_run
from tests.tolerances import ALGEBRA

STEPS = [10, 60]


def plain_loop(run, influence, steps, subsets, queries):
    """Retrain on every subset by itself; the ranks are scipy's. Shape (T, Q)."""
    losses = np.array([run.losses(steps, w[None], query=queries)[0] for w in subsets])
    sums = np.array([influence.values @ w for w in subsets])
    scores = [
        [spearmanr(sums[:, t, q], losses[:, t, q]).statistic for q in range(len(queries))]
        for t in range(len(steps))
    ]
    return np.array(scores)


def all_subsets(n_items, size):
    chosen = itertools.combinations(range(n_items), size)
    return np.array([np.isin(np.arange(n_items), one) for one in chosen], dtype=float)


def torch_run(loss="mse", n_items=4, **options):
    generator = np.random.default_rng(3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    data = generator.normal(size=(n_items, 3)), generator.normal(size=(n_items, 2))
    settings = {"learning_rate": 0.2, "n_steps": 60} | options
    return dln.TorchRun(model, data, loss=loss, **settings)


@pytest.mark.parametrize("run", [small_run(), torch_run()], ids=["linear", "torch"])
def test_the_score_is_that_of_a_plain_loop(run):
    influence = dln.influence.tangent(run, STEPS)
    found = lds(run, "tangent", STEPS, fraction=0.5)  # all 6 subsets of 2 of 4 items
    expected = plain_loop(run, influence, STEPS, all_subsets(4, 2), np.arange(4))
    np.testing.assert_allclose(found.score[0], expected, rtol=0, atol=ALGEBRA)
    np.testing.assert_allclose(found.lds[0], expected.mean(1), rtol=0, atol=ALGEBRA)
    assert found.score.dims == ("estimator", "time", "query")
    assert (found.attrs["subsets"], found.attrs["kept"]) == (6, 2)


def test_items_that_are_not_drawn_from_stay_in_every_subset():
    run = torch_run(n_items=6)
    train, query = [run.items[k] for k in (5, 0, 2, 3)], [run.queries[1]]
    influence = dln.influence.tangent(run, STEPS, train=train, query=query)
    weights = np.ones((6, 6))
    weights[:, [5, 0, 2, 3]] = all_subsets(4, 2)
    losses = run.losses(STEPS, weights, query=[1])[..., 0]
    expected = [
        spearmanr(losses[:, t], weights[:, [5, 0, 2, 3]] @ influence.values[t, 0]).statistic
        for t in range(2)
    ]
    for found in (lds(run, influence), lds(run, "tangent", STEPS, train=train, query=query)):
        np.testing.assert_allclose(found.score.values.ravel(), expected, rtol=0, atol=ALGEBRA)


def linear_truth(n_items):
    """Losses linear in the outputs of a linear model: gradients never change, sums are exact."""
    generator = np.random.default_rng(n_items)
    model = nn.Linear(5, 2).double()
    data = generator.normal(size=(n_items, 5)), generator.normal(size=(n_items, 2))
    return dln.TorchRun(
        model, data, loss=lambda o, y: 50 + (o * y).sum(1), learning_rate=0.1, n_steps=9
    )


def test_the_score_of_others_is_a_plain_loop_over_subsets_with_the_query():
    run = torch_run(n_items=5)
    influence, subsets = dln.influence.tangent(run, STEPS), all_subsets(5, 3)
    found = lds(run, influence, fraction=0.6)
    for q in range(5):
        some = subsets[subsets[:, q] == 1]
        expected = plain_loop(run, influence[:, [q]], STEPS, some, [q])[:, 0]
        np.testing.assert_allclose(found.others[:, q], expected, rtol=0, atol=ALGEBRA)
    np.testing.assert_allclose(found.lds_others, found.others.mean("query"), atol=ALGEBRA)


def test_influence_of_items_on_themselves_scores_nothing_over_others():
    run = small_run()
    tangent = dln.influence.tangent(run, STEPS)
    own = tangent.copy(data=np.broadcast_to(-np.eye(4), tangent.shape))
    found = lds(run, own)
    assert np.isnan(found.others).all() and (found.lds > 0.5).all()


def test_a_query_that_is_not_drawn_from_has_one_score():
    data = np.array([[0.1, -0.4, 1.0]]), np.array([[0.5, 0.2]])
    run = torch_run(queries=(["new"], *data))
    found = lds(run, "tangent", STEPS)
    np.testing.assert_array_equal(found.others, found.score)
    assert found["query"].values.tolist() == ["new"]


def test_a_truth_that_is_linear_scores_one():
    found = lds(linear_truth(20), ["tangent", "tracin"], [0, 1, 9], subsets=30, fraction=0.3)
    assert np.isnan(found.lds[:, 0]).all()  # nothing has been learned from anyone
    np.testing.assert_allclose(found.lds[:, 1:], 1, rtol=0, atol=ALGEBRA)
    np.testing.assert_allclose(found.lds_error[:, 1:], 0, rtol=0, atol=ALGEBRA)
    exact = dln.influence.tangent(linear_truth(20), [9])
    wrong = lds(linear_truth(20), exact.copy(data=-exact.values), subsets=30, fraction=0.3)
    np.testing.assert_allclose(wrong.lds, -1, rtol=0, atol=ALGEBRA)


def test_influence_shuffled_over_items_scores_nothing_within_its_error():
    run = linear_truth(300)
    influence = dln.influence.tangent(run, [9], query=list(run.items[:40]))
    order = np.random.default_rng(1).permuted(np.tile(np.arange(300), (40, 1)), axis=1)
    shuffled = influence.copy(data=np.take_along_axis(influence.values, order[None], axis=2))
    found = lds(run, shuffled, subsets=25)
    z = (found.score / found.score_error).values.ravel()
    assert np.mean(np.abs(z) < 2) > 0.8 and 0.6 < np.std(z) < 1.5
    assert abs(found.lds[0]) < 3 * found.lds_error[0] and found.lds_error[0] < 0.15


def test_the_error_is_the_spread_over_other_draws_of_subsets():
    task = dln.Task(np.random.default_rng(0).normal(size=(4, 12)))
    run = dln.Run(task, hidden=8, init_std=0.3, learning_rate=0.2, n_steps=60)
    influence = dln.influence.tangent(run, [60], query=[run.items[0], run.items[5]])
    found = [lds(run, influence, subsets=40, seed=seed) for seed in range(30)]
    spread = np.std([float(one.lds[0]) for one in found])
    stated = np.mean([float(one.lds_error[0]) for one in found])
    assert 0.6 < stated / spread < 1.6


def test_values_equal_to_rounding_share_their_rank():
    """Items that are copies of one another: sums that agree must not be ranked by rounding."""
    y = np.repeat(np.random.default_rng(2).normal(size=(4, 3)), 2, axis=1)
    run = dln.Run(dln.Task(y), initial=[np.eye(6) * 0.3, np.ones((4, 6)) * 0.1], n_steps=100)
    influence = dln.influence.tangent(run, [50])
    noise = 1 + 1e-14 * np.random.default_rng(0).normal(size=influence.shape)
    noisy = lds(run, influence.copy(data=influence.values * noise))
    np.testing.assert_allclose(noisy.score, lds(run, influence).score, rtol=0, atol=ALGEBRA)


def test_sweeps_of_a_single_result_are_scored_one_by_one():
    run = small_run()
    swept = dln.influence.damped_gauss_newton(run, [30, 60], damping=[0.1, 1.0])
    found = lds(run, swept)
    assert found.lds.dims == ("damping", "time")
    one = lds(run, swept.isel(damping=1, drop=True))
    np.testing.assert_array_equal(found.score[1], one.score)


def test_a_curve_that_is_not_known_has_no_score():
    run = small_run()
    influence = dln.influence.tangent(run, STEPS)
    influence[0, 1] = np.nan
    found = lds(run, influence)
    assert np.isnan(found.score[0, 1]) and np.isnan(found.score_error[0, 1])
    np.testing.assert_allclose(found.lds[0], found.score[0, [0, 2, 3]].mean())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"estimators": "tangnt"}, "Did you mean 'tangent'"),
        ({"estimators": []}, "at least one"),
        ({"fraction": 0.01}, "keeps 0 of them"),
        ({"fraction": 1.0}, "keeps 4 of them"),
        ({"fraction": -1}, "`fraction` must be"),
        ({"subsets": 7}, "6 different subsets"),
        ({"subsets": 2}, r"\[3, 6\]"),
        ({"seed": 0.5}, "`seed`"),
        ({"query": "item9"}, "unknown item 'item9'"),
        ({"steps": [70]}, "the length of this run"),
        ({"train": ["item1"]}, "of 1 items"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(change, reason):
    run = small_run()
    with pytest.raises(ValueError, match=reason):
        lds(run, **({"estimators": "tangent", "steps": STEPS} | change))
    assert "problem" not in vars(run)


def test_what_is_no_run_or_estimator_is_refused():
    with pytest.raises(TypeError, match=r"must be a dlnflow\.Run"):
        lds("hierarchy", "tangent")
    with pytest.raises(TypeError, match="names or influence results, got int"):
        lds(small_run(), ["tangent", 3])
    run = small_run()
    with pytest.raises(ValueError, match="lacks 1 of 2 labels on `time`"):
        lds(run, dln.influence.tangent(run, [10]), [10, 60])
