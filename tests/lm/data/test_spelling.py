"""Encoded text is the text: whatever a tokenizer's file stores, or the tokenizer is refused."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from dlnflow.lm import experiment
from dlnflow.lm.data import corpus
from dlnflow.lm.data.corpus import Corpus
from dlnflow.lm.data.spelling import Spelling, separator_id, special_ids, token_bytes
from dlnflow.lm.data.token_classes import Vocabulary, classify
from dlnflow.lm.data.tokenizer import encode, encode_documents, load_tokenizer, train_bpe
from dlnflow.lm.intervene import Window
from dlnflow.lm.runs.checkpoints import Checkpoints
from tests.lm.conftest import TEXT
from tests.lm.test_command import answer, call

WORDS = "the cat sat on the mat, quite naïve; 你好 the cat"


def bpe(**options):
    """A fresh tokenizer, to be changed by a test."""
    return Tokenizer.from_str(train_bpe(Corpus("t", (TEXT,) * 5), 300, **options).to_str())


def spelled(tokenizer, ids):
    return b"".join(Spelling(tokenizer).pieces[i] for i in ids)


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
seams = st.lists(
    st.sampled_from(
        [
            "\u0301",
            "\u0338",
            ">",
            "<x>",
            "<|endoftext|>",
            " ",
            "\r\n",
            "e",
            "가",
            "ᆨ",
            "\ufb01",
            "Å",
            "\t",
        ]
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(texts, seams.map("".join)), st.booleans(), st.booleans())
def test_any_text_is_spelled_or_refused(text, normalised, added):
    """All of Unicode, and added tokens beside characters that compose with them."""
    tokenizer = bpe()
    tokenizer.normalizer = normalizers.NFC() if normalised else None
    if added:
        tokenizer.add_tokens([AddedToken("<x>", normalized=False), AddedToken("e ", special=False)])
    [ids] = encode_documents([text], tokenizer, separator="none")
    found = spelled(tokenizer, ids).decode()
    if normalised:
        found, text = (normalizers.NFC().normalize_str(t) for t in (found, text))
    assert found == text


@settings(deadline=None, max_examples=60)
@given(texts.filter(bool))
def test_a_tokenizer_without_all_bytes_is_refused_where_it_drops_them(text):
    """A BPE that saw a few letters only leaves out whatever else it meets."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(["abc ab e"], trainers.BpeTrainer(show_progress=False))
    if set(text) <= set("abc e"):
        assert spelled(tokenizer, encode_documents([text], tokenizer)[0]).decode() == text
    else:
        with pytest.raises(ValueError, match="`tokenizer` changes the text: at byte"):
            encode_documents([text], tokenizer)


@pytest.mark.parametrize("change", ["truncation", "padding", "dropout", "all"])
def test_what_a_file_stores_does_not_change_the_text(tmp_path, change):
    plain, stored = bpe(), bpe()
    if change in ("truncation", "all"):
        stored.enable_truncation(8)
    if change in ("padding", "all"):
        stored.enable_padding(length=64, pad_id=1, pad_token="<|padding|>")
    if change in ("dropout", "all"):
        stored.model.dropout = 0.9
    stored.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "t.txt").write_text(WORDS)
    wanted = plain.encode(WORDS).ids
    assert len(wanted) > 8
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(WORDS).ids == wanted
    for tokenizer in (loaded, stored):  # from a file, or made in Python
        assert encode_documents([WORDS], tokenizer, separator="none")[0].tolist() == wanted
    rows = answer("classes", tmp_path / "t.txt", "--tokenizer", tmp_path)["tokens"]
    assert [r["token"] for r in rows] == plain.encode(WORDS).tokens


def test_tokens_at_the_ends_of_a_text_are_not_of_it():
    """A template that puts a token before every text would be counted as text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = bpe()
    wanted = tokenizer.encode(WORDS).ids
    tokenizer.post_processor = TemplateProcessing(
        single="<|padding|> $A", special_tokens=[("<|padding|>", 1)]
    )
    assert encode_documents([WORDS], tokenizer, separator="none")[0].tolist() == wanted


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_added_tokens_that_take_spaces_are_refused_where_they_do(side):
    tokenizer = bpe()
    tokenizer.add_tokens([AddedToken("<x>", normalized=False, **{side: True})])
    assert (
        spelled(tokenizer, encode_documents(["a<x>b"], tokenizer, separator="none")[0]) == b"a<x>b"
    )
    with pytest.raises(ValueError, match="added tokens that take the spaces beside them"):
        encode_documents(["a  <x>  b"], tokenizer)


def test_a_prefix_space_is_refused():
    tokenizer = bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(ValueError, match="prefix spaces"):
        encode_documents(["cat"], tokenizer)


def words():
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def pieces():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="_")  # an ASCII alphabet
    tokenizer.train_from_iterator(["the cat"], trainers.BpeTrainer(show_progress=False))
    return tokenizer


def wordpiece():
    return Tokenizer(models.WordPiece({"the": 0, "##c": 1, "[UNK]": 2}, unk_token="[UNK]"))


@pytest.mark.parametrize("kind", [words, pieces, wordpiece])
def test_what_is_not_byte_level_is_refused_whatever_its_alphabet(kind):
    for use in (token_bytes, Vocabulary, lambda t: encode_documents(["the cat"], t)):
        with pytest.raises(ValueError, match="not a byte-level BPE"):
            use(kind())


def test_bytes_made_by_the_normalizer_count():
    """As newer tokenizers do it; the text is compared in bytes all the same."""
    tokenizer = bpe()
    tokenizer.normalizer = normalizers.ByteLevel()
    tokenizer.pre_tokenizer = None
    assert spelled(tokenizer, encode_documents([WORDS], tokenizer)[0][:-1]) == WORDS.encode()


@pytest.mark.parametrize("text", sorted({TEXT, WORDS, "a\r\nb\rc\n", "    four  spaces\t"}))
def test_the_pythia_tokenizer_spells(neox, text):
    [ids] = encode_documents([text], neox, separator="none")
    assert spelled(neox, ids).decode() == text
    assert special_ids(neox) == (0, 1) and separator_id(neox, "auto") == 0


def with_gap(tokenizer, distance):
    """Move the last token of the vocabulary to a larger id."""
    described = json.loads(tokenizer.to_str())
    token = max(described["model"]["vocab"], key=described["model"]["vocab"].get)
    described["model"]["vocab"][token] += distance
    return Tokenizer.from_str(json.dumps(described)), token


def test_a_gap_in_the_vocabulary_works():
    tokenizer, token = with_gap(bpe(), 10)
    text = Spelling(tokenizer).pieces[309].decode() * 3 + WORDS
    assert tokenizer.token_to_id(token) == 309
    training, _ = encode(Corpus("t", (text,)), tokenizer, held_out=0)
    assert training.vocab_size == 310 == len(training.counts) and training.ids.max() == 309
    found = classify([training.ids], tokenizer)
    assert found.sizes["position"] == len(training.ids)


def test_ids_beyond_the_model_are_one_line(tiny, text_file, tmp_path):
    run = tmp_path / "run"
    for step in (4, 12):
        shutil.copytree(tiny[1] / f"step{step}", run / f"step{step}")
        (run / f"step{step}" / "tokenizer.json").unlink()
    gap, _ = with_gap(load_tokenizer(tiny[1]), 10)
    gap.save(str(run / "tokenizer.json"))
    for command in (("induction", run), ("sample", run, "--store", tmp_path / "s")):
        shown = call(*command, "--text", text_file, code=1).stderr
        assert "310 ids in the `tokenizer` (the largest is 309), 300 in the model" in shown
        assert shown.count("\n") == 1
    (tmp_path / "t.txt").write_text(TEXT)
    assert answer("classes", tmp_path / "t.txt", "--tokenizer", run)["tokens"]
    shown = call(
        "train",
        tmp_path / "new",
        "--tokenizer",
        run / "tokenizer.json",
        "--set",
        f"corpus={text_file}",
        "--set",
        "vocab_size=300",
        code=1,
    ).stderr
    assert "the largest is 309" in shown


def test_lines_of_json_are_documents(tmp_path, bpe):
    lines = [{"text": "one\r\ntwo", "id": 3}, {"text": " "}, {"text": "naïve"}]
    raw = "".join(json.dumps(line) + "\n" for line in lines) + "\n"
    (tmp_path / "b.jsonl").write_text(raw)
    (tmp_path / "a.txt").write_text("first")
    assert corpus.load(tmp_path / "b.jsonl").documents == ("one\r\ntwo", "naïve")
    assert corpus.load(tmp_path).documents == ("first", "one\r\ntwo", "naïve")
    bpe.save(str(tmp_path / "tokenizer.json"))
    rows = answer("classes", tmp_path / "b.jsonl", "--tokenizer", tmp_path / "tokenizer.json")
    assert len(rows["tokens"]) == sum(len(bpe.encode(t).ids) for t in ("one\r\ntwo", "naïve"))


@pytest.mark.parametrize(
    "line", ['{"content": "x"}', '["text"]', "no json", '{"text": 3}', '{"text": "\\ud800"}']
)
def test_lines_without_text_are_named(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    for place in (path, tmp_path):
        with pytest.raises(ValueError, match=r"x\.jsonl line 2: "):
            corpus.load(place)


def test_line_ends_are_kept(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    for place in (tmp_path, tmp_path / "a.txt"):
        assert corpus.load(place).documents == ("one\r\ntwo\rthree\n",)


def other_specials():
    """Special tokens at the end of the vocabulary, as in GPT-2 and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=298, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    return tokenizer


def test_special_ids_are_those_of_the_tokenizer(text_file, tmp_path):
    tokenizer = other_specials()
    size = tokenizer.get_vocab_size()
    assert special_ids(tokenizer) == (size - 2, size - 1)
    assert separator_id(tokenizer, "auto") == size - 1
    assert separator_id(tokenizer, "<|begin_of_text|>") == size - 2
    assert separator_id(tokenizer, "none") is None
    with pytest.raises(ValueError, match=r"'auto', 'none' or a special token .*<\|end_of_text\|>"):
        separator_id(tokenizer, "<s>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    options = [
        f"corpus={text_file}",
        f"vocab_size={size}",
        "layers=1",
        "width=16",
        "context=32",
        "rows=2",
        "n_steps=1",
    ]
    call(
        "train",
        tmp_path / "run",
        "--tokenizer",
        tmp_path / "tokenizer.json",
        *(part for option in options for part in ("--set", option)),
    )
    config = json.loads((tmp_path / "run" / "step1" / "config.json").read_text())
    assert config["bos_token_id"] == config["eos_token_id"] == size - 1
    plan = experiment.plan(tmp_path / "run", observe="repeats", rows=2)
    ladder = Checkpoints.from_directory(tmp_path / "run")
    for ids in (plan.observed.ids, experiment.probe(ladder, tmp_path / "run")):
        assert not np.isin(ids, special_ids(tokenizer)).any()
        assert np.isin(ids, (0, 1)).any() or ids.min() > 1


def test_windows_use_the_special_ids_they_are_given():
    rows = np.array([[0, 1, 0, 1, 0, 1], [2, 3, 4, 5, 2, 3]])
    assert Window(0, 1, special=(0, 1))(0, rows).tolist() == [1, 4]
    assert Window(0, 1, special=(8,))(0, rows).tolist() == [4, 1]


def test_separators_are_an_option(bpe, text_file, tmp_path):
    text = Corpus("t", ("one", "two", "three"))
    for separator, number in (("auto", 3), ("<|padding|>", 3), ("none", 0)):
        ids = encode(text, bpe, held_out=0, separator=separator)[0].ids
        index = separator_id(bpe, separator)
        assert (ids == index).sum() == number if number else not np.isin(ids, (0, 1)).any()
    options = [
        "corpus=" + str(text_file),
        "vocab_size=300",
        "layers=1",
        "width=16",
        "context=32",
        "n_steps=0",
    ]
    options = [part for option in options for part in ("--set", option)]
    call("train", tmp_path / "run", *options, "--set", "separator=none")
    ids = np.load(tmp_path / "run" / "training.npy")
    assert not np.isin(ids, (0, 1)).any()
    shown = call("train", tmp_path / "run", *options, code=1).stderr
    assert "separator: none there, auto asked" in shown
