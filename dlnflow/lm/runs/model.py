"""Pythia's architecture at any size, and the configurations that are ready to train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlnflow.checks import one_of, positive, positive_integer, real_number, whole_number

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

SHORT = 256
"""Longest context that is trained with plain instead of fused attention."""
POSITIVE = (
    "vocab_size",
    "layers",
    "width",
    "heads",
    "context",
    "rows",
    "accumulate",
    "horizon",
    "every",
    "documents",
    "segment_min",
    "segment_max",
)
"""Settings that are whole numbers of at least 1."""


@dataclass(frozen=True)
class RunSettings:
    """One training run: data, architecture, optimiser. Equal settings give equal weights.

    Attributes
    ----------
    corpus : str
        A built-in corpus, a path, or a data set on the hub.
    documents : int
        How many documents of a data set on the hub are read.
    vocab_size : int
        Ids of the BPE that is trained on the corpus; 50304 uses a given tokenizer.
    layers, width, heads, context : int
        Sizes of the GPT-NeoX model; the MLP has 4 x `width`, rotary embeddings cover a quarter.
    rows, accumulate : int
        Sequences in each backward pass, and passes in each optimiser step.
    learning_rate, warmup, horizon, final_lr : float, int, int, float
        Linear warm-up to `learning_rate`, then cosine to `final_lr` times it at step `horizon`.
    n_steps, every : int
        Length of the run and distance of its checkpoints, beside 0, 1, 2, 4, ..., 512.
    repeat_share : float
        Share of rows that are a short segment repeated: 0 is natural text alone.
    segment_min, segment_max : int
        Shortest and longest of these segments.
    init : str
        ``"normal"``: N(0, 0.02^2). ``"pythia"``: Pythia's own, smaller at the outputs.
    precision : str
        ``"bf16"`` (autocast) or ``"fp32"``.
    seed : int
        Seed of the weights and the data order.
    separator : str
        Token between documents: ``"auto"``, the one that ends texts in this tokenizer; its name; or
        ``"none"``, as in the files that Pythia was trained on.
    """

    corpus: str = "stdlib"
    documents: int = 200_000
    vocab_size: int = 1024
    layers: int = 2
    width: int = 128
    heads: int = 4
    context: int = 256
    rows: int = 8
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: int = 100
    horizon: int = 16_000
    final_lr: float = 0.1
    n_steps: int = 4_500
    every: int = 250
    repeat_share: float = 0.0
    segment_min: int = 16
    segment_max: int = 64
    init: str = "normal"
    precision: str = "bf16"
    seed: int = 0
    separator: str = "auto"

    def __post_init__(self) -> None:
        for name in POSITIVE:
            positive_integer(name, getattr(self, name))
        for name in ("warmup", "n_steps", "seed"):
            whole_number(name, getattr(self, name))
        if self.seed >= 2**63:
            raise ValueError(f"`seed` must be less than 2**63, got {self.seed}.")
        positive("learning_rate", self.learning_rate)
        if real_number("final_lr", self.final_lr) < 0:
            raise ValueError(f"`final_lr` must be >= 0, got {self.final_lr}.")
        if not self.corpus.strip():
            raise ValueError("`corpus` must name a built-in corpus or a path, got an empty name.")
        one_of("init", self.init, ("normal", "pythia"))
        one_of("precision", self.precision, ("bf16", "fp32"))
        if self.width % self.heads:
            raise ValueError(
                f"`width` must be a multiple of `heads`, got {self.width} and {self.heads}."
            )
        if not 1 <= self.segment_min <= self.segment_max:
            raise ValueError(
                "`segment_min` and `segment_max` must satisfy 1 <= min <= max, got "
                f"{self.segment_min} and {self.segment_max}."
            )
        if not 0 <= self.repeat_share <= 1:
            raise ValueError(f"`repeat_share` must lie in [0, 1], got {self.repeat_share}.")

    def checkpoint_steps(self) -> list[int]:
        """Return 0, 1, 2, 4, ..., 512 and every `every`-th up to `n_steps`."""
        dense = {0, *(2**k for k in range(10))}
        return sorted(
            s
            for s in dense | {*range(0, self.n_steps, self.every), self.n_steps}
            if s <= self.n_steps
        )


CONFIGURATIONS = {
    "natural": RunSettings(),
    "fast": RunSettings(
        width=64,
        heads=2,
        context=128,
        rows=16,
        learning_rate=5e-3,
        horizon=8_000,
        n_steps=4_500,
        repeat_share=0.25,
        segment_min=8,
        segment_max=32,
    ),
    "pythia-14m": RunSettings(
        corpus="monology/pile-uncopyrighted",
        vocab_size=50_304,
        layers=6,
        width=128,
        heads=4,
        context=2_048,
        rows=32,
        accumulate=32,
        learning_rate=1e-3,
        warmup=1_430,
        horizon=143_000,
        n_steps=20_000,
        every=100,
        init="pythia",
        separator="none",
    ),
}
"""Ready settings: `natural` text only, `fast` (a quarter of its rows are repeats), Pythia's own."""


def build(settings: RunSettings) -> GPTNeoXForCausalLM:
    """Return an untrained model in evaluation mode; the weights are a function of the seed.

    Parameters
    ----------
    settings : RunSettings
        Sizes, initialisation and seed.

    Returns
    -------
    transformers.GPTNeoXForCausalLM
        In float32, without dropout, untied embeddings, parallel residual branches.
    """
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=settings.vocab_size,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.width,
        max_position_embeddings=settings.context,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.25,
        },
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        # plain attention is the faster one for short rows on a CPU (docs/measured.md)
        attn_implementation="eager" if settings.context <= SHORT else "sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = GPTNeoXForCausalLM(config)
        if settings.init == "pythia":
            _pythia_init(model, settings)
    return model.eval()


def _pythia_init(model: GPTNeoXForCausalLM, settings: RunSettings) -> None:
    """Redraw matrices: N(0, 2/(5 d)) ("small init"), outputs N(0, (2/(L sqrt d))^2) ("wang")."""
    import torch

    small = math.sqrt(2 / (5 * settings.width))
    wang = 2 / (settings.layers * math.sqrt(settings.width))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                output = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
                weight.normal_(0.0, wang if output else small)
