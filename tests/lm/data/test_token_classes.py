import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnflow.lm.data.token_classes import (
    CLASSES,
    RULES,
    Bigrams,
    Vocabulary,
    classify,
    repeated_pairs,
)
from tests.lm import reference

SHORT = {
    "wp": "word_part",
    "we": "word_end",
    "f": "formatting",
    "ind": "induction",
    "l": "left_delimiter",
    "r": "right_delimiter",
}
# text of every token, and its classes after a slash
EXAMPLES = {
    " unbelievableness of": " unbelie/wp v/wp ableness/we  of",
    " Zarathustrian": " Zar/wp ath/wp ust/wp rian/we",
    "The": "The",
    "café": "c/wp af/wp é/we",
    " Zoë": " Zo/wp ë/we",
    " naïve": " naïve",
    "def foo(bar):\n        return ((bar))\n\n": "def  foo (/l bar ):/r \n/f "
    "        /f return  ((/l bar ))/r \n\n/f",
    'x = {"key": "value", n":[1, 2]}\n': 'x  =  {"/l key ":  " value ",  n ":[/l 1 ,  2 ]}/r \n/f',
    "foo()[0](x)": "foo ()[/l 0 ](/l,r x )/r",
    " “I don't know,”": " “/l I  don 't  know ,”/r",
    " dogs’": " dogs ’",
    "3.14159, 2024-10": "3 . 14 159 ,  20 24 - 10",
    "x1y2": "x 1 y 2",
    "snake_case": "sn/wp ake/we _ case",
    "camelCaseName": "cam/wp el/wp Case/wp Name/we",
    " HTTPServer": " H/wp TTPS/wp erver/we",
    "你好": "你/wp 好/we",
    "====": "====/f",
    " ----": " ----/f",
    " ...": " .../f",
    " --": " --/f",
    " !!": " !!",
    "``": "``/f",
    "```": "```/f",
    "`": "`",
    '<div class="a"></div>': '< div  class =" a "></ div >',
    "a<b, c>d, ->": "a < b ,  c > d ,  ->",
    "Harry Potter met Harry Potter and Harry Potter": "Harry  Potter  met  Harry  Potter  and "
    " Harry  Potter/ind",
    r"\begin{align} \frac{1}{2} \end{align}": r"\ begin {/l align }/r  \ frac {/l 1 "
    r"}{/l,r 2 }/r  \/ind end {/l align/ind }/ind,r",
    "abcxyz<|endoftext|>abcxyz": "abc/wp xyz/we <|endoftext|> abc/wp xyz/ind,we",
}


def marked(ids, vocabulary, tokenizer):
    """Write tokens with their classes, in the notation of EXAMPLES."""
    short = {v: k for k, v in SHORT.items()}
    words = []
    for i, row in zip(ids, classify([ids], vocabulary).values[0], strict=True):
        names = sorted(short[c] for c, member in zip(CLASSES, row, strict=True) if member)
        text = (
            tokenizer.id_to_token(i)
            if vocabulary.pieces[i] is None
            else vocabulary.pieces[i].decode()
        )
        words.append(text + ("/" + ",".join(names) if names else ""))
    return " ".join(words)


@pytest.fixture(scope="module")
def neox_vocabulary(neox):
    return Vocabulary(neox)


@pytest.mark.parametrize("text", EXAMPLES)
def test_worked_examples_with_the_pythia_tokenizer(neox, neox_vocabulary, text):
    assert marked(neox.encode(text).ids, neox_vocabulary, neox) == EXAMPLES[text]


def test_an_emoji_over_two_tokens_has_no_class(neox, neox_vocabulary):
    ids = neox.encode(" 😀").ids
    assert len(ids) == 2
    assert not classify([ids], neox_vocabulary).any()


class Bytes:
    """A vocabulary given by its pieces; ids are positions."""

    def __init__(self, pieces):
        self.vocabulary = Vocabulary.__new__(Vocabulary)
        self.vocabulary.pieces = list(pieces)

    def classes(self, ids, **options):
        found = classify([ids], self.vocabulary, word_start=True, **options)
        names = found.token_class.values
        return [{str(n) for n in names[row]} for row in found.values[0]]


@pytest.mark.parametrize("text", EXAMPLES)
def test_worked_examples_as_byte_pieces(text):
    pieces, expected = [], []
    for part in split_marked(EXAMPLES[text]):
        word, _, names = part.rpartition("/") if has_classes(part) else (part, "", "")
        pieces.append(None if word == "<|endoftext|>" else word.encode())
        expected.append({SHORT[n] for n in names.split(",") if n})
    unique = list(dict.fromkeys(pieces))
    found = Bytes(unique).classes([unique.index(p) for p in pieces])
    assert [f - {"word_start"} for f in found] == expected


def has_classes(part):
    names = part.rpartition("/")[2].split(",")
    return "/" in part and all(n in SHORT for n in names)


def split_marked(line):
    """Split at single spaces; a space after one belongs to the token."""
    parts, current, i = [], "", 0
    while i < len(line):
        if line[i] == " " and current.strip(" ") and not current.isspace():
            parts.append(current)
            current = ""
        else:
            current += line[i]
        i += 1
    return [*parts, current]


ALPHABET = "ab é你́ ’“”‘([{)]}«<\n\t-=_.!7٣😀'`x"


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_cut_of_any_bytes_agrees_with_the_reference(data):
    text = data.draw(
        st.lists(st.sampled_from([*ALPHABET, None, "\udcff"]), min_size=1, max_size=25)
    )
    pieces, piece = [], b""
    for c in text:
        if c is None:
            pieces += [p for p in (piece, None) if p != b""]
            piece = b""
            continue
        for byte in c.encode("utf-8", "surrogateescape"):
            piece += bytes([byte])
            if data.draw(st.integers(0, 2)) == 0:
                pieces.append(piece)
                piece = b""
    pieces += [piece] if piece else []
    unique = list(dict.fromkeys(pieces))
    found = Bytes(unique).classes([unique.index(p) for p in pieces])
    assert found == reference.classes(pieces)


def test_a_trained_bpe_agrees_with_the_reference(bpe):
    from tests.lm.conftest import TEXT

    vocabulary = Vocabulary(bpe)
    ids = bpe.encode(TEXT).ids
    found = classify([ids], vocabulary, word_start=True)
    names = found.token_class.values
    expected = reference.classes([vocabulary.pieces[i] for i in ids])
    assert [{str(n) for n in names[row]} for row in found.values[0]] == expected
    assert b"".join(vocabulary.pieces[i] for i in ids).decode() == TEXT


def test_rows_do_not_see_each_other():
    b = Bytes([b"ab", b"cd", b" "])
    both = classify([[0, 1, 0], [1, 0, 1]], b.vocabulary).values
    for row, ids in zip(both, ([0, 1, 0], [1, 0, 1]), strict=True):
        assert (classify([ids], b.vocabulary).values[0] == row).all()


def test_wide_letters_can_be_switched_off():
    b = Bytes(["你".encode(), "好".encode()])
    assert b.classes([0, 1])[0] >= {"word_part"}
    assert b.classes([0, 1], cjk=False) == [set(), set()]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_repeated_pairs_by_definition(row):
    special = np.array([False, False, False, True])
    expected = [
        k > 0
        and 3 not in row[k - 1 : k + 1]
        and any(row[j - 1 : j + 1] == row[k - 1 : k + 1] for j in range(1, k))
        for k in range(len(row))
    ]
    assert repeated_pairs(np.array([row]), special)[0].tolist() == expected


def test_common_bigrams_can_be_left_out():
    b = Bytes([b"a", b"b", b"c", b"d"])
    ids = [0, 1, 2, 0, 1]
    assert "induction" in b.classes(ids)[4]
    counted = Bigrams.count(np.array([0, 1, 0, 2, 3] * 5), 4)
    assert counted(np.array([0, 1]), np.array([1, 3])).tolist() == [0.5, 0.0]
    assert "induction" not in b.classes(ids, bigrams=counted)[4]
    assert "induction" in b.classes(ids, bigrams=counted, common=0.5)[4]


def test_bad_ids_are_refused(bpe):
    with pytest.raises(ValueError, match="equal length"):
        classify([[1, 2], [1]], bpe)
    with pytest.raises(ValueError, match="another tokenizer"):
        classify([[bpe.get_vocab_size()]], bpe)
    with pytest.raises(ValueError, match="integers"):
        classify([[0.5]], bpe)


def test_a_tokenizer_of_words_is_refused():
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"naïve—": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match="byte-level"):
        Vocabulary(words)


def test_every_class_has_a_rule():
    assert set(CLASSES) <= set(RULES)
