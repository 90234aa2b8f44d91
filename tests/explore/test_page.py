"""The numbers in a page are those of `traces.influence`, and its text is no markup."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlnflow.explore import write_page
from dlnflow.explore.document import escaped, packed, unpacked
from dlnflow.explore.quantised import SHARE, batches, quantise
from dlnflow.traces import groups, influence, interval, summary
from tests.explore.conftest import HOSTILE, ITEMS, autoregressive, make_traces
from tests.explore.reading import Elements, checkpoint, data_of


@pytest.mark.parametrize("normalised", [True, False])
def test_rows_are_the_influence_of_the_traces(page, traces, normalised):
    data = data_of(page[0])
    exact = influence(traces, normalised=normalised).values
    factor = 1.0 if normalised else data["factor"]
    off = ~np.eye(ITEMS, dtype=bool)
    for t in range(2):
        one = checkpoint(data, t)
        found = factor * np.array([one.row(i, normalised=normalised)[0] for i in range(ITEMS)])
        scale = 1.0 if normalised else factor * one.spread * one.spread[:, None]
        apart = np.abs(found - exact[t]) / scale
        stated = data["checkpoints"][t]["error"]
        assert stated <= SHARE * np.min([summary(traces).noise_floor[t], 200**-0.5])
        if normalised:
            # the stated error is that of the page, not a bound that is never reached
            np.testing.assert_allclose(apart[off].max(), stated, rtol=1e-9)
        else:
            assert apart[off].max() <= stated * (1 + 1e-4)  # float32 spreads
        np.testing.assert_allclose(np.diag(found), np.diag(exact[t]), rtol=1e-6)
    assert np.isnan(checkpoint(data, 2).row(0)[0]).all()
    assert data["checkpoints"][2]["verdict"] == "diverged"


@pytest.mark.parametrize("normalised", [True, False])
def test_standard_errors_are_those_of_the_traces(normalised):
    traces = make_traces(draws=400)
    exact = influence(traces, normalised=normalised)
    off = ~np.eye(ITEMS, dtype=bool)
    for t, one in enumerate(quantise(traces, summary(traces).noise_floor)):
        rows = [one.row(i, normalised=normalised) for i in range(ITEMS)]
        ours = np.array([row.standard_error for row in rows]) * (1.0 if normalised else 0.05)
        ratio = ours[off] / exact.standard_error.values[t][off]
        # batch means with 31 degrees of freedom scatter by an eighth around the same mean
        assert abs(np.median(ratio) - 1) < 0.1
        assert ratio.std() < 0.25


def test_what_a_page_says_of_itself(page, traces):
    out, found = page
    data = data_of(out)
    assert found["bytes"] == out.stat().st_size == int(data["bytes"])
    errors = [one["error"] for one in data["checkpoints"][:2]]
    assert found["largest_error"] == data["error"]["largest_error"] == max(errors) > 0
    assert 0 < found["error_over_floor"] <= SHARE
    assert (found["tokens"], found["checkpoints"]) == (ITEMS, 3)
    assert [one["step"] for one in data["checkpoints"]] == traces.time.values.tolist()
    judged = summary(traces)
    for name in ("r_hat", "ess", "noise_floor"):
        seen = [one[name] for one in data["checkpoints"][:2]]
        np.testing.assert_array_equal(seen, judged[name][:2])
    assert data["classes"]["even"] == list(range(0, ITEMS, 2))


def test_means_of_classes_are_those_of_groups(page, traces, classes):
    found = groups(traces, classes)
    ends = interval(found)
    kept = data_of(page[0])["between"]
    for name, exact in (("value", found), ("low", ends.lower), ("high", ends.upper)):
        np.testing.assert_array_equal(kept[name][:2], exact.values[:2])
        assert kept[name][2] == [[None, None], [None, None]]


def test_no_word_is_markup(page, words):
    elements = Elements(page[0])
    tags = [tag for tag, _ in elements.found]
    assert "img" not in tags and tags.count("script") == 2 and "i" not in tags
    assert not any(name.startswith("on") for _, attrs in elements.found for name in attrs)
    assert data_of(page[0])["words"] == list(words)
    text = page[0].read_text(encoding="utf-8")
    assert not any(word in text for word in HOSTILE if "<" in word)


def test_the_script_writes_text_only():
    from importlib import resources

    files = resources.files("dlnflow.explore")
    script = "".join((files / name).read_text("utf-8") for name in ("numbers.js", "page.js"))
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("):
        assert way not in script


def test_a_page_needs_no_network(page):
    elements = Elements(page[0])
    assert [a["href"] for tag, a in elements.found if tag == "link"] == ["data:,"]
    assert not any("src" in attrs for _, attrs in elements.found)
    urls = re.findall(r"https?://[^\"']+", page[0].read_text(encoding="utf-8"))
    assert set(urls) <= {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for _, a in elements.found if "http-equiv" in a)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


@given(st.text())
def test_escaped_text_comes_back(text):
    import json

    made = escaped({"words": [text]})
    assert not set("<>&") & set(made) and made.isascii()
    assert json.loads(made)["words"] == [text]


@given(arrays.arrays(np.int16, st.tuples(st.integers(0, 5), st.integers(1, 5))))
def test_packed_integers_come_back(values):
    np.testing.assert_array_equal(unpacked(packed(values), values.shape), values)


@given(st.integers(1, 5), st.integers(4, 2000))
def test_batches_tile_every_chain(chains, draws):
    edges = batches(chains, draws)
    assert edges[0] == 0 and edges[-1] == chains * draws
    assert np.diff(edges).min() >= 2
    assert set(np.arange(chains) * draws) <= set(edges.tolist())


def test_an_item_that_never_moves_has_no_influence():
    traces = make_traces(steps=(0,))
    traces.values[..., 3] = 1.5
    (one,) = quantise(traces, [0.05])
    assert (one.row(5).influence[3], one.row(5).standard_error[3]) == (0, 0)
    assert np.isfinite(one.row(3).influence).all()


def test_short_chains_and_one_chain_are_enough(classes, words, tmp_path):
    traces = make_traces(steps=(0,), draws=4).isel(chain=[0])
    out = tmp_path / "page.html"
    write_page(traces, classes, words, out)
    row = checkpoint(data_of(out), 0).row(1)
    np.testing.assert_allclose(
        row.influence, influence(traces, normalised=True).values[0, 1], atol=SHARE * 200**-0.5
    )
    assert np.isfinite(row.standard_error).all()


def test_bad_input_leaves_the_old_page(traces, classes, words, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("old")
    with pytest.raises(ValueError, match=r"`words` must be one per item, 40; got 39"):
        write_page(traces, classes, words[1:], out)
    with pytest.raises(TypeError):
        write_page(traces, classes, [*words[1:], object()], out)  # fails after the numbers
    assert out.read_text() == "old" and list(tmp_path.iterdir()) == [out]
    with pytest.raises(ValueError, match="is a folder"):
        write_page(traces, classes, words, tmp_path, done=lambda *_: pytest.fail("began"))


@pytest.mark.slow
def test_a_page_of_four_thousand_tokens_stays_small(classes, tmp_path):
    """A tenth of 30 MB for one of ten checkpoints with 1,000 draws."""
    rng = np.random.default_rng(0)
    count = 4000
    small = make_traces(steps=(0,), draws=250)
    losses = autoregressive(rng, (4, 250, count), 0.7)
    traces = small.isel(item=np.zeros(count, int)).copy(data=losses[None])
    traces = traces.assign_coords(item=[f"i{k}" for k in range(count)])
    members = classes.isel(item=np.zeros(count, int))
    found = write_page(traces, members, ["word"] * count, tmp_path / "page.html")
    assert found["bytes"] <= 3e6 and found["error_over_floor"] <= SHARE
