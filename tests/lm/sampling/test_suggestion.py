"""Settings that are chosen: by the declared bounds, once for a store, the same for everybody."""

import json
import threading

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.cli import settings_table
from dlnflow.lm import experiment
from dlnflow.lm.sampling import geometry, suggestion
from dlnflow.lm.sampling.automatic import CHOSEN, Automatic, settled
from dlnflow.lm.sampling.geometry import Geometry
from dlnflow.lm.sampling.suggestion import (
    HEAT,
    N_BETA,
    OVERSHOOT,
    RELAXATION,
    RISE,
    Pilot,
    Suggestion,
    bias,
    choose,
    class_means,
    spread,
)
from dlnflow.sampling import labelled
from tests.lm.conftest import FIXED
from tests.lm.test_command import answer, call

ROUNDED = 1.06
"""Two significant digits."""


def measured(step=0, **changes):
    usual = {
        "loss": 3.0,
        "curvature": 40.0,
        "negative": -0.1,
        "stiff_noise": 0.1,
        "noise": 2.5,
        "stiffest": 4.0,
        "lowest": -0.01,
        "length": 50.0,
        "fast": 10.0,
        "slow": 9.0,
        "tokens": 512,
        "n_parameters": 230_000,
    }
    return Geometry(step=step, **(usual | changes))


scales = st.floats(-3, 3).map(lambda x: 10.0**x)


@given(st.lists(st.tuples(scales, scales, scales), min_size=1, max_size=3))
def test_settings_keep_their_bounds_and_are_the_largest_that_do(numbers):
    found = [
        measured(k, curvature=40 * a, stiff_noise=0.1 * b, noise=2.5 * c)
        for k, (a, b, c) in enumerate(numbers)
    ]
    s = choose(found, {})
    biases = [bias(s, g) for g in found]
    assert max(b["overshoot"] for b in biases) <= OVERSHOOT * ROUNDED
    assert max(b["heat"] for b in biases) <= HEAT * ROUNDED
    largest = max(g.tokens * g.noise for g in found)
    assert largest / (2 * s["localization"]) == pytest.approx(RISE, rel=ROUNDED - 1)
    relaxation = Suggestion(s, tuple(found)).relaxation()
    assert relaxation <= RELAXATION * ROUNDED**2
    assert s["n_beta"] == N_BETA or relaxation >= RELAXATION / ROUNDED**2
    assert s["burn_in"] >= 10 * relaxation and s["burn_in"] >= 150


def test_what_is_given_is_kept():
    given_ = {"n_beta": 30.0, "thin": 7, "burn_in": 12}
    s = choose([measured()], given_)
    assert s | given_ == s
    assert choose([measured()], {"localization": 5.0})["localization"] == 5.0
    slow = choose([measured()], {"n_beta": 1e6})  # given: the step is smaller, and relaxes slowly
    assert bias(slow, measured())["heat"] <= HEAT * ROUNDED
    assert Suggestion(slow, (measured(),)).relaxation() > 10 * RELAXATION


def test_coordinates_that_differ_much_leave_half_of_the_room():
    g = measured(fast=100.0, slow=1.0, stiff_noise=1e-9)
    s = choose([g], {})
    share = s["localization"] * g.fast / (s["n_beta"] * g.curvature)
    assert share == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("eps", [1e-6, 4e-6])
def test_the_bias_is_that_of_the_linear_recursion(eps):
    """theta' = (1 - eps A / 2) theta + N(0, eps + eps^2 S / 4): its variance times A."""
    g = measured(curvature=4.0, fast=1.0)
    s = {"n_beta": 3e4, "localization": 1e4, "step_size": eps}
    a, noise = 3e4 * 4.0 + 1e4, (3e4) ** 2 * 0.1
    variance = 0.0
    for _ in range(400):
        variance = (1 - eps * a / 2) ** 2 * variance + eps + eps**2 * noise / 4
    assert bias(s, g)["variance"] == pytest.approx(variance * a, rel=1e-9)
    assert bias(s | {"step_size": 1.0}, g)["variance"] == np.inf


def test_class_means():
    rng = np.random.default_rng(0)
    losses = rng.standard_normal((1, 2, 5, 6))
    attrs = {"n_beta": 1.0, "localization": 1.0, "n_train": 3, "n_parameters": 4}
    traces = labelled(
        losses, time=[3], items=list("abcdef"), checkpoint_loss=losses[:, 0, 0], attrs=attrs
    )
    members = np.zeros((2, 4, 3), bool)  # two sequences of four; position 0 has no loss
    members[0, 1, 0] = members[1, 3, 0] = members[1, 2, 1] = members[0, 0, 2] = True
    classes = xr.DataArray(
        members,
        dims=("sequence", "position", "token_class"),
        coords={"token_class": ["x", "y", "none"]},
    )
    found = class_means(traces, classes)
    assert found["item"].values.tolist() == ["x", "y", "all"]
    np.testing.assert_allclose(found.sel(item="x"), losses[..., [0, 5]].mean(-1))
    np.testing.assert_allclose(found.sel(item="y"), losses[..., 4])
    np.testing.assert_allclose(found.sel(item="all"), losses.mean(-1))


def test_spread():
    assert spread(list(range(0, 50, 10)), 3) == [0, 20, 40]
    assert spread([7, 3], 4) == [3, 7]
    assert spread([5], 4) == [5]


def test_verdicts():
    s = {"n_beta": 2.0, "localization": 3.0, "step_size": 4.0}
    good, numbers = (1.1, 20.0, 30.0, 0.01), tuple(s.values())
    slow, apart = (1.1, 20.0, 500.0, 0.01), (1.9, 20.0, 30.0, 0.01)
    diverged = (np.inf, np.inf, np.inf, np.nan)
    kinds = {"mixed": [good], "not mixed": [good, slow], "no pilot": []}
    for verdict, pilots in kinds.items():
        found = Suggestion(s, (measured(),), tuple(Pilot(0, *p, *numbers) for p in pilots))
        assert found.verdict == verdict
    for bad in (slow, apart, diverged):
        assert not Pilot(0, *bad, *numbers).mixes
    earlier = Pilot(0, *apart, 9.0, 9.0, 9.0)  # of settings that were given up
    assert Suggestion(s, (), (earlier, Pilot(0, *good, *numbers))).verdict == "mixed"
    assert Suggestion(s, (), (Pilot(0, *good, 9.0, 9.0, 9.0),)).verdict == "not mixed"


@pytest.fixture
def short(monkeypatch):
    """Little is measured, and the pilot is short."""
    monkeypatch.setattr(geometry, "ITERATIONS", 2)
    monkeypatch.setattr(geometry, "MINIBATCHES", 3)
    monkeypatch.setattr(suggestion, "PILOT", {"chains": 2, "draws": 6})
    monkeypatch.setattr(suggestion, "BURN_IN", 3)
    monkeypatch.setattr(suggestion, "LONGEST_BURN_IN", 3)
    monkeypatch.setattr(suggestion, "LONGEST_THIN", 2)
    monkeypatch.setattr(suggestion, "TRIES", 2)
    monkeypatch.setattr(suggestion, "CHECKPOINTS", 2)


@pytest.fixture
def counted(monkeypatch):
    """How often settings were chosen."""
    calls, original = [], suggestion.suggest

    def counting(*arguments, **options):
        calls.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(suggestion, "suggest", counting)
    return calls


def test_settings_are_chosen_once_for_a_store(tiny, tmp_path, short, counted):
    """Also where two parts start at once; and the draws are those of the numbers."""
    plan = experiment.plan(tiny[1], steps=[4, 12], rows=3)
    auto = experiment.sampler(chains=2, draws=4)
    assert isinstance(auto, Automatic)
    threads = [
        threading.Thread(target=experiment.sample_part, args=(plan, auto, tmp_path / "a", part))
        for part in ((1, 2), (2, 2))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    key, kept = manifest["key"]["sampler"], manifest["suggestion"]
    numbers = {name: key[name] for name in CHOSEN}
    assert kept["settings"] == numbers and kept["verdict"] in ("mixed", "not mixed")
    assert [g["step"] for g in kept["measured"]] == [0, 12]  # of the ladder, not of what is sampled
    assert kept["pilots"] and key["options"] == {"freeze_after": numbers["burn_in"]}

    found = experiment.read(tiny[1], tmp_path / "a")[0]
    same = experiment.sample(plan, experiment.sampler(chains=2, draws=4, **numbers), tmp_path / "b")
    assert found.identical(same)

    more = experiment.sample(plan, experiment.sampler(chains=2, draws=6), tmp_path / "a")
    assert len(counted) == 1 and more.sizes["draw"] == 6
    np.testing.assert_array_equal(more[:, :, :4], found)
    assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == manifest
    with pytest.raises(ValueError, match=r"n_beta: .* there, 3\.0 now"):
        experiment.sample(plan, experiment.sampler(chains=2, draws=6, n_beta=3.0), tmp_path / "a")


def test_a_store_with_numbers_keeps_them(tiny, tmp_path, counted):
    """Of an earlier version, which had fixed ones."""
    plan = experiment.plan(tiny[1], steps=[12], rows=2)
    old = experiment.sampler(chains=2, draws=4, burn_in=3, thin=1, **FIXED)
    before = experiment.sample(plan, old, tmp_path)
    again = experiment.sample(plan, experiment.sampler(chains=2, draws=5), tmp_path)
    np.testing.assert_array_equal(again[:, :, :4], before)
    assert again.attrs["thin"] == 1 and counted == []


def test_nothing_is_chosen_for_a_damaged_store(tiny, tmp_path, counted):
    plan = experiment.plan(tiny[1], steps=[12], rows=2)
    old = experiment.sampler(chains=2, draws=4, burn_in=3, thin=1, **FIXED)
    experiment.sample(plan, old, tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        experiment.sample(plan, experiment.sampler(chains=2, draws=5), tmp_path)
    assert counted == []


def test_a_sampler_with_numbers_is_taken_as_it_is(tmp_path):
    fixed = experiment.sampler(**FIXED)
    assert (fixed.settings.burn_in, fixed.settings.thin) == (150, 5)
    with settled(fixed, tmp_path / "new", pytest.fail) as (sampler, chosen):
        assert sampler is fixed and chosen is None
    assert not (tmp_path / "new").exists()
    assert isinstance(experiment.sampler(**FIXED | {"step_size": "auto"}), Automatic)
    for bad, words in (({"steps": 3}, "`given`"), ({"n_beta": -1.0}, "`n_beta`")):
        with pytest.raises(ValueError, match=words):
            experiment.sampler(**bad)


def test_what_is_given_entirely_is_not_suggested(tiny):
    plan = experiment.plan(tiny[1], steps=[12], rows=2)
    with pytest.raises(ValueError, match="nothing is left to choose"):
        experiment.suggest(plan, experiment.sampler(**FIXED))
    with pytest.raises(ValueError, match="cannot be used here"):
        experiment.suggest(plan, experiment.sampler(device="cuda:77"))


def test_the_commands(tiny, tmp_path, short):
    some = ("--set", "rows=3", "--set", "n_beta=77", "--set", "localization=30")
    found = answer("suggest", tiny[1], *some)
    assert (found["settings"]["n_beta"], found["settings"]["localization"]) == (77, 30)
    assert set(found) == {"settings", "verdict", "relaxation", "measured", "pilots"}
    assert call("suggest", tiny[1], *some).stdout.splitlines() == settings_table.lines(found)
    options = "--set rows=3 --set chains=2 --draws 4 --step 12".split()
    sampled = answer("sample", tiny[1], "--store", tmp_path, *options, "auto")
    assert sampled["draw"] == 4
    kept = json.loads((tmp_path / "manifest.json").read_text())["suggestion"]
    assert {name: sampled[name] for name in CHOSEN} == kept["settings"]
    levels = {f["level"] for f in answer("doctor", tmp_path)["findings"]}
    assert levels <= {"ok", "note"}


@pytest.mark.parametrize("verdict", ["mixed", "not mixed", "no pilot"])
def test_the_table_fits_a_terminal(verdict):
    large = measured(143_000, loss=12.3456, stiffest=1234.5, lowest=-98.7, n_parameters=10**10)
    settings = choose([large], {})
    numbers = [settings[name] for name in CHOSEN[:3]]
    pilots = {
        "mixed": [Pilot(143_000, 1.0234, 21.0, 31.0, -0.012, *numbers)],
        "not mixed": [Pilot(143_000, np.inf, np.inf, np.inf, np.nan, *numbers)],
        "no pilot": [],
    }
    record = Suggestion(settings, (large,) * 4, tuple(pilots[verdict])).record()
    json.dumps(record, allow_nan=False)
    lines = settings_table.lines(record)
    assert max(map(len, lines)) <= settings_table.WIDTH
    words = {"mixed": "The pilot mixes", "not mixed": "does NOT mix", "no pilot": "No pilot"}
    assert any(words[verdict] in line for line in lines)
