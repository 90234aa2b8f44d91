"""What a person does with a page, in headless Chromium: needs selenium, chromium, chromedriver."""

import numpy as np
import pytest

from tests.explore.browsing import Page
from tests.explore.reading import checkpoint

pytestmark = pytest.mark.browser


@pytest.fixture
def shown(browser, page):
    made = Page(browser, page[0])
    yield made
    assert made.errors() == []


def test_the_browser_computes_the_rows_of_the_integers(shown):
    for unit, factor in (("correlation", 1.0), ("covariance", shown.data["factor"])):
        shown.choose("unit", unit)
        for t in range(2):
            found = shown.browser.execute_script(
                "const r = explorer.row(arguments[0], 9);"
                "return [Array.from(r.value), Array.from(r.error)]",
                t,
            )
            expected = checkpoint(shown.data, t).row(9, normalised=unit == "correlation")
            for ours, numpys in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, factor * numpys, rtol=1e-9, atol=1e-14)


def test_a_click_colours_the_others(shown):
    shown.press("HOME", "ARROW_UP")  # the last checkpoint has no chains, the second one has
    shown.token(12).click()
    row = checkpoint(shown.data, 1).row(12)
    t = shown.data["checkpoints"][1]["t"]
    assert shown.one(".token.chosen").get_attribute("data-item") == "12"
    for item in range(40):
        if item == 12:
            continue
        token = shown.token(item)
        value, error = row.influence[item], row.standard_error[item]
        faded = "faded" in token.get_attribute("class")
        assert faded == (abs(value) <= t * error)
        style = token.get_attribute("style")
        if style and "rgba" in style:
            assert ("--help" in style) == (value < 0)
    strong = [j for j in range(40) if j != 12 and abs(row.influence[j]) > t * row.standard_error[j]]
    assert strong and all("rgba" in shown.token(j).get_attribute("style") for j in strong)
    best = int(np.argmin(np.where(np.arange(40) == 12, np.inf, row.influence)))
    assert shown.one("#helpers button").get_attribute("data-item") == str(best)
    assert shown.one(".token.partner").get_attribute("data-item") == str(best)


def test_the_slider_changes_the_checkpoint_and_says_if_it_has_mixed(shown):
    shown.browser.execute_script(
        "const s = document.getElementById('slider'); s.value = 0;"
        "s.dispatchEvent(new Event('input'))"
    )
    assert shown.state("at") == 0 and shown.one("#step").text == "step 0"
    verdicts = [one["verdict"] for one in shown.data["checkpoints"]]
    assert shown.one("#verdict").text.startswith(verdicts[0])
    shown.browser.execute_script("document.getElementById('slider').focus()")
    shown.press("ARROW_RIGHT", "ARROW_RIGHT")
    assert shown.state("at") == 2 and "diverged" in shown.one("#verdict").text
    assert shown.one("#verdict").get_attribute("class") == "bad"
    assert shown.all("#helpers button") == []


def test_a_class_filters(shown):
    shown.browser.execute_script("explorer.change({at: 1, item: 4})")
    shown.choose("filter", "<i>third</i>")
    listed = [int(b.get_attribute("data-item")) for b in shown.all("ol button")]
    assert listed and all(j % 3 == 0 and j != 4 for j in listed)
    out = {int(s.get_attribute("data-item")) for s in shown.all(".token.out")}
    assert out == {j for j in range(40) if j % 3 and j != 4}
    shown.choose("filter", "")
    assert shown.all(".token.out") == []
    shown.one("#apart").click()
    assert {int(s.get_attribute("data-item")) % 7 for s in shown.all(".token.out")} == {4}


def test_keys_move_token_and_checkpoint(shown):
    shown.browser.execute_script("explorer.change({at: 1, item: 4})")
    shown.press("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_LEFT")
    assert shown.state("item") == 5
    shown.press("ARROW_UP")
    assert shown.state("at") == 2
    shown.press("ARROW_UP", "ARROW_DOWN")  # the last one stays
    assert shown.state("at") == 1
    shown.press("HOME")
    assert shown.state("at") == 0


def test_a_search_finds_the_next_token(shown):
    shown.browser.execute_script("explorer.change({at: 1, item: 4})")
    shown.one("#search").send_keys("Word3")  # word3 and word30 to word33
    found = []
    for _ in range(6):
        shown.press("ENTER")
        found.append(shown.data["words"][shown.state("item")].strip())
    assert found == ["word3", "word30", "word31", "word32", "word33", "word3"]
    shown.press("ARROW_LEFT")  # moves in the text that is searched for
    assert shown.data["words"][shown.state("item")].strip() == "word3"


def test_a_link_restores_the_view(shown):
    shown.browser.execute_script("explorer.change({at: 0, item: 30})")
    shown.choose("direction", "of")
    shown.choose("filter", "even")
    second = shown.all("#helpers button")[1]
    other = int(second.get_attribute("data-item"))
    second.click()
    link, caption = shown.browser.current_url, shown.one("#caption").text
    shown.open()
    assert shown.one("#caption").text != caption
    shown.open("#" + link.split("#")[1])
    assert (shown.state("item"), shown.state("other"), shown.state("at")) == (30, other, 0)
    assert (shown.state("filter"), shown.state("direction")) == ("even", "of")
    assert shown.one("#caption").text == caption
    shown.open("#item=9999&other=x&t=77&class=none&unit=<b>")  # nonsense does no harm
    assert shown.state("item") == 0


def test_the_curve_has_all_checkpoints_with_chains(shown):
    shown.browser.execute_script("explorer.change({at: 1, item: 4, other: 9})")
    dots = shown.all("#curve .dot")
    assert len(dots) == 2 and len(shown.all("#curve .band")) == 2
    assert "Dashed: mean influence of <i>third</i> on even" in shown.one("#caption").text
    # lines go down where values do: the axis points up
    line = shown.one("#curve .line:not(.classes)").get_attribute("d")
    heights = [float(point.split(",")[1]) for point in line[1:].split("L")]
    values = [checkpoint(shown.data, t).row(4).influence[9] for t in range(2)]
    assert (heights[1] - heights[0]) * (values[1] - values[0]) < 0
    hollow = [one["verdict"] != "mixed" for one in shown.data["checkpoints"][:2]]
    assert ["bad" in d.get_attribute("class") for d in dots] == hollow
    said = [f"step {one['step']} ({one['verdict']})" for one in shown.data["checkpoints"][:2]]
    which = ", ".join(one for one, bad in zip(said, hollow, strict=True) if bad)
    assert any(hollow) and f"; hollow: {which}." in shown.one("#caption").text
    shown.browser.execute_script("explorer.change({other: 5})")  # in none of the classes
    assert len(shown.all("#curve .line")) == len(shown.all("#curve .band")) == 1


def test_no_word_becomes_markup(shown):
    for item, word in enumerate(shown.data["words"][:6]):
        assert shown.token(item).get_attribute("textContent") == word
    assert shown.all("img") == [] and shown.all("i") == []
    assert shown.one("h1").text == "<b>&title"
