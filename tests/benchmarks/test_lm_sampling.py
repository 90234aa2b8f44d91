"""CPU seconds of a draw against devinterp 2.0.1: same model, batch, observed tokens, one thread.

devinterp needs an interpreter of its own, named by ``DLNFLOW_DEVINTERP_PYTHON``; see
docs/measured.md for the commands. Start-up is taken out by a second, shorter chain.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.benchmark

PYTHON = os.environ.get("DLNFLOW_DEVINTERP_PYTHON")
ROWS, LENGTH, OBSERVED_ROWS = 16, 128, 32
DRAWS, FEW, REPEATS = 40, 10, 4
STEP = {"step_size": 6e-7, "n_beta": 1e4, "localization": 1e4}
WANTED = {"fp32": 0.7, "bf16": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained model of the size of `fast`, in the hub's layout; data that both sides read."""
    import torch

    from dlnflow.lm.runs.model import CONFIGURATIONS, build

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("model")
    build(CONFIGURATIONS["fast"]).save_pretrained(out / "step0")
    ids = np.random.default_rng(0).integers(2, 1024, 200_000)
    observed = ids[-OBSERVED_ROWS * (LENGTH + 1) :].reshape(OBSERVED_ROWS, -1)
    gradient = ids[: 1024 * (LENGTH + 1)].reshape(1024, -1)
    np.savez(out / "data.npz", gradient=gradient, observed=observed)
    return out


@pytest.fixture(scope="module")
def peer(folder):
    """A process that samples with devinterp each time it is asked."""
    if PYTHON is None:
        pytest.skip("DLNFLOW_DEVINTERP_PYTHON names no interpreter with devinterp 2.0.1")
    settings = STEP | {"rows": ROWS, "draws": DRAWS, "few": FEW, "observed_batches": OBSERVED_ROWS}
    settings["observed_batches"] //= ROWS
    worker = Path(__file__).parent / "devinterp_worker.py"
    arguments = [
        PYTHON,
        str(worker),
        str(folder / "step0"),
        str(folder / "data.npz"),
        json.dumps(settings),
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(arguments, text=True, bufsize=1, env=environment, **pipes) as process:
        yield process
        process.stdin.close()


def asked(peer, precision):
    """CPU seconds of a draw and the mean observed loss, by devinterp."""
    peer.stdin.write(precision + "\n")
    while not (line := peer.stdout.readline()).startswith("{"):
        assert line, "devinterp's process ended"
    answer = json.loads(line)
    return answer["seconds"], answer["loss"]


def ours(folder, precision):
    """The same for one chain of `dlnflow.lm`, a draw after every step."""
    from dlnflow.lm.data.batches import GradientData, Observed
    from dlnflow.lm.runs.checkpoints import Checkpoints
    from dlnflow.lm.sampling.unit import Sampler, Unit, run
    from dlnflow.sampling.settings import Settings

    data = np.load(folder / "data.npz")
    gradient = GradientData(data["gradient"].reshape(-1).astype(np.int32), ROWS, LENGTH)
    observed = Observed(data["observed"])
    ladder = Checkpoints.from_directory(folder)
    seconds = []
    for draws in (DRAWS, FEW):
        sampler = Sampler(
            Settings(chains=1, draws=draws, burn_in=0, thin=1, **STEP), precision=precision
        )
        started = time.process_time()
        result = run(Unit(ladder, 0, 0, draws, gradient, observed, sampler))
        seconds.append(time.process_time() - started)
        if draws == DRAWS:
            loss = result.losses.mean()
    return (seconds[0] - seconds[1]) / (DRAWS - FEW), float(loss)


@pytest.mark.parametrize("precision", WANTED)
def test_a_draw_costs_less_than_devinterps(folder, peer, precision):
    mine, theirs = [], []
    for _ in range(REPEATS):
        theirs.append(asked(peer, precision))
        mine.append(ours(folder, precision))
    (a, loss_a), (b, loss_b) = min(mine), min(theirs)
    print(f"\n{precision}: {1e3 * a:.1f} against {1e3 * b:.1f} CPU ms a draw, ratio {a / b:.2f}")
    assert loss_a == pytest.approx(loss_b, abs=0.02)  # the same task on both sides
    assert a / b <= WANTED[precision]
