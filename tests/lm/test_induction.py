import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlnflow.lm import Observed
from dlnflow.lm.experiment import halves, left_out
from dlnflow.lm.induction import crossing, dealt, measure, repeated_sequences, rise, scores
from dlnflow.lm.runs.model import build
from dlnflow.traces import groups
from tests.lm.conftest import TINY
from tests.traces import samples

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
    with pytest.raises(ValueError, match="leave a sequence for each"):
        # of two and two sequences; nothing is left for a third
        repeated_sequences(COUNTS, special=(0, 1), n_sequences=4, period=5, deals=3)


def test_the_last_deal_may_be_smaller():
    rows = repeated_sequences(COUNTS, special=(0, 1), n_sequences=7, period=5, deals=2)[:, :5]
    assert sorted(rows[:4].ravel()) == list(range(2, 22))
    assert len(set(rows[4:].ravel())) == 15
    assert set(rows[4:].ravel()) <= set(range(2, 22))


@pytest.mark.parametrize(("rows", "period", "fits"), [(64, 24, 4), (64, 10, 9), (5, 40, 2)])
def test_a_small_vocabulary_is_dealt_out_more_often(rows, period, fits):
    """97 ids that occur and are not special."""
    words = f"97 different ids, enough for {fits} sequences of {period} .*{rows} .*`rows`.* times"
    with pytest.warns(UserWarning, match=words):
        found = dealt(COUNTS, rows, period=period, special=(0, 1), deal=16)
    assert found.shape == (rows, 2 * period)
    assert (found[:, :period] == found[:, period:]).all()
    deals = -(-rows // fits)
    for deal in np.split(found[:, :period], range(-(-rows // deals), rows, -(-rows // deals))):
        assert len(set(deal.ravel())) == deal.size  # no id twice
        assert len(deal) <= fits


def test_a_vocabulary_that_is_large_enough_is_dealt_out_as_before():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dealt(COUNTS, 32, period=6, special=(0, 1), deal=16)
    again = repeated_sequences(COUNTS, special=(0, 1), n_sequences=32, period=6, deals=2)
    assert (found == again).all()


def test_fewer_ids_than_a_sequence_has_make_shorter_ones():
    with pytest.warns(UserWarning, match="with 3 ids in place of 24"):
        found = dealt([5, 4, 0, 1, 9], 6, period=24, special=(4,), deal=16)
    assert found.shape == (6, 6)
    assert all(sorted(row[:3]) == [0, 1, 3] for row in found.tolist())
    with pytest.raises(ValueError, match=r"at least 2 different ids .* there are 1"):
        dealt([5, 0, 0], 6, period=24, special=(), deal=16)


def test_draws_by_frequency_do_not_repeat_an_id():
    rows = repeated_sequences(COUNTS, special=(0, 1), n_sequences=50, period=20, disjoint=False)
    assert all(len(set(row[:20])) == 20 for row in rows.tolist())
    assert rows[:, :20].mean() < 45  # frequent ids are the small ones here


def test_ids_that_deals_share_do_not_enter_class_means():
    """The loss of a token is a factor of its id: nothing but pairs of one id is correlated."""
    ids = dealt(COUNTS, 12, period=6, special=(0,), deal=4)
    classes = halves(Observed(ids)).isel(position=slice(1, None))
    classes = classes.stack(item=("sequence", "position")).transpose("item", "token_class")
    token = ids[:, 1:]
    factor = np.random.default_rng(0).standard_normal((1, 4, 400, 100))
    traces = samples.traces(factor[..., token.ravel()], n_beta=10.0, step_size=0.1)
    row = np.repeat(np.arange(12), token.shape[1])
    traces = traces.assign_coords(row=("item", row), token=("item", token.ravel()))
    assert left_out(classes) == ("row", "token")
    without = groups(traces, classes.values, exclude=left_out(classes))
    assert np.all(np.abs(without) < 4 * without.standard_error)
    within = groups(traces, classes.values, exclude="row")
    assert np.all(within < -0.02)


GOOD = {"counts": COUNTS, "special": (), "n_sequences": 4, "period": 5}
HOSTILE = [
    *(("counts", wrong) for wrong in (-COUNTS, COUNTS * np.nan, np.ones((2, 50)), ["a"], 5, None)),
    *(("special", wrong) for wrong in ((100,), (-1,), (1.0,), (True,), "01", None)),
    *((name, wrong) for name in ("n_sequences", "period") for wrong in (0, -2, 1.5, True, "4")),
]


@pytest.mark.parametrize(("name", "wrong"), HOSTILE)
def test_what_makes_no_sequence_is_named(name, wrong):
    """An id beyond the counts ended in an IndexError, a period of 0 in a ZeroDivisionError."""
    options = GOOD | {name: wrong}
    for more in ({}, {"disjoint": False}):
        with pytest.raises(ValueError, match=f"^`{name}` "):
            repeated_sequences(**options, **more)
    with pytest.raises(ValueError, match=f"^`{name}` "):
        dealt(**options, deal=16)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": "a"}, {"disjoint": "no"}, {"deals": 0}])
def test_choices_of_the_draw_are_checked(wrong):
    with pytest.raises(ValueError, match=f"^`{next(iter(wrong))}` must be"):
        repeated_sequences(**GOOD, **wrong)
    with pytest.raises(ValueError, match=r"^`deal` must be a whole number >= 1, got 0"):
        dealt(**GOOD, deal=0)


def test_deals_without_effect_are_said():
    alone = repeated_sequences(**GOOD, disjoint=False)
    with pytest.warns(UserWarning, match="`deals` 3 has no effect with disjoint=False"):
        assert (repeated_sequences(**GOOD, disjoint=False, deals=3) == alone).all()


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


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.tile([7, 7], (2, 1)), "p >= 2"),
        (np.arange(12).reshape(2, 6), "repeat their first half"),
        (np.tile([1.0, 2.0], (2, 2)), "token ids"),
        (np.tile([1, 2], 2), "repeat their first half"),
        (np.tile([5, 60_000], (2, 2)), "has id 60000"),
        (np.tile(np.arange(300), (1, 2)), "rows of 600 inputs"),
    ],
)
def test_scores_are_of_rows_that_repeat_themselves(uniform, wrong, words):
    """An odd or other row gave numbers that mean nothing, one id a NaN."""
    with pytest.raises(ValueError, match=f"`sequences` .*{words}"):
        scores(uniform, wrong)


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


def test_a_rise_is_between_a_tenth_and_nine_tenths():
    assert rise([0, 10, 20, 30], [0.0, 0.2, 1.0, 0.95]) == pytest.approx((5, 18.75))


def test_a_rise_begins_where_a_tenth_is_passed_for_good():
    assert rise([0, 10, 20, 30], [0.3, 0.0, 0.2, 1.0]) == pytest.approx((15, 28.75))
    assert rise([0, 10, 20], [0.3, 0.0, 0.0]) == (0, 0)


def test_a_rise_from_chance_is_counted_from_there():
    """All training was shaded where chance is more than a tenth of a circuit that hardly formed."""
    steps, values = [0, 10, 20, 30, 40], [0.06, 0.04, 0.04, 0.14, 0.06]
    assert rise(steps, values) == pytest.approx((21, 29))
    assert rise([0, 10], [0.06, 0.04]) == (0, 0)


@given(
    base=st.floats(0, 1),
    top=st.floats(0.01, 1),
    values=hnp.arrays(float, st.integers(2, 12), elements=st.floats(0, 1)),
)
def test_a_rise_lies_between_neighbours_that_are_low_and_high(base, top, values):
    steps, score = np.arange(len(values)) * 10.0, base + top * values
    low, high = rise(steps, score)
    if score.max() == 0:
        assert np.isnan([low, high]).all()
        return
    assert 0 <= low <= high <= steps[-1]
    least = score[: score.argmax() + 1].min()
    inside = np.interp([low, high], steps, score)
    assert (inside >= least - 1e-12).all() and inside[1] >= 0.9 * score.max() * (1 - 1e-9)


def test_a_rise_of_a_score_without_numbers():
    assert np.isnan(rise([0, 1], [np.nan, 0.0])).all()
    assert rise([0, 5, 10, 30], [0.0, np.nan, 0.2, 1.0]) == pytest.approx((5, 27.5))
    with pytest.raises(ValueError, match="`steps`"):
        rise([1, 0], [0.0, 1.0])


@pytest.mark.parametrize(
    ("steps", "values", "threshold", "name"),
    [
        ([0, 1], [0, 1, 2], 0.5, "steps"),
        ([2, 0, 1], [0, 1, 2], 0.5, "steps"),
        ([1, 1], [0, 1], 0.5, "steps"),
        ([[0, 1]], [[0, 1]], 0.5, "steps"),
        ([0, np.nan], [0, 1], 0.5, "steps"),
        ([0, 1], ["a", "b"], 0.5, "values"),
        ([0, 1], [0, 1], np.nan, "threshold"),
        ([0, 1], [0, 1], "0.5", "threshold"),
    ],
)
def test_a_crossing_needs_a_curve(steps, values, threshold, name):
    """Unsorted steps gave a step between two that were no neighbours."""
    with pytest.raises(ValueError, match=f"`{name}`"):
        crossing(steps, values, threshold)
