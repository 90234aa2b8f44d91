import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from dlnflow.lm.runs.model import CONFIGURATIONS, RunSettings, build
from dlnflow.lm.runs.train import batch, learning_rate, load_data, prepare, train
from tests.lm.conftest import TINY


def test_a_run_depends_on_its_settings_alone(tiny, tmp_path):
    settings, _, ladder = tiny
    again = train(settings, tmp_path / "again")
    assert again.hashes == ladder.hashes
    other = train(dataclasses.replace(settings, seed=1), tmp_path / "other")
    assert not set(other.hashes) & set(ladder.hashes)


def test_losses_of_every_step_are_kept(tiny):
    settings, folder, _ = tiny
    losses = np.load(folder / "losses.npy")
    assert len(losses) == settings.n_steps
    assert losses[-1] < losses[0]


def test_a_longer_run_continues_a_shorter_one(tiny, tmp_path):
    settings, _, ladder = tiny
    train(dataclasses.replace(settings, n_steps=8), tmp_path)
    assert train(settings, tmp_path).hashes == ladder.hashes


def test_interrupted_between_checkpoints(tiny, tmp_path):
    settings, _, ladder = tiny

    def stop(step, loss):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path, progress=stop)
    seen = []
    assert train(settings, tmp_path, progress=lambda s, _: seen.append(s)).hashes == ladder.hashes
    assert seen[0] == 4


SCRIPT = """
import json, sys, torch
from dlnflow.lm.runs.model import RunSettings
from dlnflow.lm.runs.train import train
torch.set_num_threads(1)
train(RunSettings(**json.loads(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.slow
def test_killed_at_random_moments(tiny, tmp_path):
    import json

    settings, _, ladder = tiny
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        json.dumps(dataclasses.asdict(settings)),
        str(tmp_path),
    ]
    rng = np.random.default_rng()
    for _ in range(2):
        process = subprocess.Popen(command, cwd=os.getcwd())
        started = time.monotonic()
        while not (tmp_path / "step0").exists() and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert train(settings, tmp_path).hashes == ladder.hashes


def test_another_run_in_the_folder_is_refused(tiny):
    settings, folder, _ = tiny
    with pytest.raises(ValueError, match=r"learning_rate: 0\.01 there, 0\.5 asked"):
        train(dataclasses.replace(settings, learning_rate=0.5), folder)


def test_settings_written_before_a_field_existed(tiny, tmp_path):
    settings, folder, _ = tiny
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "settings.json"
    written = json.loads(path.read_text())
    assert written.pop("documents") == settings.documents
    path.write_text(json.dumps(written))
    train(settings, tmp_path / "run")


def test_rows_of_a_step(tiny):
    settings, folder, _ = tiny
    tokens = load_data(folder).training
    rows = batch(settings, tokens, 5)
    assert rows.shape == (4, settings.context + 1)
    assert (rows == batch(settings, tokens, 5)).all()
    assert not (rows == batch(settings, tokens, 6)).all()
    repeats = [any((row[p:] == row[:-p]).all() for p in range(16, 17)) for row in rows]
    assert repeats == [False, False, False, True]


def test_row_weights_change_the_run(tiny, tmp_path):
    settings, _, ladder = tiny

    def doubled(step, rows):
        return np.full(len(rows), 2.0 if 4 <= step < 6 else 1.0, np.float32)

    weighted = train(settings, tmp_path, weigh=doubled)
    same = [a == b for a, b in zip(weighted.hashes, ladder.hashes, strict=True)]
    assert same == [True, True, True, True, False, False]


def test_accumulated_rows_give_the_same_gradient(text_file, tmp_path):
    one = dataclasses.replace(TINY, corpus=str(text_file), precision="fp32", n_steps=1)
    two = dataclasses.replace(one, rows=2, accumulate=2)
    a, b = train(one, tmp_path / "a").load(1), train(two, tmp_path / "b").load(1)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        # the first Adam step is lr * sign(g), so tiny gradients may differ by 2 lr
        assert float((p - q).detach().abs().median()) < 1e-6


def test_learning_rate_schedule():
    s = RunSettings(warmup=10, horizon=110, learning_rate=1.0)
    assert learning_rate(s, 0) == 0.1
    assert learning_rate(s, 9) == learning_rate(s, 10) == 1.0
    assert learning_rate(s, 60) == pytest.approx(0.55)
    assert learning_rate(s, 500) == pytest.approx(0.1)


def test_pythia_initialisation():
    s = dataclasses.replace(TINY, init="pythia", width=64, layers=2)
    model = build(s)
    layer = model.gpt_neox.layers[0]
    assert float(layer.mlp.dense_h_to_4h.weight.detach().std()) == pytest.approx(
        (2 / 320) ** 0.5, rel=0.05
    )
    assert float(layer.mlp.dense_4h_to_h.weight.detach().std()) == pytest.approx(1 / 8, rel=0.05)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    build(TINY)
    assert torch.equal(before, torch.random.get_rng_state())


def test_configurations_are_what_the_documents_say():
    assert CONFIGURATIONS["natural"].repeat_share == 0
    assert CONFIGURATIONS["fast"].repeat_share == 0.25
    pythia = CONFIGURATIONS["pythia-14m"]
    assert pythia.rows * pythia.accumulate * pythia.context == 2_097_152


def test_bad_settings(tmp_path, neox, text_file):
    with pytest.raises(ValueError, match="multiple of `heads`"):
        RunSettings(width=10, heads=4)
    with pytest.raises(ValueError, match="`segment_min`"):
        RunSettings(segment_min=9, segment_max=8)
    with pytest.raises(ValueError, match="`repeat_share`"):
        RunSettings(repeat_share=1.5)
    with pytest.raises(ValueError, match="`tokenizer` has 50277"):
        prepare(dataclasses.replace(TINY, corpus=str(text_file)), tmp_path, tokenizer=neox)
    with pytest.raises(FileNotFoundError, match="no data"):
        load_data(tmp_path)
