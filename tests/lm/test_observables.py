"""Observables recorded beside the losses are what they say, and survive a store."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xarray as xr

from dlnflow import lm, traces
from dlnflow.lm.data.batches import GradientData, Observed
from dlnflow.lm.observables import InductionScore, LogitDifference
from dlnflow.lm.runs.train import load_data
from dlnflow.lm.sampling import results
from dlnflow.lm.sampling.token_traces import sample_traces
from dlnflow.lm.sampling.unit import Sampler
from dlnflow.sampling.settings import Settings


@dataclasses.dataclass(frozen=True)
class Bias:
    """One entry of a parameter, so that its law is known."""

    name: str = "bias"

    def __call__(self, model):
        return model.gpt_neox.final_layer_norm.bias[3]


ROWS = np.array([[5, 9, 2, 7, 7, 3], [8, 1, 4, 4, 6, 2]])


@dataclasses.dataclass(frozen=True)
class MeanLoss:
    """Mean loss of two rows, by the model's own loss."""

    name: str = "mean loss"

    def __call__(self, model):
        rows = torch.tensor(ROWS)
        return model(rows, labels=rows).loss


SEQUENCES = np.tile(np.arange(5, 11), (2, 2))
OBSERVABLES = (
    InductionScore(SEQUENCES, layer=0, head=1),
    LogitDifference(np.array([[7, 8, 9], [9, 8, 7]]), right=3, wrong=4),
    Bias(),
)
SETTINGS = Settings(1e3, 1e3, 1e-5, chains=2, draws=6, burn_in=2)


@pytest.fixture(scope="module")
def parts(tiny):
    _, folder, ladder = tiny
    data = load_data(folder)
    gradient = GradientData(data.training.ids, rows=2, length=16)
    observed = Observed(data.held_out.rows(3, 9, seed=1))
    return ladder.select([4, 12]), gradient, observed


@pytest.fixture(scope="module")
def whole(parts):
    return sample_traces(*parts, Sampler(SETTINGS, kernel="sgld", observables=OBSERVABLES))


def test_at_the_checkpoint_they_are_those_of_its_model(parts, whole):
    model = parts[0].load(12)
    score = lm.induction.scores(model, SEQUENCES).induction.isel(layer=0, head=1)
    at = whole.sel(time=12)
    assert float(at.checkpoint_induction_score) == pytest.approx(float(score), rel=1e-5)
    with torch.no_grad():
        logits = model(torch.tensor([[7, 8, 9], [9, 8, 7]])).logits[:, -1]
    difference = float((logits[:, 3] - logits[:, 4]).mean())
    assert float(at.checkpoint_logit_difference) == pytest.approx(difference, abs=1e-5)
    bias = float(model.gpt_neox.final_layer_norm.bias[3].detach())
    assert float(at.checkpoint_bias) == pytest.approx(bias, abs=1e-7)


def test_losses_are_those_without_observables(parts, whole):
    plain = sample_traces(*parts, Sampler(SETTINGS, kernel="sgld"))
    np.testing.assert_array_equal(whole.values, plain.values)
    np.testing.assert_array_equal(whole.checkpoint_loss, plain.checkpoint_loss)
    assert whole.bias.dims == ("time", "chain", "draw")
    assert np.ptp(whole.bias.values) > 0 and "bias" not in plain.coords


def test_a_store_keeps_them_in_any_number_of_pieces(parts, whole, tmp_path):
    sampler = Sampler(SETTINGS, kernel="sgld", observables=OBSERVABLES[:2])
    short = dataclasses.replace(sampler, settings=dataclasses.replace(SETTINGS, draws=4))
    sample_traces(*parts, short, store=tmp_path)
    sent = pickle.loads(pickle.dumps(sampler))  # as to another process
    with ThreadPoolExecutor(1) as pool:
        found = sample_traces(*parts, sent, store=tmp_path, executor=pool)
    for name in ("induction_score", "logit_difference"):
        np.testing.assert_array_equal(found[name], whole[name])
    classes = xr.DataArray(np.ones((24, 1)), dims=("item", "token_class"), name="classes")
    results.save(tmp_path, found, classes.assign_coords(token_class=["all"]))
    again = results.load(tmp_path)[0]
    np.testing.assert_array_equal(again.induction_score, whole.induction_score)
    np.testing.assert_array_equal(again.values, whole.values)
    with pytest.raises(ValueError, match="something else"):
        other = dataclasses.replace(sampler, observables=(InductionScore(SEQUENCES, name="x"),) * 1)
        sample_traces(*parts, other, store=tmp_path)


def test_tokens_have_an_influence_on_them(whole):
    found = traces.susceptibility(whole, observable="bias", perturbation="weight")
    d = whole.values - whole.values.mean(2, keepdims=True)
    b = whole.bias.values.astype(float)
    b = b - b.mean(2, keepdims=True)
    covariance = np.einsum("tcdk,tcd->tk", d, b) / (2 * 5)
    scale = -whole.attrs["n_beta"] / whole.attrs["n_train"]
    np.testing.assert_allclose(found, scale * covariance, rtol=1e-5, atol=1e-12)
    assert found.attrs["observable"] == "bias"


def test_they_are_recorded_at_the_draw_whose_losses_stand_beside_them(parts):
    sampler = Sampler(SETTINGS, kernel="sgld", observables=(MeanLoss(),))
    found = sample_traces(*parts[:2], Observed(ROWS), sampler)
    np.testing.assert_allclose(found["mean loss"], found.mean("item"), rtol=1e-5)
    at = found["checkpoint_mean loss"]
    np.testing.assert_allclose(at, found.checkpoint_loss.mean("item"), rtol=1e-5)
    assert np.ptp(found["mean loss"].values, axis=2).min() > 1e-3  # not the checkpoint's


def test_class_sums_have_no_room_for_them(parts):
    members = np.ones((3, 9, 1), bool)
    classes = xr.DataArray(members, dims=("sequence", "position", "token_class"))
    sums = dataclasses.replace(parts[2], classes=classes.assign_coords(token_class=["all"]))
    with pytest.raises(ValueError, match="`observables` are recorded beside the losses"):
        sample_traces(*parts[:2], sums, Sampler(SETTINGS, kernel="sgld", observables=OBSERVABLES))


@dataclasses.dataclass(frozen=True)
class Own:
    """Whatever is asked for."""

    give: str
    name: str = "own"
    more: object = None

    def __call__(self, model):
        return eval(self.give, {"bias": model.gpt_neox.final_layer_norm.bias, "model": model})


@pytest.mark.parametrize(
    "wrong",
    [
        *(None, 3, "bias", Bias),
        *((len,), (Bias(), Bias()), (Bias("row"),), (Bias(3),), (Bias("a, b"),), (Bias,)),
        *((Bias("loss"),), (Bias("checkpoint_loss"),), (Bias("weight"),), (Bias(""),)),
        *((Bias("a/b"),), (Bias("x"), Bias("checkpoint_x")), (Own("1", more=torch.ones(1)),)),
    ],
)
def test_what_cannot_be_recorded_is_refused(wrong):
    with pytest.raises(ValueError, match="`observables`"):
        Sampler(SETTINGS, observables=wrong)


def test_a_single_one_needs_no_tuple():
    assert Sampler(SETTINGS, observables=Bias()).observables == (Bias(),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (InductionScore(SEQUENCES, layer=7), "'induction_score' failed: `layer` must be less"),
        (InductionScore(SEQUENCES, head=2), "`head` must be less than 2"),
        (InductionScore(SEQUENCES + 400), "`sequences` has id 410"),
        (InductionScore(np.tile(np.arange(20), (1, 2))), "rows of 40 inputs, the model takes 32"),
        (LogitDifference(ROWS, right=900), "`right` has id 900"),
        (LogitDifference(ROWS + 400), "`ids` has id 409"),
        (Own("bias"), "must return one number, got Parameter"),
        (Own("None"), "must return one number, got NoneType"),
        (Own("1 / 0"), "'own' failed: ZeroDivisionError"),
        (Own("float('nan')"), "one finite number"),
        (Own("1e60"), "one finite number"),
        (Own("__import__('torch').rand(())"), "the same at every call"),
        (Own("bias.fill_(7.0).sum()"), "changes the model it is given .*final_layer_norm.bias"),
        (Own("model.train() and 1"), "training mode"),
    ],
)
def test_what_fails_is_named_before_a_store_is_made(parts, tmp_path, wrong, message):
    sampler = Sampler(SETTINGS, kernel="sgld", observables=wrong)
    with pytest.raises(ValueError, match=message):
        sample_traces(*parts, sampler, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_constant_has_no_correlation(whole):
    constant = whole.bias.copy(data=np.ones_like(whole.bias)).rename("one")
    assert not traces.susceptibility(whole, observable=constant).values.any()
    with pytest.raises(ValueError, match="'one' is the same at every draw of checkpoint 4"):
        traces.susceptibility(whole, observable=constant, normalised=True)


@pytest.mark.parametrize("ids", [[[0.5, 1.5]], ((1, 2), (3,)), "abab", [[-1, 2]], 5])
def test_bad_observables_are_named(ids):
    with pytest.raises(ValueError, match="`sequences`"):
        InductionScore(ids)
    if ids != 5:  # a row of one id
        with pytest.raises(ValueError, match="`ids`"):
            LogitDifference(ids)


def test_observables_that_never_vary_are_refused():
    with pytest.raises(ValueError, match="`sequences`"):
        InductionScore(np.arange(12).reshape(2, 6))
    with pytest.raises(ValueError, match="`right` and `wrong` must differ"):
        LogitDifference(ROWS, right=3, wrong=3)
