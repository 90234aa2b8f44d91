"""The check of a built site finds what is broken."""

import runpy
from pathlib import Path

import pytest

problems = runpy.run_path(str(Path(__file__).parents[2] / ".ci" / "check_links.py"))["problems"]
GOOD = '<h1 id="top">A</h1><a href="b.html#there">b</a><a href="https://elsewhere.example">e</a>'
OTHER = '<p id="there">B</p><a href="index.html">a</a><img src="i.png" alt="a curve">'


def site(folder, extra=""):
    (folder / "index.html").write_text(GOOD + extra)
    (folder / "b.html").write_text(OTHER)
    (folder / "i.png").write_bytes(b"")
    return folder


def test_a_whole_site_has_no_problems(tmp_path):
    assert problems(site(tmp_path)) == []


@pytest.mark.parametrize(
    "extra, said",
    [
        ('<a href="c.html">c</a>', "index.html links to c.html, which is not there"),
        ('<a href="b.html#here">b</a>', "index.html links to b.html#here, but that page has no"),
        ('<a href="#bottom">b</a>', "index.html links to #bottom, but that page has no"),
        ('<img src="j.png" alt="j">', "index.html links to j.png, which is not there"),
        ('<img src="i.png">', "index.html: the image i.png has no alt text"),
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "loads //cdn.example/x.css"),
    ],
)
def test_what_is_broken_is_named(tmp_path, extra, said):
    (found,) = problems(site(tmp_path, extra))
    assert said in found


def test_an_empty_folder_is_no_site(tmp_path):
    assert problems(tmp_path) == [f"no page in {tmp_path}"]
