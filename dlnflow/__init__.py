"""When a training example matters: influence over training time.

Exact in deep linear networks, sampled in language models.
"""

from typing import TYPE_CHECKING

from dlnflow import analysis, explore, influence, lm, plots, sampling, tables, traces
from dlnflow._support import VERSION as __version__
from dlnflow._support.lazy import on_request
from dlnflow.analysis import compare, ensemble, events
from dlnflow.datasets import living_things, semantic_hierarchy
from dlnflow.dynamics import initial, rates
from dlnflow.dynamics.linear import Run
from dlnflow.dynamics.loops import DivergenceError
from dlnflow.dynamics.schedule import Schedule
from dlnflow.dynamics.trajectory import Trajectory
from dlnflow.influence import ESTIMATORS
from dlnflow.result import check, load, save, stack
from dlnflow.task import Task
from dlnflow.theory import flow, phases, rlct, saxe

if TYPE_CHECKING:
    from dlnflow.dynamics.torch_model import TorchRun

__all__ = [
    "ESTIMATORS",
    "DivergenceError",
    "Run",
    "Schedule",
    "Task",
    "TorchRun",
    "Trajectory",
    "__version__",
    "analysis",
    "check",
    "compare",
    "ensemble",
    "events",
    "explore",
    "flow",
    "influence",
    "initial",
    "living_things",
    "lm",
    "load",
    "phases",
    "plots",
    "rates",
    "rlct",
    "sampling",
    "save",
    "saxe",
    "semantic_hierarchy",
    "stack",
    "tables",
    "traces",
]
__getattr__ = on_request(__name__, {"TorchRun": "dlnflow.dynamics.torch_model"}, {})
