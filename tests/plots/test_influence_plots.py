from functools import cache

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import dlnflow as dln
from dlnflow import result
from dlnflow.analysis import events
from dlnflow.plots import influence_plots, panels


@cache
def paper_curves():
    run = dln.Run(dln.semantic_hierarchy(), init_std=1e-3)
    steps = np.linspace(0, run.n_steps, 60).astype(int)
    names = ("tangent", "leave_one_out")
    return dln.stack(*(dln.ESTIMATORS[name](run, steps) for name in names))


def made_up(n_query, n_train, n_time=20, flow=True):
    generator = np.random.default_rng(0)
    values = generator.standard_normal((n_time, n_query, n_train))
    items = [f"item{k}" for k in range(max(n_query, n_train))]
    time = np.arange(n_time)
    return result.influence(
        values,
        time,
        items[:n_query],
        items[:n_train],
        estimator="tangent",
        flow_time=time / 3 if flow else np.full(n_time, np.nan),
    )


def visible(figure):
    return [axis for axis in figure.axes if axis.lines or axis.collections]


def text_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def test_estimators_side_by_side_share_the_scale():
    figure = influence_plots.plot_influence(paper_curves().sel(train=["dog", "pine"]))
    axes = visible(figure)
    assert len(axes) == 4
    assert axes[0].get_ylim() == axes[1].get_ylim() != axes[2].get_ylim()
    assert [axis.get_title() for axis in axes[:2]] == ["exact tangent", "leave-one-out"]
    text = text_of(figure)
    assert "helps" in text and "harms" in text and "flow time" in text and "sparrow" in text


def test_lines_are_the_data():
    curves = paper_curves()
    figure = influence_plots.plot_influence(curves.sel(train=["dog"]), events=False)
    line = next(line for line in figure.axes[1].lines if line.get_label() == "sparrow")
    expected = curves.sel(estimator="leave_one_out", query="sparrow", train="dog")
    np.testing.assert_array_equal(line.get_ydata(), expected)
    np.testing.assert_array_equal(line.get_xdata(), expected["flow_time"])


def test_events_are_marked_where_they_are_found():
    curves = paper_curves().sel(estimator=["tangent"], train=["dog"], query=["cat"])
    figure = influence_plots.plot_influence(curves, columns="query")
    table = events(curves)
    marked = np.concatenate(
        [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() in ("^", "v", "o")]
    )
    np.testing.assert_allclose(np.sort(marked), np.sort(table["flow_time"]))


def test_self_influence_is_drawn_on_request_only():
    curves = paper_curves().sel(train=["dog"])
    without, with_self = (
        influence_plots.plot_influence(curves, include_self=choice, events=False)
        for choice in (False, True)
    )
    assert max(abs(v) for v in with_self.axes[0].get_ylim()) > max(
        abs(v) for v in without.axes[0].get_ylim()
    )


def test_marks_are_named_once():
    curves = paper_curves().sel(train=["dog", "pine"])
    figure = influence_plots.plot_influence(curves, marks={"here": 2.0})
    assert text_of(figure).count("here") == 2  # first row, two estimators


def test_many_queries_become_a_heat_map():
    figure = influence_plots.plot_influence(made_up(12, 2))
    assert sum(bool(axis.collections) for axis in figure.axes) >= 2
    assert "item11" in text_of(figure)


def test_runs_without_flow_time_show_steps():
    figure = influence_plots.plot_influence(made_up(2, 2, flow=False))
    assert "optimiser steps" in text_of(figure)


def test_constant_curves_can_be_drawn(tmp_path):
    zero = made_up(3, 3) * 0
    zero.attrs = made_up(3, 3).attrs
    figure = influence_plots.plot_influence(zero, events=False)
    for axis in visible(figure):
        low, high = axis.get_ylim()
        assert low < 0 < high
        curves = [line for line in axis.lines if line.get_label().startswith("item")]
        drawn = np.array([line.get_ydata() for line in curves])
        assert drawn.shape == (3, 20) and np.nanmax(np.abs(drawn)) == 0  # NaN: the item itself
    written = influence_plots.save_figure(figure, tmp_path / "zero.png")
    assert all(path.stat().st_size > 1000 for path in written)


def test_saved_files_are_complete_and_reproducible(tmp_path):
    curves = paper_curves().sel(train=["dog"])
    words = {"title": "Influence of dog", "alt": "Curves that fall \u2212 and rise."}
    first = influence_plots.save_figure(
        influence_plots.plot_influence(curves), tmp_path / "a" / "figure.pdf", **words
    )
    second = influence_plots.save_figure(
        influence_plots.plot_influence(curves), tmp_path / "b" / "figure", **words
    )
    assert [path.name for path in first] == ["figure.png", "figure.pdf", "figure.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted((tmp_path / "a").iterdir()) == sorted(first)
    assert words["alt"] in first[2].read_text(encoding="utf-8")
    with Image.open(first[0]) as image:
        assert (image.text["Title"], image.text["Description"]) == tuple(words.values())


def test_dots_in_names_are_kept(tmp_path):
    written = influence_plots.save_figure(Figure(), tmp_path / "run.v1")
    assert [path.name for path in written] == ["run.v1.png", "run.v1.pdf", "run.v1.svg"]


def test_failed_save_leaves_the_old_file(tmp_path):
    (tmp_path / "figure.png").write_text("old")

    class Broken(Figure):
        def savefig(self, *args, **kwargs):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        influence_plots.save_figure(Broken(), tmp_path / "figure")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_all_three_files_are_saved_or_none(tmp_path):
    (tmp_path / "figure.svg").mkdir()
    with pytest.raises(ValueError, match=r"figure\.svg is a folder"):
        influence_plots.save_figure(Figure(), tmp_path / "figure")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.svg"]


def test_refusals():
    curves = paper_curves()
    with pytest.raises(ValueError, match="columns"):
        influence_plots.plot_influence(curves, columns="queri")
    with pytest.raises(ValueError, match="time"):
        influence_plots.plot_influence(curves, time="epochs")
    with pytest.raises(ValueError, match="overview"):
        influence_plots.plot_influence(made_up(12, 12), columns="query")
    with pytest.raises(ValueError, match="damping"):
        sweep = made_up(2, 2).expand_dims(damping=[1.0, 2.0])
        influence_plots.plot_influence(sweep)
    with pytest.raises(ValueError, match="two dims"):
        panels.draw_curves(Figure().subplots(), curves)


def test_sampled_curves_have_bands_and_are_grey_where_not_mixed():
    curves = made_up(2, 1)
    verdict = np.full(20, "mixed", dtype="<U9")
    verdict[[3, 4, 11]] = ["not mixed", "short", "diverged"]
    error = np.full(curves.shape, 0.25)
    sampled = curves.assign_coords(
        standard_error=(curves.dims, error), verdict=("time", verdict)
    ).assign_attrs(estimator="bif")
    both = dln.stack(sampled, curves)
    figure = influence_plots.plot_influence(both, events=False, include_self=True)
    shown, exact = visible(figure)
    line = next(line for line in shown.lines if line.get_label() == "item1")
    expected = curves.sel(query="item1", train="item0").values
    np.testing.assert_array_equal(np.isnan(line.get_ydata()), verdict != "mixed")
    grey = [line for line in shown.lines if line.get_color() == panels.NOT_MIXED]
    np.testing.assert_array_equal(grey[1].get_ydata(), expected)
    assert len(shown.patches) == 2 * 3  # a span for every checkpoint and curve
    band = shown.collections[1].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(expected.max() + 0.5)
    assert band.min() == pytest.approx(expected.min() - 0.5)
    assert not exact.collections and not exact.patches
    assert panels.NOT_MIXED not in [line.get_color() for line in exact.lines]


def test_mixed_curves_are_whole():
    curves = made_up(2, 1).assign_coords(verdict=("time", ["mixed"] * 20))
    figure = influence_plots.plot_influence(curves, events=False, include_self=True)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "item1")
    np.testing.assert_array_equal(line.get_ydata(), curves.sel(query="item1", train="item0"))
    assert not figure.axes[0].collections and not figure.axes[0].patches


def test_the_public_names_are_those_of_the_modules():
    assert dln.plots.plot_influence is influence_plots.plot_influence
    assert dln.plots.save_figure is influence_plots.save_figure
    assert dln.plots.panels is panels


def test_figures_call_estimators_as_their_records_do():
    known = influence_plots.plot_influence(made_up(2, 2).assign_attrs(estimator="leave_one_out"))
    assert visible(known)[0].get_title() == dln.ESTIMATORS["leave_one_out"].title
    figure = influence_plots.plot_influence(made_up(2, 2).assign_attrs(estimator="my_own"))
    assert visible(figure)[0].get_title() == "my own"
