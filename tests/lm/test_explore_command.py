"""`dlnflow lm explore`, from a tiny run to a page."""

import numpy as np

from dlnflow import lm
from dlnflow.explore.language_model import spelled
from dlnflow.traces import influence
from tests.explore.reading import checkpoint, data_of
from tests.lm.test_command import answer, call


def test_from_a_store_to_a_page(tiny, tmp_path):
    run, store, out = tiny[1], tmp_path / "store", tmp_path / "new" / "page.html"
    short = "--step 4 --step 12 --draws 6 --set rows=3 --set chains=2 --set burn_in=3 --set thin=1"
    answer("sample", run, "--store", store, *short.split())
    found = answer("explore", run, "--store", store, "--out", out)
    assert found["page"] == str(out) and found["bytes"] == out.stat().st_size
    traces, classes = lm.experiment.read(run, store)
    data = data_of(out)
    exact = influence(traces, normalised=True).values
    for t in range(2):
        row = checkpoint(data, t).row(7).influence
        apart = np.abs(np.delete(row - exact[t, 7], 7)).max()
        assert apart <= data["checkpoints"][t]["error"] <= found["largest_error"]
    tokenizer = lm.tokenizer.load_tokenizer(run)
    ids = traces.token.values[data["row"].index(data["row"][0]) :][:9].tolist()
    assert tokenizer.decode(ids) == "".join(data["words"][:9]) or "\\x" in "".join(data["words"])
    assert set(data["classes"]) == set(classes["token_class"].values.tolist())

    result = call("explore", run, "--store", store, "--out", tmp_path, code=1)
    assert "`--out` must be a file such as page.html" in result.stderr
    result = call("explore", run, "--store", tmp_path, "--out", out, code=1)
    assert "no finished sample" in result.stderr


def test_split_characters_are_spelled_by_their_bytes():
    assert spelled("é<".encode()) == "é<"
    assert spelled("é".encode()[:1]) == "\\xc3"
    assert spelled(None) == ""
