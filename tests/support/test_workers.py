"""Jobs that are handed out: lost workers, foreign executors, errors."""

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from dlnflow._support import jobs, locks
from dlnflow._support.workers import LocalWorkers


class Refusing:
    """What cannot be pickled where it would be sent."""

    def __reduce__(self):
        raise TypeError("no pickle")


def job(what):
    """One of several things that a process may do."""
    kind, _, place = what.partition(":")
    if kind == "die" and not os.path.exists(place):
        open(place, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "error":
        error = ValueError("wrong")
        error.add_note("and why")
        raise error
    return Refusing() if kind == "odd" else True


def test_a_lost_process_is_replaced_and_its_job_done_again(tmp_path):
    asked = ["a", f"die:{tmp_path / 'died'}", "b", "c", "d"]
    with LocalWorkers(2, start=print) as pool:
        assert sorted(jobs.completed(job, asked, pool)) == sorted(asked)
        assert (tmp_path / "died").exists() and 1 <= len(set(pool.pids)) <= 2
        with pytest.raises(ValueError, match="wrong") as caught:
            list(jobs.completed(job, ["error"], pool))
        assert caught.value.__notes__ == ["and why", jobs.SAFE]
        with pytest.raises(RuntimeError, match="cannot be sent: no pickle"):
            pool.submit(job, "odd").result()
        with pytest.raises(BrokenExecutor, match=r"exit code -9.*memory") as caught:
            list(jobs.completed(job, ["always", "always"], pool))
        assert caught.value.__notes__ == [jobs.SAFE]


DRIVER = """
import time
from dlnflow._support.workers import LocalWorkers
if __name__ == "__main__":
    pool = LocalWorkers(1)
    pool.submit(abs, 1).result()
    print(pool.pids[0], flush=True)
    pool.submit(time.sleep, 600).result()
"""


def test_processes_whose_parent_is_killed_end_in_the_middle_of_a_job(tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        worker = int(driver.stdout.readline())
        time.sleep(0.2)
        os.kill(worker, 0)  # it is there
        driver.kill()
    until = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid):
    """Whether a process is there and not only waits for somebody to ask how it ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    about = Path(f"/proc/{pid}/stat")
    return not about.exists() or about.read_text().rpartition(")")[2].split()[0] != "Z"


def test_processes_end_with_their_pool_also_when_it_is_left_by_an_error():
    with pytest.raises(KeyboardInterrupt), LocalWorkers(1) as pool:
        pool.submit(job, "a").result()
        pids = pool.pids
        pool.submit(time.sleep, 60)
        time.sleep(0.2)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


class SlowJob:
    """A job of a queue that knows nothing of concurrent.futures, as submitit's."""

    def __init__(self, function, argument):
        self.call, self.asked = (function, argument), 0

    def done(self):
        self.asked += 1
        return self.asked > 2

    def result(self):
        return self.call[0](self.call[1])

    def cancel(self):
        raise AssertionError("nothing is left to cancel")


class Queue:
    def submit(self, function, argument):
        return SlowJob(function, argument)


def test_an_executor_with_jobs_of_its_own():
    assert sorted(jobs.completed(bool, [1, 2, 3], Queue())) == [1, 2, 3]


@pytest.mark.parametrize("threads", [0, 2])
def test_jobs_that_others_do_are_asked_for_again(threads):
    asked = []

    def work(k):
        asked.append(k)
        return k != 2 or asked.count(2) > 3

    if threads:
        with ThreadPoolExecutor(threads) as pool:
            assert sorted(jobs.completed(work, [1, 2, 3], pool)) == [1, 2, 3]
    else:
        assert list(jobs.completed(work, [1, 2, 3])) == [1, 3, 2]
    assert sorted(asked) == [1, 2, 2, 2, 2, 3]


class Flaky:
    def __init__(self, fails):
        self.left = fails

    def __call__(self, k):
        self.left -= 1
        if self.left >= 0:
            raise OSError(28, "No space left on device")
        return True


def test_errors_of_disks_are_tried_again_but_not_for_ever():
    with ThreadPoolExecutor(1) as pool:
        assert sorted(jobs.completed(Flaky(jobs.IN_A_ROW - 1), [1, 2, 3], pool)) == [1, 2, 3]
        with pytest.raises(OSError, match="No space"):
            list(jobs.completed(Flaky(jobs.IN_A_ROW), [1, 2, 3], pool))
        with pytest.raises(OSError, match="No space"):
            list(jobs.completed(Flaky(1), [1, 2, 3], pool, hopeless=(OSError,)))


class Gone:
    """An executor whose scheduler is lost: what it was given is cancelled."""

    def submit(self, function, argument):
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_a_lost_scheduler_is_said_in_a_line():
    with pytest.raises(ConnectionError, match="for example a scheduler, is gone") as caught:
        list(jobs.completed(job, ["a"], Gone()))
    assert caught.value.__notes__ == [jobs.SAFE]


def test_a_claim_is_one_and_leaves_nothing(tmp_path):
    path = tmp_path / "unit.lock"
    with locks.claimed(path) as mine, locks.claimed(path) as other:
        assert mine and not other and path.exists()
        assert not locks.is_free(path)
    assert not path.exists()
    path.write_text("")  # left behind by a killed process
    with locks.claimed(path) as mine:
        assert mine
    assert locks.is_free(path)


def test_only_who_comes_alone_clears(tmp_path):
    calls = []
    with locks.together(tmp_path / "lock", lambda: calls.append(1)):
        with locks.together(tmp_path / "lock", lambda: calls.append(2)):
            assert calls == [1]
    with locks.together(tmp_path / "lock", lambda: calls.append(3)):
        assert calls == [1, 3]


def test_claims_of_many_threads_exclude_each_other(tmp_path):
    path, inside, seen = tmp_path / "unit.lock", [], []

    def enter(k):
        for _ in range(50):
            with locks.claimed(path) as mine:
                if mine:
                    inside.append(k)
                    seen.append(len(inside))
                    time.sleep(0.0005)
                    inside.remove(k)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(enter, range(6)))
    assert set(seen) == {1} and not path.exists()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(ValueError, match=r"lock: its file system has no file locks .*another disk"):
        with locks.claimed(tmp_path / "lock"):
            pass


def test_a_pool_is_no_part_of_what_is_sent():
    with pytest.raises(TypeError):
        pickle.dumps(LocalWorkers(1))
