"""The page of a table: what it shows is the data, whole, and nothing overlaps."""

from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

import dlnflow as dln
from dlnflow import result
from dlnflow.analysis import events, explain_events, shapes
from dlnflow.plots import influence_plots, keys, overviews, panels
from tests.plots.test_influence_plots import made_up, text_of, visible


@cache
def paper_run():
    return dln.Run(dln.semantic_hierarchy(), init_std=1e-3)


@cache
def paper_curves():
    run = paper_run()
    return dln.stack(*(dln.ESTIMATORS[name](run, run.grid(80)) for name in ("analytic", "tangent")))


def smooth(n_query, n_train, names="item{}"):
    """Curves with one to three bumps each."""
    rng = np.random.default_rng(0)
    time = np.linspace(0, 10, 120)
    center, height = (
        rng.uniform(1, 9, (3, n_query, n_train)),
        rng.normal(size=(3, n_query, n_train)),
    )
    bumps = height * np.exp(-((time[:, None, None, None] - center) ** 2))
    items = [names.format(k) for k in range(max(n_query, n_train))]
    return result.influence(
        bumps.sum(axis=1),
        np.arange(len(time)),
        items[:n_query],
        items[:n_train],
        estimator="analytic",
        flow_time=time,
    )


@pytest.mark.parametrize("shape", [(9, 1), (2, 9), (1, 1)])
def test_any_number_of_items_draws(shape):
    figure = influence_plots.overview(made_up(*shape))
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # warnings, of the layout too, are errors


def test_few_pairs_have_a_panel_each():
    curves = made_up(3, 2)
    axes = visible(influence_plots.overview(curves))
    shown = set()
    for axis in axes:
        train, query = axis.get_title("left").split("  ")[1].split(" \u2192 ")
        line = next(line for line in axis.lines if line.get_label() == "exact tangent")
        np.testing.assert_array_equal(line.get_ydata(), curves.sel(train=train, query=query))
        shown.add((train, query))
    items = [(t, q) for t in curves["train"].values for q in curves["query"].values if t != q]
    assert shown == set(items)


def test_no_influence_is_said():
    assert overviews.NOTHING in text_of(influence_plots.overview(made_up(1, 1)))


def test_panels_stand_for_all_pairs():
    curves = smooth(15, 15)
    figure = influence_plots.overview(curves)
    table = shapes(curves).table
    titles = [
        axis.get_title("left") for axis in figure.axes if " \u2192 " in axis.get_title("left")
    ]
    for title, row in zip(titles, table.itertuples(), strict=True):
        assert f"{row.train} \u2192 {row.query}" in title
        assert (f"and {row.count - 1} like it" in title) == (row.count > 1)
    assert f"{table['count'].sum()} pairs" in text_of(figure)
    (when,) = [axis for axis in figure.axes if axis.get_title("left").startswith("b  When")]
    labels = [label.get_text() for label in when.get_yticklabels()]
    assert labels == [f"{k + 1}  ({row.count})" for k, row in enumerate(table.itertuples())]


def test_curves_behind_are_those_of_the_group_at_one_height():
    curves = smooth(15, 15)
    found = shapes(curves)
    figure = influence_plots.overview(curves)
    (axis,) = [axis for axis in figure.axes if axis.get_title("left").startswith("1  ")]
    (members,) = [one for one in axis.collections if isinstance(one, LineCollection)]
    group = curves.values[:, (found.group == 0).values]
    scaled = group / np.abs(group).max(axis=0) * found.table["size"].iloc[0]
    for line in members.get_segments():
        assert np.abs(scaled - line[:, 1, None]).max(axis=0).min() < 1e-12
        np.testing.assert_allclose(line[:, 0], curves.flow_time)


def test_who_is_the_value_at_the_largest_size():
    curves = smooth(12, 12)
    figure = influence_plots.overview(curves)
    (axis,) = [axis for axis in figure.axes if axis.get_title("left").startswith("a  Who")]
    image = np.asarray(axis.images[0].get_array())
    queries = [label.get_text() for label in axis.get_yticklabels()]
    trains = [label.get_text() for label in axis.get_xticklabels()]
    for k, j in np.ndindex(12, 12):
        one = curves.sel(query=queries[k], train=trains[j]).values
        own = queries[k] == trains[j]
        assert image[k, j] == (0 if own else one[np.abs(one).argmax()])


@pytest.mark.parametrize(("count", "named"), [(50, 50), (51, 26), (1000, 40)])
def test_names_are_thinned_and_that_is_said(count, named):
    axis = Figure().subplots()
    names = [f"item{k}" for k in range(count)]
    overviews.name_ticks(axis, "y", "query", names)
    labels = [label.get_text() for label in axis.get_yticklabels()]
    every = -(-count // named)
    assert labels == names[::every]
    assert (f"1 in {every} of {count:,}" in axis.get_ylabel()) == (every > 1)


def test_logarithmic_time_begins_where_something_does_and_is_said():
    curves = smooth(12, 12)
    early = curves.assign_coords(flow_time=("time", np.geomspace(1e-6, 10, curves.sizes["time"])))
    figure = influence_plots.overview(early)
    assert "flow time, log scale" in text_of(figure)
    (axis,) = [axis for axis in figure.axes if axis.get_title("left").startswith("1  ")]
    assert axis.get_xscale() == "log" and 1e-6 <= axis.get_xlim()[0] < 10
    assert "log scale" not in text_of(influence_plots.overview(curves))


def test_events_that_can_be_seen_are_marked():
    curves = paper_curves().sel(train=["dog"], query=["cat"])
    (axis,) = visible(influence_plots.overview(curves))
    marked = [line for line in axis.lines if line.get_marker() in panels.MARKERS.values()]
    at = np.sort(np.concatenate([line.get_xdata() for line in marked]))
    table = events(curves.isel(estimator=0, drop=True))
    kept = (table["kind"] == "sign_flip") | (
        table["prominence"] > 0.05 * float(np.abs(curves[0]).max())
    )
    np.testing.assert_allclose(at, np.sort(table.loc[kept.values, "flow_time"]))


def test_a_run_names_what_carries_events_and_when_modes_are_learned():
    curves = paper_curves().sel(train=["dog"], query=["cat", "pine"])
    figure = influence_plots.overview(curves, run=paper_run())
    table = explain_events(paper_run(), curves.isel(estimator=0, drop=True))
    text = text_of(figure)
    peak = table[(table["query"] == "cat") & (table["kind"] == "peak")].iloc[0]
    assert (
        f"harms most at {peak['flow_time']:.2g}: mode {peak['mode']}, {peak['share']:.0%}: " in text
    )
    assert "cat against dog" in text or "dog against cat" in text
    half = dln.saxe.half_time(paper_run().task.modes.distinct, table.attrs["a0"])
    axis = visible(figure)[0]
    dotted = [x[0] for x in (line.get_xdata() for line in axis.lines) if list(x) == [x[0]] * 2]
    assert dotted and np.abs(np.subtract.outer(dotted, half)).min(axis=1).max() < 1e-12
    given = influence_plots.overview(curves, explained=table, marks={"here": 2.0})
    assert "here" in text_of(given) and "mode" in text_of(given)
    assert "mode 1" not in text_of(influence_plots.overview(curves))


def test_a_run_without_a_closed_form_is_drawn_without_modes():
    run = dln.Run(dln.semantic_hierarchy(), hidden=6, init_std=1e-3)
    assert dln.ESTIMATORS["analytic"].refusal(run)
    figure = influence_plots.overview(dln.influence.tangent(run, run.grid(30)), run=run)
    assert "of mode n" not in text_of(figure)


def test_explained_events_of_other_estimators_are_not_taken():
    curves = paper_curves().sel(train=["dog"], query=["cat"])
    table = explain_events(paper_run(), curves)
    own = table[table["estimator"] == "tangent"].copy()
    own.attrs = table.attrs
    assert "mode 1" not in text_of(influence_plots.overview(curves, explained=own))
    assert "mode 1" in text_of(influence_plots.overview(curves, explained=table))


def overlapping(figure):
    """Pairs of texts of a figure that overlap, and texts that leave it."""
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    unseen = {tick for axis in figure.axes for tick in _unseen_ticks(axis)}
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t not in unseen]
    page = figure.bbox
    out = [text for text, b in boxes if b.x0 < page.x0 - 1 or b.x1 > page.x1 + 1 or b.y0 < -1]
    pairs = [(one, two) for (one, a), (two, b) in combinations(boxes, 2) if _shared(a, b) > 0.1]
    return pairs, out


def _unseen_ticks(axis):
    """Tick labels that are not drawn, as their ticks are outside of the panel."""
    for line in (axis.xaxis, axis.yaxis):
        low, high = sorted(line.get_view_interval())
        ticks = line.get_major_ticks()
        yield from (t.label1 for t in ticks if not axis.axison or not low <= t.get_loc() <= high)
        if not axis.axison:
            yield line.label


def _shared(a, b):
    """Share of the smaller box that lies in the other."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0) / min(a.width * a.height, b.width * b.height)


LONG = "a rather long name of item {} which nobody would print"
SHAPES = [(2, 1), (4, 2), (30, 1), (20, 5), (60, 60)]


SHORT = [
    pytest.param(shape, "i{}", marks=pytest.mark.slow) for shape in ((4, 2), (30, 1), (70, 70))
]


@pytest.mark.parametrize(("shape", "names"), [*((s, LONG) for s in SHAPES), *SHORT])
def test_no_text_overlaps_or_leaves_the_page(shape, names):
    curves = smooth(*shape, names)
    found = shapes(curves).table
    rows = events(curves.sel(query=list(set(found["query"])), train=list(set(found["train"]))))
    features = ", ".join(f"feature {k} with words" for k in range(9))
    explained = rows.assign(
        mode=1, share=0.5, event=np.arange(len(rows)), distinction=f"x; features: {features}"
    )
    marks = {str(k): 1.5 + 0.3 * k for k in range(30)}
    figure = influence_plots.overview(curves, explained=explained, marks=marks)
    pairs, out = overlapping(figure)
    assert not out and not pairs


def test_the_check_of_overlaps_sees_them():
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.5, "two")
    figure.text(0.99, 0.1, "outside of the page")
    assert overlapping(figure) == ([("one", "two")], ["outside of the page"])


def test_marks_keep_their_distance_and_the_important_ones():
    time = np.linspace(0, 10, 50)
    marks = {"1": 5.0, "2": 5.1, "3": 2.0, "4": 11.0, "5": 5.9}
    assert keys.spaced(marks, time, log=False) == {"1": 5.0, "3": 2.0, "5": 5.9}
    assert keys.spaced(marks, time, log=False, first=["2"]) == {"2": 5.1, "3": 2.0, "5": 5.9}
    assert "5" not in keys.spaced(marks, np.geomspace(1e-3, 10, 50), log=True)
    many = {str(k): float(k) for k in range(1, 10)}
    assert len(keys.spaced(many, time, log=False)) == keys.MOST_MARKS


def test_the_largest_extremum_and_what_opposes_it_have_letters():
    rows = [("trough", 1, -1.0), ("sign_flip", 2, 0.0), ("peak", 3, 0.4), ("peak", 4, 0.2)]
    table = pd.DataFrame(rows, columns=["kind", "step", "value"])
    table["sign"] = np.sign(table["value"])
    assert keys.chosen(table)["step"].tolist() == [1, 3]
    assert keys.chosen(table[:2])["step"].tolist() == [1, 2]
    assert keys.chosen(table[1:2])["step"].tolist() == [2]


@pytest.mark.parametrize("room", [12, 30, 60, 200])
def test_both_sides_of_a_distinction_are_kept(room):
    text = "dog against pine; features: has legs, barks, runs and 4 more against is green, grows"
    shown = keys.two_sides(text, room)
    if room == 200:
        assert shown == "has legs, barks, runs and 4 more against is green, grows"
    if room >= 30:
        assert shown.startswith("has legs") and " against is green" in shown
        assert len(shown) <= room
    assert keys.two_sides("all items; one of 2 equal modes", 99) == "all items"
