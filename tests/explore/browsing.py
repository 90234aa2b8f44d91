"""A page that is open in a browser, and what a person does with it."""

import numpy as np

from tests.explore.reading import data_of

READABLE = 4.5
"""Least contrast of text, as WCAG 2 AA asks."""
VISIBLE_TEXTS = """
const numbers = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
const found = [];
for (const one of document.querySelectorAll('body *')) {
  const own = [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const box = one.getBoundingClientRect();
  const shown = own || one.matches('input[type=search], select');
  if (!shown || box.width === 0 || one.closest('script')) continue;
  const style = getComputedStyle(one);
  let back = [0, 0, 0, 0], above = one;
  const layers = [];
  for (; above; above = above.parentElement) {
    const c = numbers(getComputedStyle(above).backgroundColor);
    layers.push(c.length === 3 ? [...c, 1] : c);
  }
  let ground = [255, 255, 255];
  for (const layer of layers.reverse())
    ground = ground.map((g, k) => layer[3] * layer[k] + (1 - layer[3]) * g);
  const svg = one instanceof SVGElement;
  const ink = numbers(svg ? style.fill : style.color).slice(0, 3);
  let opaque = 1;
  for (let p = one; p; p = p.parentElement) opaque *= Number(getComputedStyle(p).opacity);
  found.push([one.tagName + '#' + one.id + '.' + (one.className.baseVal ?? one.className),
    ink.map((c, k) => opaque * c + (1 - opaque) * ground[k]), ground]);
}
return found;
"""


class Page:
    """A page that is open, and the numbers that it should show."""

    def __init__(self, browser, path):
        self.browser, self.url, self.data = browser, path.as_uri(), data_of(path)
        browser.get_log("browser")
        self.open()

    def open(self, hash_=""):
        from selenium.webdriver.support.ui import WebDriverWait

        self.browser.get("about:blank")
        self.browser.get(self.url + hash_)
        WebDriverWait(self.browser, 60).until(
            lambda b: b.execute_script("return document.body.dataset.ready") == "yes"
        )

    def all(self, css):
        return self.browser.find_elements("css selector", css)

    def one(self, css):
        return self.browser.find_element("css selector", css)

    def token(self, item):
        return self.one(f'.token[data-item="{item}"]')

    def script(self, code, *arguments):
        return self.browser.execute_script(code, *arguments)

    def state(self, name):
        return self.script(f"return explorer.state.{name}")

    def choose(self, name, value):
        self.one(f"#{name} option[value='{value}']").click()

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            ActionChains(self.browser).send_keys(getattr(Keys, key, key)).perform()

    def theme(self, wanted):
        if self.script("return document.documentElement.dataset.theme") != wanted:
            self.one("#theme").click()

    def at(self, css, place):
        """Action chain that has moved the pointer to a place of an element, from its corner."""
        from selenium.webdriver.common.action_chains import ActionChains

        element = self.one(css)
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        size = element.size
        x, y = (
            round(p - size[side] / 2) for p, side in zip(place, ("width", "height"), strict=True)
        )
        return ActionChains(self.browser).move_to_element_with_offset(element, x, y)

    def errors(self):
        """What the console says but for advice on how tests read pixels."""
        lines = self.browser.get_log("browser")
        return [
            line for line in lines if line["level"] != "INFO" and "readback" not in line["message"]
        ]

    def cpu_seconds(self, code):
        """CPU seconds that the page's thread spends on a script, whatever else the machine does."""
        command = self.browser.execute_cdp_cmd
        command("Performance.enable", {"timeDomain": "threadTicks"})

        def spent():
            found = command("Performance.getMetrics", {})["metrics"]
            return next(one["value"] for one in found if one["name"] == "TaskDuration")

        before = spent()
        self.script(code)
        return spent() - before


def ratio(first, second):
    """Contrast of two colours (0 to 255), as WCAG 2 defines it."""
    light = []
    for colour in (first, second):
        c = np.array(colour, dtype=float) / 255
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        light.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(light) + 0.05) / (min(light) + 0.05)
