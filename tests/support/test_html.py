"""What runs and tasks look like in a notebook: short, whole, and no markup from names."""

from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlnflow as dln
from dlnflow._support import html

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "&lt;b&gt; &amp;#x27;",
    "\u202egnp.exe",
    "<!-- ' -->",
]
TAGS = {"table", "caption", "thead", "tbody", "tr", "th", "td", "br"}


class Reader(HTMLParser):
    """Tags, attributes and text of a page, as a browser sees them."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.texts, self.open = set(), set(), [], []
        self.comments = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= set(attrs)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        self.comments.append(data)


def read(shown):
    page = Reader(shown._repr_html_())
    assert page.tags <= TAGS and not page.open and not page.comments
    assert page.attributes <= {("style", "text-align: left")}
    return "\n".join(page.texts)


def hostile_task():
    y = np.random.default_rng(0).standard_normal((len(HOSTILE), len(HOSTILE)))
    features = [name + "!" for name in HOSTILE]
    return dln.Task(y, items=HOSTILE, features=features, notes=["<b>bold</b> <i>note</i>"])


def test_tasks_show_names_letter_by_letter():
    text = read(hostile_task())
    for name in HOSTILE:
        assert html.visible(name)[: html.LENGTH - 1] in text
    assert "<b>bold</b> <i>note</i>" in text and "\u202e" not in text
    assert "6 items" in text and "<script>alert(1)</script>!" in text


def test_runs_show_what_they_are():
    run = dln.Run(hostile_task(), hidden=8, n_steps=1200, learning_rate=0.01, seed=7)
    text = read(run)
    for part in ("Run", HOSTILE[0], "<b>bold</b>", "hidden 8", "seed 7", "1,200 steps of 0.01"):
        assert part in text
    assert f"{float(run.flow_time(1200)):.3g}" in text


def test_torch_runs_show_what_they_are():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    hostile = type("<script>", (torch.nn.Linear,), {})(3, 2)
    for one, name in ((model, "Linear"), (hostile, "<script>")):
        data = (torch.zeros(6, 3), torch.zeros(6, 2))
        run = dln.TorchRun(one, data, learning_rate=0.1, n_steps=20, items=HOSTILE)
        text = read(run)
        for part in ("TorchRun", f"{name} of 8 parameters", HOSTILE[1][:30], "20 steps of 0.1"):
            assert part in text


def test_large_tasks_are_shown_in_short():
    task = dln.Task(np.random.default_rng(0).standard_normal((200, 3000)))
    page = task._repr_html_()
    assert len(page) < 4000 and "3,000" in page and "&hellip; (200)" in page
    assert f"{task.y[0, 0]:.4g}" in page
    assert len(read(dln.Run(dln.semantic_hierarchy()))) < 1000


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8")), st.text("<>&'\"/=! -ab"))
def test_no_text_becomes_markup(any_text, nearly):
    for given_text in (any_text, nearly):
        page = html.summary(given_text, {given_text: html.text(given_text)}) + html.grid(
            [given_text], [[given_text, given_text]]
        )
        reader = Reader(page)
        assert reader.tags <= TAGS and not reader.comments
        assert reader.attributes <= {("style", "text-align: left")}
        whole = Reader(html.line(given_text)).texts
        assert "".join(whole) == html.visible(given_text)
