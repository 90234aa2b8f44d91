"""Per-token influence in small language models, over their training checkpoints.

Names and modules are loaded on first use: ``from dlnflow import lm``, then ``lm.Checkpoints``,
``lm.corpus.load``, ``lm.train.train``, ``lm.sample_traces``, ``lm.intervene.intervene``.
"""

from dlnflow._support.lazy import on_request

_WHERE = {
    "CONFIGURATIONS": "dlnflow.lm.runs.model",
    "Checkpoints": "dlnflow.lm.runs.checkpoints",
    "GradientData": "dlnflow.lm.data.batches",
    "Observed": "dlnflow.lm.data.batches",
    "Sampler": "dlnflow.lm.sampling.unit",
    "TrainingRun": "dlnflow.lm.exact.training_run",
    "classify": "dlnflow.lm.data.token_classes",
    "components": "dlnflow.lm.named_components",
    "sample_traces": "dlnflow.lm.sampling.token_traces",
}
"""Public name -> the module that defines it."""
_MODULES = {
    "batches": "dlnflow.lm.data.batches",
    "branches": "dlnflow.lm.branches",
    "checkpoints": "dlnflow.lm.runs.checkpoints",
    "corpus": "dlnflow.lm.data.corpus",
    "device": "dlnflow.lm.runs.device",
    "doctor": "dlnflow.lm.doctor",
    "executors": "dlnflow.lm.sampling.executors",
    "experiment": "dlnflow.lm.experiment",
    "figures": "dlnflow.lm.figures",
    "induction": "dlnflow.lm.induction",
    "intervene": "dlnflow.lm.intervene",
    "losses": "dlnflow.lm.runs.losses",
    "model": "dlnflow.lm.runs.model",
    "observables": "dlnflow.lm.observables",
    "processes": "dlnflow.lm.runs.processes",
    "queries": "dlnflow.lm.exact.queries",
    "spelling": "dlnflow.lm.data.spelling",
    "token_classes": "dlnflow.lm.data.token_classes",
    "tokenizer": "dlnflow.lm.data.tokenizer",
    "token_traces": "dlnflow.lm.sampling.token_traces",
    "train": "dlnflow.lm.runs.train",
    "unit": "dlnflow.lm.sampling.unit",
}

__all__ = sorted([*_WHERE, *_MODULES])
__getattr__ = on_request(__name__, _WHERE, _MODULES)
