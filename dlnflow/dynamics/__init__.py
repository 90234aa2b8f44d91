"""Runs of training, and what an estimator may ask of them.

Loaded on first use: `Dynamics`, the protocol, and the kinds of run, `Run`, a deep linear network,
and `TorchRun`, any torch module.
"""

from dlnflow._support.lazy import on_request

_WHERE = {
    "Dynamics": "dlnflow.dynamics.protocol",
    "Run": "dlnflow.dynamics.linear",
    "TorchRun": "dlnflow.dynamics.torch_model",
}
"""Public name -> the module that defines it."""

__all__ = sorted(_WHERE)
__getattr__ = on_request(__name__, _WHERE, {})
