"""Processes on one store are killed by SIGKILL at random moments: nothing is lost or half."""

import os
import resource
import socket
import subprocess
import sys

import pytest

from dlnflow._support.workers import LocalWorkers
from dlnflow.lm import experiment
from dlnflow.lm.sampling import executors
from dlnflow.lm.sampling.manifest import Manifest
from dlnflow.lm.sampling.store import Reader, half_made
from dlnflow.lm.sampling.token_traces import Parts, sample_traces
from dlnflow.traces import groups
from tests.lm.sampling import crowd


def check(run, store, draws):
    """The store has the bits of one process that nobody killed, and nothing else."""
    plan = crowd.plan(run)
    parts = Parts(plan.checkpoints, plan.gradient, plan.observed)
    whole = sample_traces(*parts, crowd.sampler(draws))
    found = experiment.read(run, store)[0]
    assert found.identical(whole) and found.values.tobytes() == whole.values.tobytes()
    assert half_made(store) == []
    units = sorted(Manifest.found(store).records())
    assert units == [(s, c) for s in crowd.STEPS for c in range(crowd.CHAINS)]
    assert [Reader(store).verified(*unit) for unit in units] == [""] * len(units)


@pytest.mark.slow
def test_two_hundred_kills(tiny, tmp_path):
    """Four parts and two drivers at once, and workers of a driver, on one store."""
    seed = int.from_bytes(os.urandom(4))
    others = crowd.Crowd(tiny[1], tmp_path, seed)
    others.kill(170, pause=0.5)
    others.finish()
    others.kill_workers(30)
    print(f"seed {seed}, {others.kills}, {others.draws} draws")  # shown if it fails
    assert sum(others.kills.values()) == 200
    check(tiny[1], tmp_path, others.draws)


def limited(number):
    """Let worker 0 write no file of more than 4 kB, as on a disk that is full."""
    if number == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.slow
def test_a_worker_whose_disk_is_full(tiny, tmp_path):
    """Others do its chains; alone it ends with an error, and nothing is half-written."""
    plan = crowd.plan(tiny[1])
    with LocalWorkers(2, limited) as pool:
        experiment.sample(plan, crowd.sampler(40), tmp_path / "two", executor=pool)
    check(tiny[1], tmp_path / "two", 40)
    with LocalWorkers(1, limited) as pool, pytest.raises(OSError, match="too large") as caught:
        experiment.sample(plan, crowd.sampler(40), tmp_path / "one", executor=pool)
    assert "could not be written" in " ".join(caught.value.__notes__)
    assert half_made(tmp_path / "one") == []
    experiment.sample(plan, crowd.sampler(40), tmp_path / "one")
    check(tiny[1], tmp_path / "one", 40)


def dask(*words):
    command = [sys.executable, "-m", "dask", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def cluster(tmp_path):
    """Start and stop a dask scheduler with two workers, in processes of their own."""
    running = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"

    def start():
        there = ["--no-dashboard", "--host", "127.0.0.1", "--port", str(port)]
        running.append(dask("scheduler", *there))
        own = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp_path / "dask")]
        running.extend(dask("worker", address, *own, "--no-nanny") for _ in range(2))
        return running[-3:]

    yield address, start
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_scheduler_that_is_killed_and_restarted(tiny, tmp_path, cluster):
    """The command ends with one line; the same command on the new scheduler goes on."""
    address, start = cluster
    processes, plan, sampler = start(), crowd.plan(tiny[1]), crowd.sampler(40)

    def lose(done, total):
        if done == 2:
            processes[0].kill()

    with pytest.raises(ConnectionError) as caught, executors.executor(scheduler=address) as pool:
        experiment.sample(plan, sampler, tmp_path / "store", lose, executor=pool)
    assert "\n" not in str(caught.value)
    for process in processes[1:]:  # what a worker was at may be finished, or not
        process.kill()
        process.wait()
    processes, calls = start(), []

    def kill_worker(done, total):
        if not calls:
            processes[1].kill()
        calls.append(done)

    with executors.executor(scheduler=address) as pool:
        experiment.sample(plan, sampler, tmp_path / "store", kill_worker, executor=pool)
    assert len(calls) <= len(crowd.STEPS) * crowd.CHAINS - 2  # nothing twice
    check(tiny[1], tmp_path / "store", 40)


@pytest.mark.slow
def test_class_sums_and_kills(tiny, tmp_path):
    """Draws that are replaced by sums while processes are killed."""
    others = crowd.Crowd(tiny[1], tmp_path, int.from_bytes(os.urandom(4)), sums=True)
    others.kill(40, pause=0.5)
    others.finish()
    plan = crowd.plan(tiny[1])
    parts = Parts(plan.checkpoints, plan.gradient, plan.observed)
    whole = sample_traces(*parts, crowd.sampler(others.draws))
    found = experiment.read("run", others.place)[0]
    for exclude in ("item", ("row", "token")):
        assert groups(found, exclude=exclude).identical(
            groups(whole, plan.classes, exclude=exclude)
        )
    assert half_made(others.place) == [] and not list((others.place / "losses").rglob("c/*/*"))
