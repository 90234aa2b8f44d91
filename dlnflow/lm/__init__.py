"""Per-token influence in small language models, over their training checkpoints.

Every module is imported on request: ``from dlnflow.lm import corpus, train, traces``.
"""
