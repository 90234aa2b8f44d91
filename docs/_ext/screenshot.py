"""Picture of an explorer page for docs: `python docs/_ext/screenshot.py PAGE PNG [#STATE] [HEIGHT]`.

STATE is what stands behind the address of the page once something has been chosen in it.
Needs the extra `browser`, Chromium and its driver; only docs use it.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

WIDTH, HEIGHT = 1300, 1000


def take(page: Path, state: str = "", height: int = HEIGHT) -> Image.Image:
    """Return what a browser shows of a page."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for one in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(one)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page.resolve().as_uri() + state)
        ready = "return document.body.dataset.ready === 'yes'"
        WebDriverWait(browser, 120).until(lambda b: b.execute_script(ready))
        return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    finally:
        browser.quit()


if __name__ == "__main__":
    page, out, state, height = [*sys.argv[1:], *("", str(HEIGHT))[len(sys.argv) - 3 :]]
    take(Path(page), state, int(height)).quantize(256, kmeans=3, dither=Image.Dither.NONE).save(
        out, format="PNG", optimize=True
    )
