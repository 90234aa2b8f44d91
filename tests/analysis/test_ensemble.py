"""Several seeds: each is the single run, wherever it was computed."""

import pickle
from concurrent.futures import Future, ProcessPoolExecutor
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow import result
from dlnflow.analysis import compare, event_shares, events, summary
from dlnflow.plots import influence_plots, panels

TASK = dln.semantic_hierarchy(levels=3)
STEPS = [0, 20, 40, 80, 160]


@pytest.fixture(scope="module")
def curves():
    return dln.ensemble(TASK, [4, 1, 7], ["tangent", "leave_one_out"], hidden=8, init_std=1e-2)


def test_every_seed_is_the_single_run(curves):
    assert curves.dims == ("estimator", "seed", "time", "query", "train")
    for seed in (4, 1, 7):
        run = dln.Run(
            TASK,
            seed=seed,
            hidden=8,
            init_std=1e-2,
            learning_rate=curves.attrs["learning_rate"],
            n_steps=curves.attrs["n_steps"],
        )
        for name in ("tangent", "leave_one_out"):
            alone = dln.ESTIMATORS[name](run)
            one = curves.sel(estimator=name, seed=seed)
            np.testing.assert_array_equal(one.time, alone.time)
            np.testing.assert_array_equal(one.flow_time, alone.flow_time)
            np.testing.assert_array_equal(one.values, alone.values)


def test_one_estimator_has_no_dim_of_its_own_and_several_are_what_stack_gives(curves):
    both = [
        dln.ensemble(TASK, [4, 1, 7], name, hidden=8, init_std=1e-2)
        for name in ("tangent", "leave_one_out")
    ]
    assert both[0].dims == ("seed", *result.CORE_DIMS)
    xr.testing.assert_identical(dln.stack(*both), curves)
    with pytest.raises(ValueError, match="differ in `seed`"):
        dln.stack(both[0], both[1].isel(seed=slice(2)))
    with pytest.raises(ValueError, match="same seeds"):
        dln.stack(both[0], both[1].isel(seed=0))


def test_a_pool_of_processes_gives_the_same_numbers():
    options = {"steps": STEPS, "train": TASK.items[0], "query": TASK.items[:2], "hidden": 6}
    here = dln.ensemble(TASK, 3, ["tangent", "tracin"], **options)
    with ProcessPoolExecutor(2) as executor:
        there = dln.ensemble(TASK, 3, ["tangent", "tracin"], executor=executor, **options)
    xr.testing.assert_identical(here, there)


class Recorder:
    """An executor that runs at once and keeps what it would have had to send."""

    def __init__(self):
        self.sizes = []

    def submit(self, function, *args):
        self.sizes.append(len(pickle.dumps((function, args))))
        future = Future()
        future.set_result(function(*args))
        return future


def test_units_are_small():
    task = dln.Task(np.random.default_rng(0).normal(size=(2, 300)))
    task.modes, task.one_hot  # noqa: B018  (cached with the task, and not to be sent)
    recorder = Recorder()
    dln.ensemble(
        task, 2, steps=[0, 5], train=[task.items[0]], hidden=3, n_steps=5, executor=recorder
    )
    assert len(recorder.sizes) == 2 and max(recorder.sizes) < 20_000  # X alone has 720,000


def test_runs_of_one_length_and_rate_that_suit_all_seeds():
    seeds, settings = range(4), {"hidden": 4, "init_std": 0.6}
    runs = [dln.Run(TASK, seed=seed, **settings) for seed in seeds]
    rate = min(run.learning_rate for run in runs)
    assert len({run.learning_rate for run in runs}) > 1  # large starts decide the rate here
    steps = [dln.Run(TASK, seed=seed, learning_rate=rate, **settings).n_steps for seed in seeds]
    found = dln.ensemble(TASK, 4, steps=[0, 10], **settings)
    assert found.attrs["learning_rate"] == rate and found.attrs["n_steps"] == max(steps)
    assert found.attrs["common"] == (
        "learning_rate: the smallest default of 4 seeds; n_steps: the largest default of 4 seeds"
    )
    given = dln.ensemble(TASK, 2, steps=[0, 10], learning_rate=0.1, n_steps=20, **settings)
    assert given.attrs["common"] == "learning_rate and n_steps: given"


def _diverging(seeds):
    """At this learning rate the fate of a run depends on its start."""
    settings = {"hidden": 3, "init_std": 0.9, "learning_rate": 1.15, "n_steps": 150}
    fates = {}
    for seed in seeds:
        try:
            dln.influence.tangent(dln.Run(TASK, seed=seed, **settings), [150])
        except dln.DivergenceError:
            fates[seed] = True
        else:
            fates[seed] = False
    return settings, fates


def test_seeds_that_diverge_are_named_and_the_others_can_be_kept(tmp_path):
    settings, fates = _diverging(range(8))
    bad = [seed for seed, diverges in fates.items() if diverges]
    good = [seed for seed, diverges in fates.items() if not diverges]
    assert bad and good
    with pytest.raises(dln.DivergenceError, match=f"{len(bad)} of 8 runs") as caught:
        dln.ensemble(TASK, 8, steps=[150], **settings)
    assert all(f"seed {seed}:" in str(caught.value) for seed in bad)
    assert not any(f"seed {seed}:" in str(caught.value) for seed in good)
    with pytest.warns(UserWarning, match="left out"):
        kept = dln.ensemble(TASK, 8, steps=[150], errors="drop", **settings)
    assert kept.seed.values.tolist() == good
    assert kept.attrs["dropped_seeds"] == ", ".join(map(str, bad))
    assert dln.load(dln.save(kept, tmp_path / "kept.nc")).identical(kept)
    with pytest.raises(dln.DivergenceError, match="runs diverge"):
        dln.ensemble(TASK, bad, steps=[150], errors="drop", **settings)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"seeds": 0}, "`seeds`"),
        ({"seeds": [1, 1]}, "`seeds` must list different"),
        ({"seeds": [0.5]}, "`seeds`"),
        ({"seeds": []}, "`seeds`"),
        ({"estimator": "tangant"}, "Did you mean 'tangent'"),
        ({"estimator": []}, "`estimator`"),
        ({"estimator": ["tangent", "tangent"]}, "`estimator`"),
        ({"errors": "ignore"}, "`errors`"),
        ({"seed": 3}, "give `seeds`"),
        ({"train": "nobody"}, "`train`"),
        ({"query": "nobody"}, "`query`"),
        ({"steps": [0, 10**9]}, "`steps`"),
        ({"estimator": "closed_form_loo", "optimizer": "adam"}, "optimizer"),
        ({"initial": [np.ones((2, 4)), np.ones((7, 2))]}, "`initial` fixes the start"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_any_work(options, reason, monkeypatch):
    module = import_module("dlnflow.analysis.ensemble")  # its name is that of a function too
    monkeypatch.setattr(module, "curves_of_one_seed", None)
    with pytest.raises(ValueError, match=reason):
        dln.ensemble(TASK, **{"seeds": 2, "hidden": 4} | options)


def test_an_ensemble_comes_back_from_a_file(curves, tmp_path):
    xr.testing.assert_identical(dln.load(dln.save(curves, tmp_path / "seeds.nc")), curves)


def test_events_and_comparisons_are_those_of_every_seed(curves):
    table, compared = events(curves), compare(curves)
    for seed in (4, 1, 7):
        one = curves.sel(seed=seed, drop=True)
        mine = table[table["seed"] == seed].drop(columns="seed").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, events(one))
        mine = compared[compared["seed"] == seed].drop(columns="seed").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, compare(one))
    assert summary(compared).index.names == ["estimator", "seed"]
    pooled = summary(compared.drop(columns="seed"))
    assert pooled["pairs"].tolist() == [3 * summary(compared)["pairs"].iloc[0]]
    truth = curves.sel(estimator="leave_one_out", drop=True).assign_attrs(estimator="truth")
    against = compare(curves.sel(estimator=["tangent"]), truth)
    pd.testing.assert_frame_equal(against, compared)


TIME = np.arange(401)


def bumps(*centres):
    """Peaks of width 5 at steps of one curve."""
    return sum((np.exp(-(((TIME - centre) / 5.0) ** 2)) for centre in centres), 0.0 * TIME)


def of_seeds(*curves):
    parts = [
        result.influence(
            curve[:, None, None], TIME, ["cat"], ["dog"], estimator="x", flow_time=TIME / 100
        )
        for curve in curves
    ]
    return result.joined(parts, "seed", list(range(10, 10 + len(parts))))


def test_shares_of_events_by_hand():
    found = event_shares(of_seeds(bumps(100, 300), bumps(104), bumps(96, 310)), tolerance=0.15)
    peaks = found[found["kind"] == "peak"]
    assert peaks["share"].round(3).tolist() == [1.0, 0.667] and peaks["seeds"].tolist() == [3, 2]
    np.testing.assert_allclose(peaks["flow_time"], [1.0, 3.05], atol=1e-3)
    np.testing.assert_allclose(peaks["first"], [0.96, 3.0], atol=1e-3)
    np.testing.assert_allclose(peaks["last"], [1.04, 3.1], atol=1e-3)
    assert found.attrs["tolerance"] == 0.15 and found["step"].is_monotonic_increasing
    apart = event_shares(of_seeds(bumps(100), bumps(200)), tolerance=0.15)
    assert apart["share"].tolist() == [0.5, 0.5]
    assert event_shares(of_seeds(bumps(100), bumps(110))).attrs["tolerance"] == 0.05 * 4
    # Two events of one seed are never one event of the ensemble.
    twice = event_shares(of_seeds(bumps(100, 120), bumps(101, 121)), tolerance=1.0)
    assert twice[twice["kind"] == "peak"]["share"].tolist() == [1.0, 1.0]


def test_flips_of_opposite_direction_are_different_events():
    wave = np.sin((TIME - 200) / 40) * bumps(200) ** 0.01
    found = event_shares(of_seeds(wave, -wave), tolerance=0.2)
    flips = found[found["kind"] == "sign_flip"]
    middle = flips[np.abs(flips["flow_time"] - 2) < 0.1]
    assert middle["share"].tolist() == [0.5, 0.5] and set(middle["sign"]) == {-1, 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.permutations(range(6)))
def test_shares_count_every_event_once_and_do_not_depend_on_the_order_of_seeds(kinds, order):
    rows = [bumps(*[60 + 90 * k + 3 * j for k in range(kind)]) for j, kind in enumerate(kinds)]
    array = of_seeds(*rows)
    found = event_shares(array, tolerance=0.3)
    assert found["seeds"].sum() == len(events(array))
    assert np.all(found["seeds"] <= len(rows))
    shuffled = array.isel(seed=[k for k in order if k < len(rows)])
    pd.testing.assert_frame_equal(found, event_shares(shuffled, tolerance=0.3))


def test_shares_of_a_real_ensemble(curves):
    found = event_shares(curves)
    assert found["seeds"].sum() == len(events(curves))
    assert found.columns[:5].tolist() == ["estimator", "train", "query", "kind", "share"]
    with pytest.raises(ValueError, match="no dim 'seed'"):
        event_shares(curves.isel(seed=0))
    with pytest.raises(ValueError, match="`tolerance`"):
        event_shares(curves, tolerance=-1.0)


def test_lines_are_means_and_bands_ranges(curves):
    shown = curves.sel(train=[curves.train.values[0]], query=curves["query"].values[1:3])
    figure = influence_plots.plot_influence(shown)
    axis = figure.axes[0]
    line = next(line for line in axis.lines if line.get_label() == str(shown["query"].values[0]))
    one = shown.isel(estimator=0, query=0, train=0)
    np.testing.assert_allclose(line.get_ydata(), one.values.mean(axis=0), rtol=1e-12)
    band = axis.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(band[:, 1].max(), one.values.max(), rtol=1e-12)
    np.testing.assert_allclose(band[:, 1].min(), one.values.min(), rtol=1e-12)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "line: mean, band: range\nof 3 seeds" in texts
    alone = one.isel(seed=0)
    assert panels.seed_mean(alone) is alone


def test_overviews_show_the_mean_and_say_so():
    generator = np.random.default_rng(0)
    items = [f"item{k}" for k in range(12)]
    parts = [
        result.influence(
            generator.normal(size=(9, 12, 12)),
            np.arange(9),
            items,
            items,
            estimator="tangent",
            flow_time=np.arange(9.0),
        )
        for _ in range(2)
    ]
    array = result.joined(parts, "seed", [0, 1])
    for shown in (array, array.isel(train=slice(2))):
        figure = influence_plots.overview(shown)
        text = " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))
        assert "mean of 2 seeds" in text
