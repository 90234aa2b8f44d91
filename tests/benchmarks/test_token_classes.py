import time

import numpy as np
import pytest

from dlnflow.lm.data import corpus
from dlnflow.lm.data.token_classes import Vocabulary, classify
from dlnflow.lm.data.tokenizer import train_bpe


@pytest.mark.benchmark
def test_a_million_tokens_a_second():
    """At least 1e6 tokens a second, on the standard library's sources."""
    text = corpus.load("stdlib", max_characters=3_000_000)
    tokenizer = train_bpe(text, 1024)
    ids = np.concatenate([e.ids for e in tokenizer.encode_batch(list(text.documents))])
    rows = ids[: len(ids) // 1024 * 1024].reshape(-1, 1024)
    vocabulary = Vocabulary(tokenizer)
    classify(rows[:1], vocabulary)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        classify(rows, vocabulary)
        seconds.append(time.perf_counter() - started)
    rate = rows.size / float(np.median(seconds))
    print(f"\n{rate / 1e6:.2f} M tokens a second")
    assert rate >= 1e6
