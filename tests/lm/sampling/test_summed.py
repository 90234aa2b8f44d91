"""Stores that keep class sums: the results of full traces, whatever happens on the way."""

import dataclasses
import os

import numpy as np
import pytest

from dlnflow.lm import experiment
from dlnflow.lm.sampling import summed
from dlnflow.lm.sampling.store import CorruptedError, Store, half_made
from dlnflow.lm.sampling.token_traces import Driver, Parts, sample_traces
from dlnflow.traces import groups, summary
from tests.lm.test_command import answer, call
from tests.traces.samples import EXCLUDED

OPTIONS = (
    "--step 4 --step 12 --draws 6 --set rows=2 --set burn_in=2 --set thin=1 "
    "--set n_beta=1e4 --set localization=1e4 --set step_size=2e-6"
).split()


@pytest.fixture(scope="module")
def plan(tiny):
    return experiment.plan(tiny[1], steps=[4, 12], rows=2)


@pytest.fixture(scope="module")
def sampler():
    return experiment.sampler(
        chains=3, draws=6, burn_in=2, thin=1, n_beta=1e4, localization=1e4, step_size=2e-6
    )


@pytest.fixture(scope="module")
def whole(plan, sampler):
    return sample_traces(plan.checkpoints, plan.gradient, plan.observed, sampler)


def parts(plan):
    plan = plan.of_class_sums()
    return Parts(plan.checkpoints, plan.gradient, plan.observed)


def same(sums, whole, plan):
    for exclude in EXCLUDED:
        expected = groups(whole, plan.classes, exclude=exclude)
        assert groups(sums, exclude=exclude).identical(expected)
    assert summary(sums).identical(summary(whole))


def test_results_are_those_of_full_traces(plan, sampler, whole, tmp_path):
    found = experiment.sample(plan.of_class_sums(), sampler, tmp_path)
    same(found, whole, plan)
    same(sample_traces(*parts(plan), sampler), whole, plan)
    assert not list((tmp_path / "losses").rglob("c/*/*")) and not list(tmp_path.rglob("*.state"))
    assert half_made(tmp_path) == []
    calls = []
    experiment.sample(plan.of_class_sums(), sampler, tmp_path, lambda *a: calls.append(a))
    assert calls == []  # nothing is computed again


def test_by_parts_and_processes(tiny, plan, whole, tmp_path):
    command = [tiny[1], "--store", tmp_path, *OPTIONS, "--set", "chains=3", "--keep", "classes"]
    assert answer("sample", *command, "--part", "2/2")["chains_left"] == 3
    assert list((tmp_path / "losses").rglob("c/*/*"))  # no checkpoint is complete
    found = answer("sample", *command, "--part", "1/2")
    assert (found["item"], found["token_class"]) == (62, plan.classes.sizes["token_class"])
    same(experiment.read("run", tmp_path)[0], whole, plan)
    rows = answer("groups", tiny[1], "--store", tmp_path)["rows"]
    assert rows[1]["influence"] == float(groups(whole, plan.classes)[0, 0, 1])
    shown = call("knn", tiny[1], "--store", tmp_path, code=1).stderr
    assert shown.startswith("error: `traces` are class sums, which hold no losses of single items")
    files = answer("figures", tiny[1], "--store", tmp_path, "--out", tmp_path / "f")["files"]
    assert {os.path.splitext(os.path.basename(f))[0] for f in files} == {"fig05_classes"}
    shown = call("doctor", tmp_path).stdout
    assert "6 chains, of 2 steps as class sums are as they were written" in shown
    assert call("explore", tiny[1], "--store", tmp_path, "--out", tmp_path / "p.html", code=1)


def test_more_draws_or_chains_and_full_traces_are_refused(plan, sampler, tmp_path):
    sample_traces(*parts(plan), sampler, store=tmp_path)
    for changes in ({"draws": 8}, {"chains": 4}, {"draws": 4}):
        more = dataclasses.replace(sampler.settings, **changes)
        with pytest.raises(ValueError, match=r"class_sums\.(draws|chains): . there, . now"):
            sample_traces(*parts(plan), dataclasses.replace(sampler, settings=more), store=tmp_path)
    with pytest.raises(ValueError, match="holds traces of something else"):
        sample_traces(plan.checkpoints, plan.gradient, plan.observed, sampler, store=tmp_path)
    other = dataclasses.replace(plan, classes=plan.classes[..., :2])
    with pytest.raises(ValueError, match="holds traces of something else"):
        sample_traces(*parts(other), sampler, store=tmp_path)


def test_more_steps_are_added(tiny, plan, sampler, whole, tmp_path):
    sample_traces(*parts(experiment.plan(tiny[1], steps=[4], rows=2)), sampler, store=tmp_path)
    same(sample_traces(*parts(plan), sampler, store=tmp_path), whole, plan)


@pytest.mark.parametrize("where", ["before the record", "before draws are dropped"])
def test_killed_while_reducing(plan, sampler, whole, tmp_path, monkeypatch, where):
    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    name = {"before the record": "write_json"}.get(where, "drop_draws")
    monkeypatch.setattr(summed, name, killed)
    with pytest.raises(Killed):
        sample_traces(*parts(plan), sampler, store=tmp_path)
    monkeypatch.undo()
    computed = []
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda *a: [computed.append(a[1:3]), write(*a)])
    same(sample_traces(*parts(plan), sampler, store=tmp_path), whole, plan)
    assert computed == [(12, c) for c in range(3)]  # nothing of step 4 again
    assert not list((tmp_path / "losses").rglob("c/*/*"))


def test_damage_is_named_and_repaired(plan, sampler, whole, tmp_path):
    found = experiment.sample(plan.of_class_sums(), sampler, tmp_path)
    file = tmp_path / "sums" / "12.npz"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CorruptedError, match="class sums at step 12 are damaged or missing"):
        groups(experiment.read("run", tmp_path)[0])
    assert "class sums at step 12" in call("doctor", tmp_path, code=1).stdout
    with pytest.raises(CorruptedError, match="repair"):
        Driver(parts(plan), sampler, tmp_path).run()
    again = sample_traces(*parts(plan), sampler, store=tmp_path, repair=True)
    same(again, whole, plan)
    assert np.array_equal(file.read_bytes(), file.read_bytes()) and found.sizes == again.sizes
