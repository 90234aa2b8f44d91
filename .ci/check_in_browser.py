"""Check a built site in headless Chromium: contrast, names, order of headings and of keys.

Usage: python .ci/check_in_browser.py FOLDER
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.explore.browsing import READABLE, VISIBLE_TEXTS, ratio

NARROW = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
TABS = 12
"""Presses of Tab whose order is looked at."""
STRUCTURE = """
const found = [], levels = [...document.querySelectorAll('h1,h2,h3,h4,h5,h6')]
  .map((one) => Number(one.tagName[1]));
if (levels.filter((level) => level === 1).length !== 1) found.push('not one heading of level 1');
if (levels.some((level, k) => k && level > levels[k - 1] + 1)) found.push('a level is left out');
if (document.documentElement.lang !== 'en' || !document.title) found.push('no language or title');
const name = (one) => one.getAttribute('aria-label') || one.labels?.[0]?.textContent ||
  one.textContent.trim() || one.title || one.placeholder || one.querySelector('img[alt], title');
for (const one of document.querySelectorAll('a[href], button, input, select, summary'))
  if (one.offsetParent !== null && !name(one)) found.push(`no name: ${one.outerHTML.slice(0, 80)}`);
for (const one of document.querySelectorAll('img:not([alt])')) found.push(`no alt: ${one.src}`);
if ([...document.querySelectorAll('[tabindex]')].some((one) => one.tabIndex > 0))
  found.push('a tabindex above 0 changes the order of keys');
return found;
"""
FOCUS = """
const one = document.activeElement, style = getComputedStyle(one);
const all = [...document.querySelectorAll('*')];
return [all.indexOf(one), style.outlineStyle !== 'none' || style.boxShadow !== 'none',
  one.outerHTML.slice(0, 80)];
"""


def of_page(browser: webdriver.Chrome) -> Iterator[str]:
    """Yield what is wrong with the page that is open."""
    yield from browser.execute_script(STRUCTURE)
    grounds = []
    for theme in ("light", "dark"):
        browser.execute_script("document.body.dataset.theme = arguments[0]", theme)
        texts = browser.execute_script(VISIBLE_TEXTS)
        grounds.append(texts[0][2])
        poor = {name for name, ink, ground in texts if ratio(ink, ground) < READABLE}
        yield from (f"contrast of {name} in the {theme} theme" for name in sorted(poor))
    if grounds[0] == grounds[1]:
        yield "the dark theme is as the light one"
    yield from (line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE")


def of_keys(browser: webdriver.Chrome) -> Iterator[str]:
    """Yield what is wrong with the first parts that Tab reaches."""
    last = -1
    for _ in range(TABS):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        place, seen, what = browser.execute_script(FOCUS)
        if not seen:
            yield f"where the focus is cannot be seen: {what}"
        if place <= last:
            yield f"Tab goes back to {what}"
        last = place


def of_width(browser: webdriver.Chrome) -> Iterator[str]:
    """Yield a line if a narrow window has to be scrolled sideways."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", NARROW)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    if wide > NARROW["width"]:
        yield f"{wide} pixels wide in a window of {NARROW['width']}"


def problems(site: Path) -> list[str]:
    """Return a line for everything that a reader would stumble over."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for one in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    found = []
    try:
        for path in sorted(set(site.rglob("*.html")) - {site / "search.html"}):  # Sphinx's own
            browser.get(path.resolve().as_uri())
            for check in (of_keys, of_width, of_page):
                found += [f"{path.relative_to(site)}: {line}" for line in check(browser)]
    finally:
        browser.quit()
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    print("\n".join(lines) if lines else "every page can be read, named and reached by keys")
    raise SystemExit(bool(lines))
