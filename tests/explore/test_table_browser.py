"""What a person does with the page of a table, in headless Chromium."""

import time

import numpy as np
import pytest

import dlnflow as dln
from dlnflow.analysis import events, explain_events
from dlnflow.analysis.distinctions import Distinctions
from dlnflow.analysis.explain_events import mode_contributions
from dlnflow.explore import of_table
from tests.explore.browsing import Page

pytestmark = pytest.mark.browser


@pytest.fixture
def shown(browser, table_page):
    made = Page(browser, table_page[0])
    yield made
    assert made.errors() == []


@pytest.fixture
def exact(shown, table_curves):
    """Influence by estimator, in the order of the page."""
    names = {dim: shown.data[dim] for dim in ("query", "train")}
    return {
        one: table_curves.sel(estimator=one, **names).values
        for one in table_curves.estimator.values
    }


def cell(page, query, train):
    """Where a pair stands in the matrix."""
    return page.script(
        "return explorer.where().matrix.middle(arguments[0], arguments[1])", query, train
    )


def caption(page):
    return page.one("#chosen").text


def test_a_click_in_the_matrix_chooses_a_pair(shown, exact):
    names = shown.data["train"]
    for query, train in ((5, 6), (0, 1), (7, 7)):
        shown.at("#matrix", cell(shown, query, train)).click().perform()
        assert (shown.state("query"), shown.state("train")) == (query, train)
        value = exact["leave_one_out"][shown.state("at"), query, train]
        said = caption(shown)
        assert names[train][:9] in said
        assert f"{abs(value):.3f}" in said or f"{abs(value):.1e}" in said
        assert (" helps " if value < 0 else " harms ") in said
        assert names[query] in shown.one("#curve-caption").get_attribute("textContent")


def test_the_slider_moves_matrix_tree_and_places(shown, table_curves):
    pictures = "return ['matrix', 'places'].map((id) => document.getElementById(id).toDataURL())"
    before = shown.script(pictures)
    shown.script(
        "const s = document.getElementById('slider'); s.value = 900;"
        "s.dispatchEvent(new Event('input'))"
    )
    at = shown.state("at")
    steps = table_curves.time.values
    end = shown.data["flow_time"][-1]
    wanted = np.argmin(np.abs(np.array(shown.data["flow_time"]) - 0.9 * end))
    assert at == wanted and f"step {steps[at]}" in shown.one("#step").text
    after = shown.script(pictures)
    assert before[0] != after[0] and before[1] != after[1]
    heights = shown.script("return Array.from(explorer.tree().heights)")
    # at the end of training the tree is that of the data
    assert np.diff(heights).min() > -1e-3 * max(heights) and max(heights) > 1
    assert "step" in shown.one("#slider").get_attribute("aria-valuetext")


def test_colours_of_cells_are_the_signs(shown, exact, table_curves):
    """Blue where an item helps, red where it harms, read off the screen."""
    shown.theme("light")
    exact = exact["leave_one_out"]
    at = int(np.argmin(np.abs(table_curves.time.values - 1100)))
    shown.script("explorer.change({at: arguments[0], query: 0, train: 0})", at)
    strong = np.argwhere(np.abs(exact[at]) > 0.2 * shown.data["estimators"][2]["typical"])
    assert len(strong) > 8
    for query, train in strong:
        if query == train == 0:
            continue
        red, _, blue, _ = shown.script(
            "const [x, y] = explorer.where().matrix.middle(arguments[0], arguments[1]);"
            "const c = document.getElementById('matrix'), r = window.devicePixelRatio;"
            "return Array.from(c.getContext('2d').getImageData(x * r, y * r, 1, 1).data)",
            int(query),
            int(train),
        )
        assert (blue > red) == (exact[at, query, train] < 0)


def test_hovering_shows_a_curve_and_leaving_brings_back_the_chosen_one(shown):
    shown.script("explorer.change({query: 1, train: 0})")
    kept = shown.one("#curve-caption").text
    places = [shown.data["train"].index(name) for name in ("oak", "rose")]
    shown.at("#matrix", cell(shown, *places)).perform()
    assert "rose on the loss of oak" in shown.one("#curve-caption").text
    assert shown.state("query") == 1
    shown.at("h1", (1, 1)).perform()
    assert shown.one("#curve-caption").text == kept


def test_the_browser_draws_the_curves_of_the_estimators(shown, exact):
    for place, values in enumerate(exact.values()):
        shown.choose("estimator", str(place))
        for query, train in ((0, 1), (6, 2), (4, 4)):
            found = shown.script(
                "return Array.from(explorer.valuesOf(arguments[0], arguments[1]).value)",
                query,
                train,
            )
            atol = 1.001 * shown.data["estimators"][place]["error"]
            np.testing.assert_allclose(found, values[:, query, train], rtol=0, atol=atol)
    assert len(shown.all("#curve .line")) == 3 and len(shown.all("#curve-key li")) == 3


def test_parts_and_words_of_modes_are_those_of_python(shown, table_run):
    data, task = shown.data, table_run.task
    names = Distinctions(task)
    times = [data["flow_time"][k] for k in data["modes"]["times"]]
    for query, train in ((1, 0), (4, 4), (2, 7)):
        found = np.array(
            shown.script(
                "return explorer.modes.parts(arguments[0], arguments[1]).map((p) => Array.from(p))",
                query,
                train,
            )
        )
        a0 = data["modes"]["a0"]
        count = len(times)
        exact = mode_contributions(task, times, [query] * count, [train] * count, a0=a0)
        np.testing.assert_allclose(found.T, exact, atol=2e-5)
        for mode in range(4):
            said = shown.script("return explorer.modes.words(...arguments)", mode, train, query)
            words = f"{said['items']}; features: {said['features']}"
            words += f"; {said['equal']}" if said["equal"] else ""
            assert words == names.between(mode, train, query)


def test_events_and_their_modes_are_those_of_python(shown, table_run, table_curves):
    shown.choose("estimator", "1")
    curves = table_curves.sel(estimator="tangent", drop=True).assign_attrs(estimator="tangent")
    table, every = explain_events(table_run, curves), events(curves)
    named, names = 0, shown.data["train"]
    for query, train in ((1, 0), (2, 0), (5, 4), (3, 3)):
        pair = (every["query"] == names[query]) & (every["train"] == names[train])
        exact = every[pair].sort_values("step")
        found = shown.script(
            "return explorer.named(arguments[0], arguments[1]).explained", query, train
        )
        assert [one["kind"] for one in found] == exact["kind"].tolist()
        assert [one["sign"] for one in found] == exact["sign"].tolist()
        np.testing.assert_allclose([one["step"] for one in found], exact["step"], rtol=1e-4)
        rows = table[(table["query"] == names[query]) & (table["train"] == names[train])]
        rows = rows.sort_values("step", kind="stable")
        for one, (_, event) in zip(found, rows.groupby("event", sort=False), strict=True):
            modes = event["mode"].dropna().astype(int).tolist()
            assert [m["mode"] + 1 for m in one["modes"]] == modes
            shares = event["share"].dropna()
            np.testing.assert_allclose([m["share"] for m in one["modes"]], shares, atol=0.01)
            named += len(modes)
    assert named > 8


def test_events_are_marked_and_lead_to_their_step(shown):
    shown.script("explorer.change({estimator: 1, query: 1, train: 0, at: 0})")
    listed = shown.all("#events button")
    assert len(listed) == len(shown.all("#curve .mark")) >= 3
    assert any("mode" in one.text and "%" in one.text for one in listed)
    listed[-1].click()
    found = shown.script("return explorer.named(1, 0).explained")[-1]
    steps = np.array(shown.data["steps"])
    assert abs(steps[shown.state("at")] - found["step"]) <= np.diff(steps).max()
    marks = [one.get_attribute("textContent") for one in shown.all("#curve .mark")]
    assert all("at step" in text for text in marks)
    # the axis points up: troughs lie below the line of zero, peaks of harm above
    assert "gives way to mode" in shown.one("#events").text


def test_a_branch_of_the_tree_filters(shown):
    shown.script("explorer.change({query: 5, train: 5})")
    options = [o.get_attribute("value") for o in shown.all("#branch option")]
    branch = int(options[1])
    shown.choose("branch", str(branch))
    inside = shown.script("return explorer.shown()")
    assert 1 < len(inside["rows"]) < 8 and inside["rows"] == inside["columns"]
    shown.choose("branch", "-1")
    assert len(shown.script("return explorer.shown()")["rows"]) == 8
    # at the end the tree is highest
    shown.script("explorer.change({at: arguments[0] - 1})", len(shown.data["steps"]))
    x, y = shown.script("return explorer.where().matrix.join(arguments[0])", branch)
    shown.at("#matrix", (x, y)).click().perform()
    assert shown.state("branch") == branch
    shown.choose("branch", "-1")


def until(holds):
    """Wait for something that a busy machine may do late."""
    for _ in range(200):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def test_play_goes_to_the_end_and_pauses(shown):
    shown.script("explorer.change({at: 0})")
    shown.one("#play").click()
    assert shown.one("#play").get_attribute("aria-pressed") == "true"
    until(lambda: shown.state("at") > 0)
    shown.one("#play").click()
    until(lambda: shown.one("#play").get_attribute("aria-pressed") == "false")
    middle = shown.state("at")
    time.sleep(0.3)
    assert shown.state("at") == middle
    shown.script("explorer.change({at: arguments[0] - 8})", len(shown.data["steps"]))
    shown.one("h1").click()
    shown.press("SPACE")
    until(lambda: shown.state("at") == len(shown.data["steps"]) - 1)
    until(lambda: shown.one("#play").text == "Play")
    assert shown.state("at") == len(shown.data["steps"]) - 1


def test_keys_choose_a_pair_and_a_step(shown):
    shown.script("explorer.change({at: 5, query: 0, train: 0})")
    shown.script("document.getElementById('matrix').focus()")
    shown.press("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT", "ARROW_DOWN", "ARROW_UP", "ARROW_UP")
    assert (shown.state("train"), shown.state("query")) == (1, 0)
    shown.press(".", ".", ",", "PAGE_DOWN")
    assert shown.state("at") == 7
    shown.press("END")
    assert shown.state("at") == len(shown.data["steps"]) - 1
    shown.press("HOME")
    assert shown.state("at") == 0
    shown.script("document.getElementById('slider').focus()")
    shown.press("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT")
    assert shown.state("at") == 1


def test_a_search_finds_the_next_item(shown):
    shown.script("explorer.change({train: 0})")
    shown.one("#search").send_keys("O")
    found = []
    for _ in range(4):
        shown.press("ENTER")
        found.append(shown.state("train"))
    wanted = [k for k, name in enumerate(shown.data["train"]) if "o" in name.lower()]
    assert (
        set(found) <= set(wanted)
        and found
        == ([k for k in wanted if k > 0] + [k for k in wanted if k == 0] + wanted)[: len(found)]
    )


def test_lists_name_the_strongest(shown, exact, table_curves):
    exact = exact["leave_one_out"]
    at = int(np.argmin(np.abs(table_curves.time.values - 1100)))
    shown.script("explorer.change({at: arguments[0], train: 0, query: 3})", at)
    own = np.where(np.arange(8) == 0, np.nan, exact[at, :, 0])
    first = shown.one("#helpers button")
    assert first.get_attribute("data-item") == str(np.nanargmin(own))
    shown.choose("direction", "on")
    own = np.where(np.arange(8) == 3, np.nan, exact[at, 3])
    first = shown.one("#harmers button")
    assert first.get_attribute("data-item") == str(np.nanargmax(own))
    first.click()
    assert shown.state("train") == np.nanargmax(own)


def test_a_link_restores_the_view_of_a_table(shown):
    shown.script("explorer.change({at: 20, query: 6, train: 2, estimator: 0})")
    for name, value in (("scale", "step"), ("direction", "on"), ("axis", "log"), ("axes", "2")):
        shown.choose(name, value)
    link, said = shown.browser.current_url, caption(shown)
    shown.open()
    assert caption(shown) != said
    shown.open("#" + link.split("#")[1])
    assert caption(shown) == said
    state = {name: shown.state(name) for name in ("at", "query", "train", "scale", "axis", "axes")}
    assert state == {"at": 20, "query": 6, "train": 2, "scale": "step", "axis": "log", "axes": 2}
    shown.open("#t=-1&query=99&train=x&estimator=<b>&branch=3&scale=&axes=7&axis=no")
    assert shown.state("query") < 8 and shown.state("axes") == 0


def test_no_name_of_an_item_becomes_markup(shown):
    assert shown.all("img") == [] and shown.all("i") == []
    assert shown.one("h1").text == "<b>&title"
    for train, name in enumerate(shown.data["train"]):
        shown.script("explorer.change({train: arguments[0], query: 5})", train)
        assert name in shown.one("#chosen").get_attribute("textContent")
        assert name in shown.one("#loss-key").get_attribute("textContent")
    assert shown.all("img") == [] and shown.all("i") == []


LIMIT = 0.1
"""CPU seconds that a click or a move of the slider may take."""


@pytest.fixture(scope="module")
def large(browser, tmp_path_factory):
    """A thousand items of 60 random features."""
    task = dln.Task((np.random.default_rng(0).random((60, 1000)) < 0.3).astype(float))
    run = dln.Run(task, optimizer="flow", hidden=120)
    curves = dln.influence.analytic(run, run.grid(40))
    out = tmp_path_factory.mktemp("large") / "page.html"
    return out, of_table(run, curves, out), curves


def test_a_thousand_items_are_shown_at_once(browser, large):
    out, found, curves = large
    page = Page(browser, out)
    assert found["bytes"] <= 30e6
    drawn = (
        "for (const id of ['matrix', 'places'])"
        "document.getElementById(id).getContext('2d').getImageData(0, 0, 1, 1);"
        "document.body.getBoundingClientRect();"
    )
    page.script(drawn)
    seconds = {}
    for name, change in (
        ("click", "{{query: {0} * 37, train: 911 - {0} * 5}}"),
        ("slide", "{{at: {0} * 3 + 2}}"),
    ):
        each = [page.cpu_seconds(f"explorer.change({change.format(k)}); {drawn}") for k in range(9)]
        seconds[name] = float(np.median(each))
    print({name: f"{1000 * value:.0f} ms" for name, value in seconds.items()})
    assert max(seconds.values()) <= LIMIT
    state = page.script("return explorer.state")
    value = page.script("return explorer.valueAt(arguments[0], arguments[1])", 123, 456)
    names = [page.data["query"][123], page.data["train"][456]]
    exact = float(curves.sel(query=names[0], train=names[1])[state["at"]])
    assert abs(value - exact) <= 1.001 * page.data["error"]["largest_error"]
    assert page.errors() == []
