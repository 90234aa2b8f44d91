import dataclasses

import numpy as np
import pytest
import torch

from dlnflow.lm.induction import crossing, measure, repeated_sequences, scores
from dlnflow.lm.runs.model import build
from tests.lm.conftest import TINY

COUNTS = np.arange(100)[::-1]


def test_disjoint_sequences_use_the_most_frequent_ids():
    rows = repeated_sequences(COUNTS, special=(0, 1), n_sequences=4, period=5)
    assert (rows[:, :5] == rows[:, 5:]).all()
    assert sorted(rows[:, :5].ravel()) == list(range(2, 22))  # ids 0 and 1 are special
    assert (rows == repeated_sequences(COUNTS, special=(0, 1), n_sequences=4, period=5)).all()
    assert not (
        rows == repeated_sequences(COUNTS, special=(0, 1), n_sequences=4, period=5, seed=1)
    ).all()


def test_several_deals_share_ids_only_between_them():
    one = repeated_sequences(COUNTS, special=(0, 1), n_sequences=4, period=5)
    three = repeated_sequences(COUNTS, special=(0, 1), n_sequences=12, period=5, deals=3)
    assert (three[:4] == one).all()
    for deal in three.reshape(3, 4, 10):
        assert sorted(deal[:, :5].ravel()) == list(range(2, 22))
    assert not (three[4:8] == one).all()
    with pytest.raises(ValueError, match="multiple of `deals`"):
        repeated_sequences(COUNTS, special=(0, 1), n_sequences=4, period=5, deals=3)


def test_draws_by_frequency_do_not_repeat_an_id():
    rows = repeated_sequences(COUNTS, special=(0, 1), n_sequences=50, period=20, disjoint=False)
    assert all(len(set(row[:20])) == 20 for row in rows.tolist())
    assert rows[:, :20].mean() < 45  # frequent ids are the small ones here


def test_too_small_a_vocabulary():
    with pytest.raises(ValueError, match="need 100 different ids"):
        repeated_sequences(COUNTS, special=(0, 1), n_sequences=10, period=10)


@pytest.fixture
def uniform():
    """A model whose queries and keys are zero: attention is uniform over the past."""
    model = build(dataclasses.replace(TINY, layers=2, precision="fp32"))
    with torch.no_grad():
        for layer in model.gpt_neox.layers:
            layer.attention.query_key_value.weight.zero_()
            layer.attention.query_key_value.bias.zero_()
    return model


def test_uniform_attention_has_known_scores(uniform):
    rows = repeated_sequences(COUNTS, special=(0, 1), n_sequences=3, period=8)
    found = scores(uniform, rows)
    expected = np.mean([1 / (t + 1) for t in range(8, 15)])
    np.testing.assert_allclose(found.induction, expected, rtol=1e-5)
    np.testing.assert_allclose(found.previous, expected, rtol=1e-5)
    assert found.induction.shape == (2, 2)


def test_attention_is_read_at_the_right_places():
    """A loop over queries on the model's own attention weights."""
    model = build(TINY)
    rows = repeated_sequences(COUNTS, special=(0, 1), n_sequences=3, period=8)
    found = scores(model, rows)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(torch.from_numpy(rows), output_attentions=True)
    a = out.attentions[0].numpy()
    expected = [np.mean([a[:, h, t, t - 7] for t in range(8, 15)]) for h in range(2)]
    np.testing.assert_allclose(found.induction[0], expected, rtol=1e-5)
    expected = [np.mean([a[:, h, t, t - 1] for t in range(8, 15)]) for h in range(2)]
    np.testing.assert_allclose(found.previous[0], expected, rtol=1e-5)
    for name, targets in (("first", range(1, 8)), ("second", range(9, 16))):
        log_p = out.logits.log_softmax(-1).numpy()
        loss = -np.mean([log_p[n, t - 1, rows[n, t]] for n in range(3) for t in targets])
        assert float(found.loss.sel(half=name)) == pytest.approx(loss, rel=1e-5)


def test_the_models_own_attention_is_put_back():
    model = build(dataclasses.replace(TINY, context=512))
    before = model.config._attn_implementation
    scores(model, repeated_sequences(COUNTS, special=(0, 1), n_sequences=2, period=4))
    assert model.config._attn_implementation == before == "sdpa"


def test_over_checkpoints(tiny):
    _, _, ladder = tiny
    found = measure(ladder, repeated_sequences(COUNTS, special=(0, 1), n_sequences=2, period=6))
    assert found.induction.dims == ("time", "layer", "head")
    assert found.time.values.tolist() == ladder.steps.tolist()
    np.testing.assert_allclose(found.layer_induction, found.induction.sum("head"))


def test_crossing_interpolates():
    assert crossing([0, 10, 20], [0.0, 0.2, 0.6], 0.4) == 15
    assert crossing([5, 10], [0.9, 1.0], 0.4) == 5
    assert np.isnan(crossing([0, 10], [0.0, 0.2], 0.4))
