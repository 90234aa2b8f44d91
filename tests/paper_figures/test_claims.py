"""Every figure is drawn at quick scale; what it claims must agree with the stored expectations."""

import importlib
import json
from functools import cache

import numpy as np
import pytest
from typer.testing import CliRunner

from paper_figures import _claims, _data
from paper_figures.__main__ import TOY, app
from tests.tolerances import ALGEBRA


@cache
def claims(name):
    return importlib.import_module(f"paper_figures.{name}").draw(_data.Scale.quick)[1]


FIGURES = [
    pytest.param(name, marks=pytest.mark.slow) if name == "free_energy" else name
    for name in TOY.values()
]
"""Figure free_energy takes as long as most of the others together."""


@pytest.mark.parametrize("name", FIGURES)
def test_claims_hold(name):
    """One test for both: two could run in two processes, which would both draw the figure."""
    found = claims(name)
    assert _claims.failures(name, found) == []
    expected = json.loads((_claims.EXPECTED / f"{name}.json").read_text())
    assert set(expected) == set(found)
    assert np.all(np.isfinite(list(found.values())))


def test_a_wrong_claim_is_reported():
    name = "fig02_dataset"
    wrong = claims(name) | {"half_time.level1": 3.0}
    (problem,) = _claims.failures(name, wrong)
    assert "half_time.level1 is 3, expected 2.2" in problem
    missing = {k: v for k, v in claims(name).items() if k != "half_time.level1"}
    assert len(_claims.failures(name, missing)) == 1


def test_block_modes_start_from_their_own_strengths():
    """A mode that decouples grows from a0 as the closed form says, before others interfere."""
    modes = _data.block_modes(_data.Scale.quick)
    mean = 50 * 1e-6 / 2
    assert np.all((modes.a0 > 0.3 * mean) & (modes.a0 < 3 * mean))
    assert abs(modes.strength[-1] / modes.s - 1).max() < 2e-3
    assert modes.a0.sum() == pytest.approx(8 * mean, rel=0.4)


@pytest.mark.parametrize(
    ("item", "other", "kin"),
    [("dog", "dog", "self"), ("dog", "cat", "sibling"), ("cat", "sparrow", "cousin")]
    + [("penguin", "pine", "far"), ("daisy", "rose", "sibling"), ("oak", "rose", "cousin")],
)
def test_kinship(item, other, kin):
    assert _data.kinship(item, other) == _data.kinship(other, item) == kin


def test_half_times_are_ordered_and_near_theory():
    got = claims("fig02_dataset")
    for level in range(4):
        simulated, theory = got[f"half_time.level{level}"], got[f"half_time_theory.level{level}"]
        assert simulated == pytest.approx(theory, rel=0.02)
        # a0 = h std^2 / 2 on average; ln(s/a0 - 1) / 2s
        s = got[f"squared_strength.level{level}"] ** 0.5
        assert theory == pytest.approx(np.log(s / 2.5e-5) / (2 * s), rel=0.1)
    squares = [got[f"squared_strength.level{k}"] for k in range(4)]
    np.testing.assert_allclose(squares, [15, 7, 3, 1], rtol=100 * ALGEBRA)


def test_runner_writes_figures_and_claims(tmp_path):
    shown = CliRunner().invoke(app, ["toy", "--only", "2", "--out", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"fig02_dataset.{kind}" for kind in ("json", "pdf", "png", "svg")]
    written = json.loads((tmp_path / "fig02_dataset.json").read_text())
    assert written["scale"] == "quick" and set(written["claims"]) == set(claims("fig02_dataset"))


def test_two_processes_write_what_one_does(tmp_path):
    shown = CliRunner().invoke(app, ["toy", "--only", "1", "--only", "2", "--out", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    for name in ("fig01_phases", "fig02_dataset"):
        written = json.loads((tmp_path / f"{name}.json").read_text())["claims"]
        assert written == pytest.approx(claims(name), rel=1e-5)


def test_runner_fails_when_a_claim_does_not_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(_claims, "failures", lambda *_: ["fig02: something is off"])
    shown = CliRunner().invoke(app, ["toy", "--only", "2", "--out", str(tmp_path)])
    assert shown.exit_code == 1 and "something is off" in shown.output


def test_runner_refuses_unknown_figures(tmp_path):
    shown = CliRunner().invoke(app, ["toy", "--only", "5", "--out", str(tmp_path)])
    assert shown.exit_code == 2 and "no figure 5" in shown.output


def test_runner_takes_figures_by_name(tmp_path):
    shown = CliRunner().invoke(app, ["toy", "--only", "explain", "--out", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "explain_offset.png").exists()


def test_the_peak_moves_monotonically_with_the_removed_share():
    got = claims("explain_offset")
    for query in ("cat", "sparrow", "pine"):
        offsets = [got[f"removed {s:g}.{query}.peak_offset"] for s in (0.05, 0.25, 0.5, 0.75, 1)]
        assert offsets[0] > 0 and np.all(np.diff(offsets) > 0)
