"""The record of an estimator, what it may need of a run, and what every estimator starts with.

A new estimator is one file with a function under `@estimator(...)` and one import line in
``dlnflow/influence/__init__.py``. Its requirement is stated once, here in words and in code: the
check before any work, the message of the refusal, the table in docs/estimators.md and the title on
figures all come from the record.
"""

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks, result
from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics.optimizers import OPTIMIZERS
from dlnflow.dynamics.protocol import Dynamics

Items = str | Sequence[str] | None
"""What `query` and `train` take: a name, several names, or None for all items."""
MAX_ENTRIES = 10**8
"""Largest average of products of weights that SOURCE holds (800 MB)."""


@dataclass(frozen=True)
class Need:
    """Something that a run must have.

    Parameters
    ----------
    words : str
        For the table of estimators: "two layers"; empty for what is not worth a word there.
    refusal : function
        (name of the estimator, run) -> why the run will not do and what to use, or "".
    """

    words: str
    refusal: Callable[[str, Dynamics], str]


@dataclass(frozen=True)
class Estimator:
    """An estimator and everything that is said of it; calling it calls the function.

    Parameters
    ----------
    function : callable
        (run, steps=None, *, query=None, train=None, options) -> DataArray, which refuses a run
        that does not meet the needs before any work.
    title : str
        On figures and in tables.
    choice : str
        Which choice of the response kernel it is, or which finite quantity, in one line.
    page : str
        Derivation, below docs/.
    needs : tuple of Need
    in_all : bool
        Whether it takes part when all estimators are asked for.
    separate_times : bool
        Whether each step costs the same and has the same values, whatever other steps are asked
        for, so that a store can be filled one block of steps at a time.
    """

    function: Callable[..., xr.DataArray]
    title: str
    choice: str
    page: str
    needs: tuple[Need, ...]
    in_all: bool = True
    separate_times: bool = False

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    def __call__(
        self, run: Dynamics, steps: ArrayLike | None = None, **options: Any
    ) -> xr.DataArray:
        """Estimate influence."""
        return self.function(run, steps, **options)

    def refusal(self, run: Dynamics) -> str:
        """Return why the estimator does not take a run, or ""; nothing is trained."""
        return next((why for need in self.needs if (why := need.refusal(self.name, run))), "")

    def require(self, run: Dynamics) -> None:
        """Refuse a run that does not meet the needs.

        Raises
        ------
        TypeError
            If it is no run at all.
        ValueError
            If a need is not met.
        """
        if not all(hasattr(run, name) for name in DESCRIPTION):
            raise TypeError(f"`run` must be a dlnflow.Run, got {type(run).__name__}.")
        if why := self.refusal(run):
            raise ValueError(why)


DESCRIPTION = ("items", "queries", "n_steps", "traits", "kind", "linear", "grid", "flow_time")
"""What every run says of itself; which verbs it has is a matter of the needs."""
LINE = 98
"""Longest line of the documentation."""
ESTIMATORS: dict[str, Estimator] = {}
"""Estimators by name, as used by `dlnflow influence --estimator`."""


def estimator(
    *, title: str, choice: str, page: str, needs: Sequence[Need] = (), **traits: bool
) -> Callable[[Callable[..., xr.DataArray]], Callable[..., xr.DataArray]]:
    """Register a function as an estimator; the record is its attribute ``record``.

    Parameters
    ----------
    title, choice, page, needs
        The fields of the record.
    **traits
        ``in_all`` and ``separate_times`` of the record, where they differ from the default.

    Returns
    -------
    decorator
        The function it returns checks the needs first.
    """

    def register(function: Callable[..., xr.DataArray]) -> Callable[..., xr.DataArray]:
        @functools.wraps(function)
        def checked(run: Dynamics, steps: ArrayLike | None = None, **options: Any) -> xr.DataArray:
            record.require(run)
            return function(run, steps, **options)

        record = Estimator(checked, title, choice, page, tuple(needs), **traits)
        ESTIMATORS[record.name] = record
        checked.record = record
        return checked

    return register


def table() -> str:
    """The tables of docs/estimators.md: what every estimator is, and what each need rules out."""
    rows = ["| estimator | what it is |", "|---|---|"]
    rows += [f"| [`{one.name}`]({one.page}) | {one.choice} |" for one in ESTIMATORS.values()]
    needs: dict[str, list[str]] = {}
    for one in ESTIMATORS.values():
        for words in [need.words for need in one.needs if need.words] or ["nothing"]:
            needs.setdefault(words, []).append(f"`{one.name}`")
    lines = (
        textwrap.fill(f"- {words}: {', '.join(names)}", LINE, subsequent_indent="  ")
        for words, names in needs.items()
    )
    return "\n".join([*rows, "", "What is needed of a run:", "", *lines])


def title(name: str) -> str:
    """What an estimator is called in figures and tables; other names as they are."""
    return ESTIMATORS[name].title if name in ESTIMATORS else name.replace("_", " ")


def verb(name: str) -> Need:
    """A run that has a verb of the protocol."""

    def refusal(estimator: str, run: Dynamics) -> str:
        if hasattr(run, name):
            return ""
        return f"`{estimator}` needs `run.{name}`, which {run.kind} does not have."

    return Need("", refusal)  # every kind of run says which verbs it has


def _linear(estimator: str, run: Dynamics) -> str:
    if run.linear:
        return ""
    return (
        f"`{estimator}` is a closed form of deep linear networks (dlnflow.Run); the run is "
        f"{run.kind}. `tangent` and `leave_one_out` take any run."
    )


LINEAR = Need("a deep linear network", _linear)


def _two_layers(estimator: str, run: Dynamics) -> str:
    if not run.linear or run.depth == 2:
        return ""
    return (
        f"`{estimator}` uses the structure of two layers; the run has depth {run.depth}. "
        "`tangent` and `leave_one_out` take any depth."
    )


TWO_LAYERS = Need("two layers, if linear", _two_layers)


def _whitened(estimator: str, run: Dynamics) -> str:
    if run.task.whitening is not None:
        return ""
    return (
        f"`{estimator}` needs whitened inputs, X X^T = c I (one-hot inputs are). Whiten them, or "
        "use `tangent` or `leave_one_out`, which work for any inputs."
    )


WHITENED = Need("whitened inputs", _whitened)


def _flow_time(estimator: str, run: Dynamics) -> str:
    if run.traits.flow_time is not None:
        return ""
    return (
        f"`{estimator}` needs a flow time, which optimizer={run.optimizer!r} does not have; use "
        "`tangent` or `leave_one_out`, which follow any optimizer."
    )


FLOW_TIME = Need("an optimizer that follows the flow", _flow_time)


def _follows_flow(estimator: str, run: Dynamics) -> str:
    if run.traits.flow_time is not None:
        return ""
    names = [f'"{n}"' for n, rule in OPTIMIZERS.items() if rule.traits.flow_time is not None]
    return (
        f"`{estimator}` predicts gradient flow; it takes `optimizer` {', '.join(names[:-1])} or "
        f'{names[-1]}, got "{run.optimizer}". Use `leave_one_out`, which retrains.'
    )


FOLLOWS_FLOW = Need("an optimizer that follows the flow", _follows_flow)


def _rank(estimator: str, run: Dynamics) -> str:
    rank = run.task.modes.rank
    if run.hidden >= rank:
        return ""
    return (
        f"`{estimator}` describes a network that learns all {rank} modes of the task, but "
        f"`hidden` is {run.hidden}. Use hidden >= {rank}, or `tangent`."
    )


RANK = Need("hidden >= rank of the task", _rank)


def _full_batch(estimator: str, run: Dynamics) -> str:
    if run.batch is None:
        return ""
    return (
        f"`{estimator}` describes training on all items at every step; the run has minibatches of "
        f"{run.batch}. Leave `batch` out, or use `tangent` or `leave_one_out`, which follow them."
    )


FULL_BATCH = Need("full batch", _full_batch)


def _steps(estimator: str, run: Dynamics) -> str:
    if not run.traits.continuous:
        return ""
    return (
        f"`{estimator}` follows the steps of an optimizer and gradient flow has none; use "
        'optimizer="gd" with a small `learning_rate`, whose error is of first order in it.'
    )


STEPS = Need("discrete steps", _steps)


def _differentiable(estimator: str, run: Dynamics) -> str:
    if run.traits.differentiable:
        return ""
    return (
        f"`{estimator}` differentiates the steps of the optimizer, and optimizer="
        f"{run.optimizer!r} declares no derivative. `leave_one_out` and `windowed` need none."
    )


DIFFERENTIABLE = Need("a differentiable optimizer", _differentiable)


def _displacement(estimator: str, run: Dynamics) -> str:
    rule = getattr(run, "_rule", None)  # a language model's run has no rule to choose
    if rule is None or hasattr(rule, "displacement"):
        return ""
    return (
        f"`{estimator}` needs to know what the optimizer makes of a gradient, and optimizer="
        f"{run.optimizer!r} has no method `displacement`. `leave_one_out` needs none."
    )


DISPLACEMENT = Need("", _displacement)  # every rule of the package has it


def _narrow(estimator: str, run: Dynamics) -> str:
    if not run.linear:
        return ""
    (hidden, n_in), (n_out, _) = (w.shape for w in run.problem.weights)
    entries = n_out * hidden * hidden * n_in
    if run.batch is not None:
        entries = max(entries, (hidden * n_in) ** 2)
    if entries <= MAX_ENTRIES:
        return ""
    return (
        f"`{estimator}` averages {entries:.2g} products of weights for this network, above "
        f"{MAX_ENTRIES:.0e}; use a narrower network or fewer features, or `tangent`."
    )


NARROW = Need("at most 1e8 products of weights", _narrow)


@dataclass(frozen=True)
class Grid:
    """Times and items at which influence is wanted.

    ``query`` and ``train`` are positions of items; ``run`` is the run they belong to.
    """

    run: Dynamics
    steps: IntArray
    query: IntArray
    train: IntArray

    @classmethod
    def of(
        cls, run: Dynamics, steps: ArrayLike | None, query: Items = None, train: Items = None
    ) -> "Grid":
        """Check steps (None: the run's own grid) and item names.

        Raises
        ------
        ValueError
            If steps are unsorted, not whole or beyond the run, or an item is unknown.
        """
        steps = run.grid() if steps is None else checks.recorded_steps(steps, run.n_steps)
        query = checks.positions("query", query, run.queries)
        return cls(run, steps, query, checks.positions("train", train, run.items))

    @property
    def train_directions(self) -> FloatArray:
        """Unit vectors of the train items in item-weight space, shape (n_train, N)."""
        directions = np.zeros((len(self.train), len(self.run.items)))
        directions[np.arange(len(self.train)), self.train] = 1.0
        return directions

    @staticmethod
    def at_weight(value: float) -> float:
        """Return the weight of the train item at which influence is taken, at least 0.

        Raises
        ------
        ValueError
            If it is not.
        """
        value = checks.real_number("at_weight", value)
        if value < 0:
            raise ValueError(
                "`at_weight` is the weight of the train item: 1 for one that is trained on, 0 for "
                f"one that is not; it must be >= 0, got {value:g}."
            )
        return value

    @property
    def flow_time(self) -> FloatArray:
        """Dimensionless times, shape (T,)."""
        return self.run.flow_time(self.steps)

    def result(
        self,
        values: FloatArray,
        estimator: str,
        *,
        attrs: Mapping[str, object] | None = None,
        leading: Mapping[str, ArrayLike] | None = None,
    ) -> xr.DataArray:
        """Label `values`, shape (..., T, n_query, n_train); ``retrainings`` is 0 if not given."""
        query, train = (np.asarray(n, dtype=str) for n in (self.run.queries, self.run.items))
        return result.influence(
            values,
            self.steps,
            query[self.query],
            train[self.train],
            estimator=estimator,
            flow_time=self.flow_time,
            attrs={"retrainings": 0} | dict(attrs or {}),
            leading=leading,
        )
