"""A restricted chain costs at most an unrestricted one, toy and language model.

Run with ``python -m pytest -n 0 -m benchmark -s tests/benchmarks/test_restricted.py``.
"""

import time

import numpy as np
import pytest
import torch

import dlnflow as dln
from dlnflow import sampling
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.named_components import moving
from dlnflow.lm.runs.model import CONFIGURATIONS, build
from dlnflow.lm.sampling.evaluator import LanguageModelEvaluator
from dlnflow.sampling import Settings, chains
from dlnflow.sampling.noise import StepNoise

pytestmark = pytest.mark.benchmark


def seconds(work, repeats=4):
    best = np.inf
    for _ in range(repeats):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return best


@pytest.mark.parametrize("restrict", ["layer1", "layer2", "unit"])
def test_toy(restrict):
    torch.set_num_threads(1)
    run = dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-3)
    unit = np.zeros((50, 8), bool)
    unit[3] = True
    chosen = {"layer1": unit, "layer2": np.zeros((15, 50), bool) | unit[:, 0]}
    steps = np.linspace(0, run.n_steps, 20).astype(int)
    options = sampling.suggest(run) | {"draws": 500, "burn_in": 0}
    whole = seconds(lambda: sampling.trace_run(run, steps, **options))
    some = chosen if restrict == "unit" else restrict
    part = seconds(lambda: sampling.trace_run(run, steps, restrict=some, **options))
    print(f"\n{restrict}: {part / whole:.2f} of the unrestricted chain, {whole:.2f} s")
    assert part <= whole


@pytest.mark.parametrize("restrict", ["layer1.head0", "layer1.mlp", "layer0", "layer1"])
def test_language_model(restrict):
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    gradient = GradientData(rng.integers(0, 1024, 20_000), rows=4, length=128)
    observed = Observed(rng.integers(0, 1024, (2, 128)))
    settings = Settings(1e4, 1e4, 2e-6, kernel_options={})

    def steps(restrict):
        model = build(CONFIGURATIONS["fast"]).requires_grad_(False)
        names, entries = moving(model, restrict)
        inner = LanguageModelEvaluator(model, gradient, observed, (0, 0, 0), parameters=names)
        kernel, posterior = chains.around(inner, inner.center, "rmsprop_sgld", settings, entries)
        state, noise = kernel.init(posterior.center), StepNoise((0, 0, 0), posterior.center)
        started = time.process_time()
        for step in range(40):
            noise.step, inner.step = step, step + 1
            state = kernel.step(state, noise)
        return time.process_time() - started

    whole, part = (min(steps(r) for _ in range(4)) for r in ((), restrict))
    print(f"\n{restrict}: {part / whole:.2f} of the unrestricted step, {1000 * whole / 40:.1f} ms")
    assert part <= whole
