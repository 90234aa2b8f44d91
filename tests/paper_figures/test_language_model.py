"""Language-model figures from small made-up results: they draw, and claim what went in."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from dlnflow import lm
from dlnflow.lm.data.batches import Observed
from dlnflow.lm.data.corpus import Corpus
from dlnflow.lm.data.token_classes import CLASSES
from dlnflow.lm.data.tokenizer import train_bpe
from dlnflow.lm.experiment import halves
from dlnflow.lm.runs.model import CONFIGURATIONS
from dlnflow.traces import groups, neighbours
from paper_figures import (
    _lm_data,
    fig05_classes,
    fig13_token_classes,
    fig14_neighbours,
    fig15_induction,
    fig16_intervention,
    fig17_lm_exact,
)
from paper_figures.__main__ import app
from paper_figures._data import Scale
from tests.traces.test_groups import make


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(Corpus("t", ("a document of many words, again and again",)), 300)


@pytest.fixture(scope="module")
def text():
    """Four rows of 13 targets; tokens of a class share their fluctuation."""
    rng = np.random.default_rng(0)
    members = np.arange(52)[:, None] % 6 == np.arange(6)
    cause = rng.standard_normal((3, 4, 60, 6)) @ members.T
    traces = make(cause + rng.standard_normal((3, 4, 60, 52)), np.repeat(np.arange(4), 13))
    classes = xr.DataArray(
        members, dims=("item", "token_class"), coords={"token_class": list(CLASSES)}
    )
    return traces, classes


def test_class_influence(text):
    traces, classes = text
    found = groups(traces, classes)
    figure, claims = fig05_classes.show(found, traces, -found)
    assert len(figure.axes) == 9  # six classes, one hidden, the companion and its twin
    assert claims["induction.induction.last"] == float(found[-1, 3, 3]) < -0.3
    assert claims["induction.other_ids.last"] == -float(found[-1, 3, 3])


def test_neighbours(text):
    found = neighbours(*text, k=5)
    figure, claims = fig14_neighbours.show(found, found)
    assert len(figure.axes) == 6
    assert claims["induction.last"] == claims["induction.other_ids"] > claims["induction.chance"]
    assert claims["induction.above_chance"] > 0
    assert "too few" in figure.axes[0].get_title()


def test_repeats():
    rng = np.random.default_rng(0)
    observed = Observed(np.tile(np.arange(12), (5, 1)))
    classes = halves(observed)
    member = classes.values[:, 1:, 0].reshape(-1)
    shared = rng.standard_normal((2, 4, 200, 1)) * np.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    values = shared * member + rng.standard_normal((2, 4, 200, 55))
    traces = make(values, np.repeat(np.arange(5), 11)).assign_coords(token=("item", np.arange(55)))
    scores = xr.Dataset(
        {"induction": (("time", "layer", "head"), [[[0.0, 0.1]], [[0.2, 0.9]]])},
        coords={"time": [0, 10]},
    )
    _, claims = fig15_induction.show(traces, classes, scores)
    assert claims["induction.last"] == 0.9
    for suffix in ("", ".differences"):
        for name in ("rise_in_errors", "above.repeated_other", "above.other_other"):
            assert claims[name + suffix] > 5


def test_marked_text():
    tokenizer = train_bpe(Corpus("t", (fig13_token_classes.TEXT,)), 300)
    figure, claims = fig13_token_classes.show(tokenizer, "foo(x)\n\n(foo")
    assert claims["formatting"] == 2
    assert claims["left_delimiter"] == 2
    assert len(figure.axes[0].patches) > claims["tokens"]


@pytest.fixture
def small_exact(monkeypatch, tmp_path):
    """The run of figure 17, but of eight steps, swept in this process."""
    for k in range(8):
        words = f"{k} jumps over the lazy fox, {7 * k + 3} quick brown wizards vex again"
        (tmp_path / f"{k}.txt").write_text(f"{words}\n" * 60)
    small = replace(
        fig17_lm_exact.RUNS[Scale.quick],
        corpus=str(tmp_path),
        vocab_size=270,
        layers=1,
        width=16,
        rows=4,
        context=32,
        n_steps=8,
        every=4,
    )
    monkeypatch.setitem(fig17_lm_exact.RUNS, Scale.quick, small)
    monkeypatch.setitem(fig17_lm_exact.TIMES, Scale.quick, ((3, 8), (6,)))
    monkeypatch.setitem(fig17_lm_exact.SINCE, Scale.quick, 2)
    monkeypatch.setattr(fig17_lm_exact, "BIN", 2)
    monkeypatch.setattr(_lm_data, "OUT", tmp_path / "out")
    monkeypatch.setattr(_lm_data, "pool", lambda: ThreadPoolExecutor(1))
    caches = fig17_lm_exact.trained, fig17_lm_exact.probe
    for one in caches:
        one.cache_clear()
    yield
    for one in caches:
        one.cache_clear()


def test_exact_influence_of_rows(small_exact):
    figure, claims = fig17_lm_exact.draw(Scale.quick)
    assert len(figure.axes) == 6  # five panels and a colour bar
    found = fig17_lm_exact.influence(Scale.quick)  # kept by now
    assert found.time.values.tolist() == [3, 6, 8] and found.step.values.tolist() == [*range(2, 8)]
    total = float(found.sel(time=8).sum())
    assert claims["total.planted"] + claims["total.other"] == pytest.approx(total)
    queries = {"loss": lm.queries.repeated_loss(fig17_lm_exact.probe(Scale.quick))}
    run = lm.TrainingRun.of(fig17_lm_exact.trained(Scale.quick), queries)
    later = np.arange(8)[:, None] >= 2
    along = run.along({"planted": later & run.planted, "other": later & ~run.planted}, [8])
    for kind in ("planted", "other"):
        assert claims[f"total.{kind}"] == pytest.approx(along.sel(train=kind).item(), rel=1e-3)


def test_its_run_is_trained_ahead(small_exact):
    (training,) = fig17_lm_exact.training(Scale.quick)
    folder = training()
    assert (folder / "step8").is_dir() and fig17_lm_exact.trained(Scale.quick) == folder


def test_seeds_that_are_measured_are_not_trained_again(monkeypatch, tmp_path):
    monkeypatch.setattr(_lm_data, "OUT", tmp_path)
    assert len(fig16_intervention.training(Scale.quick)) == 1
    (fig16_intervention.folder() / "seed0.json").write_text("{}")
    assert fig16_intervention.training(Scale.quick) == []


def test_runs_of_other_figures_are_trained_meanwhile(monkeypatch, tmp_path):
    made = tmp_path / "made"

    def waiting(scale):
        until = time.monotonic() + 60
        while not made.exists() and time.monotonic() < until:
            time.sleep(0.02)

    monkeypatch.setattr(_lm_data, "ladder", waiting)
    started = time.monotonic()
    _lm_data.train_together(_lm_data.LmScale.quick, [partial(Path.touch, made)])
    assert made.exists() and time.monotonic() - started < 60


def test_rows_whose_effects_are_too_large_to_predict_a_removal_are_left_out(monkeypatch):
    """Effects of alternating sign that grow tenfold with every step back, 0.01 for the last."""
    monkeypatch.setattr(fig17_lm_exact, "BIN", 1)
    sizes = np.array([10.0, 1.0, 0.11, 0.09, 0.01])
    values = sizes[:, None] * np.array([1.0, -1.0])
    influence = xr.DataArray(
        values[None, None],
        dims=("time", "query", "step", "row"),
        coords={"time": [5], "query": ["q"], "step": np.arange(5), "row": [0, 1]},
    ).assign_coords(planted=("row", [True, False]))
    assert fig17_lm_exact._first_within_reach(influence).values.tolist() == [3]
    scores = xr.Dataset(
        {"loss": (("time", "half"), np.ones((2, 2))), "score": (("time", "head"), [[0.0], [1.0]])},
        {"time": [0, 5], "half": ["first", "second"]},
    )
    monkeypatch.setattr(fig17_lm_exact, "rise", lambda _: (1.0, 2.0))
    _, claims = fig17_lm_exact.show(influence, scores, {})
    assert claims["reach"] == 2
    assert claims["total.planted"] == pytest.approx(0.1)


def test_paper_scale_reads_the_pile_with_pythias_tokenizer(monkeypatch, tmp_path, bpe):
    """The run of the paper scale, but small, from a streamed data set; no network."""
    import datasets

    rows = [{"text": f"document {k} of many words, again and again " * 9} for k in range(40)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(rows))
    asked = []
    monkeypatch.setattr(_lm_data, "load_tokenizer", lambda name: asked.append(name) or bpe)
    small = replace(
        CONFIGURATIONS["pythia-14m"],
        documents=30,
        layers=1,
        width=16,
        heads=2,
        context=32,
        rows=2,
        accumulate=1,
        n_steps=2,
        vocab_size=300,
        precision="fp32",
    )
    monkeypatch.setitem(CONFIGURATIONS, "pythia-14m", small)
    size = replace(_lm_data.SIZES[Scale.paper], device="cpu")
    monkeypatch.setitem(_lm_data.SIZES, Scale.paper, size)
    monkeypatch.setattr(_lm_data, "OUT", tmp_path)
    _lm_data.ladder.cache_clear()
    assert _lm_data.ladder(Scale.paper).steps.tolist() == [0, 1, 2]
    assert asked == ["EleutherAI/pythia-14m"]
    _lm_data.ladder.cache_clear()


def test_paper_scale_needs_its_device(monkeypatch, tmp_path):
    size = replace(_lm_data.SIZES[Scale.paper], device="cuda:77")
    monkeypatch.setitem(_lm_data.SIZES, Scale.paper, size)
    shown = CliRunner().invoke(app, ["lm", "--scale", "paper", "--out", str(tmp_path)])
    assert shown.exit_code == 2 and "cuda" in shown.stderr


def scored(steps, layer):
    return xr.Dataset(
        {"layer_induction": (("time", "layer"), np.stack([np.zeros(len(steps)), layer], 1))},
        coords={"time": steps},
    )


def test_checkpoints_are_dense_around_the_transition():
    steps = np.array([0, 1, 2, 4, 8, 16, 32, 64, *range(100, 2_001, 100)])
    score = 0.8 / (1 + np.exp(-(steps - 1_000) / 80))
    size = replace(_lm_data.SIZES["gpu"], steps=8)
    chosen = _lm_data.around(scored(steps, score), size)
    assert len(chosen) == 8 and chosen[0] >= 100 and chosen[-1] == 2_000
    inside = [k for k in chosen if 900 <= k <= 1_200]
    assert len(inside) == 4 and inside[0] == 900 and inside[-1] == 1_200
    told = []
    _lm_data.tell[:] = [told.append]
    even = _lm_data.around(scored(steps, np.zeros(len(steps))), size)
    assert even == [100, 400, 600, 900, 1_200, 1_500, 1_700, 2_000]
    assert "no induction head" in told[0]
    _lm_data.tell.clear()


def test_checkpoints_of_a_score_that_is_never_low():
    """Chance is more than a tenth of a circuit that has hardly formed."""
    steps = np.array([0, 1, 2, 4, 8, 16, 32, 64, *range(100, 2_001, 100)])
    chosen = _lm_data.around(scored(steps, 0.06 + steps / 2e4), _lm_data.SIZES["natural"])
    assert chosen == [100, 200, 300, 1_900, 2_000]


def test_checkpoints_of_a_score_that_rises_to_the_end():
    steps = np.array([0, *(2**k for k in range(7)), *range(100, 1_501, 100)])
    score = 0.8 / (1 + np.exp(-(steps - 1_300) / 100))
    for count in (3, 5, 7):
        size = replace(_lm_data.SIZES["twin"], steps=count)
        chosen = _lm_data.around(scored(steps, score), size)
        assert len(chosen) == count and chosen[0] >= 75 and chosen == sorted(set(chosen))
        assert chosen[-1] == (1_500 if count > 3 else 1_300)


def test_settings_of_a_scale():
    given = ["text=/data", "device=cpu", "draws=9", "checkpoints=4", "layers=2", "thin=3"]
    size = _lm_data.with_settings(_lm_data.LmScale.gpu, [*given, "step_size=1e-6", "chains=2"])
    assert size.changes["corpus"] == "/data" and size.changes["layers"] == 2
    assert size.changes["context"] == 512 and size.draws == {"repeats": 9, "text": 9}
    assert (size.device, size.steps, size.chains) == ("cpu", 4, 2)
    assert dict(size.settings) == {"thin": 3, "step_size": 1e-6}
    pinned = dict(_lm_data.SIZES["natural"].settings)
    same_run = _lm_data.with_settings(_lm_data.LmScale.natural, ["thin=3", "draws=9"])
    assert dict(same_run.settings) == pinned | {"thin": 3}
    other = _lm_data.with_settings(_lm_data.LmScale.natural, ["thin=3", "layers=1"])
    assert dict(other.settings) == {"thin": 3}
    with pytest.raises(ValueError, match="`--scale gpu` trains on your text"):
        _lm_data.with_settings(_lm_data.LmScale.gpu, [])
    with pytest.raises(ValueError, match=r"NAME one of text, .*got 'corpus=x'"):
        _lm_data.with_settings(_lm_data.LmScale.twin, ["corpus=x"])
    with pytest.raises(ValueError, match="multiple of `heads`"):
        _lm_data.with_settings(_lm_data.LmScale.twin, ["heads=3"])


def test_scales_on_the_command_line(tmp_path):
    def refused(*words):
        found = CliRunner().invoke(app, ["lm", "--out", str(tmp_path), *words])
        assert found.exit_code == 2
        return " ".join(found.output.replace("│", " ").split())

    assert "trains on your text" in refused("--scale", "gpu")
    assert "no figure 16 here; there are 5, 14, 15" in refused("--scale", "twin", "--only", "16")
    assert "`scale` must be one of" in refused("--scale", "huge")
    assert "names" not in refused("--scale", "gpu", "--set", "text=x", "--set", "device=cuda:99")


@pytest.mark.slow
def test_the_gpu_scale_on_a_cpu(tmp_path):
    """A tiny model through the whole way, and again from what is there."""
    text = tmp_path / "text"
    text.mkdir()
    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    for k in range(60):
        words = ("".join(letters[rng.integers(0, 26, rng.integers(2, 6))]) for _ in range(400))
        (text / f"{k}.txt").write_text(" (".join(words) + ")\n")
    tokenizer = train_bpe(Corpus("t", tuple(p.read_text() for p in text.iterdir())), 800)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    changes = {
        "text": text,
        "tokenizer": tmp_path / "tokenizer.json",
        "device": "cpu",
        "vocab_size": 800,
        "layers": 1,
        "width": 16,
        "heads": 2,
        "context": 48,
        "rows": 4,
        "n_steps": 20,
        "every": 5,
        "chains": 2,
        "draws": 8,
        "burn_in": 3,
        "thin": 1,
        "checkpoints": 3,
    }
    options = [part for k, v in changes.items() for part in ("--set", f"{k}={v}")]
    before = dict(_lm_data.SIZES)
    try:
        found = CliRunner().invoke(app, ["lm", "--scale", "gpu", "--out", str(tmp_path), *options])
    finally:
        _lm_data.SIZES.update(before)
        for made in (_lm_data.ladder, _lm_data.scores, _lm_data.traces):
            made.cache_clear()
    assert found.exit_code == 0, found.output
    for name in ("fig05_classes", "fig14_neighbours", "fig15_induction"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert (tmp_path / "lm" / "gpu-seed0-text" / "results.json").exists()
