"""What a store holds is checked against what is asked for; what is damaged is named or rebuilt."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from dlnflow.lm import experiment
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.train import load_data
from dlnflow.lm.sampling.store import CorruptedError
from dlnflow.lm.sampling.token_traces import sample_traces
from dlnflow.lm.sampling.unit import Sampler
from dlnflow.sampling.settings import Settings

SETTINGS = Settings(n_beta=1e3, localization=1e3, step_size=1e-6, chains=2, draws=6)


@pytest.fixture(scope="module")
def parts(tiny):
    """(checkpoints, gradient data, observed rows, sampler) of two steps of the tiny run."""
    _, folder, ladder = tiny
    data = load_data(folder)
    gradient = GradientData(data.training.ids, rows=2, length=8)
    return ladder.select([4, 12]), gradient, Observed(data.held_out.rows(2, 6)), Sampler(SETTINGS)


@pytest.fixture(scope="module")
def sampled(parts, tmp_path_factory):
    """A finished store and its traces."""
    folder = tmp_path_factory.mktemp("sampled")
    return folder, sample_traces(*parts, store=folder)


@pytest.fixture
def store(sampled, tmp_path):
    """A copy of the finished store."""
    return shutil.copytree(sampled[0], tmp_path / "store")


def other(parts, **settings):
    *rest, sampler = parts
    return *rest, dataclasses.replace(sampler, settings=dataclasses.replace(SETTINGS, **settings))


def edit(path, change):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def test_the_same_weights_under_another_config_are_refused(parts, store, tmp_path):
    """Fewer attention heads give other losses with the very same weights."""
    ladder = parts[0]
    folders = {}
    for step, (place, _) in zip(ladder.steps.tolist(), ladder.places, strict=True):
        folders[step] = shutil.copytree(place, tmp_path / str(step))
    again = Checkpoints.from_directory(folders)
    for step in folders:
        edit(folders[step] / "config.json", lambda c: c | {"transformers_version": "1", "x": None})
        edit(folders[step] / "config.json", lambda c: c.pop("x"))
    sample_traces(again, *parts[1:], store=store)
    edit(folders[12] / "config.json", lambda c: c | {"num_attention_heads": 1})
    with pytest.raises(ValueError, match=r"other settings in config\.json at step 12"):
        sample_traces(again, *parts[1:], store=store)


NO_MANIFESTS = [{}, [], 5, {"key": {}}, {"key": 3, "steps": {}}]


@pytest.mark.parametrize("content", NO_MANIFESTS)
@pytest.mark.parametrize("repair", [False, True])
def test_a_manifest_replaced_does_not_let_other_settings_in(parts, store, content, repair):
    (store / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"is damaged|something else"):
        sample_traces(*other(parts, n_beta=2e3), store=store, repair=repair)


def test_units_of_other_settings_are_not_taken(parts, store, sampled):
    """A manifest of other settings over the records of these."""
    before = sampled[1]
    edit(store / "manifest.json", lambda m: m["key"]["sampler"].update(n_beta=2e3))
    changed = other(parts, n_beta=2e3)
    with pytest.raises(CorruptedError, match="of other weights or settings than manifest"):
        sample_traces(*changed, store=store)
    found = sample_traces(*changed, store=store, repair=True)
    assert found.identical(sample_traces(*changed)) and not found.equals(before)


MANIFESTS = {
    "cut": lambda p: p.write_text(p.read_text()[:40]),
    "bytes": lambda p: p.write_bytes(b"\xff\xfe\x00"),
    "gone": lambda p: p.unlink(),
    "empty": lambda p: p.write_text("{}"),
    "no steps": lambda p: edit(p, lambda m: {"key": m["key"]}),
    "no weights": lambda p: edit(p, lambda m: m["steps"]["4"].pop("weights") and None),
    "same index": lambda p: edit(p, lambda m: m["steps"]["4"].update(index=1)),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_damaged_manifest_is_written_anew_from_the_units(parts, store, sampled, kind):
    whole = json.loads((store / "manifest.json").read_text())
    MANIFESTS[kind](store / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest.json is (damaged|missing)\. .*repair=true"):
        sample_traces(*parts, store=store)
    calls = []
    found = sample_traces(*parts, store=store, repair=True, progress=lambda *a: calls.append(a))
    assert found.identical(sampled[1]) and calls == []
    assert json.loads((store / "manifest.json").read_text()) == whole
    MANIFESTS[kind](store / "manifest.json")
    with pytest.raises(ValueError, match=r"cannot be written anew|something else"):
        sample_traces(*other(parts, seed=9), store=store, repair=True)


def test_a_manifest_written_anew_keeps_steps_that_are_not_asked_for(parts, store, sampled):
    (store / "manifest.json").unlink()
    late = (parts[0].select([12]), *parts[1:])
    assert sample_traces(*late, store=store, repair=True).identical(sampled[1].sel(time=[12]))
    assert sample_traces(*parts, store=store).identical(sampled[1])


def test_records_that_contradict_each_other_give_no_manifest(parts, store):
    (store / "manifest.json").unlink()
    for chain in (0, 1):
        edit(store / "units" / f"4-{chain}.json", lambda r: r | {"index": 1})
    with pytest.raises(ValueError, match="contradict each other"):
        sample_traces(*parts, store=store, repair=True)


def test_a_store_of_an_earlier_format_is_refused(parts, store):
    edit(store / "manifest.json", lambda m: m["key"].update(format=1))
    with pytest.raises(ValueError, match="has format 1 of another version"):
        sample_traces(*parts, store=store)


@pytest.mark.parametrize("content", [5, [], {}, {"draws": 4}, "no", {"draws": "4"}])
def test_a_record_of_another_form_is_named_and_repaired(parts, store, sampled, content):
    (store / "units" / "4-1.json").write_text(json.dumps(content))
    with pytest.raises(CorruptedError, match="chain 1 at step 4 is lost"):
        sample_traces(*parts, store=store)
    assert sample_traces(*parts, store=store, repair=True).identical(sampled[1])


@pytest.mark.parametrize("name", ["zarr.json", "losses/zarr.json", "checkpoint_loss/zarr.json"])
@pytest.mark.parametrize("kind", ["cut", "empty", "gone"])
def test_descriptions_of_arrays_are_written_anew(parts, store, sampled, name, kind):
    MANIFESTS[kind](store / name)
    calls = []
    found = sample_traces(*parts, store=store, progress=lambda *a: calls.append(a))
    assert found.identical(sampled[1]) and calls == []
    more = other(parts, draws=8)
    assert sample_traces(*more, store=store).identical(sample_traces(*more))


def test_an_array_of_another_form_is_described_anew(parts, store, sampled):
    edit(store / "losses" / "zarr.json", lambda z: z["shape"].__setitem__(3, 4) or z)
    assert sample_traces(*parts, store=store).identical(sampled[1])


@pytest.mark.parametrize("name", ["units/12-1.json", "units/12-1-6.state", "losses/c/1/1/0/0"])
def test_repair_with_fewer_draws_keeps_the_length(parts, store, sampled, name):
    (store / name).write_bytes(b"damaged")
    found = sample_traces(*other(parts, draws=4), store=store, repair=True)
    np.testing.assert_array_equal(found, sampled[1].isel(draw=slice(4)))
    calls = []
    found = sample_traces(*parts, store=store, progress=lambda *a: calls.append(a))
    assert found.identical(sampled[1]) and calls == []


def test_a_place_that_cannot_be_a_store(parts, tmp_path):
    """Said before anything is computed, with the name that the option has."""
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "busy" / "lock").mkdir(parents=True)
    for store, why in (
        (file, "is a file"),
        (file / "in", r"cannot be written \(Not a directory\)"),
        (tmp_path / "busy", r"cannot be written \(Is a directory\)"),
    ):
        with pytest.raises(ValueError, match=f"`store` {store} {why}. Give a folder that can be"):
            sample_traces(*parts, store=store)
    with pytest.raises(ValueError, match="file is no folder; `dlnflow lm sample run --store"):
        experiment.read("run", file)


def test_what_differs_is_told_in_words_with_short_hashes(parts, store):
    ladder, gradient, observed, sampler = parts
    wider = Observed(np.vstack([observed.ids, observed.ids]))
    with pytest.raises(ValueError) as caught:
        sample_traces(ladder, dataclasses.replace(gradient, rows=8), wider, sampler, store=store)
    told = str(caught.value)
    assert "rows of gradient data: 2 there, 8 now" in told
    assert "observed rows: 2 there, 4 now" in told
    assert f"observed sequences: {observed.sha256[:8]} there, {wider.sha256[:8]} now" in told
    assert observed.sha256[:9] not in told


def test_a_store_is_not_written_when_it_is_only_read(parts, store):
    files = [p for p in store.rglob("*") if p.is_file() and p.name != "lock"]
    before = {p: p.stat().st_mtime_ns for p in files}
    sample_traces(*parts, store=store)
    assert before == {p: p.stat().st_mtime_ns for p in files}
