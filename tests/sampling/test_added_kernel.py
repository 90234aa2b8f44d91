"""A kernel in one file: registered, it works everywhere; without a trait it is refused."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import dlnflow as dln
from dlnflow import sampling
from dlnflow.sampling import KERNELS, Settings, selftest
from dlnflow.sampling.kernels.spec import STEP_SIZE, Kernel, KernelSpec, KernelTraits, Law
from tests.sampling.targets import Fixed, quadratic


class State(NamedTuple):
    theta: Any
    value: Any


def build(posterior, *, step_size):
    """Leimkuhler and Matthews (2013): noise averaged over two steps, exact on Gaussians."""
    last = []

    def init(theta):
        last[:] = [torch.zeros_like(theta)]
        return State(theta.clone(), posterior.evaluate(theta))

    def step(state, noise):
        xi, drift = noise.normal().clone(), posterior.gradient(state.theta, state.value)
        theta = state.theta - 0.5 * step_size * drift + 0.5 * step_size**0.5 * (last[0] + xi)
        last[0] = xi
        return State(theta, posterior.evaluate(theta))

    return Kernel("averaged", init, step, law=Law.EXACT_ON_GAUSSIANS)


KERNEL = KernelSpec(
    "averaged",
    build,
    KernelTraits(
        full_batch_only=False,
        compares_losses=False,
        effective_step=STEP_SIZE,
        stable_below=4.0,
        relative_step=1.0,
        adapts_until="",
    ),
)


@pytest.fixture(scope="module")
def run():
    return dln.Run(dln.semantic_hierarchy(3), hidden=6, init_std=0.05)


@pytest.fixture
def register(monkeypatch):
    def add(**traits):
        spec = dataclasses.replace(KERNEL, traits=dataclasses.replace(KERNEL.traits, **traits))
        monkeypatch.setitem(KERNELS, "averaged", spec)

    return add


SHORT = {"kernel": "averaged", "draws": 1000, "chains": 4}


def module(batch_size=None, dtype="float64"):
    """Sample a linear regression with the toy kernel."""
    net = torch.nn.Linear(2, 1, bias=False, dtype=getattr(torch, dtype)).eval()
    data = (torch.eye(2, dtype=net.weight.dtype), torch.ones(2, 1, dtype=net.weight.dtype))
    return sampling.sample(
        net,
        lambda call, batch: (call(batch[0]) - batch[1]).square()[:, 0],
        data,
        settings=Settings(10.0, 5.0, 1e-2, draws=5, dtype=dtype),
        kernel="averaged",
        batch_size=batch_size,
    )


def test_a_declared_kernel_works_everywhere(run, register, monkeypatch):
    register()
    found = dln.influence.bif(run, [300, run.n_steps], **SHORT)  # step, burn-in filled in
    assert set(found.verdict.values) <= {"mixed", "short"}
    other = dln.influence.bif(run, [300, run.n_steps], draws=1000)
    assert np.corrcoef(found.values.ravel(), other.values.ravel())[0, 1] > 0.95
    assert np.isfinite(module()).all() and np.isfinite(module(batch_size=1)).all()
    monkeypatch.setitem(selftest.CASES, "averaged", ("averaged", {}))
    table = selftest.selftest(kernels=["averaged"], chains=512)
    gaussian = table[table.target.isin(["isotropic", "ill-conditioned", "correlated"])]
    assert (gaussian.verdict == "exact").all()
    with pytest.raises(ValueError, match="beyond stability"):
        sampling.trace_run(run, [300], step_size=1.0, **SHORT)


@pytest.mark.parametrize(
    ("trait", "use"),
    [
        ("full_batch_only", lambda run: module(batch_size=1)),
        ("compares_losses", lambda run: module(dtype="float32")),
        ("effective_step", lambda run: module(dtype="float32")),
        ("effective_step", lambda run: sampling.trace_run(run, [300], step_size=1e-7, **SHORT)),
        ("stable_below", lambda run: sampling.trace_run(run, [300], **SHORT)),
        ("relative_step", lambda run: sampling.suggest(run, kernel="averaged")),
        ("adapts_until", lambda run: module()),
        ("at_relative_step", lambda run: selftest._step(KERNELS["averaged"], None, 0.2)),
    ],
)
def test_what_needs_a_trait_refuses_a_kernel_without_it(run, register, trait, use):
    register(**({trait: None} if trait != "at_relative_step" else {"effective_step": "s / V"}))
    with pytest.raises(ValueError, match=f"'averaged' .*does not declare.* `{trait}`"):
        use(run)


@pytest.mark.parametrize(
    ("law", "lacking"), [(None, "law"), (Law.DISCRETISED, "steps"), (Law.UNKNOWN, "steps")]
)
def test_a_kernel_says_what_it_samples(law, lacking):
    spec = dataclasses.replace(
        KERNEL, build=lambda *args, **kwargs: build(*args, **kwargs)._replace(law=law)
    )
    with pytest.raises(ValueError, match=f"does not declare its `{lacking}`"):
        spec(quadratic(np.eye(2), 1), step_size=0.1)


def test_an_undeclared_option_is_not_taken(register):
    register()
    with pytest.raises(ValueError, match="does not take the option 'step'; its options: none"):
        KERNELS["averaged"](quadratic(np.eye(2), 1), step_size=0.1, step=3)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_declares_everything(name):
    """Of `relative_step`, only kernels without a step of their own may be silent."""
    spec = KERNELS[name]
    free = {"relative_step"} if spec.traits.effective_step != STEP_SIZE else {"at_relative_step"}
    for field in dataclasses.fields(KernelTraits):
        assert field.name in free or getattr(spec.traits, field.name) is not None, field.name
    taken = set(inspect.signature(spec.build).parameters) - {"posterior", "step_size"}
    assert taken == {option.name for option in spec.traits.options}
    built = spec(quadratic(np.eye(2), 1), step_size=0.1)
    state = built.step(
        built.init(torch.zeros(1, 2, dtype=torch.float64)),
        Fixed(
            torch.ones(1, 2, dtype=torch.float64),
            torch.ones(1, 2, dtype=torch.float64),
            uniform=torch.zeros(1),
        ),
    )
    assert built.name == name and state.value.loss.shape == (1,)


def test_no_kernel_is_compared_by_its_name():
    """Outside its own file a kernel is named in words and as a default, never compared."""
    names = "|".join(KERNELS)
    compared = re.compile(rf"""(==|!=|\bin\b)\s*[\[({{]?\s*["']({names})["']""")
    for path in Path(dln.__file__).parent.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not compared.search(line), f"{path.name}:{number} {line.strip()}"
