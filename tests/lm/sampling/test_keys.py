"""What identifies a chain follows from the fields of its settings, and its draws from the key.

The pinned draws were measured once. If one of these tests fails because the arithmetic of chains
was meant to change, raise REVISION in dlnflow/sampling/settings.py and pin the new ones.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
import transformers
import xarray as xr

from dlnflow import sampling
from dlnflow._support.hashes import identity
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.observables import LogitDifference
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.sampling.unit import Sampler, Unit, run
from dlnflow.sampling.settings import REVISION, Settings

SETTINGS = Settings(
    n_beta=500.0,
    localization=200.0,
    step_size=1e-3,
    chains=2,
    draws=4,
    burn_in=4,
    thin=2,
    seed=6,
    kernel_options={"freeze_after": 3},
)
SAMPLER = Sampler(SETTINGS)
OTHER_SETTINGS = {
    "n_beta": 600.0,
    "localization": 300.0,
    "step_size": 5e-4,
    "chains": 3,
    "draws": 6,
    "burn_in": 5,
    "thin": 1,
    "seed": 7,
    "dtype": "float64",
    "kernel_options": {"freeze_after": 2},
}
OTHER_SAMPLER = {
    "settings": dataclasses.replace(SETTINGS, seed=8),
    "kernel": "sgld",
    "parameters": ("*embed_in*",),
    "precision": "bf16",
    "device": "meta",
    "threads": 2,
    "restrict": ("layer0.head1",),
    "observables": (LogitDifference(np.array([[1, 2, 3]]), right=4, wrong=5),),
}
LENGTHEN = {"chains", "draws"}
"""The only fields without an influence on the draws that a chain has already."""
MESSAGE = (
    "the draws of a chain changed: if that was meant, raise REVISION in "
    "dlnflow/sampling/settings.py and pin the new draws here"
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return written(tmp_path_factory.mktemp("pinned"))


def written(folder):
    """Checkpoints, gradient data and observed rows; the weights are written down, not trained."""
    config = transformers.GPTNeoXConfig(
        vocab_size=17,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        attention_dropout=0.0,
        hidden_dropout=0.0,
    )
    model = transformers.GPTNeoXForCausalLM(config)
    start = 0
    for p in model.parameters():
        numbers = torch.arange(start, start + p.numel(), dtype=torch.float64)
        p.data = (0.5 * torch.sin(numbers**1.5)).float().view(p.shape)
        start += p.numel()
    model.save_pretrained(folder / "step4")
    text = (np.arange(300) ** 2 // 7 % 17).astype(np.int32)
    rows = (np.arange(28).reshape(4, 7) ** 3 // 5) % 17
    return (
        Checkpoints.from_directory(folder),
        GradientData(text, rows=3, length=8, repeat_share=0.3),
        Observed(rows),
    )


def draws(parts, sampler, chain=1):
    ladder, gradient, observed = parts
    return run(Unit(ladder, 4, chain, sampler.settings.draws, gradient, observed, sampler)).losses


def fields(record):
    return [field.name for field in dataclasses.fields(record)]


def changed(name):
    """The sampler with another value of one field, its own or one of its settings."""
    if name in OTHER_SAMPLER:
        return dataclasses.replace(SAMPLER, **{name: OTHER_SAMPLER[name]})
    settings = dataclasses.replace(SETTINGS, **{name: OTHER_SETTINGS[name]})
    return dataclasses.replace(SAMPLER, settings=settings)


@pytest.mark.parametrize("name", [*fields(Settings), *fields(Sampler)])
def test_every_field_identifies_a_chain_but_those_that_lengthen_it(name):
    """A new field needs another value in this file, and changes the key unless it is said why."""
    assert (changed(name).key() == SAMPLER.key()) == (name in LENGTHEN)
    json.dumps(changed(name).key())


SAMPLED = set(OTHER_SETTINGS) | set(OTHER_SAMPLER) - {"device", "kernel"}
"""What can be changed alone, and sampled on any machine."""


@pytest.mark.parametrize("name", sorted(SAMPLED))
def test_what_changes_draws_changes_the_key(parts, name):
    """The truth behind the key: chains are run. Threads change no more than rounding, if that."""
    sampler = changed(name)
    same = np.array_equal(draws(parts, sampler)[:4], draws(parts, SAMPLER))
    assert same or sampler.key() != SAMPLER.key()
    assert name == "threads" or same == (name in LENGTHEN)


def test_fields_left_out_have_a_reason_and_exist():
    for record in (Settings, Sampler):
        assert set(record.NOT_IN_KEY) <= set(fields(record))
        assert all(record.NOT_IN_KEY.values())
    assert set(Settings.NOT_IN_KEY) == LENGTHEN
    # their fields are tested one by one, and with another observable
    assert set(Sampler.NOT_IN_KEY) == {"settings", "observables"}


@pytest.mark.parametrize("kernel", sampling.KERNELS)
def test_every_option_of_a_kernel_is_part_of_the_key(kernel):
    """Also at its default: an option that is given is written."""
    for option in sampling.KERNELS[kernel].traits.options:
        values = [0.3, 0.4] if option.name not in ("freeze_after", "warm_start") else [1, 2]
        values = [False, True] if option.name == "warm_start" else values
        keys = [
            Sampler(dataclasses.replace(SETTINGS, kernel_options={option.name: v})).key()
            for v in values
        ]
        assert keys[0] != keys[1] and SAMPLER.key() not in keys


def test_the_key_has_the_revision_and_only_json():
    key = SAMPLER.key()
    assert key["revision"] == REVISION
    assert json.loads(json.dumps(key)) == key | {"parameters": []}


OTHER_TEXT = {
    "ids": np.arange(40, dtype=np.int32),
    "rows": 3,
    "length": 9,
    "repeat_share": 0.25,
    "segment": (2, 4),
    "text_sha256": "0",
}


@pytest.mark.parametrize("name", fields(GradientData))
def test_every_field_of_gradient_data_identifies_it(name):
    """The hash of the text is only recorded: what is sampled are its ids."""
    data = GradientData(np.arange(30, dtype=np.int32), rows=2, length=8, repeat_share=0.5)
    other = dataclasses.replace(data, **{name: OTHER_TEXT[name]})
    assert (other.key() == data.key()) == (name == "text_sha256")
    words = (0, 4, 1, 2, 0)
    assert other.key() != data.key() or np.array_equal(other.batch(*words), data.batch(*words))


@pytest.mark.parametrize("name", fields(Observed))
def test_every_field_of_observed_rows_identifies_them(name):
    classes = xr.DataArray(
        np.ones((2, 3, 1), bool), {"token_class": ["a"]}, ("sequence", "position", "token_class")
    )
    other = {"ids": np.ones((2, 3), int), "rows": np.array([4, 2]), "classes": classes}
    data = Observed(np.zeros((2, 3), int))
    assert dataclasses.replace(data, **{name: other[name]}).key() != data.key()


@dataclasses.dataclass
class Inner:
    a: object


@dataclasses.dataclass
class Record:
    a: object
    b: object = 1


def test_identity_goes_into_records_mappings_sequences_and_arrays():
    def key(value):
        return json.dumps(identity(Record(value), leave_out={}))

    values = [
        {"x": [1, 2]},
        {"x": [1, 3]},
        {"x": {"y": 1}},
        {"x": {"y": 2}},
        Inner(1),
        Inner(2),
        np.arange(3),
        np.arange(3.0),
        np.float64(2.5),
        None,
        True,
        (1, 2),
    ]
    assert len({key(value) for value in values}) == len(values)
    assert identity(Record(1), leave_out={"a": "no"}, since={"b": 1}) == {}
    assert identity(Record(1, 2), leave_out={"a": "no"}, since={"b": 1}) == {"b": 2}
    with pytest.raises(TypeError, match="cannot be part of a key"):
        key(object())


PINNED = {
    "rmsprop_sgld": [[4.150743, 1.609734, 3.339175], [3.252395, 2.794126, 2.546614]],
    "sgld": [[3.852099, 1.663338, 2.221799], [3.814018, 1.726756, 2.325155]],
    "underdamped": [[3.447432, 1.868045, 2.255694], [3.414349, 1.909402, 2.526742]],
}


@pytest.mark.parametrize("kernel", PINNED)
def test_draws_are_those_of_this_revision(parts, kernel):
    """First losses of the second chain: noise, minibatches and kernel are what they were."""
    options = SETTINGS.kernel_options if kernel == SAMPLER.kernel else {}
    step_size = 1e-3 if kernel == SAMPLER.kernel else 1e-4
    settings = dataclasses.replace(SETTINGS, step_size=step_size, kernel_options=options)
    found = draws(parts, Sampler(settings, kernel=kernel))
    assert REVISION == 4, MESSAGE
    np.testing.assert_allclose(found[[0, -1], :3], PINNED[kernel], rtol=1e-4, err_msg=MESSAGE)


def test_samplers_are_equal_when_their_arrays_are():
    masks = {"a": np.array([True, False]), "b": np.ones((2, 2), bool)}
    one, two = (
        dataclasses.replace(SAMPLER, restrict={k: m.copy() for k, m in masks.items()}) for _ in "ab"
    )
    assert one == two and hash(one) == hash(two)
    two.restrict["b"][1, 1] = False
    assert one != two
    assert SAMPLER == dataclasses.replace(SAMPLER) != dataclasses.replace(SAMPLER, threads=2)
    longer = dataclasses.replace(SAMPLER.settings, draws=99)
    assert dataclasses.replace(SAMPLER, settings=longer) != SAMPLER
    assert SAMPLER != "a sampler"


@pytest.mark.parametrize("wrong", [{"a", "b"}, 3, [1], iter(["a"])])
def test_names_without_an_order_make_no_key(wrong):
    for field in ("parameters", "restrict"):
        with pytest.raises(ValueError, match=f"^`{field}` must be a name or a list of names"):
            Sampler(SETTINGS, **{field: wrong})
    assert Sampler(SETTINGS, restrict=None) == SAMPLER
