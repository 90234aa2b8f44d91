"""Several processes on one run, and gradients that stay: the losses of one process."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from dlnflow.lm.runs import progression
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.processes import Processes, joined
from dlnflow.lm.runs.progression import Progression
from dlnflow.lm.runs.train import ahead, batch, learning_rate, load_data, train
from dlnflow.sampling.fixed_step import CALLS, Repeated
from tests.lm.runs.test_folder import options
from tests.lm.sampling.test_chain import emulated


@pytest.fixture(scope="module")
def single(tiny):
    """The tiny run in float32, where sums in another order differ little."""
    return dataclasses.replace(tiny[0], precision="fp32", accumulate=2, rows=2)


@pytest.fixture(scope="module")
def alone(single, tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return out, train(single, out, data=load_data(tiny[1]))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def started(settings, out, count=2):
    """Processes as torchrun starts them, on the command line of one."""
    port = free_port()
    command = [sys.executable, "-m", "dlnflow", "lm", "train", str(out), *options(settings)]
    common = os.environ | {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    every = [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(k), "LOCAL_RANK": str(k)},
            cwd=os.getcwd(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(count)
    ]
    try:
        yield every
    finally:
        for process in every:
            process.kill()
            process.communicate()


def finished(every):
    """Wait for processes; return what each printed and its exit code."""
    return [(*process.communicate(timeout=240), process.returncode) for process in every]


def _train_as(rank, port, settings, out, data):
    """One of two processes; what it raises is its exit code."""
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with joined("cpu") as device:
        train(settings, out, data=data, device=device)


def test_two_forked_processes_train_what_one_trains(single, alone, tiny, tmp_path):
    """The same with processes that need not load everything anew: to rounding, and in pieces."""
    data, context = load_data(tiny[1]), get_context("fork")
    losses, ends = np.load(alone[0] / "losses.npy"), (("whole", 12), ("parts", 8), ("parts", 12))
    for name, length in ends:
        settings, port = dataclasses.replace(single, n_steps=length), free_port()
        every = [
            context.Process(target=_train_as, args=(k, port, settings, tmp_path / name, data))
            for k in range(2)
        ]
        for process in every:
            process.start()
        for process in every:
            process.join(120)
        assert [process.exitcode for process in every] == [0, 0]
    np.testing.assert_allclose(np.load(tmp_path / "whole" / "losses.npy"), losses, rtol=2e-5)
    whole, parts = (Checkpoints.from_directory(tmp_path / name) for name in ("whole", "parts"))
    assert whole.hashes == parts.hashes and whole.steps.tolist() == alone[1].steps.tolist()
    assert not list(tmp_path.glob("*/lock"))


@pytest.mark.slow
def test_two_processes_train_what_one_trains(single, alone, tmp_path):
    """Curves agree to rounding; a shorter run goes on with the bits of a longer one."""
    losses, whole = np.load(alone[0] / "losses.npy"), tmp_path / "whole"
    with started(single, whole) as every:
        found = finished(every)
    assert [code for *_, code in found] == [0, 0], found
    assert "steps" in found[0][0] and not found[1][0]  # the first one alone says so
    np.testing.assert_allclose(np.load(whole / "losses.npy"), losses, rtol=2e-5)
    ladder = Checkpoints.from_directory(whole)
    assert ladder.steps.tolist() == alone[1].steps.tolist()
    for a, b in zip(ladder.load(1).parameters(), alone[1].load(1).parameters(), strict=True):
        assert float((a - b).detach().abs().median()) < 1e-6
    parts = tmp_path / "parts"
    for length in (8, 12):
        with started(dataclasses.replace(single, n_steps=length), parts) as every:
            assert [code for *_, code in finished(every)] == [0, 0]
    assert Checkpoints.from_directory(parts).hashes == ladder.hashes
    with pytest.warns(RuntimeWarning, match="by 2 processes so far and goes on with 1"):
        train(dataclasses.replace(single, n_steps=13), parts)


@pytest.mark.slow
def test_a_killed_process_is_named_and_the_run_goes_on(single, tmp_path):
    long = dataclasses.replace(single, n_steps=4000)
    with started(long, tmp_path) as every:
        deadline = time.monotonic() + 200
        while not (tmp_path / "step16").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        every[1].send_signal(signal.SIGKILL)
        out, error, code = finished(every[:1])[0]
    assert code == 1 and not out
    assert "error: another of the 2 processes of this training is gone, after step" in error
    assert error.count("\n") == 1 and "goes on from the last checkpoint" in error
    saved = max(int(path.name[4:]) for path in tmp_path.glob("step*"))
    assert saved >= 16
    with pytest.warns(RuntimeWarning, match="goes on with 1"):
        ladder = train(dataclasses.replace(single, n_steps=saved + 1), tmp_path)
    assert ladder.steps[-1] == saved + 1


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_all(single, alone):
    with started(dataclasses.replace(single, learning_rate=0.5), alone[0]) as every:
        found = finished(every)
    assert [code for *_, code in found] == [1, 1]
    assert found[0][1].startswith("error: `out`") and "learning_rate" in found[0][1]
    assert "the first of 2 processes stopped: `out`" in found[1][1]


@pytest.mark.parametrize("capture", [None, emulated])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_gradients_that_stay_give_the_same_bits(single, tiny, capture, precision):
    """Passes and updates are repeated as CUDA graphs would, with another rate at every step."""
    settings = dataclasses.replace(single, precision=precision, accumulate=3)
    plain = Progression(settings, None, "cpu")
    fixed = Progression(settings, None, "cpu", repeated=Repeated(capture))
    tokens = load_data(tiny[1]).training
    for step in range(CALLS + 5):
        rows, weights = batch(settings, tokens, step), np.linspace(0, 2, 6, dtype=np.float32)
        one, two = (s.advance(rows, weights, learning_rate(settings, step)) for s in (plain, fixed))
        assert one == two
    for a, b in zip(plain.model.parameters(), fixed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_shares_are_the_rows_in_their_order():
    for n, count in ((8, 2), (7, 3), (4, 4)):
        parts = [list(range(n))[Processes(k, count).share(n)] for k in range(count)]
        assert [k for part in parts for k in part] == list(range(n))
        assert min(map(len, parts)) >= n // count
    assert Processes().first and Processes().share(5) == slice(0, 5)
    with pytest.raises(ValueError, match=r"5 processes .* for steps of 4 rows"):
        Processes(0, 5).check(4)


def test_rows_that_are_made_ahead_are_those_of_their_steps():
    made = []

    def make(step):
        made.append(step)
        return np.array([step])

    found = [(step, int(rows[0])) for step, rows in ahead(make, range(3, 9))]
    assert found == [(k, k) for k in range(3, 9)] and made == list(range(3, 9))
    assert list(ahead(make, range(4, 4))) == []


def test_gpus_of_a_machine_are_one_for_each_process(monkeypatch):
    with joined("cpu") as own:
        assert own == "cpu"
    for name, value in (("WORLD_SIZE", 4), ("RANK", 3), ("LOCAL_RANK", 3)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"there are 2\. Use --nproc-per-node 2"), joined("cuda"):
        pass
    with pytest.raises(ValueError, match="names one GPU for several"), joined("cuda:0"):
        pass


def test_a_state_of_another_device_is_taken_up(single, tiny, tmp_path):
    """On a GPU the step size is a tensor; here it is a number again."""
    state = Progression(single, tmp_path, "cpu")
    tmp_path.joinpath("x").mkdir()
    tokens = load_data(tiny[1]).training
    ones = np.ones(4, np.float32)
    state.advance(batch(single, tokens, 0), ones, 1e-3)
    state.save(load_data(tiny[1]).tokenizer)
    saved = torch.load(tmp_path / "resume.pt", weights_only=True)
    for group in saved["optimizer"]["param_groups"]:
        group["lr"], group["capturable"] = torch.tensor(5.0), True
    torch.save(saved, tmp_path / "resume.pt")
    again = Progression(single, tmp_path, "cpu")
    values = [s.advance(batch(single, tokens, 1), ones, 2e-3) for s in (state, again)]
    assert values[0] == values[1] and progression.mark(ones) == 0
    for a, b in zip(state.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
