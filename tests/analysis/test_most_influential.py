"""The summary of all pairs against brute force over the whole array."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow import result
from dlnflow.analysis import all_pairs, most_influential
from dlnflow.analysis.explain_events import mode_contributions
from tests.strategies import seeds

MODULE = "dlnflow.analysis.most_influential"


def _curves(run, seed, query, train):
    """Random numbers as curves of an estimator without modes."""
    rng = np.random.default_rng(seed)
    steps = run.grid(8)
    values = rng.standard_normal((len(steps), len(query), len(train))) ** 3
    flow_time = run.flow_time(steps)
    return result.influence(values, steps, query, train, estimator="x", flow_time=flow_time)


def _others(curves):
    """Values with self-pairs set to zero."""
    same = curves["query"].values[:, None] == curves["train"].values
    return np.where(same, 0.0, curves.values)


RUN = dln.Run(dln.Task(np.random.default_rng(3).standard_normal((4, 7))), n_steps=400)


@given(seed=seeds, n_query=st.integers(1, 7), n_train=st.integers(2, 7), top=st.integers(1, 9))
def test_items_and_pairs_are_those_of_brute_force(seed, n_query, n_train, top):
    rng = np.random.default_rng(seed)
    query, train = (rng.permutation(RUN.items)[:n].tolist() for n in (n_query, n_train))
    curves = _curves(RUN, seed, query, train)
    table = most_influential(RUN, curves, top)
    values = _others(curves)
    for name, sign, axis in (
        ("helps others", -1, 1),
        ("harms others", 1, 1),
        ("is helped", -1, 2),
        ("is harmed", 1, 2),
    ):
        rows, names = table[table["list"] == name], (train, query)[axis - 1]
        sums = sign * values.sum(axis=axis)
        order = np.argsort(-sums.max(axis=0))[:top]
        order = order[sums.max(axis=0)[order] > 1e-3 * np.abs(values.sum(axis=axis)).max()]
        assert rows[("train", "query")[axis - 1]].tolist() == [names[k] for k in order]
        np.testing.assert_allclose(rows["value"], sign * sums.max(axis=0)[order])
        assert rows["step"].tolist() == curves.time.values[sums.argmax(axis=0)[order]].tolist()
        for row, item in zip(rows.to_dict("records"), order, strict=True):
            single = sign * np.take(values, item, axis=3 - axis)
            at, other = np.unravel_index(single.argmax(), single.shape)
            assert row["strongest"] == (query, train)[axis - 1][other]
            assert row["strongest_value"] == sign * single.max()
            assert row["strongest_step"] == curves.time.values[at]
    for name, sign in (("pair helps", -1), ("pair harms", 1)):
        rows = table[table["list"] == name]
        largest = (sign * values).max(axis=0)
        order = np.argsort(-largest.ravel())[:top]
        order = order[largest.ravel()[order] > 1e-3 * np.abs(values).max()]
        pairs = [(query[k // n_train], train[k % n_train]) for k in order]
        assert list(zip(rows["query"], rows["train"], strict=True)) == pairs
        np.testing.assert_allclose(rows["value"], sign * largest.ravel()[order])
        assert not rows["mutual"].astype(bool).any()
    assert table["mode"].isna().all()


@pytest.mark.parametrize(
    "run",
    [
        dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3),
        dln.Run(dln.living_things()),
        RUN,
    ],
)
def test_the_mode_is_the_one_that_contributes_most(run):
    curves = dln.influence.analytic(run)
    n = run.task.n_items
    for row in most_influential(run, curves, 3).to_dict("records"):
        pairs = [
            (q, i)
            for q in range(n)
            for i in range(n)
            if q != i
            if pd.isna(row["train"]) or row["train"] == run.items[i]
            if pd.isna(row["query"]) or row["query"] == run.items[q]
        ]
        query, train = np.array(pairs).T
        times = np.full(len(pairs), row["flow_time"])
        parts = mode_contributions(run.task, times, query, train, a0=curves.attrs["a0"])
        total = parts.sum(axis=0)
        assert total.sum() == pytest.approx(row["value"], rel=1e-9)
        assert row["share"] == pytest.approx((total / row["value"]).max())
        assert total[row["mode"] - 1] / row["value"] == pytest.approx(row["share"])


def test_a_symmetric_pair_has_one_row_and_equal_items_their_order(paper_run):
    table = most_influential(paper_run, dln.influence.analytic(paper_run), 4)
    pairs = table[table["list"] == "pair harms"]
    assert pairs["mutual"].all()
    assert pairs["distinction"].iloc[0].startswith("dog against cat; features: ")
    found = [{*pair} for pair in zip(pairs["train"], pairs["query"], strict=True)]
    items = paper_run.items
    assert found == [{*items[k : k + 2]} for k in (0, 2, 4, 6)]
    assert table.loc[table["list"] == "helps others", "train"].tolist() == [*paper_run.items[:4]]


def test_a_store_gives_the_same_and_is_never_read_as_a_whole(tmp_path, monkeypatch):
    run = dln.Run(dln.living_things())
    whole = dln.influence.analytic(run)
    stored = all_pairs(run, tmp_path / "a", block=7)
    read, isel = [], xr.DataArray.isel

    def counted(self, *rest, **chosen):
        found = isel(self, *rest, **chosen)
        read.append(found.sizes.get("time", 1) if found.ndim else 1)
        return found

    monkeypatch.setattr(sys.modules[MODULE], "READ_NUMBERS", 20 * whole[0].size)
    monkeypatch.setattr(xr.DataArray, "isel", counted)
    table = most_influential(run, stored)
    monkeypatch.undo()
    assert max(read) == 14  # whole chunks
    pd.testing.assert_frame_equal(table, most_influential(run, whole), rtol=1e-9)


def test_wrong_curves_are_refused(paper_run):
    curves = dln.influence.analytic(paper_run, [400, 800])
    with pytest.raises(ValueError, match="select one value of the others"):
        most_influential(paper_run, dln.stack(curves))
    other = dln.Run(dln.semantic_hierarchy(), learning_rate=0.01, n_steps=900)
    for run in (other, RUN):
        with pytest.raises(ValueError, match="not of this run"):
            most_influential(run, curves)
    with pytest.raises(ValueError, match="`top` must be"):
        most_influential(paper_run, curves, 0)
    with pytest.raises(TypeError):
        most_influential(paper_run, curves.values)


def test_no_influence_gives_no_rows(paper_run):
    curves = 0 * dln.influence.analytic(paper_run, [400, 800])
    curves.attrs = dln.influence.analytic(paper_run, [400, 800]).attrs
    assert most_influential(paper_run, curves).empty
