import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from dlnflow.lm.data.batches import GradientData, Observed, mixture
from dlnflow.lm.runs.losses import token_losses
from dlnflow.lm.runs.train import load_data
from dlnflow.lm.sampling.store import CorruptedError
from dlnflow.lm.sampling.token_traces import sample_traces
from dlnflow.lm.sampling.unit import Sampler
from dlnflow.sampling.settings import Settings

SETTINGS = Settings(
    n_beta=1e3,
    localization=1e3,
    step_size=1e-6,
    chains=2,
    draws=6,
    burn_in=3,
    thin=2,
    seed=4,
    kernel_options={"freeze_after": 2},
)


@pytest.fixture(scope="module")
def parts(tiny):
    """(checkpoints, gradient data, observed rows, sampler) of two steps of the tiny run."""
    _, folder, ladder = tiny
    data = load_data(folder)
    gradient = GradientData(data.training.ids, rows=2, length=16, repeat_share=0.5)
    observed = Observed(data.held_out.rows(3, 9, seed=1), rows=np.array([7, 5, 9]))
    return ladder.select([4, 12]), gradient, observed, Sampler(SETTINGS)


@pytest.fixture(scope="module")
def whole(parts):
    return sample_traces(*parts)


def changed(parts, **settings):
    *rest, sampler = parts
    return *rest, Sampler(dataclasses.replace(sampler.settings, **settings))


def same(a, b):
    assert a.identical(b)
    assert a.values.tobytes() == b.values.tobytes()


def test_traces_are_labelled(parts, whole):
    ladder, gradient, observed, _ = parts
    assert whole.dims == ("time", "chain", "draw", "item")
    assert whole.shape == (2, 2, 6, 24)
    assert whole.time.values.tolist() == [4, 12]
    assert str(whole["item"].values[8]) == "5:1"
    assert whole.sel(item="9:3").token == observed.ids[2, 3]
    with torch.no_grad():
        expected = token_losses(ladder.load(4), torch.from_numpy(observed.ids)).flatten()
    np.testing.assert_allclose(whole.checkpoint_loss.sel(time=4), expected, rtol=1e-5)
    assert whole.attrs["n_train"] == len(gradient.ids)
    assert np.isfinite(whole).all()


def test_draws_chains_and_checkpoints_differ(whole):
    flat = whole.values.reshape(-1, 24)
    assert len(np.unique(flat, axis=0)) == len(flat)


def test_one_step_is_algorithm_1(parts):
    """RMSProp-SGLD written out by hand with the same noise and minibatch."""
    from dlnflow.sampling.noise import GAUSSIAN, MINIBATCH

    ladder, gradient, observed, _ = parts
    settings = Settings(n_beta=50.0, localization=30.0, step_size=1e-3, draws=4, seed=2)
    found = sample_traces(ladder.select([4]), gradient, observed, Sampler(settings))
    model = ladder.load(4)
    rows = torch.from_numpy(gradient.batch(2, 4, 1, MINIBATCH, 0)).long()
    token_losses(model, rows).mean().backward()
    words = np.random.SeedSequence([2, 4, 1, GAUSSIAN, 0]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
    size = sum(p.numel() for p in model.parameters())
    noise = torch.randn((1, size), generator=generator)[0]
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            g = p.grad
            eps = 1e-3 / ((0.01 * g * g).sqrt() + 0.1)
            xi = noise[start : start + p.numel()].view(p.shape)
            # the localisation gradient vanishes at the checkpoint
            p += -eps / 2 * 50.0 * g + eps.sqrt() * xi
            start += p.numel()
        expected = token_losses(model, torch.from_numpy(observed.ids)).flatten()
    np.testing.assert_allclose(found[0, 1, 0], expected, rtol=2e-5)


def test_store_is_read_not_recomputed(parts, whole, tmp_path):
    same(sample_traces(*parts, store=tmp_path), whole)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("c/*")}
    calls = []
    same(sample_traces(*parts, store=tmp_path, progress=lambda *a: calls.append(a)), whole)
    assert calls == []
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("c/*")}


@pytest.mark.parametrize("options", [{}, {"freeze_after": 3}, {"warm_start": True}])
def test_more_draws_equal_one_long_run(parts, tmp_path, options):
    long = changed(parts, kernel_options=options)
    short = changed(parts, kernel_options=options, draws=4)
    sample_traces(*short, store=tmp_path)
    same(sample_traces(*long, store=tmp_path), sample_traces(*long))
    same(sample_traces(*short, store=tmp_path), sample_traces(*short))


def test_draws_over_a_chunk_border(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("dlnflow.lm.sampling.store.BLOCK", 4)
    for draws in (5, 6, 9):
        found = sample_traces(*changed(parts, draws=draws, chains=1), store=tmp_path)
    same(found, sample_traces(*changed(parts, draws=9, chains=1)))


def test_more_chains_and_steps_are_added(tiny, parts, whole, tmp_path):
    _, _, ladder = tiny
    few = changed(parts, chains=1)
    sample_traces(ladder.select([12]), *few[1:], store=tmp_path)
    same(sample_traces(*parts, store=tmp_path), whole)


def test_interrupted_between_units(parts, whole, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_traces(*parts, store=tmp_path, progress=stop)
    calls = []
    same(sample_traces(*parts, store=tmp_path, progress=lambda *a: calls.append(a)), whole)
    assert calls == [(3, 4), (4, 4)]


SCRIPT = """
import pickle, sys, torch
from dlnflow.lm.sampling.token_traces import sample_traces
torch.set_num_threads(1)
parts = pickle.load(open(sys.argv[1], "rb"))
sample_traces(*parts, store=sys.argv[2])
"""


@pytest.mark.slow
def test_killed_at_random_moments(parts, whole, tmp_path):
    (tmp_path / "parts.pkl").write_bytes(pickle.dumps(parts))
    store = tmp_path / "store"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "parts.pkl"), str(store)]
    rng = np.random.default_rng()
    for _ in range(4):
        process = subprocess.Popen(command, cwd=os.getcwd())
        started = time.monotonic()
        while not (store / "losses").exists() and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    same(sample_traces(*parts, store=store), whole)


def test_the_number_of_threads_here_does_not_matter(parts, whole, tmp_path, monkeypatch):
    """Rounding depends on it, so chains bring their own, and give back what was there."""
    from dlnflow.lm.sampling.evaluator import LanguageModelEvaluator

    observe, counts = LanguageModelEvaluator.observe, []

    def counted(self, theta):
        counts.append(torch.get_num_threads())
        return observe(self, theta)

    monkeypatch.setattr(LanguageModelEvaluator, "observe", counted)
    torch.set_num_threads(2)
    try:
        sample_traces(*changed(parts, draws=4), store=tmp_path)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        same(sample_traces(*parts, store=tmp_path), whole)
        torch.set_num_threads(2)
        with ThreadPoolExecutor(2) as pool:
            same(sample_traces(*parts, executor=pool), whole)
        assert torch.get_num_threads() == 2 and set(counts) == {1}
    finally:
        torch.set_num_threads(1)


def test_another_number_of_threads_is_another_store(parts, tmp_path):
    *rest, sampler = changed(parts, draws=4, chains=1)
    sample_traces(*rest, sampler, store=tmp_path)
    with pytest.raises(ValueError, match="threads: none there, 2 now"):
        sample_traces(*rest, dataclasses.replace(sampler, threads=2), store=tmp_path)
    with pytest.raises(ValueError, match="`threads` must be a whole number >= 1"):
        Sampler(SETTINGS, threads=0)


def test_units_with_other_numbers_of_threads_wait_for_each_other():
    from dlnflow.lm.runs.device import threads

    def count(n):
        with threads(n):
            time.sleep(0.02)
            return torch.get_num_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, [1, 2, 1, 2, 1, 1])) == [1, 2, 1, 2, 1, 1]
    assert torch.get_num_threads() == 1


def test_threads_give_the_same(parts, whole):
    with ThreadPoolExecutor(2) as pool:
        same(sample_traces(*parts, executor=pool), whole)


@pytest.mark.slow
def test_other_processes_give_the_same(parts, whole):
    with ProcessPoolExecutor(
        2, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(2,)
    ) as pool:
        same(sample_traces(*parts, executor=pool), whole)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"n_beta": 2e3}, "n_beta"),
        ({"seed": 5}, "seed"),
        ({"burn_in": 4}, "burn_in"),
        ({"kernel_options": {}}, "options"),
    ],
)
def test_other_settings_are_refused(parts, tmp_path, change, word):
    sample_traces(*changed(parts, draws=4, chains=1), store=tmp_path)
    with pytest.raises(ValueError, match=f"(?s)something else.*{word}"):
        sample_traces(*changed(parts, draws=4, chains=1, **change), store=tmp_path)


def test_other_data_and_weights_are_refused(tiny, parts, tmp_path):
    _, _, ladder = tiny
    small = changed(parts, draws=4, chains=1)
    sample_traces(*small, store=tmp_path)
    _, gradient, observed, sampler = small
    other = Observed(observed.ids[:, ::-1].copy(), rows=observed.rows)
    with pytest.raises(ValueError, match="observed"):
        sample_traces(small[0], gradient, other, sampler, store=tmp_path)
    other = GradientData(gradient.ids[5:], 2, 16, 0.5)
    with pytest.raises(ValueError, match="gradient"):
        sample_traces(small[0], other, observed, sampler, store=tmp_path)
    other = dataclasses.replace(gradient, segment=(4, 8))
    with pytest.raises(ValueError, match=r"gradient.segment: \[16, 64\] there, \[4, 8\] now"):
        sample_traces(small[0], other, observed, sampler, store=tmp_path)
    renamed = dataclasses.replace(ladder.select([8]), steps=np.array([4]))
    with pytest.raises(ValueError, match="other weights at step 4"):
        sample_traces(renamed, gradient, observed, sampler, store=tmp_path)


def test_damage_is_named_and_repaired(parts, tmp_path):
    small = changed(parts, draws=4, chains=2)
    before = sample_traces(*small, store=tmp_path)
    chunk = tmp_path / "losses" / "c" / "1" / "0" / "0" / "0"
    chunk.write_bytes(b"damaged" + chunk.read_bytes()[7:])
    with pytest.raises(CorruptedError, match="chain 0 at step 12"):
        sample_traces(*small, store=tmp_path)
    calls = []
    found = sample_traces(*small, store=tmp_path, repair=True, progress=lambda *a: calls.append(a))
    same(found, before)
    assert calls == [(4, 4)]


def test_a_lost_state_is_named(parts, tmp_path):
    sample_traces(*changed(parts, draws=4, chains=1), store=tmp_path)
    next(tmp_path.glob("units/12-0-*.state")).unlink()
    with pytest.raises(CorruptedError, match="12-0-4"):
        sample_traces(*changed(parts, draws=5, chains=1), store=tmp_path)


def test_a_call_within_a_call_finds_what_is_done(parts, whole, tmp_path):
    """Two drivers on one store: the second completes it, the first computes nothing again."""
    calls = []

    def again(done, total):
        calls.append(done)
        if done == 1:
            same(sample_traces(*parts, store=tmp_path), whole)
            written.update({p: p.stat().st_mtime_ns for p in tmp_path.rglob("c/*")})

    written = {}
    same(sample_traces(*parts, store=tmp_path, progress=again), whole)
    assert calls == [1, 2, 3, 4]
    assert written == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("c/*")}


def test_full_disk_loses_nothing(parts, whole, tmp_path, monkeypatch):
    from dlnflow.lm.sampling.store import Store

    write, calls = Store.write, []

    def full(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(OSError, match="No space") as caught:
        sample_traces(*parts, store=tmp_path)
    assert "make room and call again" in caught.value.__notes__[0]
    monkeypatch.undo()
    same(sample_traces(*parts, store=tmp_path), whole)


def test_only_named_parameters_move(parts):
    ladder, gradient, observed, _ = parts
    frozen = Sampler(dataclasses.replace(SETTINGS, draws=4, chains=1), parameters=("*lm_head*",))
    found = sample_traces(ladder, gradient, observed, frozen)
    assert (found.std("draw") > 0).all()
    wrong = dataclasses.replace(frozen, parameters=("no_such",))
    with pytest.raises(ValueError, match=r"'no_such' matches none of"):
        sample_traces(ladder, gradient, observed, wrong)
    inside = dataclasses.replace(frozen, parameters=("lm_head",))
    with pytest.raises(ValueError, match=r"Write '\*lm_head\*' for all names that contain it"):
        sample_traces(ladder, gradient, observed, inside)


def test_bf16_is_another_store(parts, tmp_path):
    *rest, sampler = changed(parts, draws=4, chains=1)
    a = sample_traces(*rest, sampler, store=tmp_path)
    bf16 = dataclasses.replace(sampler, precision="bf16")
    with pytest.raises(ValueError, match="precision"):
        sample_traces(*rest, bf16, store=tmp_path)
    assert 0 < float(abs(sample_traces(*rest, bf16) - a).max()) < 0.3


def test_a_diverged_chain_is_kept_and_found(parts):
    from dlnflow.traces import diagnostics

    wild = changed(parts, step_size=1e-2, localization=1e1, n_beta=1e7, draws=4, kernel_options={})
    assert diagnostics.diverged(sample_traces(*wild)).all()


def test_bad_data(parts):
    ladder, gradient, observed, sampler = parts
    with pytest.raises(ValueError, match="vocabulary disagree"):
        sample_traces(ladder, gradient, Observed(observed.ids + 300), sampler)
    with pytest.raises(ValueError, match="the model takes 32"):
        sample_traces(ladder, gradient, Observed(np.ones((1, 40), int)), sampler)
    with pytest.raises(ValueError, match="equal lengths"):
        Observed([[1, 2], [1, 2, 3]])
    with pytest.raises(ValueError, match="T >= 2"):
        Observed(np.ones((3, 1), int))
    with pytest.raises(ValueError, match="different number"):
        Observed(observed.ids, rows=np.zeros(3, int))
    with pytest.raises(ValueError, match="the text has 5 ids"):
        mixture(np.arange(5, dtype=np.int32), 1, 5, 0.0, np.random.default_rng(0))
