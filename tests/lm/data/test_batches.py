"""Gradient data and observed rows: what is refused, and that they do not share text."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlnflow.lm.data import batches
from dlnflow.lm.data.batches import GradientData, Observed, occurring
from dlnflow.lm.data.tokenizer import Tokens
from dlnflow.lm.runs.train import load_data
from dlnflow.lm.sampling.token_traces import sample_traces
from dlnflow.lm.sampling.unit import Sampler
from dlnflow.sampling.settings import Settings

SAMPLER = Sampler(Settings(n_beta=1e3, localization=1e3, step_size=1e-6, chains=1, draws=4))
IDS = np.arange(100, dtype=np.int32) % 7


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_rows_that_occur_are_found(ids, length, windows, seed):
    """Against a search by hand; few ids, so that about half of the rows occur."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, (8, length))
    text = " ".join(map(str, ids))
    expected = [f" {' '.join(map(str, row))} " in f" {text} " for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "WINDOWS", windows)
        assert occurring(rows, np.asarray(ids, np.int32)).tolist() == expected


def test_observed_rows_of_the_gradient_text_are_refused(tiny):
    """Copies of it, in another type: by content, not by memory."""
    _, folder, ladder = tiny
    ids = load_data(folder).training.ids
    gradient = GradientData(ids, rows=2, length=16)
    stolen = Observed(ids[5:133].reshape(4, 32).astype(np.int64), rows=[4, 8, 2, 9])
    with pytest.raises(ValueError, match=r"4 of 4 rows occur in its text, row 4 first"):
        sample_traces(ladder.select([4]), gradient, stolen, SAMPLER)
    mixed = stolen.ids.copy()
    mixed[[0, 1, 3], ::2] = 299
    with pytest.raises(ValueError, match=r"1 of 4 rows occur in its text, row 2 first"):
        sample_traces(ladder.select([4]), gradient, Observed(mixed, stolen.rows), SAMPLER)


def test_plans_leave_out_rows_that_occur_and_keep_the_numbers_of_the_others(tiny):
    from dlnflow.lm import experiment

    folder = tiny[1]
    data = load_data(folder)
    plan = experiment.plan(folder, rows=3)
    observed = plan.observed
    assert not occurring(observed.ids, data.training.ids).any()
    for number, row in zip(observed.rows, observed.ids, strict=True):
        np.testing.assert_array_equal(data.held_out.ids[number * 32 : (number + 1) * 32], row)
    assert occurring(data.held_out.rows(len(data.held_out.ids) // 32, 32), data.training.ids).any()
    with pytest.raises(ValueError, match=r"`rows` \d+: of \d+ held-out rows of 32 ids only \d+ do"):
        experiment.plan(folder, rows=len(data.held_out.ids) // 32)
    traces = sample_traces(plan.checkpoints.select([4]), plan.gradient, observed, SAMPLER)
    assert traces["row"].values[::31].tolist() == observed.rows.tolist()
    assert traces.attrs["text_sha256"] == data.training.text_sha256 != ""


def test_rows_rich_in_delimiters_are_those_with_most_of_them(tiny):
    """Against brackets counted one character after another."""
    from dlnflow.lm import experiment

    folder = tiny[1]
    data = load_data(folder)
    plan = experiment.plan(folder, observe="delimiters", rows=7)
    spelled = data.tokenizer.id_to_token

    def unpaired(token):
        body = token.strip(
            "\u0120\u010a"
        )  # a space and a line break, as byte-level BPE spells them
        opened = closed = 0
        if any(char.isalnum() for char in body):
            return False
        for char in body:
            if char in "([{":
                opened += 1
            elif char in ")]}":
                opened, closed = (opened - 1, closed) if opened else (0, closed + 1)
        return opened + closed > 0

    every = data.held_out.ids[: len(data.held_out.ids) // 32 * 32].reshape(-1, 32)
    count = [sum(unpaired(spelled(int(i))) for i in row[1:]) for row in every]
    allowed = np.flatnonzero(~occurring(every, data.training.ids))
    best = sorted(allowed, key=lambda row: (-count[row], row))[:7]
    assert plan.observed.rows.tolist() == best
    np.testing.assert_array_equal(plan.observed.ids, every[best])


def test_text_without_delimiters_is_not_taken_for_rows_of_them(tiny, tmp_path):
    from dlnflow.lm import experiment

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(300)]
    for k in range(8):
        (tmp_path / f"{k}.txt").write_text(" ".join(rng.choice(words, 400)))
    given = {"rows": 4, "text": str(tmp_path), "length": 16}
    plain = experiment.plan_from_text(tiny[1], observe="text", **given)
    assert len(plain.observed.ids) == 4
    with pytest.raises(ValueError, match="`rows` 4: only 0 held-out rows have a delimiter"):
        experiment.plan_from_text(tiny[1], observe="delimiters", **given)


def test_rows_that_do_not_occur_are_those_of_tokens():
    tokens = Tokens(np.arange(400, dtype=np.int32), 400, "")
    found = Observed.held_out(tokens, 5, 40, seed=3, gradient=GradientData(IDS))
    np.testing.assert_array_equal(found.ids, tokens.rows(5, 40, seed=3))
    np.testing.assert_array_equal(found.rows, found.ids[:, 0] // 40)
    short = Observed.held_out(tokens, 5, 8, gradient=GradientData(tokens.ids))
    assert len(short.ids) == 5  # stretches of 8 ids are in independent text, too
    with pytest.raises(ValueError, match=r"`rows`.* more than the text holds"):
        Observed.held_out(tokens, 11, 40, gradient=GradientData(IDS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": -IDS}, "from 0 to 2^31 - 1, got -6 to 0"),
        ({"ids": IDS / 2}, "got float64"),
        ({"ids": [[1, 2], [3]]}, "`ids` of gradient data"),
        ({"ids": []}, "got float64 (0,)"),
        ({"ids": IDS.reshape(4, 25)}, "one text"),
        ({"ids": [2**31]}, "2147483648"),
        ({"rows": 0}, "`rows`"),
        ({"length": 0}, "`length`"),
        ({"length": -1}, "`length`"),
        ({"repeat_share": 2}, "[0, 1], got 2"),
        ({"repeat_share": np.nan}, "`repeat_share`"),
        ({"segment": (9, 3)}, "(9, 3)"),
        ({"segment": (0, 0)}, "`segment`"),
        ({"segment": 5}, "got 5"),
        ({"segment": (1, 2, 3)}, "`segment`"),
    ],
)
def test_bad_gradient_data(change, words):
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(GradientData(IDS), **change)
    assert words in str(caught.value)


def test_a_list_of_ids_is_that_text():
    data = GradientData(IDS.tolist(), rows=np.int64(3), segment=[2, 5])
    assert data.key() == GradientData(IDS, rows=3, segment=(2, 5)).key()
    assert data.ids.dtype == np.int32


@pytest.mark.parametrize("ids", [[[1, -2]], [[1.0, 2.0]], [], [3, 4], [[2**31, 1]]])
def test_bad_observed_ids(ids):
    with pytest.raises(ValueError, match="`ids` of observed sequences must be"):
        Observed(ids)


def test_one_pattern_of_parameters_is_not_read_by_letters(tiny):
    _, folder, ladder = tiny
    gradient = GradientData(load_data(folder).training.ids, rows=2, length=16)
    observed = Observed([[1, 2, 3]])
    one, many = (dataclasses.replace(SAMPLER, parameters=p) for p in ("*lm_head*", ["*lm_head*"]))
    assert one.parameters == many.parameters == ("*lm_head*",) and one.key() == many.key()
    traces = [sample_traces(ladder.select([4]), gradient, observed, s) for s in (one, many)]
    assert traces[0].identical(traces[1])


def test_text_without_any_class_is_refused_before_the_work(bpe):
    from dlnflow.lm import experiment
    from dlnflow.lm.runs.train import Data

    digits = Tokens(np.asarray(bpe.encode("1 2 3 4 5 6 " * 30).ids, np.int32), 320, "")
    with pytest.raises(ValueError, match="no token of the observed rows is in a class"):
        experiment.watch(Data(bpe, digits, digits), "text", 2, length=8, gradient=GradientData(IDS))
