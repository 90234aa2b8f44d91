"""Per-token influence in small language models, over their training checkpoints.

Names and modules are loaded on first use: ``from dlnflow import lm``, then ``lm.Checkpoints``,
``lm.corpus.load``, ``lm.train.train``, ``lm.sample_traces``, ``lm.intervene.intervene``.
"""

from dlnflow._lazy import on_request

_WHERE = {
    "CONFIGURATIONS": "model",
    "Checkpoints": "checkpoints",
    "GradientData": "mixture",
    "Observed": "mixture",
    "Sampler": "unit",
    "classify": "token_classes",
    "sample_traces": "traces",
}
"""Public name -> the module that defines it."""
_MODULES = (
    "checkpoints", "corpus", "experiment", "figures", "induction", "intervene", "losses", "mixture",
    "model", "plots", "text_plan", "token_classes", "tokenizer", "traces", "train", "unit",
)  # fmt: skip

__all__ = sorted([*_WHERE, *_MODULES])
__getattr__ = on_request(__name__, _WHERE, _MODULES)
