"""Small tokenizers, texts and runs that several test files use."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from dlnflow.lm.data import corpus, tokenizer
from dlnflow.lm.runs.model import RunSettings
from dlnflow.lm.runs.train import train

NEOX_FILE = os.environ.get("DLNFLOW_NEOX_TOKENIZER", "../shared/data/neox_20B_tokenizer.json")
"""The tokenizer.json of the Pythia models, where a copy exists."""
TEXT = (
    "def unbelievable(foo):\n        return ((foo))\n\nZarathustrian cafés naïve 你好 😀 dogs’ "
    "[x1y2] ==== -- ... camelCase snake_case {'a': [1, 2]} \\begin{align} \\end{align}\n"
)
TINY = RunSettings(
    vocab_size=300,
    layers=1,
    width=16,
    heads=2,
    context=32,
    rows=4,
    n_steps=12,
    every=4,
    warmup=4,
    horizon=20,
    repeat_share=0.25,
    learning_rate=1e-2,
)


FIXED = {"n_beta": 1e4, "localization": 1e4, "step_size": 2e-6}
"""Settings of sampling, for tests of anything else than how they are chosen, which takes longer."""


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def bpe():
    """A BPE that splits characters beyond ASCII over tokens."""
    return tokenizer.train_bpe(corpus.Corpus("text", (TEXT,) * 20), 320)


@pytest.fixture(scope="session")
def neox():
    if not Path(NEOX_FILE).is_file():
        pytest.skip("no copy of the Pythia tokenizer; set DLNFLOW_NEOX_TOKENIZER")
    return tokenizer.load_tokenizer(NEOX_FILE)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    """Forty documents: a common text, and its words between numbers in an order of their own."""
    folder = tmp_path_factory.mktemp("text")
    words = TEXT.split()
    for k in range(40):
        own = "".join(
            f"{words[(k * j + j) % len(words)]} ({(7919 * k + 104_729 * j) % 99_991})\n"
            for j in range(80)
        )
        (folder / f"{k:03d}.txt").write_text(f"{TEXT}document {k} of {k * k} words\n{own}\n" + TEXT)
    return folder


@pytest.fixture(scope="session")
def tiny(text_file, tmp_path_factory):
    """A trained tiny run: (settings, folder, checkpoints)."""
    settings = dataclasses.replace(TINY, corpus=str(text_file))
    folder = tmp_path_factory.mktemp("run")
    return settings, folder, train(settings, folder)
