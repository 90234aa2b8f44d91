"""The ladder from the exact derivative to its relatives, on the paper's task."""

import numpy as np
import pytest

import dlnflow as dln
from dlnflow import influence
from dlnflow.analysis import compare, explain_offset
from tests.influence.small_runs import small_run

QUERIES = ["dog", "cat", "sparrow", "pine"]


@pytest.fixture(scope="module")
def table(paper_run):
    return explain_offset(paper_run, query=QUERIES)


def _column(table, cause, query, column):
    return table[(table.cause == cause) & (table["query"] == query)].set_index("curve")[column]


def test_tangent_leads_without_an_offset_from_itself(table):
    own = table[table.curve == "tangent"]
    assert own.index.tolist() == [0, 1, 2, 3] and set(own.cause) == {"reference"}
    assert own["query"].tolist() == QUERIES and set(own.train) == {"dog"}
    np.testing.assert_allclose(own[["pearson", "amplitude"]], 1, rtol=1e-12)
    assert np.all(own.loc[1:, ["peak_offset", "trough_offset", "peak_offset_flow"]] == 0)
    assert table.attrs == {"reference": "tangent", "left_out": {}}


@pytest.mark.parametrize("query", QUERIES[1:])
def test_offset_grows_with_the_removed_share_and_vanishes_with_it(table, query):
    for kind in ("peak", "trough"):
        offset = _column(table, "removed share", query, f"{kind}_offset_flow")
        assert len(offset) == 5 and np.all(np.diff(offset) > 0)
        assert 0 < offset["removed 0.01"] < 0.01 < offset["removed 1"]
    assert np.all(np.diff(_column(table, "removed share", query, "pearson")) < 0)


@pytest.mark.parametrize("query", QUERIES[1:])
def test_the_term_that_the_closed_form_drops_is_not_the_cause(table, query):
    analytic = table[(table.curve == "analytic") & (table["query"] == query)].iloc[0]
    assert analytic.pearson > 0.93
    full = _column(table, "removed share", query, "peak_offset_flow")["removed 1"]
    sibling = query == "cat"
    assert abs(analytic.peak_offset_flow) < (0.35 * full if sibling else 0.06)


def test_times_are_those_of_the_curves(paper_run, table):
    """Against the events of the same curve: its only large trough."""
    steps = np.unique(np.linspace(0, paper_run.n_steps, 400).round().astype(int))
    curve = influence.leave_one_out(paper_run, steps, train="dog", query="sparrow", fraction=0.5)
    found = dln.events(curve)
    lowest = found[found.kind == "trough"].sort_values("value").iloc[0]
    row = table[(table.curve == "removed 0.5") & (table["query"] == "sparrow")].iloc[0]
    assert row.trough_step == pytest.approx(lowest.step)
    assert row.trough_flow == pytest.approx(lowest.flow_time)
    tangent = influence.tangent(paper_run, steps, train="dog", query="sparrow")
    expected = compare(dln.stack(tangent, curve), reference="tangent").iloc[0]
    assert row.pearson == pytest.approx(expected.pearson)
    assert row.peak_offset == pytest.approx(expected.peak_offset)
    norms = np.linalg.norm(curve), np.linalg.norm(tangent)
    assert row.amplitude == pytest.approx(norms[0] / norms[1])


def test_curves_that_do_not_exist_are_named_with_the_reason():
    adam = explain_offset(small_run("adam"), points=10)
    assert list(adam.attrs["left_out"]) == ["analytic"] and "analytic" not in set(adam.curve)
    flow = explain_offset(small_run("flow", one_hot=True), points=10, fractions=[1.0])
    assert list(flow.attrs["left_out"]) == ["displacement"]
    assert set(flow.cause) == {"reference", "removed share", "reweighted term", "propagation"}


def test_bad_input_is_refused(paper_run):
    for points in (2, 0, 3.5):
        with pytest.raises(ValueError, match="`points`"):
            explain_offset(paper_run, points=points)
    with pytest.raises(ValueError, match="`fractions`"):
        explain_offset(paper_run, points=5, fractions=[0.1, 2])
    with pytest.raises(ValueError, match="Did you mean 'cat'"):
        explain_offset(paper_run, points=5, query="cot")


def test_fractions_are_told_apart():
    run = dln.Run(dln.semantic_hierarchy(levels=2), hidden=4, n_steps=40)
    table = explain_offset(run, fractions=[0.1, 0.1000001, 1], points=10**9, query="item0")
    removed = table["curve"][table["cause"] == "removed share"].tolist()
    assert removed == ["removed 0.1", "removed 0.1000001", "removed 1"]
    one = explain_offset(run, fractions=0.5, points=10, query="item0")
    assert (one["cause"] == "removed share").sum() == 1


@pytest.mark.parametrize(
    "fractions",
    [[0.5, 0.5], [], [0], 0, [1e-9], [2.0], ["a"], "a", [[0.5]], [np.nan], [True], None],
)
def test_other_fractions_are_refused(fractions):
    run = dln.Run(dln.semantic_hierarchy(levels=2), hidden=4, n_steps=40)
    with pytest.raises(ValueError, match="`fractions` must"):
        explain_offset(run, fractions=fractions)


def test_only_a_run_is_explained():
    with pytest.raises(TypeError, match=r"`run` must be a dlnflow\.Run, got NoneType"):
        explain_offset(None)
