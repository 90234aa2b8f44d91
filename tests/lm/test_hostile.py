"""Damaged stores, full disks, missing devices: what is said, and that nothing is lost."""

import errno
import resource
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from dlnflow.cli.language_models import Sampling, changed
from dlnflow.lm import experiment
from dlnflow.lm.data import hub
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.data.tokenizer import load_tokenizer
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.train import load_data
from dlnflow.lm.sampling.store import CorruptedError
from dlnflow.lm.sampling.token_traces import Driver, Parts, sample_traces
from dlnflow.traces import groups
from tests.lm.conftest import FIXED
from tests.lm.test_command import answer, call


@pytest.fixture(scope="module")
def parts(tiny):
    """(checkpoints, gradient data, observed rows, sampler) of two steps of the tiny run."""
    _, folder, ladder = tiny
    data = load_data(folder)
    gradient = GradientData(data.training.ids, rows=2, length=16)
    sampler = experiment.sampler(chains=2, draws=4, burn_in=2, thin=1, **FIXED)
    return ladder.select([4, 12]), gradient, Observed(data.held_out.rows(3, 9)), sampler


@pytest.fixture(scope="module")
def whole(parts):
    return sample_traces(*parts)


def more(parts, draws):
    *rest, sampler = parts
    return *rest, replace(sampler, settings=replace(sampler.settings, draws=draws))


@contextmanager
def full_disk(n_bytes):
    """Let every file end at some length, as a disk without room does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("room", "unit"), [(100, False), (4_000, True)])
def test_a_disk_that_fills_up(parts, whole, tmp_path, room, unit):
    """Too little for the manifest, so that no unit is begun, or for how a chain goes on."""
    sample_traces(parts[0].select([4]), *parts[1:], store=tmp_path)
    with full_disk(room), pytest.raises(OSError) as caught:
        sample_traces(*parts, store=tmp_path)
    assert caught.value.errno == errno.EFBIG
    notes = "".join(getattr(caught.value, "__notes__", ()))
    assert ("chain 0 at step 12" in notes and "make room and call again" in notes) == unit
    assert not list(tmp_path.glob("**/.*.*")), "half-written files are left behind"
    found = sample_traces(*parts, store=tmp_path)
    assert found.identical(whole)


DAMAGE = {
    "units/12-1.json": "chain 1 at step 12 is lost",
    "units/4-0-4.state": "is damaged, so chain 0 at step 4 cannot be continued",
    "checkpoint_loss/c/1/0": "chain 0 at step 12",
    "losses/c/0/1/0/0": "chain 1 at step 4",
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("kind", ["cut", "changed"])
def test_any_damaged_file_is_named_and_repaired(parts, whole, tmp_path, name, kind):
    sample_traces(*parts, store=tmp_path)
    path = tmp_path / name
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] if kind == "cut" else b"\xff" * 9 + raw[9:])
    with pytest.raises(CorruptedError, match=DAMAGE[name]) as caught:
        sample_traces(*more(parts, 5), store=tmp_path)
    assert "--set repair=true" in str(caught.value)
    assert sample_traces(*parts, store=tmp_path, repair=True).identical(whole)
    sample_traces(*more(parts, 5), store=tmp_path)


def test_results_come_back_as_they_were(parts, tmp_path):
    ladder, gradient, observed, sampler = parts
    plan = experiment.Experiment(ladder, gradient, observed, experiment.halves(observed))
    traces = experiment.sample(plan, sampler, tmp_path)
    found, classes = experiment.read("run", tmp_path)
    assert found.identical(traces) and (classes == plan.classes).all()
    assert found.identical(sample_traces(*parts))


def flipped(path, bit):
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


FLIPS = ["traces.nc", "classes.nc", "losses/c/1/0/0/0", "checkpoint_loss/c/0/0"]


@pytest.mark.parametrize("name", FLIPS)
def test_one_flipped_bit_is_never_read_as_other_numbers(parts, tmp_path, name):
    ladder, gradient, observed, sampler = parts
    plan = experiment.Experiment(ladder, gradient, observed, experiment.halves(observed))
    traces = experiment.sample(plan, sampler, tmp_path).load()
    path = tmp_path / name
    bits = np.random.default_rng(0).integers(0, 8 * path.stat().st_size, 12)
    for bit in bits.tolist():
        flipped(path, bit)
        try:
            found, classes = experiment.read("run", tmp_path)
            found = found.load()
        except (ValueError, CorruptedError):
            pass
        else:  # a bit of the compressed block that means nothing
            assert name.startswith(("losses", "checkpoint")), bit
            assert found.identical(traces) and (classes == plan.classes).all()
        flipped(path, bit)
    assert experiment.read("run", tmp_path)[0].identical(traces)


def test_a_store_of_an_earlier_version_is_read(parts, tmp_path):
    """Its traces.nc holds the first draws, there are no hashes, and traces.npy is a copy."""
    ladder, gradient, observed, sampler = parts
    plan = experiment.Experiment(ladder, gradient, observed, experiment.halves(observed))
    traces = experiment.sample(plan, sampler, tmp_path).load()
    for name in ("results.json", "manifest.lock"):
        (tmp_path / name).unlink()
    for path in (tmp_path / "inputs").iterdir():
        path.unlink()
    np.save(tmp_path / "traces.npy", traces.values)
    traces.isel(draw=0, drop=True).to_netcdf(tmp_path / "traces.nc", engine="scipy")
    plan.classes.astype("int8").to_netcdf(tmp_path / "classes.nc", engine="scipy")
    found, classes = experiment.read("run", tmp_path)
    assert found.identical(traces) and (classes == plan.classes).all()
    assert experiment.sample(plan, sampler, tmp_path).identical(traces)
    assert not (tmp_path / "traces.npy").exists()


def write_anew(plan, sampler, store, traces):
    """Put other draws in the place of those of every chain."""
    files = Driver(Parts(plan.checkpoints, plan.gradient, plan.observed), sampler, store).files
    for one in traces.transpose("time", "chain", ...):
        for losses in one:
            unit = int(losses.time), int(losses.chain)
            state = files.state(*unit)
            files.forget(*unit)
            files.write(*unit, losses.values, losses.checkpoint_loss.values, state)


@pytest.mark.parametrize("observe", ["text", "repeats"])
def test_diverged_chains_are_stored_and_drawn(tiny, tmp_path, observe):
    """One checkpoint without a chain left, one with a single chain lost."""
    from dlnflow.lm import figures

    folder = tiny[1]
    plan = experiment.plan(folder, observe=observe, steps=[4, 12], rows=2)
    sampler = experiment.sampler(chains=3, draws=5, burn_in=2, thin=1, **FIXED)
    traces = experiment.sample(plan, sampler, tmp_path / "store").load()
    traces[0] = np.nan
    traces[1, 1, 2:] = np.inf
    write_anew(plan, sampler, tmp_path / "store", traces)
    found, _ = experiment.read(folder, tmp_path / "store")
    np.testing.assert_array_equal(found, traces)
    files = figures.draw(folder, tmp_path / "store", tmp_path / "out")
    assert len(files) == {"text": 6, "repeats": 3}[observe]
    rows = answer("groups", folder, "--store", tmp_path / "store")["rows"]
    assert {r["verdict"] for r in rows if r["step"] == 4} == {"diverged"}


def test_only_what_differs_is_shown(parts, tmp_path):
    sample_traces(*parts, store=tmp_path)
    *rest, sampler = parts
    other = replace(sampler, settings=replace(sampler.settings, n_beta=3.0))
    with pytest.raises(ValueError, match=r"\(sampler.n_beta: 10000.0 there, 3.0 now\)"):
        sample_traces(*rest, other, store=tmp_path)


HOLD = """
import fcntl, os, sys
with open(sys.argv[1], "a+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_store_that_another_process_has_for_itself(parts, whole, tmp_path, monkeypatch):
    """As earlier versions hold it, which know of no others."""
    monkeypatch.setattr("dlnflow._support.locks.PATIENCE", 0.1)
    sample_traces(*parts, store=tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"in use by process {other.pid}. Wait for it"):
            sample_traces(*parts, store=tmp_path)
        other.communicate()
    assert sample_traces(*parts, store=tmp_path).identical(whole)


def test_damaged_results_are_written_anew(tiny, tmp_path):
    folder, store = tiny[1], tmp_path / "store"
    options = "--step 12 --step 4 --draws 4 --set rows=2 --set burn_in=2 --set thin=1".split()
    call("sample", folder, "--store", store, *options)
    for name in ("traces.nc", "results.json", "classes.nc"):
        whole = (store / name).read_bytes()
        for damaged in (whole[:30], None) if name.endswith("nc") else (whole[:30],):
            (store / name).unlink() if damaged is None else (store / name).write_bytes(damaged)
            shown = call("groups", folder, "--store", store, code=1).stderr
            assert "again" in shown and shown.startswith("error: `store`")
        (store / name).write_bytes(whole)
    (store / "traces.nc").write_bytes((store / "traces.nc").read_bytes()[:300])
    call("sample", folder, "--store", store, *options)
    assert call("groups", folder, "--store", store).stdout
    assert (
        "below the number of items"
        in call("knn", folder, "--store", store, "--k", 999, code=1).stderr
    )


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("device=gpu", "is no torch device"),
        ("device=cuda:77", "cannot be used here"),
        ("chains=0.5", "`--set` 'chains=0.5'"),
        ("n_beta=-1", "n_beta"),
    ],
)
def test_impossible_settings(tiny, tmp_path, setting, words):
    options = ("--draws", 4, "--step", 4, "--set", "rows=2", "--set", setting)
    shown = call("sample", tiny[1], "--store", tmp_path, *options, code=1).stderr
    assert words in shown and shown.startswith("error: ")


def test_training_on_a_missing_device(tmp_path):
    shown = call(
        "train",
        tmp_path,
        "--device",
        "cuda:77",
        "--set",
        f"corpus={__file__}",
        "--set",
        "vocab_size=300",
        code=1,
    ).stderr
    assert "`device` 'cuda:77' cannot be used here" in shown


def test_too_few_draws_and_chains_for_an_error_bar(whole):
    members = np.zeros((24, 2), bool)
    members[::2, 0] = members[1::2, 1] = True
    with pytest.raises(ValueError, match=r"4 draws; .* at least 5. Sample more"):
        groups(whole, members, differences=True)
    with pytest.raises(ValueError, match="3 draws"):
        groups(whole.isel(draw=slice(3)), members)
    alone = groups(whole.isel(chain=[0]), members)
    assert np.isfinite(alone).all() and alone.chain_error.isnull().all()
    members[:, 1] = False
    with pytest.raises(ValueError, match="`classes` 1 have no tokens"):
        groups(whole, members)
    with pytest.raises(ValueError, match="which classes it is in"):
        groups(whole, members[:-1])


def test_a_hub_name_without_network(monkeypatch):
    import transformers

    def offline(*_, **__):
        raise OSError("We couldn't connect")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    monkeypatch.setattr(hub, "reach", lambda: None)
    with pytest.raises(ConnectionError, match=r"pass the path of a tokenizer\.json"):
        load_tokenizer("EleutherAI/pythia-14m")
    import huggingface_hub

    class Offline:
        def list_repo_tree(self, *_, **__):
            raise OSError("name resolution failed")

    monkeypatch.setattr(huggingface_hub, "HfApi", Offline)
    shown = call(
        "sample", "EleutherAI/pythia-14m", "--store", "s", "--text", "stdlib", "--step", 0, code=1
    ).stderr
    assert "Without network: train a small model" in shown


def test_what_is_no_hub_name_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(hub, "reach", lambda: pytest.fail("asked the hub"))
    for name in ("/nowhere/tokenizer", "tok.json", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_tokenizer(name)


def test_no_network_is_known_before_the_hub_library_retries(monkeypatch):
    import huggingface_hub

    def unreachable():
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "reach", unreachable)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: pytest.fail("asked the hub"))
    with pytest.raises(ConnectionError, match=r"no route.*pass the path of a tokenizer\.json"):
        load_tokenizer("EleutherAI/nothing-of-the-kind")
    with pytest.raises(ConnectionError, match=r"no route.*from_directory"):
        Checkpoints.from_hub("EleutherAI/pythia-14m", [0, 1])


def test_setting_zero_is_not_the_default():
    chosen = changed(Sampling(), ["burn_in=0", "n_beta=3"])
    assert chosen.given("burn_in", "n_beta", "thin") == {"burn_in": 0, "n_beta": 3.0}


def test_folder_that_cannot_be_written_is_known_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("dlnflow.lm.figures.draw", lambda *_: pytest.fail("drew"))
    shown = call(
        "figures", tmp_path, "--store", tmp_path, "--out", tmp_path / "file", code=2
    ).stderr
    assert "--out" in shown
