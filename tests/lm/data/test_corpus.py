import numpy as np
import pytest

from dlnflow.lm.data import corpus, hub
from dlnflow.lm.data.corpus import Corpus
from dlnflow.lm.data.tokenizer import Tokens, encode, load_tokenizer, train_bpe
from dlnflow.lm.runs.model import RunSettings
from dlnflow.lm.runs.train import prepare


def test_stdlib_is_here_and_has_the_language_reference():
    text = corpus.load("stdlib", max_characters=200_000)
    assert text.n_characters >= 200_000
    assert len(text.sha256) == 64
    assert corpus.load("stdlib", max_characters=200_000).sha256 == text.sha256


@pytest.mark.slow
def test_whole_stdlib():
    text = corpus.load("stdlib")
    assert 6e6 < text.n_characters < 2e7
    assert any("The `if` statement" in d or 'The "if" statement' in d for d in text.documents)


def test_dependencies_are_here():
    assert corpus.load("dependencies", max_characters=100_000).n_characters >= 100_000


def test_folder_is_read_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.md").write_text("one")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    (tmp_path / "d.txt").write_bytes(b"\xff")  # not UTF-8
    assert corpus.load(tmp_path).documents == ("one", "two")
    assert corpus.load(tmp_path / "b.txt").documents == ("two",)


def test_hash_sees_document_borders():
    assert Corpus("x", ("ab", "c")).sha256 != Corpus("x", ("a", "bc")).sha256


def test_unknown_and_empty_sources(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'stdlib'"):
        corpus.load("sdtlib")
    with pytest.raises(ValueError, match="no text"):
        corpus.load(tmp_path)


def test_streaming_without_network_says_what_to_do(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route")

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ConnectionError, match=r"corpus\.load\('stdlib'\)"):
        corpus.stream("monology/pile-uncopyrighted", n_documents=3)


def test_streaming_takes_the_first_documents(monkeypatch):
    import datasets

    rows = [{"text": f"document {k}"} for k in range(9)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(rows))
    assert corpus.stream("a/b", n_documents=2).documents == ("document 0", "document 1")


def test_a_run_on_a_data_set_of_the_hub(monkeypatch, tmp_path):
    """As pythia-14m is trained: the first documents, streamed, with a given tokenizer."""
    import datasets

    rows = [{"text": f"document {k} of many words"} for k in range(50)]
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, **_: asked.append(name) or iter(rows)
    )
    monkeypatch.setattr("dlnflow.lm.data.tokenizer.AT_ONCE", 7)
    own = train_bpe(Corpus("t", ("a document of many words",)), 300)
    settings = RunSettings(corpus="monology/pile-uncopyrighted", documents=20, vocab_size=300)
    data = prepare(settings, tmp_path, tokenizer=own)
    assert asked == ["monology/pile-uncopyrighted"]
    texts = [r["text"] for r in rows[:20]]
    expected = sum(len(own.encode(text).ids) + 1 for text in texts)
    assert len(data.training.ids) + len(data.held_out.ids) == expected
    with pytest.raises(ValueError, match="Did you mean 'stdlib'"):
        corpus.load_or_stream("sdtlib", 20)


def test_bpe_round_trip_and_special_ids(bpe):
    assert bpe.token_to_id("<|endoftext|>") == 0
    assert bpe.token_to_id("<|padding|>") == 1
    text = "naïve 你好 \n\t 😀 unseen Ω"
    assert bpe.decode(bpe.encode(text).ids) == text


def test_bpe_is_reproducible():
    text = Corpus("t", ("abab cdcd efef " * 30,))
    assert train_bpe(text, 270).to_str() == train_bpe(text, 270).to_str()


def test_bpe_needs_room_for_bytes():
    with pytest.raises(ValueError, match="`vocab_size` must be at least 258"):
        train_bpe(Corpus("t", ("a",)), 200)


def test_encode_splits_by_documents(bpe):
    documents = tuple(f"document number {k} " * (k + 1) for k in range(20))
    training, held_out = encode(Corpus("t", documents), bpe, held_out=0.25)
    assert (training.ids == 0).sum() == 15
    assert (held_out.ids == 0).sum() == 5
    texts = bpe.decode(training.ids.tolist(), skip_special_tokens=False).split("<|endoftext|>")[:-1]
    others = bpe.decode(held_out.ids.tolist(), skip_special_tokens=False).split("<|endoftext|>")
    assert sorted(texts + others[:-1]) == sorted(documents)
    assert training.sha256 != held_out.sha256
    assert training.text_sha256 == held_out.text_sha256


def test_the_end_of_a_single_document_is_held_out(bpe):
    document = " ".join(f"word {k}" for k in range(200))
    whole, nothing = encode(Corpus("t", (document,)), bpe, held_out=0)
    training, held_out = encode(Corpus("t", (document,)), bpe, held_out=0.25)
    assert not len(nothing.ids) and len(held_out.ids) == round(0.25 * len(whole.ids))
    assert np.array_equal(np.concatenate([training.ids, held_out.ids]), whole.ids)


def test_rows_do_not_overlap():
    tokens = Tokens(np.arange(100, dtype=np.int32), 100, "")
    rows = tokens.rows(9, 11, seed=3)
    assert len(np.unique(rows)) == 99
    assert (np.diff(rows) == 1).all()
    with pytest.raises(ValueError, match="Use fewer or shorter ones"):
        tokens.rows(10, 11)


def test_tokenizer_from_hub_without_network(monkeypatch):
    import transformers

    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    monkeypatch.setattr(hub, "reach", lambda: None)
    with pytest.raises(ConnectionError, match=r"tokenizer\.json"):
        load_tokenizer("EleutherAI/nothing")
