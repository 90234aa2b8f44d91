"""Processes that work on one store and are killed at random; forked from one that has torch."""

import multiprocessing
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np

from dlnflow._support.workers import LocalWorkers
from dlnflow.lm import experiment
from dlnflow.lm.runs import device

STEPS, ROWS, CHAINS = [4, 12], 2, 3
FIRST, MORE = 6, 40
"""Draws of a chain at first, and how many are added whenever all are complete."""
PARTS = 4
KINDS = [(k, PARTS) for k in range(1, PARTS + 1)] + [(1, 1), (1, 1)]
"""Four parts, and two drivers of the whole, at the same time."""


def plan(run):
    return experiment.plan(run, steps=STEPS, rows=ROWS)


def sampler(draws):
    return experiment.sampler(
        chains=CHAINS, draws=draws, burn_in=2, thin=1, n_beta=1e4, localization=1e4, step_size=2e-6
    )


def work(run, store, draws, part, workers=1, sums=False):
    """What `dlnflow lm sample --part ... --workers ...` does."""
    os.environ["OMP_NUM_THREADS"] = "1"
    device.threads(1).__enter__()
    described = plan(run).of_class_sums() if sums else plan(run)
    sample = partial(experiment.sample_part, described, sampler(draws), store, part)
    if workers == 1:
        sample()
    else:
        with LocalWorkers(workers) as pool:
            sample(executor=pool)


class Crowd:
    """A process for each of `KINDS`, until all have ended by themselves.

    Parameters
    ----------
    run, store : path
        Of a run of `train`, and of the traces.
    seed : int
        Of the moments and the victims.
    sums : bool
        Keep class sums, in a store of its own for every number of draws.
    """

    def __init__(self, run, store, seed, sums=False):
        self.run, self.store, self.rng = run, Path(store), np.random.default_rng(seed)
        self.sums = sums
        self.draws, self.kills, self.context = FIRST, {}, forking()
        self.processes = {}

    @property
    def place(self):
        """The store that is being filled."""
        return self.store / str(self.draws) if self.sums else self.store

    def kill(self, times, pause=0.25):
        """Kill so many of them, each at a random moment; who ended comes back with more draws."""
        began = sum(self.kills.values())
        while sum(self.kills.values()) < began + times:
            self._fill()
            time.sleep(self.rng.exponential(pause))
            index = int(self.rng.choice(list(self.processes)))
            self._kill("part" if KINDS[index][1] > 1 else "driver", self.processes.pop(index))

    def kill_workers(self, times, longest=8.0):
        """Kill workers of a driver that goes on without them, each after some CPU seconds."""
        began, process = self.kills.get("worker", 0), None
        while self.kills.get("worker", 0) < began + times:
            if process is None or not process.is_alive():
                if process is not None and process.exitcode == 0:
                    self.draws += MORE
                process = self._start((1, 1), 2)
            wait = self.rng.uniform(0, longest)
            victim = None
            while process.is_alive() and victim is None:
                time.sleep(0.1)
                old = [pid for pid in workers_of(process.pid) if cpu_seconds(pid) > wait]
                victim = int(self.rng.choice(old)) if old else None
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
                self.kills["worker"] = self.kills.get("worker", 0) + 1
        process.join()

    def finish(self):
        """Let one driver do the rest."""
        for process in self.processes.values():
            process.join()
        process = self._start((1, 1))
        process.join()
        assert process.exitcode == 0

    def _fill(self):
        """Start those that are missing; if all ended, the store is complete: ask for more."""
        for process in self.processes.values():
            assert process.exitcode in (None, 0)
        if self.processes and not any(p.is_alive() for p in self.processes.values()):
            self.processes.clear()
            self.draws += MORE
        for index, part in enumerate(KINDS):
            if index not in self.processes:
                self.processes[index] = self._start(part)

    def _start(self, part, workers=1):
        arguments = (self.run, self.place, self.draws, part, workers, self.sums)
        process = self.context.Process(target=work, args=arguments)
        process.start()
        return process

    def _kill(self, kind, process):
        alive = process.is_alive()
        process.kill()
        process.join()
        if alive and process.exitcode == -signal.SIGKILL:
            self.kills[kind] = self.kills.get(kind, 0) + 1


def forking():
    """Processes are forked from a server that has imported this module, so that they begin soon."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def workers_of(pid):
    """Return the children that work; the first child of `spawn` counts resources."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True
    )
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return [int(number) for number, command in lines if "spawn_main" in command]


def cpu_seconds(pid):
    """Return the CPU time of a process; 0 if it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
