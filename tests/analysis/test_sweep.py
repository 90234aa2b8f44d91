"""The grid: scores, resuming, keys that tell runs apart, refused settings."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

import dlnflow as dln
from dlnflow.sampling import sweep
from dlnflow.traces import llc

SHORT = {"draws": 40, "burn_in": 20, "chains": 2}
GRID = {"n_beta": [1e3, 1e4], "step_size": [1e-6, 1e3]}


@pytest.fixture(scope="module")
def run():
    return dln.Run(dln.semantic_hierarchy(3), hidden=6, init_std=0.05)


STEPS = [50, 150, 300, 500]


def test_scores_and_refused_settings(run, tmp_path):
    table = sweep(run, STEPS, GRID, tmp_path, kernel="sgld", **SHORT)
    assert len(table) == 4 and len(list(tmp_path.glob("*.json"))) == 4
    refused = table.step_size == 1e3
    assert table[refused]["error"].str.contains("beyond stability").all()
    for name in ("leave_one_out", "windowed", "tangent"):
        assert table[~refused][name].between(-1, 1).all()
    first = table[~refused].iloc[0]
    found = dln.influence.bif(
        run, STEPS, n_beta=first.n_beta, step_size=first.step_size, kernel="sgld", **SHORT
    ).values
    truth = dln.influence.leave_one_out(run, STEPS).values
    pooled = np.corrcoef(found.ravel(), truth.ravel())[0, 1]
    assert first.leave_one_out_pooled == pytest.approx(pooled)
    pairs = [np.corrcoef(found[:, q, i], truth[:, q, i])[0, 1] for q in range(4) for i in range(4)]
    assert first.leave_one_out == pytest.approx(np.median(pairs))


def test_a_second_call_reads_the_files(run, tmp_path, monkeypatch):
    grid = {"localization": [1e3, 1e5]}
    first = sweep(run, STEPS, grid, tmp_path, **SHORT)
    module = sys.modules["dlnflow.analysis.sweep"]
    monkeypatch.setattr(module, "_score", lambda *_: pytest.fail("ran again"))
    again = sweep(run, STEPS, grid, tmp_path, **SHORT)
    assert first.equals(again)


def test_another_run_never_answers_from_the_same_folder(run, tmp_path):
    """Elsewhere a cache keyed by its path returned the first run's losses."""
    grid = {"localization": [1e4]}
    other_data = dln.Task(run.task.y * 2, items=run.task.items)
    other = dln.Run(
        other_data, hidden=6, init_std=0.05, learning_rate=run.learning_rate, n_steps=run.n_steps
    )
    a, b = (sweep(r, STEPS, grid, tmp_path, **SHORT) for r in (run, other))
    assert len(list(tmp_path.glob("*.json"))) == 2 and not a.equals(b)


def test_any_executor_gives_the_same_table(run, tmp_path):
    grid = {"localization": [1e3, 1e4, 1e5]}
    with ThreadPoolExecutor(2) as pool:
        a = sweep(run, STEPS, grid, tmp_path / "a", executor=pool, **SHORT)
    b = sweep(run, STEPS, grid, tmp_path / "b", **SHORT)
    assert a.equals(b)


def test_kernel_axes_and_array_references(run, tmp_path):
    truth = dln.influence.tangent(run, STEPS)
    table = sweep(
        run,
        STEPS,
        {"stability": [0.1, 1.0]},
        tmp_path,
        references=[truth],
        kernel="rmsprop_sgld",
        step_size=1e-5,
        normalised=True,
        **SHORT,
    )
    assert {"tangent", "tangent_pooled"} <= set(table) and "leave_one_out" not in table
    rows = [json.loads(p.read_text()) for p in tmp_path.glob("*.json")]
    assert {row["stability"] for row in rows} == {0.1, 1.0}


@pytest.mark.parametrize("text", ["", '{"localiz', "[1, 2]", "{}", "null"])
def test_a_damaged_file_is_computed_again(run, tmp_path, text):
    grid = {"localization": [1e3, 1e5]}
    truth = dln.influence.tangent(run, STEPS)
    first = sweep(run, STEPS, grid, tmp_path, references=[truth], **SHORT)
    next(iter(tmp_path.glob("*.json"))).write_text(text)
    assert sweep(run, STEPS, grid, tmp_path, references=[truth], **SHORT).equals(first)


def test_references_are_matched_by_their_labels(run, tmp_path):
    grid, truth = {"localization": [1e5]}, dln.influence.tangent(run, [*STEPS, 600])
    plain = sweep(run, STEPS, grid, tmp_path / "a", references=["tangent"], **SHORT)
    turned = sweep(run, STEPS, grid, tmp_path / "b", references=[truth[:, ::-1, ::-1]], **SHORT)
    pd.testing.assert_frame_equal(plain, turned)
    with pytest.raises(ValueError, match=r"lacks 3 of 4 labels .* `time`, the first is 50"):
        sweep(run, STEPS, grid, tmp_path, references=[truth.sel(time=[150])], **SHORT)
    with pytest.raises(ValueError, match="on `train`"):
        sweep(run, STEPS, grid, tmp_path, references=[truth[:, :, :2]], **SHORT)
    one = run.task.items[1]
    part = sweep(run, STEPS, grid, tmp_path, references=[truth], query=[one], **SHORT)
    assert np.isfinite(part.tangent).all()


def test_references_have_different_names(run, tmp_path):
    grid = {"localization": [1e5]}
    short, long = (dln.influence.windowed(run, STEPS, window=w) for w in (10, 100))
    with pytest.raises(ValueError, match="two `references` are named 'windowed'"):
        sweep(run, STEPS, grid, tmp_path, references=[short, long], **SHORT)
    table = sweep(run, STEPS, grid, tmp_path, references={"short": short, "long": long}, **SHORT)
    assert {"short", "long", "short_pooled", "long_pooled"} <= set(table)
    with pytest.raises(ValueError, match="Did you mean 'tangent'"):
        sweep(run, STEPS, grid, tmp_path, references=["tangnet"], **SHORT)
    both = dln.influence.windowed(run, STEPS, window=[10, 100])
    with pytest.raises(ValueError, match="has the dims window"):
        sweep(run, STEPS, grid, tmp_path, references=[both], **SHORT)


def test_a_file_is_no_folder(run, tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(ValueError, match=r"`folder` .* is a file"):
        sweep(run, STEPS, {"localization": [1e5]}, tmp_path / "a", references=["tangent"])


@pytest.mark.filterwarnings("ignore::UserWarning")  # some change the target, and say so
@pytest.mark.parametrize(
    ("kernel", "axis"),
    [
        ("sgld", {"noise_scale": [0.5, 1.0]}),
        ("sgld", {"box": [0.01, None]}),
        ("underdamped", {"persistence": [0.0, 0.5]}),
    ],
)
def test_every_option_of_a_kernel_is_an_axis(run, tmp_path, kernel, axis):
    truth = dln.influence.tangent(run, STEPS)
    table = sweep(run, STEPS, axis, tmp_path, references=[truth], kernel=kernel, **SHORT)
    assert "error" not in table and table["tangent"].nunique() == 2


def test_options_that_nobody_takes_are_an_error_of_the_row(run, tmp_path):
    truth = dln.influence.tangent(run, STEPS)
    table = sweep(run, STEPS, {"stabilty": [0.1]}, tmp_path, references=[truth], **SHORT)
    assert table["error"].str.contains("does not take the option.*stabilty").all()


@pytest.mark.parametrize("grid", [{}, {"n_beta": []}, {"n_beta": 3.0}, {"kernel": "sgld"}])
def test_empty_grids(run, tmp_path, grid):
    with pytest.raises(ValueError, match="`grid`"):
        sweep(run, STEPS, grid, tmp_path)


def test_an_option_is_swept_or_fixed(run, tmp_path):
    with pytest.raises(ValueError, match="`n_beta` is both"):
        sweep(run, STEPS, {"n_beta": [1.0]}, tmp_path, n_beta=2.0)


def test_what_gives_no_score_is_refused(run, tmp_path):
    """Over two checkpoints every score was missing, without a word."""
    with pytest.raises(ValueError, match="`steps` must list 3 checkpoints or more"):
        sweep(run, STEPS[:2], {"n_beta": [1.0]}, tmp_path)
    with pytest.raises(ValueError, match="`coefficient_at` is one step of all settings"):
        sweep(run, STEPS, {"coefficient_at": [50]}, tmp_path)
    with pytest.raises(ValueError, match="`coefficient_at` must be a whole number"):
        sweep(run, STEPS, {"n_beta": [1.0]}, tmp_path, coefficient_at="last")


def test_a_sweep_trains_once_per_run_and_set_of_steps(run, tmp_path, monkeypatch):
    from dlnflow.sampling import suggested

    truth = dln.influence.tangent(run, STEPS)
    trained, train = [], dln.Run.train
    monkeypatch.setattr(dln.Run, "train", lambda r, s: trained.append(r) or train(r, s))
    suggested._trained.cache_clear()
    grid = {"localization": [1e3, 1e4, 1e5]}
    for r in (run, dln.Run(run.task, hidden=7, init_std=0.05, n_steps=run.n_steps)):
        sweep(r, STEPS, grid, tmp_path, references=[truth], **SHORT)
    assert len(trained) == 4 and trained[0] is trained[1] is not trained[2]


def test_a_learning_coefficient_is_estimated_beside_the_scores(run, tmp_path):
    grid, last = {"n_beta": [1e3], "step_size": [1e-5, 1e3]}, run.n_steps
    about = {"kernel": "sgld", "references": ["tangent"], **SHORT}
    table = sweep(run, STEPS, grid, tmp_path, coefficient_at=last, **about)
    given = {"n_beta": 1e3, "step_size": 1e-5, "kernel": "sgld"} | SHORT
    found = llc(dln.sampling.trace_run(run, [last], **given))
    assert table.llc[0] == pytest.approx(float(found.llc[0]))
    assert table.llc_error[0] == pytest.approx(float(found.standard_error[0]))
    assert table.llc_verdict[0] == str(found.verdict.values[0])
    assert pd.isna(table.llc[1]) and "stability" in table.error[1]
    without = sweep(run, STEPS, grid, tmp_path, **about)
    assert "llc" not in without and len(list(tmp_path.glob("*.json"))) == 4
    with pytest.raises(ValueError, match="`coefficient_at` must be a step of the run"):
        sweep(run, STEPS, grid, tmp_path, coefficient_at=last + 1, **about)
