"""Small models whose training is measured by every estimator: digits, attention, language."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import dlnflow as dln
from paper_figures import _data, _networks

WORDS, LENGTH = 6, 7
"""Of the sequences that the attention model recalls from."""
VOCABULARY, SUCCESSORS = 32, 3
"""Of the language: tokens, and how many follow each with any probability."""
LM_STEPS = 48


@dataclass(frozen=True)
class Example:
    """A run, what is asked of it, and how its posterior is sampled.

    ``without`` names estimators that do not take it.
    """

    name: str
    run: Callable[[], Any]
    steps: tuple[int, ...]
    sampling: dict[str, Any]
    train: Callable[[Any], list[str]] = lambda run: list(run.items)
    without: tuple[str, ...] = ()
    subsets: int = 70


def digits() -> dln.TorchRun:
    """Forty of scikit-learn's digits, four of each class, pooled to 4 x 4; twenty are queries."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(labels), 16) / 16
    generator = np.random.default_rng(0)
    chosen = np.stack(
        [generator.choice(np.flatnonzero(labels == k), 6, replace=False) for k in range(10)]
    )
    train, query = chosen[:, :4].ravel(), chosen[:, 4:].ravel()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 10)).double()
    return dln.TorchRun(
        model,
        (images[train], labels[train]),
        loss="cross_entropy",
        learning_rate=1.0,
        n_steps=160,
        items=[f"{labels[k]} ({k})" for k in train],
        queries=([f"new {labels[k]} ({k})" for k in query], images[query], labels[query]),
    )


class Recall(nn.Module):
    """One head of attention from the last word of a sequence, and a linear layer.

    Words come in pairs (key, value); the last is a key again and its value is to be recalled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(2 * WORDS, 8, bias=False) for _ in range(3))
        self.out = nn.Linear(8, WORDS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, WORDS) of sequences (n, LENGTH, 2 WORDS)."""
        q, k, v = self.query(x[:, -1:]), self.key(x[:, :-1]), self.value(x[:, :-1])
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))[:, 0]


def attention() -> dln.TorchRun:
    """Thirty-two sequences of three pairs, every word with the one before it; sixteen queries."""
    generator, count = np.random.default_rng(0), 48
    inputs, targets = np.zeros((count, LENGTH, 2 * WORDS)), np.zeros(count, np.int64)
    for row in range(count):
        keys = generator.choice(WORDS, 3, replace=False)
        values = generator.integers(WORDS, size=3)
        asked = generator.integers(3)
        words = [*np.stack([keys, values], 1).ravel(), keys[asked]]
        for place, word in enumerate(words):
            inputs[row, place, word] = 1
            if place:
                inputs[row, place, WORDS + words[place - 1]] = 1
        targets[row] = values[asked]
    torch.manual_seed(0)
    names = [f"sequence {k}" for k in range(count)]
    return dln.TorchRun(
        Recall().double(),
        (inputs[:32], targets[:32]),
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=0.02,
        n_steps=160,
        items=names[:32],
        queries=(names[32:], inputs[32:], targets[32:]),
    )


def language() -> Any:
    """A language model of one layer on a text in which three tokens follow each; two queries."""
    from dlnflow import lm
    from dlnflow.lm.data.tokenizer import Tokens
    from dlnflow.lm.runs.model import RunSettings

    generator = np.random.default_rng(0)
    follow = np.stack(
        [generator.choice(VOCABULARY, SUCCESSORS, replace=False) for _ in range(VOCABULARY)]
    )
    ids = [0]
    for choice in generator.choice(SUCCESSORS, size=6000, p=(0.7, 0.2, 0.1)):
        ids.append(int(follow[ids[-1], choice]))
    settings = RunSettings(
        vocab_size=VOCABULARY,
        layers=1,
        width=16,
        heads=2,
        context=16,
        rows=4,
        learning_rate=1e-2,
        warmup=8,
        horizon=96,
        n_steps=LM_STEPS,
        repeat_share=0.25,
        segment_min=4,
        segment_max=8,
        precision="fp32",
    )
    text = np.asarray(ids, np.int32)
    rows = text[5000 : 5000 + 16 * 17].reshape(16, 17)
    often = np.argmax(follow[rows[:, :-1]] == rows[:, 1:, None], -1) == 0
    queries = {
        "likely": lm.queries.class_loss(rows, often),
        "unlikely": lm.queries.class_loss(rows, ~often),
    }
    tokens = Tokens(text[:5000], VOCABULARY, "synthetic")
    return lm.TrainingRun(settings, tokens, queries, double=True)


def early_rows(run: Any) -> list[str]:
    """Every second row of the first steps, the planted repeat among them."""
    return [f"{step}:{row}" for step in (2, 6, 10, 16) for row in (0, 1, 3)]


SHARP = {"kernel": "underdamped", "kernel_options": {"persistence": 0.0}}
"""A kernel that makes draws nearly independent."""


def sampled(n_beta: float, localization: float, **changes: Any) -> dict[str, Any]:
    """Return settings of the sampler; the step is twice the variance of the prior."""
    common = {"chains": 4, "burn_in": 20, **SHARP}
    return common | {
        "n_beta": n_beta,
        "localization": localization,
        "step_size": 2 / localization,
        **changes,
    }


@cache
def examples(scale: _data.Scale) -> dict[str, Example]:
    """Return the examples by name."""
    quick = scale == _data.Scale.quick
    every = 8 if quick else 4
    grid = tuple(range(every, _networks.LENGTH + 1, every))
    coarse = tuple(range(10, 161, 30 if quick else 10))
    draws = 300 if quick else 1500
    return {
        "ReLU": Example(
            "ReLU network",
            lambda: _networks.run_of("relu", 32, 1e-3, 0),
            grid,
            sampled(1e4, 5e4, draws=draws),
        ),
        "digits": Example("digits", digits, coarse, sampled(1e3, 2e3, draws=draws)),
        "attention": Example("attention", attention, coarse, sampled(1e3, 2e3, draws=draws)),
        "language": Example(
            "language model",
            language,
            tuple(range(18, LM_STEPS + 1, 6 if quick else 3)),
            sampled(1e3, 2e3, draws=draws // 2, batch_size=8),
            early_rows,
            ("damped_hessian",),
            20,
        ),
    }
