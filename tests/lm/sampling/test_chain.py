"""Chains that advance together, on tensors that stay: the bits of a chain alone, in one piece."""

import dataclasses
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from dlnflow.lm import experiment
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.sampling import chain, unit
from dlnflow.lm.sampling.chain import Blocks, Chain
from dlnflow.lm.sampling.evaluator import AHEAD, Minibatches
from dlnflow.lm.sampling.token_traces import Driver, Parts, sample_traces
from dlnflow.lm.sampling.unit import Sampler, Unit, run
from dlnflow.sampling.fixed_step import Repeated
from tests.sampling.test_fixed_step import uncalled

SYNCHRONISING = ("item", "__bool__", "__float__", "__int__", "tolist", "cpu", "numpy")
"""What makes Python wait for a GPU, and cannot be captured."""


@contextmanager
def nothing_waits():
    """Refuse whatever would make the host wait for the device."""
    own = {name: getattr(torch.Tensor, name) for name in SYNCHRONISING}

    def refused(*_, **__):
        raise AssertionError("the host waits for the device")

    for name in own:
        setattr(torch.Tensor, name, refused)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(torch.Tensor, name, function)


def emulated(function):
    """As a graph: nothing now, and later the same operations without the host."""

    def replay():
        with nothing_waits():
            function()

    return uncalled(replay)


@pytest.fixture(scope="module")
def units(tiny):
    """Three chains of one checkpoint, with draws beyond one block of minibatches."""
    plan = experiment.plan(tiny[1], steps=[4], rows=2)
    known = {"n_beta": 1e4, "localization": 1e4, "step_size": 2e-6}
    sampler = experiment.sampler(chains=3, draws=30, burn_in=8, thin=2, **known)
    return [
        Unit(plan.checkpoints, 4, k, 30, plan.gradient, plan.observed, sampler) for k in range(3)
    ]


@pytest.fixture(scope="module")
def alone(units):
    return [run(one) for one in units]


def same(a, b):
    assert a.losses.tobytes() == b.losses.tobytes()
    assert a.checkpoint_loss.tobytes() == b.checkpoint_loss.tobytes()
    assert a.state == b.state and a.n_parameters == b.n_parameters


@pytest.mark.parametrize("capture", [None, emulated])
def test_chains_in_turn_on_one_model_give_the_bits_of_each_alone(units, alone, capture):
    """With minibatches cut from ids on the device, and one chain that is ahead of the others."""
    head = run(replace(units[2], draws=12))
    units = [*units[:2], replace(units[2], done=12, state=head.state)]
    shared = chain.opened(units[0])
    shared = shared._replace(text=torch.from_numpy(np.array(units[0].gradient.ids)))
    every = [Chain(one, shared, repeated=Repeated(capture)) for one in units]
    found = chain._to_the_end(every)
    for got, wanted in zip(found[:2], alone[:2], strict=True):
        same(got, wanted)
    rest = found[2]._replace(losses=np.concatenate([head.losses, found[2].losses]))
    same(rest, alone[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"kernel": "underdamped"},
        {"restrict": ("layer0.head1",)},
        {"parameters": ("*mlp*",)},
    ],
)
def test_other_samplers_can_be_captured_too(units, changes):
    settings = units[0].sampler.settings
    if "kernel" in changes:
        settings = replace(settings, kernel_options={}, step_size=1e-6)
    sampler = replace(units[0].sampler, settings=settings, **changes)
    one = replace(units[0], sampler=sampler, draws=8)
    wanted = run(one)
    graph = Chain(one, chain.opened(one), repeated=Repeated(emulated))
    same(chain._to_the_end([graph])[0], wanted)


def test_a_checkpoint_is_opened_once_for_all_its_chains(units, monkeypatch):
    loads, load = [], Checkpoints.load

    def counted(self, step, **options):
        loads.append(step)
        return load(self, step, **options)

    chain.close()
    monkeypatch.setattr(Checkpoints, "load", counted)
    short = [replace(one, draws=4) for one in units]
    found = unit.run_together(short)
    frozen = replace(short[0].sampler, parameters=("*mlp*",))
    run(replace(short[0], sampler=frozen))  # what moves is not part of what is opened
    same(run(short[1]), found[1])
    assert loads == [4]
    chain.close()
    run(short[1])
    assert loads == [4, 4]


def test_a_driver_lets_go_of_the_checkpoints(units, tmp_path):
    one = units[0]
    settings = replace(one.sampler.settings, chains=1, draws=4)
    parts = Parts(one.checkpoints, one.gradient, one.observed)
    sample_traces(*parts, replace(one.sampler, settings=settings), store=tmp_path)
    assert not vars(chain._opened)


def test_minibatches_are_the_same_wherever_they_are_cut():
    ids = np.random.default_rng(0).integers(0, 300, 5_000, dtype=np.int32)
    data = GradientData(ids, rows=5, length=40, repeat_share=0.6, segment=(3, 9))
    here = Minibatches(data, (1, 2, 3), torch.device("cpu"))
    there = Minibatches(data, (1, 2, 3), torch.device("cpu"), torch.from_numpy(ids))
    place = there.ids.data_ptr()
    for step in (0, 1, AHEAD - 1, AHEAD, 5 * AHEAD + 3, 2):
        here.take(step)
        there.take(step)
        assert torch.equal(here.ids, there.ids) and there.ids.data_ptr() == place


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_draws_leave_in_blocks(count):
    blocks, rows = Blocks(count, torch.zeros(3)), torch.arange(3.0 * count).view(count, 3)
    for row in rows:
        blocks.add(row)
    np.testing.assert_array_equal(blocks.all(), rows.numpy())


def test_on_a_gpu_the_chains_of_a_checkpoint_are_one_job(units, tmp_path):
    one = units[0]
    ladder = Checkpoints.from_directory(one.checkpoints.places[0][0].rsplit("/", 1)[0], [4, 12])
    settings = replace(one.sampler.settings, chains=10, draws=4)
    sampler = replace(one.sampler, settings=settings, device="cuda")
    driver = Driver(Parts(ladder, one.gradient, one.observed), sampler, tmp_path)
    jobs = [driver._job(*which, 4) for which in driver.grid]
    groups = unit.together(jobs, "cuda:0")
    assert [[(job.step, job.chain) for job in group] for group in groups] == [
        [(step, k) for k in numbers] for step in (4, 12) for numbers in (range(8), range(8, 10))
    ]
    assert unit.together(jobs[:2], "cpu") == [(jobs[0],), (jobs[1],)]
    assert driver.left((1, 3)) == driver.grid[:8] + driver.grid[18:]  # groups 1 and 4 of 4
    assert driver.left((2, 3)) == driver.grid[8:10]


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_share_out_every_chain_once_and_keep_those_of_a_gpu_together(device, parts):
    grid = [(step, chain) for step in (100, 200, 300) for chain in range(4)]
    found = [unit.dealt(grid, (k, parts), device) for k in range(1, parts + 1)]
    assert sorted(one for part in found for one in part) == grid
    if device == "cpu":
        assert found == [grid[k::parts] for k in range(parts)]
        return
    for step in (100, 200, 300):
        assert sum(any(one == step for one, _ in part) for part in found) == 1
    assert [len(part) // 4 for part in found] == [len(range(k, 3, parts)) for k in range(parts)]


@pytest.mark.parametrize("part", [(0, 2), (3, 2), (1, 0)])
def test_a_part_that_does_not_exist(part):
    with pytest.raises(ValueError, match="k of n with 1 <= k <= n"):
        unit.dealt([(1, 0)], part, "cuda")


def test_chains_of_one_job_are_claimed_and_written_one_by_one(units, alone, tmp_path):
    """One is there, one is being computed by somebody else, one is left."""
    one = units[0]
    driver = Driver(Parts(one.checkpoints, one.gradient, one.observed), one.sampler, tmp_path)
    jobs = tuple(driver._job(4, k, 30) for k in range(3))
    assert unit.work(jobs[1])
    with driver.files.writing(), driver.files.claimed(4, 2):
        before = dict(unit.__dict__)
        assert not unit.work_together(jobs)
        assert driver.files.done(4, 2) == 0 and before["run"] is unit.run
    assert unit.work_together(jobs)
    driver = Driver(Parts(one.checkpoints, one.gradient, one.observed), one.sampler, tmp_path)
    driver.run()
    for k, wanted in enumerate(alone):
        assert driver.traces().sel(chain=k).values.tobytes() == wanted.losses.tobytes()


def test_chains_that_do_not_fit_together_run_in_halves(units, alone, monkeypatch):
    class NoGpu:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    sizes, end = [], chain._to_the_end

    def limited(every):
        sizes.append(len(every))
        if len(every) > 1:
            raise torch.OutOfMemoryError
        return end(every)

    monkeypatch.setattr(chain, "usable_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device", NoGpu)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(chain, "opened", lambda one: opened)
    monkeypatch.setattr(chain, "_to_the_end", limited)
    opened = chain.Opened(*_opened(units[0]), None)
    gpu = [replace(one, sampler=replace(one.sampler, device="cuda")) for one in units]
    for got, wanted in zip(chain.advanced(gpu), alone, strict=True):
        same(got, wanted)
    assert sizes == [3, 1, 2, 1, 1]


def _opened(one):
    model = one.checkpoints.load(one.step).requires_grad_(False)
    model.set_attn_implementation("eager")
    return model, {name: p.data for name, p in model.named_parameters()}


def test_tf32_is_refused_where_it_is_not(units):
    with pytest.raises(ValueError, match="'tf32' is a format of GPUs"):
        Sampler(units[0].sampler.settings, precision="tf32")
    assert Sampler(units[0].sampler.settings, precision="tf32", device="cuda:1")


def test_observed_sequences_are_not_needed_on_the_host(units):
    """What a chain observes is what it was given, whatever the rows of a pass."""
    one = replace(units[0], draws=4)
    more = Observed(np.tile(one.observed.ids, (300, 1)))
    found = run(dataclasses.replace(one, observed=more)).losses
    first = found[:, : one.observed.n_targets]
    np.testing.assert_allclose(first, run(one).losses, rtol=1e-4)
