"""When a training example matters: influence over training time.

Exact in deep linear networks, sampled in language models.
"""

from dlnflow import analysis, influence, lm, plots, sampling, tables, traces
from dlnflow._support import VERSION as __version__
from dlnflow.analysis import compare, ensemble, events
from dlnflow.datasets import living_things, semantic_hierarchy
from dlnflow.dynamics import initial
from dlnflow.dynamics.linear import Run
from dlnflow.dynamics.loops import DivergenceError
from dlnflow.dynamics.schedule import Schedule
from dlnflow.dynamics.trajectory import Trajectory
from dlnflow.influence import ESTIMATORS
from dlnflow.result import check, load, save, stack
from dlnflow.task import Task
from dlnflow.theory import flow, phases, rlct, saxe

__all__ = [
    "ESTIMATORS",
    "DivergenceError",
    "Run",
    "Schedule",
    "Task",
    "Trajectory",
    "__version__",
    "analysis",
    "check",
    "compare",
    "ensemble",
    "events",
    "flow",
    "influence",
    "initial",
    "living_things",
    "lm",
    "load",
    "phases",
    "plots",
    "rlct",
    "sampling",
    "save",
    "saxe",
    "semantic_hierarchy",
    "stack",
    "tables",
    "traces",
]
