"""Both pages can be read, named and used without a mouse: contrast, names, order of keys, theme."""

import itertools

import pytest

from tests.explore.browsing import READABLE, VISIBLE_TEXTS, Page, ratio

pytestmark = pytest.mark.browser

VISIBLE = 3.0
"""Least contrast of lines and frames, as WCAG 2 AA asks."""
COLOURS = """
const style = getComputedStyle(document.documentElement);
const read = (name) => {
  const text = style.getPropertyValue(name).trim();
  return text.startsWith('#') ? [1, 3, 5].map((k) => parseInt(text.slice(k, k + 2), 16))
    : text.split(',').map(Number);
};
return Object.fromEntries(arguments[0].map((name) => [name, read(name)]));
"""


@pytest.fixture(params=["table", "tokens"])
def shown(request, browser):
    path = request.getfixturevalue("table_page" if request.param == "table" else "page")[0]
    made = Page(browser, path)
    if request.param == "tokens":
        made.script("explorer.change({at: 1, item: 12})")
    yield made
    assert made.errors() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_can_be_read(shown, theme):
    shown.theme(theme)
    shown.script("document.getElementById('about').open = true")
    texts = shown.script(VISIBLE_TEXTS)
    assert len(texts) > 40
    poor = {
        name: round(ratio(ink, ground), 2)
        for name, ink, ground in texts
        if ratio(ink, ground) < READABLE
    }
    assert poor == {}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_frames_stand_out(shown, theme):
    shown.theme(theme)
    lines = [f"--c{k}" for k in range(6)] + ["--edge", "--ring", "--help", "--harm"]
    found = shown.script(COLOURS, [*lines, "--ground", "--panel", "--ink", "--soft"])
    for name in lines:
        assert ratio(found[name], found["--ground"]) >= VISIBLE, name
    for name, ground in itertools.product(("--ink", "--soft"), ("--ground", "--panel")):
        assert ratio(found[name], found[ground]) >= READABLE, (name, ground)


def test_everything_has_a_name(shown):
    unnamed = shown.script(
        """
        const name = (one) => one.getAttribute('aria-label') || one.labels?.[0]?.textContent ||
          one.textContent;
        return [...document.querySelectorAll('button, select, input, section, canvas, svg[role], ' +
          '[tabindex]')].filter((one) => !one.closest('[hidden]') && !name(one).trim())
          .map((one) => one.outerHTML.slice(0, 80));
        """
    )
    assert unnamed == []
    pictures = shown.script(
        "return [...document.querySelectorAll('canvas, svg')].map((one) =>"
        "[one.id, one.getAttribute('role'), one.getAttribute('aria-hidden')])"
    )
    assert all(role in ("img", "application") or hidden == "true" for _, role, hidden in pictures)
    assert shown.script("return document.documentElement.lang") == "en"
    assert len(shown.all("h1")) == 1 and shown.browser.title
    live = shown.script("return document.querySelectorAll('[aria-live]').length")
    assert live >= 1


def test_keys_reach_every_control_in_the_order_of_the_page(shown):
    order = shown.script(
        """
        const found = [...document.querySelectorAll('button, select, input, summary, [tabindex]')]
          .filter((one) => one.tabIndex >= 0 && !one.disabled && one.offsetParent !== null);
        found.forEach((one, k) => { one.dataset.order = k; });
        document.activeElement.blur();
        return [found.length, found.filter((one) => one.tabIndex > 0).length];
        """
    )
    assert order[1] == 0 and order[0] > 8
    reached = []
    for _ in range(order[0] + 10):
        shown.press("TAB")
        found = shown.script(
            "const one = document.activeElement, style = getComputedStyle(one);"
            "return [one.dataset.order, style.outlineStyle, parseFloat(style.outlineWidth)]"
        )
        if found[0] is None:  # a part that scrolls, or the end
            continue
        if reached and int(found[0]) == reached[0]:
            break
        reached.append(int(found[0]))
        assert found[1] != "none" and found[2] >= 1, found  # where the focus is can be seen
    assert reached == list(range(order[0]))


def test_the_theme_is_that_of_the_system_until_one_is_chosen(shown):
    def system(theme):
        features = [{"name": "prefers-color-scheme", "value": theme}]
        shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        shown.browser.execute_async_script(  # the page hears of it with the next picture
            "const done = arguments[0]; requestAnimationFrame(() => setTimeout(done, 50))"
        )
        return shown.script("return document.documentElement.dataset.theme")

    try:
        assert [system(theme) for theme in ("dark", "light", "dark")] == ["dark", "light", "dark"]
        shown.open()
        assert shown.script("return document.documentElement.dataset.theme") == "dark"
        shown.one("#theme").click()
        assert [system(theme) for theme in ("light", "dark")] == ["light", "light"]
    finally:
        shown.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_narrow_window_needs_no_sideways_scrolling(shown):
    command = shown.browser.execute_cdp_cmd
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    try:
        command("Emulation.setDeviceMetricsOverride", size)
        shown.open()
        wide = shown.script(
            "return [document.documentElement.scrollWidth, [...document.querySelectorAll('body *')]"
            ".filter((one) => one.getBoundingClientRect().right > 361)"
            ".map((one) => one.tagName + '#' + one.id)]"
        )
        assert wide[0] <= 360, wide
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})
