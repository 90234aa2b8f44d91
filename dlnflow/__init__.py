"""When a training example matters: influence over training time.

Exact in deep linear networks, sampled in language models.
"""

from dlnflow import analysis, flow, influence, lm, phases, rlct, sampling, saxe
from dlnflow._simulation import DivergenceError
from dlnflow.analysis import compare, events
from dlnflow.datasets import living_things, semantic_hierarchy
from dlnflow.influence import ESTIMATORS
from dlnflow.result import check, load, save, stack
from dlnflow.schedule import Schedule
from dlnflow.task import Task
from dlnflow.training import Run
from dlnflow.trajectory import Trajectory

__version__ = "0.1.0"
__all__ = [
    "ESTIMATORS",
    "DivergenceError",
    "Run",
    "Schedule",
    "Task",
    "Trajectory",
    "analysis",
    "check",
    "compare",
    "events",
    "flow",
    "influence",
    "living_things",
    "lm",
    "load",
    "phases",
    "rlct",
    "sampling",
    "save",
    "saxe",
    "semantic_hierarchy",
    "stack",
]
