"""Which modes carry events: against dense sums over projectors, half times, and rotated bases."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow import influence
from dlnflow.analysis import event_sentences, events, explain_events
from dlnflow.influence import closed_form
from dlnflow.theory import saxe
from dlnflow.theory.start import matched_strength
from tests.influence.small_runs import small_run

MODULE = import_module("dlnflow.analysis.explain_events")  # the function has the same name
QUERIES = ["dog", "cat", "sparrow", "pine"]


@pytest.fixture(scope="module")
def table(paper_run):
    return explain_events(paper_run, query=QUERIES, train="dog")


def _all_pairs(run, steps, a0):
    """Contributions of modes to K[t, q, i], shape (T, q, i, m)."""
    n = run.task.n_items
    grid = np.meshgrid(run.flow_time(steps), np.arange(n), np.arange(n), indexing="ij")
    parts = MODULE.mode_contributions(
        run.task, *(axis.ravel() for axis in grid), a0=a0, depth=run.depth
    )
    return parts.reshape(*grid[0].shape, -1)


def _degenerate(seed, sizes, n_items, n_out):
    """A table with singular values len(sizes), ..., 1, each repeated as often as sizes say."""
    rng = np.random.default_rng(seed)
    s = np.repeat(np.arange(len(sizes), 0, -1.0), sizes)
    u = np.linalg.qr(rng.standard_normal((n_out, len(s))))[0]
    v = np.linalg.qr(rng.standard_normal((n_items, len(s))))[0]
    return dln.Task((u * s) @ v.T)


def _more_items_than_inputs(depth):
    """Whitened inputs whose targets no linear map makes exactly."""
    rng = np.random.default_rng(depth)
    x = 2 * np.linalg.qr(rng.standard_normal((6, 3)))[0].T
    task = dln.Task(rng.standard_normal((4, 6)), x)
    return dln.Run(task, hidden=9, init_std=0.05, depth=depth)


@pytest.mark.parametrize(
    "run",
    [
        dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3),
        dln.Run(dln.semantic_hierarchy(), hidden=9, init_std=0.1, depth=3),
        dln.Run(_degenerate(1, (2, 1, 2), 7, 6), hidden=9, init_std=1e-2),  # a null space
        small_run(one_hot=True),
        _more_items_than_inputs(2),
        _more_items_than_inputs(3),
    ],
)
def test_contributions_sum_to_the_closed_form(run):
    steps = np.linspace(0, run.n_steps, 9).round().astype(int)
    expected = influence.analytic(run, steps)
    parts = _all_pairs(run, steps, expected.attrs["a0"])
    error = np.abs(parts.sum(axis=-1) - expected.values).max()
    assert error < 1e-12 * np.abs(expected.values).max()


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_contributions_are_those_of_dense_projectors(seed, sizes):
    task = _degenerate(seed, sizes, sum(sizes) + 1, sum(sizes) + 2)
    t, a0, s = 1.3, 1e-2, task.modes.distinct
    null = np.eye(task.n_in) - task.modes.v @ task.modes.v.T
    matrix = closed_form.coefficients(s, t, a0, 2, null=True)
    projectors = np.concatenate([task.modes.projectors(), null[None]])
    pairs = -matrix[:, :, None, None] * projectors[:, None] * projectors[None]
    # Half of a pair of modes, all of a pair with the null space, to a mode.
    expected = pairs[:-1, :-1].sum(axis=1) + 2 * pairs[:-1, -1]
    rows, columns = np.indices((task.n_in, task.n_in)).reshape(2, -1)
    parts = MODULE.mode_contributions(task, np.full(len(rows), t), rows, columns, a0=a0)
    got = parts.T.reshape(len(s), task.n_in, task.n_in)
    np.testing.assert_allclose(got, expected, atol=1e-13 * np.abs(expected).max())


def test_a_general_target_that_is_linear_has_the_same_contributions(monkeypatch):
    run = dln.Run(_degenerate(3, (2, 2), 6, 5), hidden=9, init_std=1e-2)
    first = _all_pairs(run, [20, 200], 1e-2)
    monkeypatch.setattr(closed_form, "linear", lambda task: False)
    np.testing.assert_allclose(_all_pairs(run, [20, 200], 1e-2), first, rtol=0, atol=1e-12)


def _rotated(task, rng):
    """The same table with other singular vectors inside every block."""
    u, v = task.modes.u.copy(), task.modes.v.copy()
    for block in task.modes.blocks:
        turn = np.linalg.qr(rng.standard_normal((len(block), len(block))))[0]
        u[:, block], v[:, block] = u[:, block] @ turn, v[:, block] @ turn
    other = replace(task)
    vars(other)["modes"] = replace(task.modes, u=u, v=v)
    return other


@settings(max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(0, 2),
    st.booleans(),
)
def test_attribution_does_not_depend_on_the_basis_of_a_block(seed, sizes, extra, hierarchy):
    rng = np.random.default_rng(seed)
    task = _degenerate(seed, sizes, max(sum(sizes) + extra, 2), sum(sizes) + 1)
    task = dln.semantic_hierarchy(3, 3) if hierarchy else task
    settings_ = {"hidden": 30, "init_std": 1e-2, "n_steps": 1500}
    options = {"train": list(task.items[:2]), "leading": 3}
    one = explain_events(dln.Run(task, **settings_), **options)
    two = explain_events(dln.Run(_rotated(task, rng), **settings_), **options)
    assert len(one) > 0
    pd.testing.assert_frame_equal(one, two, rtol=1e-5, atol=1e-7)


def test_troughs_of_an_item_with_itself_belong_to_the_transitions(paper_run, table):
    """One trough per transition, carried by its mode, at the half time of that mode."""
    modes = paper_run.task.modes
    a0 = matched_strength(paper_run.initial_weights(), modes)
    half = saxe.half_time(modes.distinct, a0)
    own = table[(table["query"] == "dog") & (table.kind == "trough")]
    first = own.groupby("event").first()
    assert first["mode"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(first["flow_time"], half, rtol=0.14)
    assert np.all(first["share"] > [0.5, 0.35, 0.45, 0.6])


@pytest.mark.parametrize(("query", "separating"), [("cat", 4), ("sparrow", 3), ("pine", 2)])
def test_peaks_of_figure_3_belong_to_the_mode_that_separates_the_pair(
    paper_run, table, query, separating
):
    """Harm comes between two transitions: what is learned is not yet taken apart for the pair."""
    task = paper_run.task
    pair = task.modes.projectors()[:, task.items.index(query), task.items.index("dog")]
    assert np.flatnonzero(pair < -1e-12).tolist() == [separating - 1]
    half = saxe.half_time(task.modes.distinct, table.attrs["a0"])
    rows = table[(table["query"] == query) & (table.kind == "peak")]
    assert rows["event"].nunique() == 1
    assert half[separating - 2] < rows["flow_time"].iloc[0] < half[separating - 1]
    listed = rows.set_index("mode")["share"]
    assert listed[separating] > 0.45 and listed.iloc[0] - listed[separating] < 0.06
    flips = table[(table["query"] == query) & (table.kind == "sign_flip")]
    assert flips["role"].tolist() == ["before", "after"] * 2
    assert flips["mode"].iloc[:2].tolist() == [separating - 1, separating]
    first = table[(table["query"] == query)].iloc[0]
    assert (first.kind, first["mode"]) == ("trough", 1)
    assert first.flow_time == pytest.approx(half[0], rel=0.1)


def test_modes_are_named_by_what_they_tell_apart(table):
    named = table[table["query"] != "pine"].drop_duplicates("mode").set_index("mode")
    listed = named["distinction"]
    assert listed[1] == "all items; features: living"
    assert listed[2] == (
        "dog, cat, sparrow and 1 more against pine, oak, rose and 1 more; "
        "features: animal against plant"
    )
    assert listed[3] == (
        "dog, cat against sparrow, penguin; features: mammal against bird; one of 2 equal modes"
    )
    cat = table[(table["query"] == "cat") & (table["mode"] == 4)]["distinction"]
    assert set(cat) == {"dog against cat; features: dog against cat; one of 4 equal modes"}


def test_the_curve_of_one_mode_is_that_mode():
    task = dln.Task(np.outer([1.0, 2.0], [1.0, 1.0, 0.7, -0.5]))
    table = explain_events(dln.Run(task, hidden=9, init_std=1e-3))
    assert len(table) > 10 and set(table["mode"]) == {1}
    np.testing.assert_allclose(table["share"], 1, rtol=1e-12)
    item = table["distinction"][table["train"] == "item3"].iloc[0]
    assert item == "item3 against item0, item1, item2; features: feature1"


def test_the_closed_form_explains_itself(paper_run, table):
    expected = events(influence.analytic(paper_run, query=QUERIES, train="dog"))
    one = table.groupby("event").first()
    columns = ["kind", "step", "flow_time", "value", "query", "train"]
    pd.testing.assert_frame_equal(one[columns], expected[columns], check_names=False)
    np.testing.assert_allclose(table[["fidelity", "correlation"]], 1, rtol=1e-12)
    assert np.all(table["offset"] == 0) and np.all(table["role"] != "none")
    assert "null space" in table.attrs["approximated"] and table.attrs["time_shift"] == 0
    listed = explain_events(paper_run, query=QUERIES, train="dog", leading=9)
    extrema = listed[listed.kind != "sign_flip"].groupby("event")
    assert np.all(extrema["share"].is_monotonic_decreasing)


def test_other_estimators_are_held_to_the_nearest_event_of_the_closed_form(paper_run):
    steps = paper_run.grid()
    options = {"query": ["cat", "sparrow"], "train": "dog"}
    tangent = influence.tangent(paper_run, steps, **options)
    closed = influence.analytic(paper_run, steps, **options)
    both = dln.stack(tangent, influence.leave_one_out(paper_run, steps, **options))
    table = explain_events(paper_run, both)
    assert table.columns[:3].tolist() == ["estimator", "query", "train"]
    first = table.groupby("event").first()
    pd.testing.assert_series_equal(first["step"], events(both)["step"], check_names=False)
    peak = first[
        (first.estimator == "tangent") & (first["query"] == "cat") & (first.kind == "peak")
    ]
    truth = events(closed)
    truth = truth[(truth["query"] == "cat") & (truth.kind == "peak")].iloc[0]
    row = peak.iloc[0]
    assert row.offset == pytest.approx(row.flow_time - truth.flow_time, abs=1e-12)
    assert row.fidelity == pytest.approx(1 - abs(row.value - truth.value) / row.value)
    pearson = np.corrcoef(tangent.sel(query="cat")[:, 0], closed.sel(query="cat")[:, 0])[0, 1]
    assert row.correlation == pytest.approx(pearson)
    # The cousin's curve turns once more than that of the closed form, at a hundredth of its size.
    extra = first[first["role"] == "none"]
    assert extra[["estimator", "query", "kind"]].values.tolist() == [
        ["tangent", "sparrow", "sign_flip"],
        ["tangent", "sparrow", "peak"],
    ]
    assert extra[["mode", "share", "fidelity", "offset"]].isna().all(axis=None)
    assert set(extra["distinction"]) == {"no such event in the closed form"}
    pairs = first[first["role"] != "none"]
    assert (
        not pairs.assign(closed=pairs.flow_time - pairs.offset)
        .duplicated(["estimator", "query", "kind", "closed"])
        .any()
    )


def test_fidelity_of_a_flip_compares_what_is_passed_through(paper_run):
    closed = influence.analytic(paper_run, query="pine", train="dog")
    half = closed.copy(data=np.where(closed.values > 0, closed.values, closed.values / 2))
    table = explain_events(paper_run, half.assign_attrs(estimator="tangent"))
    flip = table[table.kind == "sign_flip"].iloc[0]
    low, high = closed.values.min(), closed.values.max()
    assert flip.fidelity == pytest.approx(1 - (-low / 2) / (high - low / 2), rel=1e-9)
    assert flip.offset == pytest.approx(0, abs=0.01)


def test_times_are_shared_where_modes_are_many(paper_run, table, monkeypatch):
    monkeypatch.setattr(MODULE, "EVALUATIONS", 320)  # at 20 times
    few = explain_events(paper_run, query=QUERIES, train="dog")
    assert 0 < few.attrs["time_shift"] < 0.2
    first = [one.groupby("event")["mode"].first().tolist() for one in (few, table)]
    assert np.mean(np.equal(*first)) > 0.9
    monkeypatch.setattr(MODULE, "PIECE_NUMBERS", 1)
    pd.testing.assert_frame_equal(explain_events(paper_run, query=QUERIES, train="dog"), few)


def test_sentences_say_who_when_and_by_what(paper_run, table):
    said = event_sentences(table[table["query"] == "cat"])
    assert len(said) == 5
    assert said[0].startswith("Dog helps cat most at step 597: 74% of this trough is mode 1 (all")
    assert said[1].startswith(
        "Dog stops helping cat and begins to harm it at step 1185: it still helps by mode 3 (dog, "
        "cat against sparrow, penguin; features: mammal against bird; one of 2 equal modes) and "
        "harms by mode 4 (dog against cat;"
    )
    assert said[2].startswith("Dog harms cat most at step 1460: 50% of this peak is mode 4 (dog ")
    assert "mode 4 (dog against cat; features: dog against cat; one of 4 equal modes)" in said[4]
    assert "would make 1.7 times this trough" in said[4]
    tangent = influence.tangent(paper_run, query="sparrow", train="dog")
    said = event_sentences(explain_events(paper_run, tangent))
    assert said[0].endswith("(analytic closed form: 0.015 earlier in flow time, fidelity 0.90).")
    assert said[-1] == "Dog harms sparrow most at step 2005: no such event in the closed form."


def test_curves_without_events_make_an_empty_table(paper_run):
    steps = [0, 1, 2]
    curves = influence.tangent(paper_run, steps, query="cat", train="dog")
    for table in (explain_events(paper_run, curves), explain_events(paper_run, dln.stack(curves))):
        assert table.empty and {"mode", "share", "distinction"} <= set(table.columns)
        assert event_sentences(table) == []


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (small_run("adam", one_hot=True), "needs a flow time"),
        (dln.Run(dln.Task([[1.0, 2.0]], [[1.0, 2.0], [0.0, 1.0]]), hidden=3), "whitened inputs"),
    ],
)
def test_runs_are_refused_as_by_the_closed_form(run, words):
    curves = influence.leave_one_out(run, [0, 1, 2])
    for given_curves in (None, curves):
        with pytest.raises(ValueError, match=f"`analytic` .*{words}"):
            explain_events(run, given_curves)


def test_other_input_is_refused(paper_run):
    with pytest.raises(TypeError, match=r"`run` must be a dlnflow\.Run"):
        explain_events(None)
    for leading in (0, 1.5):
        with pytest.raises(ValueError, match="`leading`"):
            explain_events(paper_run, leading=leading)
    curves = influence.analytic(paper_run, [10, 20, 30], train="dog")
    with pytest.raises(ValueError, match="`query` and `train` are those of `curves`"):
        explain_events(paper_run, curves, train="dog")
    with pytest.raises(TypeError, match=r"expected an xarray\.DataArray"):
        explain_events(paper_run, curves.values)
    other = dln.Run(paper_run.task, hidden=50, init_std=1e-3, learning_rate=0.01)
    with pytest.raises(ValueError, match="`curves` are not of this run"):
        explain_events(other, curves)
    with pytest.raises(ValueError, match="cow"):
        explain_events(paper_run, curves.assign_coords(train=["cow"]))
