import json
import shutil
from concurrent.futures import Executor, Future
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from dlnflow.lm import induction
from dlnflow.lm.branches import Crossing
from dlnflow.lm.data.spelling import special_ids
from dlnflow.lm.intervene import (
    Window,
    effects,
    intervene,
    pattern_rows,
    random_rows,
    sweep,
    windows,
)
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.train import load_data, train

ROWS = np.array([[2, 3, 4, 5, 6, 7], [2, 3, 2, 3, 2, 3], [2, 3, 9, 2, 3, 8], [0, 1, 0, 1, 0, 1]])
NEVER = Crossing(threshold=2.5, every=1)
"""A score that two heads cannot have, so that all runs go to their end."""


def test_rows_with_most_patterns_are_chosen():
    assert pattern_rows(ROWS, (0, 1)).tolist() == [1]  # special ids make no pattern
    assert pattern_rows(ROWS[[0, 2]], (0, 1)).tolist() == [1]


def test_weights_only_in_the_window():
    window = Window(5, 7, factor=3.0, special=(0, 1))
    assert window(4, ROWS).tolist() == window(7, ROWS).tolist() == [1, 1, 1, 1]
    assert window(5, ROWS).tolist() == window(6, ROWS).tolist() == [1, 3, 1, 1]


@pytest.mark.parametrize("n_rows", [1, 2, 4, 5, 16, 32])
def test_the_control_weighs_as_many_rows_by_the_same_factor(n_rows):
    rows = np.random.default_rng(n_rows).integers(2, 40, (n_rows, 12))
    window = Window(0, 9, factor=8.0)
    control = replace(window, rows="random")
    for step in range(9):
        assert sorted(control(step, rows)) == sorted(window(step, rows))
        assert control(step, rows).tolist() == control(step, rows).tolist()
    assert (control(9, rows) == 1).all()


def test_random_rows_are_any_rows_alike():
    """Each of 16 rows is drawn a quarter of the time, whichever have patterns; 4 sigma bounds."""
    rows = np.random.default_rng(0).integers(0, 100, (16, 12))
    rows[:4] = 5  # all patterns
    n = 3_000
    drawn = np.bincount(np.concatenate([random_rows(s, rows) for s in range(n)]), minlength=16)
    assert abs(drawn - n / 4).max() < 4 * np.sqrt(n * 3 / 16)
    again = [random_rows(7, rows).tolist() for _ in range(2)]
    assert again[0] == again[1] != random_rows(7, rows + 1).tolist()


def test_windows_from_a_curve():
    steps = [0, 100, 200, 300]
    found = windows(steps, [0.0, 0.0, -1.0, -0.5], factor=2.0)
    assert found["during"] == Window(110, 150, 2.0)
    assert found["before"] == Window(70, 110, 2.0)
    assert found["after"] == Window(150, 190, 2.0)
    longer = windows(steps, [0.0, 0.0, -1.0, -0.5], length=60)
    expected = {"before": Window(50, 110), "during": Window(110, 170), "after": Window(170, 230)}
    assert longer == expected
    with pytest.raises(ValueError, match="`length` must be a whole number >= 1"):
        windows(steps, [0.0, 0.0, -1.0, -0.5], length=0)
    with pytest.raises(ValueError, match="nowhere negative"):
        windows(steps, [0.0, 0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="add earlier"):
        windows(steps, [-1.0, -1.0, -1.0, -1.0])
    assert windows([*steps, 900], [0.0, 0.0, -1.0, -0.5, np.nan], length=60) == longer
    with pytest.raises(ValueError, match=r"at steps \[100\] it is not"):
        windows([0, 100, 200, 300], [0.0, np.nan, -1.0, -0.5])
    with pytest.raises(ValueError, match="`steps` must increase"):
        windows(steps[::-1], [0.0, 0.0, -1.0, -0.5])


def test_a_sweep_varies_one_window():
    found = sweep({"early": Window(1, 3), "late": Window(3, 5)}, [2.0], of="early")
    assert found == {
        "early": Window(1, 3),
        "late": Window(3, 5),
        "early-x2": Window(1, 3, 2.0),
        "random": Window(1, 3, rows="random"),
    }
    with pytest.raises(ValueError, match="`of` must be one of early; got 'before'"):
        sweep({"early": Window(1, 3)})


def test_bad_windows(tiny, tmp_path):
    with pytest.raises(ValueError, match="0 <= start < stop"):
        Window(5, 5)
    with pytest.raises(ValueError, match="`start` must be a whole number"):
        Window(0.5, 5)
    with pytest.raises(ValueError, match="`factor`"):
        Window(5, 6, factor=0.0)
    with pytest.raises(ValueError, match="`rows` must be one of patterns, random"):
        Window(5, 6, rows="pattern")
    with pytest.raises(ValueError, match="the run without a window"):
        intervene(tiny[0], tmp_path, {"never": Window(1, 2)})
    with pytest.raises(ValueError, match="`every` must be a whole number >= 1"):
        Crossing(every=0)


@pytest.mark.parametrize("window", [Window(5, 9), Window(8, 10, rows="random"), Window(0, 3)])
def test_a_branch_has_the_bits_of_a_run_from_step_0(tiny, tmp_path, window):
    """States are at 0, 4 and 8; the plain run is trained in one piece and measured afterwards."""
    settings, folder, ladder = tiny
    data = load_data(folder)
    window = replace(window, special=special_ids(data.tokenizer))
    found = intervene(
        settings, tmp_path, {"w": window}, seeds=[0], transition=NEVER, data=data
    ).sel(seed=0)
    plain = train(settings, tmp_path / "plain", data=data, weigh=window)
    branch, start = tmp_path / "w-seed0", window.start // 4 * 4  # of the state it starts from
    losses = [np.load(run / "losses.npy") for run in (branch, tmp_path / "plain")]
    assert losses[0].tobytes() == losses[1].tobytes()
    own = Checkpoints.from_directory(branch)
    later = [step for step in ladder.steps if step > start or not start]
    assert own.steps.tolist() == later
    assert own.hashes == plain.select(later).hashes
    assert Checkpoints.from_directory(tmp_path / "never-seed0").hashes == ladder.hashes
    probe = induction.repeated_sequences(
        data.training.counts, period=16, disjoint=False, special=special_ids(data.tokenizer)
    )
    for name, run in (("never", ladder), ("w", plain)):
        expected = induction.measure(run, probe).layer_induction.max("layer")
        np.testing.assert_array_equal(found.score.sel(window=name, time=run.steps), expected)


def test_runs_differ_after_their_window_opens(tiny, tmp_path):
    settings, folder, _ = tiny
    choices = {"early": Window(1, 3), "late": Window(8, 12)}
    options = {"seeds": [0, 1], "transition": NEVER, "data": load_data(folder)}
    found = intervene(settings, tmp_path, choices, **options)
    assert found.score.dims == ("window", "seed", "time")
    assert found.time.values.tolist() == [*range(13)]
    never, late, early = (found.score.sel(window=w).values for w in ("never", "late", "early"))
    assert (late[:, :9] == never[:, :9]).all() and (late[:, 9:] != never[:, 9:]).all()
    assert (early[:, :2] == never[:, :2]).all() and (early[:, 2:] != never[:, 2:]).all()
    assert not (never[0] == never[1]).any()
    assert np.isnan(found.crossing).all() and np.isnan(found["shift"]).all()
    assert found.start.sel(window="late").values.tolist() == [8, 8]
    again = intervene(settings, tmp_path, choices, **options)
    assert again.identical(found)


def test_shifts_are_those_of_the_crossings_and_branches_end_soon_after(tiny, tmp_path):
    """The threshold is one that this run passes for the first time between steps 6 and 7."""
    settings, folder, _ = tiny
    data, choices = load_data(folder), {"early": Window(1, 5), "late": Window(8, 12)}
    whole = intervene(settings, tmp_path / "a", choices, seeds=[0], transition=NEVER, data=data)
    never = whole.score.sel(window="never", seed=0).values
    highest = np.maximum.accumulate(never)
    at = int(np.flatnonzero(np.diff(highest) > 0)[-1])
    threshold = (never[at + 1] + highest[at]) / 2
    transition = Crossing(threshold, every=1, beyond=1)
    found = intervene(
        settings, tmp_path / "b", choices, seeds=[0], transition=transition, data=data
    )
    crossed = at + (threshold - never[at]) / (never[at + 1] - never[at])
    assert found.crossing.sel(window="never").item() == pytest.approx(crossed)
    for name in ("early", "late"):
        measured = found.score.sel(window=name, seed=0).dropna("time")
        full = whole.score.sel(window=name, seed=0)
        assert (measured == full.sel(time=measured.time)).all()
        own = induction.crossing(full.time, full, threshold)
        np.testing.assert_equal(found.crossing.sel(window=name).item(), own)
        shift = found["shift"].sel(window=name).item()
        np.testing.assert_equal(shift, own - found.crossing.sel(window="never").item())
        if np.isfinite(own):
            start = choices[name].start // 4 * 4
            assert measured.time[-1] == max(np.ceil(own + 1), start)


def test_what_is_late_is_not_trained(tiny, tmp_path):
    settings, folder, _ = tiny
    choices = {"all": Window(0, 12), "late": Window(9, 12), "over": Window(12, 20)}
    options = {"seeds": [0], "transition": Crossing(0.0, every=1, beyond=0)}
    with pytest.warns(UserWarning, match="over begin at or after the end of the run"):
        found = intervene(settings, tmp_path, choices, data=load_data(folder), **options)
    assert (found.crossing == 0).all() and (found["shift"] == 0).all()
    assert len(np.load(tmp_path / "never-seed0" / "losses.npy")) == 12
    for name in ("all", "late", "over"):
        assert not (tmp_path / f"{name}-seed0" / "settings.json").exists()


def test_a_window_after_the_end_is_no_error(tiny, tmp_path):
    settings, folder, _ = tiny
    options = {"seeds": [0], "transition": NEVER, "data": load_data(folder)}
    with pytest.warns(UserWarning, match=r"over begin at or after the end of the run, 12 "):
        found = intervene(settings, tmp_path, {"over": Window(12, 20)}, **options)
    score = found.score.values
    assert score[1].tolist() == score[0].tolist()
    with pytest.warns(UserWarning, match="no effect"):
        again = intervene(settings, tmp_path, {"over": Window(12, 20)}, **options)
    assert again.identical(found)


class Elsewhere(Executor):
    """Runs jobs at once, as a process whose number of threads is its own."""

    def __init__(self):
        self.seen = []

    def submit(self, fn, /, *args, **kwargs):
        here, done = torch.get_num_threads(), Future()
        torch.set_num_threads(here + 1)
        try:
            done.set_result(fn(*args, **kwargs))
            self.seen.append(torch.get_num_threads() - here)
        finally:
            torch.set_num_threads(here)
        return done


def test_runs_elsewhere_have_as_many_threads_as_here(tiny, tmp_path):
    """Bits depend on it, and processes that share the cores would wait for each other."""
    settings, folder, _ = tiny
    executor, choices = Elsewhere(), {"w": Window(0, 3)}
    options = {"seeds": [0], "transition": NEVER, "data": load_data(folder)}
    found = intervene(settings, tmp_path / "a", choices, **options, executor=executor)
    assert executor.seen == [0, 0]
    assert found.identical(intervene(settings, tmp_path / "b", choices, **options))


def test_interrupted_runs_go_on_with_the_same_bits(tiny, tmp_path, monkeypatch):
    settings, folder, _ = tiny
    options = {"seeds": [0], "transition": NEVER, "data": load_data(folder)}
    whole = intervene(settings, tmp_path / "a", {"w": Window(6, 9)}, **options)
    measured, scores = [], induction.scores

    def fails(*args):
        measured.append(args)
        if len(measured) in (7, 11, 17):  # in the run, again in it, and in the branch
            raise KeyboardInterrupt
        return scores(*args)

    monkeypatch.setattr(induction, "scores", fails)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            intervene(settings, tmp_path / "b", {"w": Window(6, 9)}, **options)
    assert intervene(settings, tmp_path / "b", {"w": Window(6, 9)}, **options).identical(whole)
    for name in ("never-seed0", "w-seed0"):
        a, b = (np.load(tmp_path / run / name / "losses.npy") for run in "ab")
        assert a.tobytes() == b.tobytes()


def test_a_branch_without_a_kept_state_starts_from_step_0(tiny, tmp_path):
    settings, folder, _ = tiny
    options = {"seeds": [0], "transition": NEVER, "data": load_data(folder)}
    found = intervene(settings, tmp_path, {"w": Window(6, 9)}, **options)
    shutil.rmtree(tmp_path / "w-seed0")
    for state in (tmp_path / "never-seed0").glob("state-*.pt"):
        state.unlink()
    assert intervene(settings, tmp_path, {"w": Window(6, 9)}, **options).identical(found)


def test_folders_of_other_runs_are_refused(tiny, tmp_path):
    settings, folder, _ = tiny
    options = {"seeds": [0], "data": load_data(folder)}

    def again(window, every=4):
        intervene(settings, tmp_path, {"w": window}, transition=Crossing(every=every), **options)

    again(Window(8, 12))
    again(Window(8, 12))
    with pytest.raises(ValueError, match="another window"):
        again(Window(7, 12))
    with pytest.raises(ValueError, match="another window"):
        again(Window(8, 12, rows="random"))
    with pytest.raises(ValueError, match="measured every 4 steps; `transition` asks for every 2"):
        again(Window(8, 12), every=2)
    (tmp_path / "w-seed0" / "window.json").rename(tmp_path / "kept")
    with pytest.raises(ValueError, match=r"w-seed0 is damaged \(no window\.json\)\. Delete"):
        again(Window(8, 12))
    (tmp_path / "kept").rename(tmp_path / "w-seed0" / "window.json")
    scores = json.loads((tmp_path / "w-seed0" / "scores.json").read_text())
    (tmp_path / "w-seed0" / "scores.json").write_text(json.dumps(scores | {"scores": []}))
    with pytest.raises(ValueError, match=r"scores\.json is damaged \(not one score per step"):
        again(Window(8, 12))
    (tmp_path / "w-seed0" / "scores.json").write_text("[")
    with pytest.raises(ValueError, match=r"scores\.json is damaged.*Delete .*w-seed0"):
        again(Window(8, 12))
    (tmp_path / "w-seed0" / "scores.json").unlink()
    with pytest.raises(ValueError, match=r"no scores\.json.*earlier versions\. Use another folder"):
        again(Window(8, 12))


def test_scores_that_do_not_exist_are_no_crossing(tmp_path):
    scores = xr.DataArray([0.1, np.nan, 0.5], {"time": [0, 10, 20]}, ("time",))
    assert Crossing(0.3).step(scores) == pytest.approx(10)
    assert np.isnan(Crossing(0.6).step(scores))


def shifts(**values):
    seeds = [*range(len(next(iter(values.values()))))]
    rows = {"never": [0.0] * len(seeds)} | values
    return xr.Dataset(
        {
            "shift": (("window", "seed"), list(rows.values())),
            "start": (("window", "seed"), np.full((len(rows), len(seeds)), 100.0)),
            "stop": (("window", "seed"), np.full((len(rows), len(seeds)), 150.0)),
        },
        coords={"window": list(rows), "seed": seeds},
    )


@pytest.mark.parametrize("wrong", [[0.1, 0.5], xr.DataArray([0.1, 0.5], dims="time"), None])
def test_a_step_needs_scores_over_time(wrong):
    with pytest.raises(ValueError, match=r"^`scores` must be a DataArray over time"):
        Crossing().step(wrong)


def test_windows_are_what_a_file_can_hold(tmp_path):
    """Numbers of numpy and lists were taken, and failed when the folder had been made."""
    window = Window(np.int64(1), 3.0, np.float32(2), special=[np.int32(4), 5])
    assert window == Window(1, 3, 2.0, (4, 5)) and hash(window)
    assert json.loads(json.dumps(window.record()))["special"] == [4, 5]
    for wrong in ("ab", (1.5,), (-1,), (True,)):
        with pytest.raises(ValueError, match=r"^`special` must be ids"):
            Window(0, 5, special=wrong)


STEPS, CURVE = [0, 10, 20, 30], [0, -0.1, -0.5, -1]


@pytest.mark.parametrize(
    ("steps", "curve", "words"),
    [
        ([*"abcd"], CURVE, "`steps` must be numeric"),
        ([-10, 0, 10, 20], CURVE, "`steps` must be >= 0"),
        (STEPS, [*"abcd"], "`influence` must be numeric"),
        (STEPS, [0, -0.1, -np.inf, -1], r"`influence` must be finite .* steps \[20"),
    ],
)
def test_windows_need_a_curve(steps, curve, words):
    """An infinite influence made a window of one step."""
    with pytest.raises(ValueError, match=words):
        windows(steps, curve)


@pytest.mark.parametrize(
    ("choices", "factors", "words"),
    [
        ({}, (2.0, 2.0), "`factors` must list different numbers"),
        ({}, (2.0, 2.0 + 1e-9), "`factors` must differ in six digits"),
        ({}, "28", "`factors`"),
        ({"random": Window(3, 4)}, (2.0,), "another window called 'random'; rename yours"),
        ({"before-x2": Window(3, 4)}, (2.0,), "another window called 'before-x2'"),
        ({"late": (3, 4)}, (2.0,), "`choices` 'late' must be a Window"),
    ],
)
def test_no_window_of_a_sweep_is_lost(choices, factors, words):
    """Two of one name became one, and a window of a control's name was replaced."""
    with pytest.raises(ValueError, match=words):
        sweep({"before": Window(0, 5)} | choices, factors)
    again = sweep(sweep({"before": Window(0, 5)}, 2.0), [8.0])
    assert list(again) == ["before", "before-x2", "random", "before-x8"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        *(({"choices": {name: Window(1, 2)}}, "`choices`") for name in ("../x", "a/b", "\0", 1)),
        ({"choices": [Window(1, 2)]}, "`choices` must map"),
        *(({"seeds": s}, "`seeds`") for s in ((), (0, 0), (1.5,), (True,), "01", (-1,), None)),
        ({"transition": 0.3}, "`transition` must be a Crossing"),
    ],
)
def test_runs_that_cannot_be_named_are_refused_before_work(tiny, tmp_path, wrong, words):
    """A name with a slash left the folder of the runs."""
    options = {"choices": {"w": Window(1, 2)}} | wrong
    with pytest.raises(ValueError, match=words):
        intervene(tiny[0], tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_effects_are_of_a_whole_result_without_repeats():
    """Seeds that stood twice made intervals too narrow, without a word."""
    found = shifts(before=[-4.0, -3.0, -2.0])
    twice = xr.concat([found, found], "seed")
    with pytest.raises(ValueError, match=r"every seed once, at least one; got \[0, 1, 2, 0"):
        effects(twice)
    with pytest.raises(ValueError, match="every window once"):
        effects(xr.concat([found, found], "window"))
    with pytest.raises(ValueError, match='the window "never"'):
        effects(found.sel(window=["before"]))
    for wrong in (found["shift"], found.drop_vars("stop"), found.isel(seed=0), {}, None):
        with pytest.raises(ValueError, match=r"^`result` must be a Dataset with shift"):
            effects(wrong)


def test_effects_are_those_of_a_t_test():
    before, random = [-40.0, -31.0, -12.0, -55.0, -20.0], [3.0, -8.0, 10.0, 1.0, -2.0]
    found = effects(shifts(before=before, random=random))
    expected = stats.ttest_1samp(before, 0).confidence_interval(0.95)
    steps = found.sel(window="before", unit="steps")
    assert float(steps["mean"]) == pytest.approx(np.mean(before))
    assert [float(steps.low), float(steps.high)] == pytest.approx([*expected])
    relative = found.sel(window="before", unit="windows")
    assert float(relative.high) == pytest.approx(expected.high / 50)
    paired = effects(shifts(before=before, random=random), against="random", level=0.9)
    expected = stats.ttest_rel(before, random).confidence_interval(0.9)
    one = paired.sel(window="before", unit="steps")
    assert [float(one.low), float(one.high)] == pytest.approx([*expected])
    with pytest.raises(ValueError, match="`against` must be one of before, random"):
        effects(shifts(before=before, random=random), against="never")


def test_effects_leave_out_seeds_without_a_transition():
    found = effects(shifts(before=[-40.0, np.nan, -20.0], late=[np.nan, np.nan, 3.0]))
    assert found.n.values.tolist() == [2, 1]
    expected = stats.ttest_1samp([-40.0, -20.0], 0).confidence_interval(0.95)
    assert float(found.low.sel(window="before", unit="steps")) == pytest.approx(expected.low)
    assert np.isnan(found.low.sel(window="late")).all()
    assert found["mean"].sel(window="late", unit="steps") == 3.0


def test_training_can_be_watched_and_ended(tiny, tmp_path):
    settings, folder, ladder = tiny
    seen = []

    def watch(step, model):
        assert (tmp_path / f"step{step}").exists() or step not in ladder.steps
        seen.append((step, float(model.lm_head.weight.detach().sum())))
        return step == 6

    ended = train(settings, tmp_path, data=load_data(folder), watch=watch)
    assert [step for step, _ in seen] == [*range(7)]
    assert ended.steps.tolist() == [0, 1, 2, 4, 6]
    train(settings, tmp_path, data=load_data(folder), watch=watch)
    assert seen[7:] == seen[6:7]
    rest = train(settings, tmp_path, data=load_data(folder), watch=lambda step, model: False)
    assert rest.hashes[-1] == ladder.hashes[-1]
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record["n_steps"] == settings.n_steps
