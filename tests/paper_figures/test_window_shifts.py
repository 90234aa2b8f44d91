"""Figure 16: what is measured for a seed, and what follows from several."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dlnflow import lm
from dlnflow.lm.branches import Crossing
from dlnflow.lm.intervene import Window, intervene, sweep
from dlnflow.traces import groups
from paper_figures import _claims, fig16_intervention, window_shifts
from tests.lm.conftest import FIXED, TINY

NAMES = tuple(window_shifts.LABELS)
SHIFTS = {
    0: (-10.0, -22.0, -40.0, -51.0, 3.0, -5.0, 0.0),
    3: (-3.0, -20.0, -61.0, -80.0, -9.0, 0.0, 0.0),
}
LENGTHS = {0: 100, 3: 200}


def seed(number, shifts, length):
    """The record of a seed that crosses at 1,000, just before the window ends."""
    begins = {"earlier": -2 * length, "during": 0, "after": length}
    at = {n: 1_010 + begins.get(n, -length) for n in NAMES}
    crossing = {"never": 1_000.0} | {n: 1_000 + s for n, s in zip(NAMES, shifts, strict=True)}
    steps = np.arange(700, 1_300, 20)
    return {
        "seed": number,
        "curve": {
            "steps": [200, 900, 1_100, 1_400],
            "influence": [0, 0, -1, -2],
            "error": [0.1] * 4,
        },
        "windows": {n: [at[n], at[n] + length, 4.0, "patterns"] for n in NAMES},
        "crossing": crossing,
        "scores": {
            n: [[int(s), 0.3 + (s - at) / 1e3] for s in steps] for n, at in crossing.items()
        },
    }


@pytest.fixture(scope="module")
def seeds():
    found = [seed(number, SHIFTS[number], LENGTHS[number]) for number in SHIFTS]
    return [found[0], {"seed": 5, "crossing": None}, found[1]]


def test_claims_are_means_and_t_intervals_over_the_seeds_with_a_transition(seeds):
    found = window_shifts.claims(seeds)
    assert found["seeds"] == 2
    values = np.array([*SHIFTS.values()])
    for k, name in enumerate(NAMES):
        assert found[f"{name}.mean"] == pytest.approx(values[:, k].mean())
        relative = values[:, k] / [*LENGTHS.values()]
        assert found[f"{name}.of_its_length"] == pytest.approx(relative.mean())
    ends = stats.ttest_rel(values[:, 2], values[:, 4]).confidence_interval()
    assert found["before_minus_random.low"] == pytest.approx(ends.low)
    assert found["before_minus_random.high"] == pytest.approx(ends.high)


def test_one_seed_has_no_intervals(seeds):
    found = window_shifts.claims(seeds[:1])
    assert found["before.mean"] == -40 and "before.low" not in found


def test_the_figure_has_a_mark_for_each_seed_and_window(seeds):
    figure, found = fig16_intervention.show(seeds)
    assert found == window_shifts.claims(seeds)
    right = figure.axes[2]
    drawn = sorted(float(line.get_xdata()[0]) for line in right.lines if len(line.get_xdata()) == 1)
    expected = [v for row in SHIFTS.values() for v in row]
    expected += [float(np.mean(pair)) for pair in zip(*SHIFTS.values(), strict=True)]
    assert drawn == pytest.approx(sorted(expected))
    assert [t.get_text() for t in right.get_legend().texts] == ["seed 0", "seed 3"]


def test_the_table_names_seeds_without_a_transition(seeds):
    lines = window_shifts.table(seeds)
    assert lines[2] == "| 0 | 910, 1,010 | 1,000 | -10 | -22 | -40 | -51 | +3 | -5 | 0 |"
    assert lines[3].startswith("| 5 | | no transition |")
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[10].startswith("| before, 4 | 2 | -50 [")
    assert lines[14] == "| after, 4 | 2 | 0 [0, 0] | 0.00 [0.00, 0.00] |"


@pytest.fixture
def small(tmp_path_factory, monkeypatch):
    """A run of twelve steps that crosses at once."""
    text = tmp_path_factory.mktemp("text")
    for k in range(8):
        words = f"{k} jumps over the lazy fox, {7 * k + 3} quick brown wizards vex again"
        (text / f"{k}.txt").write_text(f"{words}\n" * 60)
    run = replace(TINY, corpus=str(text), vocab_size=270)
    monkeypatch.setattr(window_shifts, "settings", lambda seed: replace(run, seed=seed))
    monkeypatch.setattr(window_shifts, "TRANSITION", Crossing(0.0, every=2, beyond=0))
    return run


def test_a_seed_is_measured_with_the_windows_of_its_own_curve(small, tmp_path, monkeypatch):
    made = {"steps": [0, 4, 8, 12], "influence": [-0.5, -0.5, -1.5, -2.5], "error": [0.1] * 4}
    monkeypatch.setattr(window_shifts, "curve", lambda *_, **__: made)
    monkeypatch.setattr(window_shifts, "LENGTH", 3)
    found = window_shifts.measure(tmp_path / "a", 1, tell=lambda _: None)
    assert found["windows"]["during"] == [5, 8, 4.0, "patterns"]  # a tenth is passed at 4.8
    assert found["windows"]["random"] == [2, 5, 4.0, "random"]
    assert found["windows"]["earlier"] == [0, 2, 4.0, "patterns"]
    choices = {"earlier": Window(0, 2), "before": Window(2, 5), "during": Window(5, 8)}
    choices = sweep(choices | {"after": Window(8, 11)}, window_shifts.FACTORS)
    data = lm.train.load_data(tmp_path / "a" / "data")
    options = {"seeds": [1], "transition": window_shifts.TRANSITION, "data": data}
    direct = intervene(replace(small, seed=1), tmp_path / "b", choices, **options).sel(seed=1)
    assert found == {"seed": 1, "curve": made} | window_shifts.record(direct, choices)
    assert window_shifts.measure(tmp_path / "a", 1) == found  # kept


def test_a_seed_without_a_transition_has_no_windows(small, tmp_path, monkeypatch):
    monkeypatch.setattr(window_shifts, "TRANSITION", Crossing(2.5, every=4))
    found = window_shifts.measure(tmp_path, 1, tell=lambda _: None)
    assert found == {"seed": 1, "crossing": None}


def test_the_curve_is_that_of_groups_around_the_crossing(small, tmp_path, monkeypatch):
    for name, value in {
        "AROUND": (0, 4),
        "FIRST": 1,
        "EVERY": 4,
        "CHAINS": 2,
        "DRAWS": 6,
        "SEQUENCES": 2,
        "SAMPLER": FIXED | {"burn_in": 3, "thin": 1},
    }.items():
        monkeypatch.setattr(window_shifts, name, value)
    data = lm.train.prepare(small, tmp_path / "data")
    intervene(small, tmp_path, {}, seeds=[0], transition=window_shifts.TRANSITION, data=data)
    found = window_shifts.curve(tmp_path, 0, at=6.0, tell=lambda _: None)
    assert found["steps"] == [1, 4, 8, 12]
    traces, classes = lm.experiment.read(tmp_path / "never-seed0", tmp_path / "repeats-seed0")
    own = groups(traces, classes, exclude=("row", "token")).sel(query="repeated", train="repeated")
    assert found["influence"] == pytest.approx(own.values, rel=1e-4)
    assert found["error"] == pytest.approx(own.standard_error.values, rel=1e-4)


MEASURED = window_shifts.stored()


@pytest.mark.parametrize("one", MEASURED, ids=lambda one: f"seed {one['seed']}")
def test_stored_crossings_and_windows_follow_from_stored_scores_and_curves(one):
    for name, scores in one["scores"].items():
        steps, values = np.array(scores).T
        after = int(np.argmax(values >= 0.3))
        pair = slice(after - 1, after + 1)
        assert one["crossing"][name] == pytest.approx(
            np.interp(0.3, values[pair], steps[pair]), abs=1
        )
    rise = one["curve"]["influence"][0] - np.array(one["curve"]["influence"])
    begins = one["windows"]["during"][0]
    tenth = np.interp(begins, one["curve"]["steps"], rise)
    assert tenth == pytest.approx(rise.max() / 10, abs=0.01 * rise.max())
    begin = {name: window[0] for name, window in one["windows"].items()}
    assert {window[1] - window[0] for window in one["windows"].values()} == {300}
    assert begin["after"] - 300 == begins == begin["before"] + 300 == begin["earlier"] + 600
    assert begin["before"] == begin["before-x2"] == begin["before-x8"] == begin["random"]
    late = [name for name, start in begin.items() if start > one["crossing"]["never"]]
    assert all(one["crossing"][name] == one["crossing"]["never"] for name in late)


def test_the_page_has_the_stored_numbers():
    page = (Path(__file__).parents[2] / "docs" / "lm_figures.md").read_text(encoding="utf-8")
    assert "\n".join(window_shifts.table(MEASURED)) in page


def test_the_quick_scale_claims_what_is_stored_of_its_seed():
    first = [one for one in MEASURED if one["seed"] in fig16_intervention.SEEDS["quick"]]
    assert _claims.failures("fig16_intervention", window_shifts.claims(first)) == []
