"""Many processes on one store: what they are sent, what they share, and that bits stay the same."""

import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dlnflow._support.workers import LocalWorkers
from dlnflow.lm import experiment
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.train import load_data
from dlnflow.lm.sampling import executors, inputs, stored_losses, unit
from dlnflow.lm.sampling.store import CorruptedError, Store, half_made, in_use
from dlnflow.lm.sampling.token_traces import Driver, Parts, sample_traces
from tests.lm.conftest import FIXED
from tests.lm.test_command import answer, call

SHORT = "--step 4 --step 12 --draws 6 --set rows=2 --set burn_in=2 --set thin=1".split()


@pytest.fixture(scope="module")
def plan(tiny):
    """Two steps of the tiny run with two held-out rows."""
    return experiment.plan(tiny[1], steps=[4, 12], rows=2)


@pytest.fixture(scope="module")
def sampler():
    return experiment.sampler(chains=3, draws=6, burn_in=2, thin=1, **FIXED)


@pytest.fixture(scope="module")
def whole(plan, sampler):
    return sample_traces(*parts_of(plan), sampler)


def parts_of(plan):
    return Parts(plan.checkpoints, plan.gradient, plan.observed)


def same(a, b):
    assert a.identical(b)
    assert a.values.tobytes() == b.values.tobytes()


def jobs_of(driver):
    return [driver._job(*one, 6) for one in driver.grid]


@pytest.mark.parametrize("mapped", [False, True])
def test_a_job_is_small_whatever_the_text(tiny, sampler, tmp_path, mapped):
    """At most 100 kB pickled, of 3 million ids and a ladder of 154 steps on the hub."""
    ids = np.random.default_rng(0).integers(0, 300, 3_000_000, dtype=np.int32)
    if mapped:
        np.save(tmp_path / "ids.npy", ids)
        ids = np.load(tmp_path / "ids.npy", mmap_mode="r")
    gradient = GradientData(ids, rows=2, length=16)
    observed = Observed(np.random.default_rng(1).integers(0, 300, (500, 17)))
    driver = Driver(Parts(tiny[2], gradient, observed), sampler, tmp_path / "store")
    assert len(pickle.dumps(jobs_of(driver)[0])) < 5_000
    kept = list((tmp_path / "store" / "inputs").iterdir())
    assert len(kept) == (1 if mapped else 2)  # what lies in a file already is not copied
    opened = inputs.opened(jobs_of(driver)[0].inputs)
    assert opened[0].key() == gradient.key() and opened[1].key() == observed.key()
    assert inputs.mapped_file(opened[0].ids) is not None
    steps, n = np.arange(154), 154
    many = Checkpoints(
        steps, tuple(("EleutherAI/pythia-14m", f"step{s}") for s in steps), tuple(map(str, steps))
    )
    driver.parts = driver.parts._replace(checkpoints=many)
    driver._contents = {s: {"weights": "0" * 64, "config": "0" * 64} for s in range(n)}
    job = driver._job(7, 0, 6)
    assert len(job.checkpoints) == 154 and len(pickle.dumps(job)) < 100_000


def test_the_text_of_a_run_is_not_copied_into_its_stores(tiny, plan, sampler, tmp_path):
    driver = Driver(parts_of(plan), sampler, tmp_path)
    assert driver._inputs.gradient == str(tiny[1] / "training.npy")
    assert inputs.mapped_file(load_data(tiny[1]).training.ids[1:]) is None  # a part of the file


def test_inputs_that_are_gone_or_others_are_named(plan, sampler, tmp_path):
    gradient = dataclasses.replace(plan.gradient, ids=np.array(plan.gradient.ids))
    parts = parts_of(plan)._replace(gradient=gradient)
    job = jobs_of(Driver(parts, sampler, tmp_path))[0]
    file = tmp_path / "inputs" / f"{gradient.sha256}.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match="other ids than those that were to be sampled"):
        unit.work(job)
    Driver(parts, sampler, tmp_path)
    assert file.read_bytes() == whole  # by the next call
    file.unlink()
    with pytest.raises(ValueError, match=r"cannot be read here.*under the same path"):
        unit.work(job)
    assert unit.work(jobs_of(Driver(parts, sampler, tmp_path))[0])
    older = dataclasses.replace(job, key=job.key | {"version": "0.0.1"})
    with pytest.raises(ValueError, match=r"asks for the chain 0\.0\.1. Install the same version"):
        unit.work(older)


def test_drivers_and_parts_at_once_share_the_work(plan, sampler, whole, tmp_path, monkeypatch):
    """Two drivers of the whole, and three parts of it: every chain is computed once."""
    computed, own = [], unit.run

    def run(one):
        computed.append((one.step, one.chain))
        time.sleep(0.05)  # so that the others meet the claim
        return own(one)

    monkeypatch.setattr(unit, "run", run)
    with ThreadPoolExecutor(5) as pool:
        drivers = [pool.submit(experiment.sample, plan, sampler, tmp_path) for _ in range(2)]
        others = [
            pool.submit(experiment.sample_part, plan, sampler, tmp_path, (k, 3)) for k in (1, 2, 3)
        ]
        assert all(
            set(one.result()) <= set(Driver(parts_of(plan), sampler, tmp_path).grid)
            for one in others
        )
        for one in drivers:
            same(one.result(), whole)
    assert sorted(computed) == [(s, c) for s in (4, 12) for c in range(3)]
    same(experiment.read("run", tmp_path)[0], whole)
    assert half_made(tmp_path) == [] and not in_use(tmp_path)


def test_parts_one_after_another(tiny, whole, tmp_path):
    options = [tiny[1], "--store", tmp_path, *SHORT, "--set", "chains=3"]
    assert answer("sample", *options, "--part", "2/2") == {
        "store": str(tmp_path),
        "part": "2/2",
        "chains_left": 3,
    }
    assert "chains_left: 3" in call("sample", *options, "--part", "2/2").stdout
    shown = call("groups", tiny[1], "--store", tmp_path, code=1).stderr
    assert "no finished sample" in shown
    found = answer("sample", *options, "--part", "1/2")
    assert found["chains_left"] == 0 and found["draw"] == 6
    same(experiment.read("run", tmp_path)[0], whole)
    assert call("groups", tiny[1], "--store", tmp_path).stdout


def test_a_full_disk_on_one_worker(plan, sampler, whole, tmp_path, monkeypatch):
    """The chain goes to another worker; if that has none either, the rest is safe."""
    write, calls = Store.write, []

    def full(self, *arguments):
        calls.append(arguments)
        if len(calls) in times:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(Store, "write", full)
    times = {2}
    with ThreadPoolExecutor(2) as pool:
        same(sample_traces(*parts_of(plan), sampler, store=tmp_path / "a", executor=pool), whole)
    assert len(calls) == 7
    calls.clear()
    times = set(range(4, 100))
    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="No space") as caught:
        sample_traces(*parts_of(plan), sampler, store=tmp_path / "b", executor=pool)
    assert "could not be written" in caught.value.__notes__[0]
    monkeypatch.undo()
    done = []
    found = sample_traces(
        *parts_of(plan), sampler, store=tmp_path / "b", progress=lambda k, n: done.append(k)
    )
    assert done == [4, 5, 6]
    same(found, whole)


def test_what_killed_processes_left_is_removed_by_the_next(plan, sampler, whole, tmp_path):
    same(sample_traces(*parts_of(plan), sampler, store=tmp_path), whole)
    before = set(tmp_path.rglob("*"))
    left = [
        "zarr.0123456789abcdef.partial",
        "losses/zarr.0123456789abcdef.partial",
        "losses/c/0/0/0/0.0123456789abcdef.partial",
        "checkpoint_loss/c/0/0.0123456789abcdef.partial",
        "units/4-0.lock",
        "units/.4-0.0123456789ab.json",
        "inputs/.a.0123456789ab.npy",
        ".traces.0123456789ab.nc",
    ]
    for name in left:
        (tmp_path / name).write_text("half")
    assert len(half_made(tmp_path)) == len(left)
    assert "8 of killed processes" in call("doctor", tmp_path).stdout
    files = Store(tmp_path, *_key(plan, sampler, tmp_path))
    assert set(tmp_path.rglob("*")) == before
    with files.writing():  # another process is at work: nothing of its is taken away
        (tmp_path / left[2]).write_text("half")
        assert in_use(tmp_path)
        shown = call("doctor", tmp_path).stdout
        assert "processes are sampling" in shown and "killed" not in shown
        same(sample_traces(*parts_of(plan), sampler, store=tmp_path), whole)
        assert (tmp_path / left[2]).exists()
    same(sample_traces(*parts_of(plan), sampler, store=tmp_path), whole)
    assert set(tmp_path.rglob("*")) == before


def _key(plan, sampler, folder):
    driver = Driver(parts_of(plan), sampler, folder)
    return driver._key, driver._contents, driver._shape


def test_longer_chains_beside_shorter_ones(plan, sampler, tmp_path):
    """A driver that asks for more draws while another, with the arrays it knows, still writes."""
    few = dataclasses.replace(sampler.settings, chains=1)
    sampler = dataclasses.replace(sampler, settings=few)
    longer = dataclasses.replace(sampler, settings=dataclasses.replace(few, draws=66))

    def progress(done, total):
        if done == 1:
            sample_traces(*parts_of(plan), longer, store=tmp_path)

    short = sample_traces(*parts_of(plan), sampler, store=tmp_path, progress=progress)
    found = sample_traces(*parts_of(plan), longer, store=tmp_path)
    same(found, sample_traces(*parts_of(plan), longer))
    same(short, sample_traces(*parts_of(plan), sampler))


def test_lazy_traces_read_what_is_asked_for(plan, sampler, whole, tmp_path):
    found = sample_traces(*parts_of(plan), sampler, store=tmp_path)
    assert "StoredLosses" in repr(found.variable._data)
    for part in (
        {"time": 1, "chain": 2},
        {"time": [1], "draw": slice(1, 4), "item": [3, 0, 5]},
        {"chain": [2, 0], "draw": 3, "item": slice(None, None, 2)},
        {"item": -1},
        {"draw": [], "item": 2},
    ):
        same(found.isel(part), whole.isel(part))
    same(pickle.loads(pickle.dumps(found)), whole)
    same(found.transpose("item", ...), whole.transpose("item", ...))
    changed = found.copy()
    changed[0, 0] = 1
    assert float(changed[0, 0].min()) == 1
    same(found, whole)
    (tmp_path / "units" / "12-1.json").unlink()
    again = stored_losses.lazy(tmp_path, [4, 12], plan.observed.coords(), found.attrs)
    same(again.isel(time=0), whole.isel(time=0))
    with pytest.raises(CorruptedError, match="chain 1 at step 12 has 0 of 6 draws"):
        again.load()


@pytest.mark.parametrize("part", ["0/3", "4/3", "3", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none(tiny, tmp_path, part):
    shown = call("sample", tiny[1], "--store", tmp_path / "s", f"--part={part}", code=1).stderr
    assert "`--part` expects K/N with 1 <= K <= N" in shown and not (tmp_path / "s").exists()


def test_where_chains_cannot_be_computed(tiny, tmp_path, monkeypatch):
    options = (tiny[1], "--store", tmp_path / "s", "--scheduler", "tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    shown = call("sample", *options, code=1).stderr
    assert shown == (
        "error: this needs distributed, not installed here; "
        "`pip install 'dlnflow[cluster]'` does that.\n"
    )
    with pytest.raises(ValueError, match="give one of the two"):
        with executors.executor(2, "tcp://127.0.0.1:9"):
            pass


SAMPLE = [sys.executable, "-m", "dlnflow", "lm", "sample"]


def start(tiny, store, *more):
    fixed = [word for k, v in FIXED.items() for word in ("--set", f"{k}={v}")]
    command = [*SAMPLE, tiny[1], "--store", store, *SHORT, "--set", "chains=3", *fixed, *more]
    return subprocess.Popen(
        [str(word) for word in command], cwd=os.getcwd(), stdout=-3, stderr=-1, text=True
    )


@pytest.mark.slow
def test_four_parts_in_processes_of_their_own(tiny, whole, tmp_path):
    parts = [start(tiny, tmp_path, "--part", f"{k}/4") for k in (1, 2, 3, 4)]
    for part in parts:
        assert part.wait() == 0, part.stderr.read()
        part.stderr.close()
    same(experiment.read("run", tmp_path)[0], whole)
    assert half_made(tmp_path) == []


@pytest.mark.slow
def test_processes_killed_at_random_moments(tiny, whole, tmp_path):
    """Parts, drivers and their workers; afterwards the same command ends with the same bits."""
    rng = np.random.default_rng()
    kinds = [["--part", "1/2"], ["--part", "2/2"], ["--workers", "2"], []]
    kills = 0
    for more in kinds * 2:
        process = start(tiny, tmp_path, *more)
        started = time.monotonic()
        while not (tmp_path / "lock").exists() and time.monotonic() - started < 60:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 6))
        children = _children(process.pid)
        for pid in [*children, process.pid] if rng.random() < 0.5 else [process.pid, *children]:
            try:
                os.kill(pid, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                pass
        process.wait()
        process.stderr.close()
    assert kills >= 8
    last = start(tiny, tmp_path, "--workers", "2")
    assert last.wait() == 0, last.stderr.read()
    last.stderr.close()
    same(experiment.read("run", tmp_path)[0], whole)
    assert half_made(tmp_path) == []


def _children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True)
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.slow
def test_a_worker_killed_while_it_samples(plan, sampler, whole, tmp_path):
    with LocalWorkers(2) as pool:

        def kill(done, total):
            if done in (1, 3):
                os.kill(pool.pids[-1], signal.SIGKILL)

        same(
            sample_traces(*parts_of(plan), sampler, store=tmp_path, executor=pool, progress=kill),
            whole,
        )
    assert half_made(tmp_path) == []


@pytest.mark.slow
def test_a_dask_cluster_with_a_worker_killed(tiny, plan, sampler, whole, tmp_path):
    import distributed

    with distributed.LocalCluster(
        2, threads_per_worker=1, dashboard_address=None, protocol="tcp://"
    ) as cluster:
        command = ["--scheduler", cluster.scheduler_address]
        found = answer(
            "sample", tiny[1], "--store", tmp_path / "a", *SHORT, "--set", "chains=3", *command
        )
        assert found["draw"] == 6
        same(experiment.read("run", tmp_path / "a")[0], whole)
        with executors.executor(scheduler=cluster.scheduler_address) as pool:

            def kill(done, total):
                if done == 1:
                    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)

            same(
                sample_traces(
                    *parts_of(plan), sampler, store=tmp_path / "b", executor=pool, progress=kill
                ),
                whole,
            )
    with pytest.raises(ConnectionError, match="does not answer"):
        with executors.executor(scheduler="tcp://127.0.0.1:9"):
            pass


def test_json_of_a_finished_sample_is_as_before(tiny, tmp_path):
    found = answer("sample", tiny[1], "--store", tmp_path, *SHORT, "--set", "chains=1")
    assert json.loads(json.dumps(found)) == {
        "store": str(tmp_path),
        "time": 2,
        "chain": 1,
        "draw": 6,
        "item": 62,
        "burn_in": 2,
        "thin": 1,
        **FIXED,
    }
