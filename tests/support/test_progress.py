"""Bars: one at a time, only on a terminal, only for long work, and for every long step."""

import io

import numpy as np
import pytest

import dlnflow as dln
from dlnflow import plots
from dlnflow._support import Progress, each, progress
from dlnflow.analysis import explain_events


class Screen(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self):
        return True


def terminal(monkeypatch):
    """A terminal, on which all work is long; not a fixture, as pytest sets streams after those."""
    monkeypatch.setattr(progress, "DELAY_SECONDS", -1.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", screen := Screen())
    return screen


def test_parts_are_all_yielded_and_counted(monkeypatch):
    screen = terminal(monkeypatch)
    assert list(each(range(5), "work at hand")) == [0, 1, 2, 3, 4]
    assert "work at hand" in screen.getvalue() and "100%" in screen.getvalue()
    assert not Progress.shown


def test_bars_inside_each_other_are_one(monkeypatch):
    screen = terminal(monkeypatch)
    with Progress(2, "outer") as bar:
        bar.advance()
        list(each("cd", "inner"))
        bar.advance()
    assert "outer" in screen.getvalue() and "inner" not in screen.getvalue()
    list(each("ef", "after"))
    assert "after" in screen.getvalue()


def test_an_interrupted_bar_is_gone(monkeypatch):
    terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), Progress(4, "work") as bar:
        bar.advance()
        assert Progress.shown
        raise KeyboardInterrupt
    assert not Progress.shown


def test_short_work_and_files_show_nothing(monkeypatch, capsys):
    list(each(range(3), "short"))
    monkeypatch.setattr(progress, "DELAY_SECONDS", -1.0)
    list(each(range(3), "into a file"))
    assert capsys.readouterr().err == ""


RNG = np.random.default_rng(0)
SMALL = dln.Run(dln.semantic_hierarchy(), hidden=8, n_steps=300, learning_rate=0.05)
INPUTS = np.linalg.qr(RNG.standard_normal((6, 6)))[0][:5]
GENERAL = dln.Run(
    dln.Task(RNG.standard_normal((4, 6)), INPUTS), hidden=8, n_steps=300, learning_rate=0.05
)
STEPS = [100, 200, 300]
CURVES = dln.influence.analytic(SMALL, STEPS)
LONG = {
    "analytic": lambda _: dln.influence.analytic(SMALL, STEPS),
    "analytic, any targets": lambda _: dln.influence.analytic(GENERAL, STEPS),
    "events": lambda _: dln.events(CURVES),
    "explain_events": lambda _: explain_events(SMALL),
    "save_figure": lambda path: plots.save_figure(plots.overview(CURVES), path / "figure"),
} | {
    name: lambda _, name=name: dln.ESTIMATORS[name](SMALL, STEPS)
    for name in dln.ESTIMATORS
    if name not in ("analytic", "bif")
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LONG)
def test_every_step_that_can_be_long_counts_its_parts(name, tmp_path, monkeypatch):
    bars = []
    begin = Progress.__init__

    def noted(self, total, description):
        begin(self, total, description)
        bars.append(self)

    monkeypatch.setattr(Progress, "__init__", noted)
    LONG[name](tmp_path)
    assert bars
    assert all(bar.done == bar.total > 0 for bar in bars), [(b.done, b.total) for b in bars]
