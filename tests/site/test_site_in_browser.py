"""The check of a built site in a browser finds what a reader would stumble over."""

import runpy
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PAGE = """<!doctype html><html lang="en"><title>A</title><meta name="viewport"
content="width=device-width"><style>body {{ background: #fff; color: #222; }}
body[data-theme="dark"] {{ background: #111; color: #eee; }} body * {{ color: inherit; }}
{style}</style><body><h1>A</h1><h2>B</h2>{links}<p>Text.</p>{extra}</body></html>"""
LINKS = "".join(f'<a href="#{k}">link {k}</a> ' for k in range(14))


@pytest.fixture(scope="module")
def problems():
    pytest.importorskip("selenium", reason="pip install selenium")
    if not shutil.which("chromedriver"):
        pytest.skip("install the packages chromium and chromium-driver")
    return runpy.run_path(str(ROOT / ".ci" / "check_in_browser.py"))["problems"]


def write(folder, name, extra="", style=""):
    (folder / name).write_text(PAGE.format(links=LINKS, extra=extra, style=style))


def test_a_good_page_has_no_problems_and_a_bad_one_has_each(problems, tmp_path):
    write(tmp_path, "good.html")
    write(tmp_path, "headings.html", "<h4>C</h4><h1>D</h1>")
    write(tmp_path, "names.html", '<button></button><img src="data:,x">')
    write(tmp_path, "order.html", '<a href="#0" tabindex="1">first</a>')
    write(tmp_path, "focus.html", style="a:focus { outline: none; }")
    write(tmp_path, "wide.html", '<div style="width: 900px">wide</div>')
    write(tmp_path, "faint.html", '<p class="faint">x</p>', "body p.faint { color: #999; }")
    write(
        tmp_path, "light.html", style='body[data-theme="dark"] { background: #fff; color: #222; }'
    )
    found = problems(tmp_path)
    said = {
        "headings.html": ("not one heading of level 1", "a level is left out"),
        "names.html": ("no name: <button>", "no alt: data:"),
        "order.html": ("tabindex above 0", "Tab goes back"),
        "focus.html": ("where the focus is cannot be seen",),
        "wide.html": ("pixels wide in a window of 360",),
        "faint.html": ("contrast of P#.faint in the light theme",),
        "light.html": ("the dark theme is as the light one",),
    }
    for page, words in said.items():
        for word in words:
            assert any(line.startswith(f"{page}: ") and word in line for line in found), (
                page,
                word,
            )
    assert {line.split(":")[0] for line in found} == set(said)
