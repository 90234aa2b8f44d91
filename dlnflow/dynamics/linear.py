"""A training run of a deep linear network, described before it is trained."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import adjoint, defaults, loops, network, notebook, replay, windows
from dlnflow.dynamics.curvature.two_layers import TwoLayerCurvature
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.optimizers import OPTIMIZERS, Rule, Traits
from dlnflow.dynamics.recorded_steps import even_and_geometric
from dlnflow.dynamics.reduced import dispatch
from dlnflow.dynamics.schedule import Schedule, Windows, minibatches
from dlnflow.dynamics.segment import LinearSegment, segments
from dlnflow.dynamics.trajectory import Trajectory
from dlnflow.task import Task
from dlnflow.theory.start import matched_strength

HIDDEN, INIT_STD, DEPTH = 50, 1e-2, 2
"""Defaults of a network whose initial weights are drawn."""


@dataclass(frozen=True, eq=False)
class Run:
    """Training of W = W_L ... W_1 on a task; nothing is computed until asked for.

    The objective is (1/N) sum_i w_i l_i with l_i = 1/2 |y_i - W x_i|^2 and item weights w_i = 1.

    Parameters
    ----------
    task : Task
    hidden : int, optional
        Width of every hidden layer, by default 50. Two-layer runs cost the same for every width
        beyond n_in + d_out (see `dlnflow.dynamics.network.reduced`), if the optimizer is invariant
        under rotations of the hidden layer.
    init_std : float, optional
        Standard deviation of the initial weights. Default: 0.01 of the size of learned weights by
        the units of the data, (max |y| / max |x|)^(1/L), which is 1 for zeros and ones.
    learning_rate : float, optional
        Default for "gd" and "flow": a hundredth of the largest value that is stable for gradient
        descent, both at the solution and for the initial weights. Momentum beta takes 1 - beta
        times that, Adam 0.002 of the final size of a weight, Lion 0.001.
    n_steps : int, optional
        Length of the run. Default: every mode is learned to 0.1 %, but at least 200 steps and at
        most 200,000, with a warning where they are too few. For Adam and Lion 5,000.
    seed : int
        Seed of the initial weights and of the order of minibatches.
    optimizer : str or a class of update rules
        "gd", gradient descent; "flow", its continuous-time limit (solved to a relative 1e-11, one
        step = ``learning_rate`` of time); "momentum", heavy ball (0.9); "adam" and
        "adamw" (decay 0.01), as in torch.optim; "lion". A class is a rule of your own, see
        `dlnflow.dynamics.optimizers.base`.
    depth : int, optional
        Number of weight matrices L, at least 2, by default 2.
    initial : sequence of arrays, optional
        Initial weights (W_1, ..., W_L), shapes (out, in), in place of `hidden`, `init_std` and
        `depth`; `dlnflow.initial` has constructors (aligned, balanced, a scale per layer).
    batch : int, optional
        Items per step, drawn without replacement and anew for every pass over the items; the order
        is `batches`. The objective of a step is then the mean of w_i l_i over its items. Default:
        all items.

    Raises
    ------
    ValueError
        If a number is not positive, the optimizer is unknown, arguments contradict each other, or
        the default length would end before any mode is learned.
    TypeError
        If `task` is not a Task.

    Examples
    --------
    >>> import dlnflow as dln
    >>> run = dln.Run(dln.semantic_hierarchy(), hidden=50, init_std=1e-2)
    >>> trajectory = run.train([0, run.n_steps])
    >>> trajectory.w1.shape, trajectory.w2.shape, bool(trajectory.loss[-1].max() < 1e-3)
    ((2, 50, 8), (2, 15, 50), True)
    """

    task: Task
    hidden: int = None  # type: ignore[assignment]  # this and the next are filled in below
    init_std: float = None  # type: ignore[assignment]
    learning_rate: float = None  # type: ignore[assignment]
    n_steps: int = None  # type: ignore[assignment]
    seed: int = 0
    optimizer: str | type[Rule] = "gd"
    depth: int = None  # type: ignore[assignment]
    initial: Sequence[ArrayLike] | None = None
    batch: int | None = None

    kind: ClassVar[str] = "a deep linear network"
    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TypeError(f"`task` must be a dlnflow.Task, got {type(self.task).__name__}.")
        self._choose_optimizer()
        self._store("seed", checks.whole_number("seed", self.seed))
        self._describe_network()
        self._describe_batches()
        if self.learning_rate is None:
            self._store("learning_rate", self._default_rate())
        self._store("learning_rate", checks.positive("learning_rate", self.learning_rate))
        if self.n_steps is None:
            self._store("n_steps", self._default_length())
        self._store("n_steps", checks.positive_integer("n_steps", self.n_steps))

    def _store(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _choose_optimizer(self) -> None:
        rule = self.optimizer
        if not (isinstance(rule, type) and isinstance(getattr(rule, "traits", None), Traits)):
            rule = OPTIMIZERS[checks.one_of("optimizer", rule, list(OPTIMIZERS))]
        self._store("_rule", rule)
        self._store("optimizer", getattr(rule, "name", rule.__name__))

    def _describe_network(self) -> None:
        if self.initial is None:
            for name, default in (("hidden", HIDDEN), ("depth", DEPTH)):
                if getattr(self, name) is None:
                    self._store(name, default)
            if self.init_std is None:
                depth = checks.positive_integer("depth", self.depth)
                self._store("init_std", INIT_STD * defaults.weight_unit(self.task, depth))
            self._store("init_std", checks.positive("init_std", self.init_std))
        else:
            self._take_weights()
        for name in ("hidden", "depth"):
            self._store(name, checks.positive_integer(name, getattr(self, name)))
        if self.depth < 2:
            raise ValueError("`depth` must be at least 2 (the number of weight matrices), got 1.")

    def _take_weights(self) -> None:
        weights = network.checked_weights(self.initial, self.task.n_in, self.task.n_out)
        described = {
            "hidden": min(len(w) for w in weights[:-1]) if len(weights) > 1 else 1,
            "depth": len(weights),
        }
        for name, value in described.items():
            if getattr(self, name) not in (None, value):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}, but `initial` describes a network with "
                    f"{name} {value}; leave `{name}` out."
                )
            self._store(name, value)
        if self.init_std is not None:
            raise ValueError("`init_std` does not belong to given `initial` weights; leave it out.")
        self._store("init_std", float(np.sqrt(np.mean(network.flatten(weights) ** 2))))
        self._store("initial", tuple(weights))

    def _describe_batches(self) -> None:
        if self.batch is None:
            return
        batch = checks.positive_integer("batch", self.batch)
        if batch > self.task.n_items:
            raise ValueError(f"`batch` must be at most {self.task.n_items}, the number of items.")
        if self.traits.continuous:
            raise ValueError(
                f"optimizer={self.optimizer!r} has no steps and so no minibatches; leave `batch` "
                'out, or use optimizer="gd".'
            )
        self._store("batch", batch)

    def _default_rate(self) -> float:
        rule = self.traits.learning_rate
        if rule is None:
            raise ValueError(
                f"optimizer={self.optimizer!r} declares no default; give `learning_rate`."
            )
        stable = defaults.stable_everywhere(self.task, self._initial)
        return rule(stable, defaults.weight_size(self.task, self._initial))

    def _default_length(self) -> int:
        if self.traits.n_steps is not None:
            return self.traits.n_steps
        if self.traits.flow_time is None:
            raise ValueError(
                f"optimizer={self.optimizer!r} declares no flow time from which a length would "
                "follow; give `n_steps`."
            )
        start = (self.hidden * self.init_std**2 / 2) ** (self.depth / 2)
        if self.initial is not None:
            start = matched_strength(self._initial, self.task.modes)
        return defaults.length(
            self.task,
            start=start,
            depth=self.depth,
            time_per_step=self._time_per_step,
            stable=self.stable_learning_rate,
        )

    def _repr_html_(self) -> str:
        return notebook.table(self)

    def __repr__(self) -> str:
        given = "" if self.initial is None else ", initial=..."
        batch = "" if self.batch is None else f", batch={self.batch}"
        return (
            f"Run({self.task!r}, hidden={self.hidden}, init_std={self.init_std:g}, "
            f"learning_rate={self.learning_rate:.4g}, n_steps={self.n_steps}, seed={self.seed}, "
            f"optimizer={self.optimizer!r}, depth={self.depth}{given}{batch})"
        )

    def with_targets(self, y: ArrayLike) -> "Run":
        """The same run from the same initial weights on other targets, shape (d_out, N)."""
        x = None if self.task.one_hot else self.task.x
        task = Task(y, x, items=self.task.items, features=self.task.features)
        std = self.init_std if self.initial is None else None
        return dataclasses.replace(self, task=task, init_std=std, optimizer=self._rule)

    @property
    def items(self) -> tuple[str, ...]:
        """Names of the training items."""
        return self.task.items

    @property
    def queries(self) -> tuple[str, ...]:
        """Names of the losses that are measured: those of the training items."""
        return self.task.items

    @property
    def notes(self) -> tuple[str, ...]:
        """How the table of the task was read."""
        return tuple(self.task.notes)

    @property
    def settings(self) -> dict[str, object]:
        """What the run is made of, for records."""
        names = ("hidden", "init_std", "learning_rate", "n_steps", "seed", "optimizer", "depth")
        return {name: getattr(self, name) for name in names}

    @property
    def description(self) -> list[str]:
        """The data and the network in a few lines."""
        s = self.task.modes.s
        return [
            f"{self.task.n_items} items, {self.task.n_out} features, {self.task.modes.rank} modes "
            f"(strengths {s[0]:.3g} to {s[-1]:.3g})",
            *self.notes,
            f"{self.optimizer}, {self.depth} layers, hidden {self.hidden}, init std "
            f"{self.init_std:g}, seed {self.seed}",
        ]

    @property
    def traits(self) -> Traits:
        """What holds for the optimizer."""
        return self._rule.traits

    @cached_property
    def stable_learning_rate(self) -> float:
        """The largest step that is stable at the solution; see `dlnflow.dynamics.defaults`.

        Infinite for flow, whose learning rate only scales time; NaN for optimizers for which none
        is known.
        """
        return self.traits.stability * defaults.stable_learning_rate(self.task, self.depth)

    def initial_weights(self, *, copy: bool = True) -> tuple[FloatArray, ...]:
        """Initial weights (W_1, ..., W_L): for two layers (hidden, n_in) and (d_out, hidden).

        Parameters
        ----------
        copy : bool
            False for the run's own arrays, to save memory; they must not be changed.

        Returns
        -------
        tuple of arrays, shapes (n_{l+1}, n_l)
        """
        return tuple(w.copy() if copy else w for w in self._initial)

    @cached_property
    def _initial(self) -> Weights:
        """Drawn or given once; not to be changed."""
        if self.initial is not None:
            return list(self.initial)
        sizes = [self.task.n_in, *[self.hidden] * (self.depth - 1), self.task.n_out]
        return network.initial_weights(sizes, self.init_std, self.seed)

    @cached_property
    def batches(self) -> IntArray | None:
        """Items of every step's minibatch, shape (n_steps + 1, batch); None for the full batch.

        The row after the last step belongs to the step that would follow.
        """
        if self.batch is None:
            return None
        return minibatches(self.seed, self.batch, self.task.n_items, self.n_steps + 1)

    def flow_time(self, steps: ArrayLike) -> FloatArray:
        """Dimensionless time in which mode strengths obey da/dt = L a^(2-2/L) (s - a).

        t = learning_rate * steps * c / N, where X X^T = c I (the mean eigenvalue of X X^T where
        inputs are not whitened); momentum beta multiplies by 1/(1 - beta), its effective step.
        NaN for optimizers that do not follow the flow.

        Parameters
        ----------
        steps : array of int, any shape

        Returns
        -------
        array, same shape
        """
        return np.asarray(steps, dtype=np.float64) * self._time_per_step

    @property
    def _time_per_step(self) -> float:
        if self.traits.flow_time is None:
            return float("nan")
        scale = defaults.mean_input(self.task) / self.task.n_items
        return self.learning_rate * self.traits.flow_time * scale

    def grid(self, points: int = 200) -> IntArray:
        """Steps from 0 to the end: half evenly spaced, half at equal ratios, without repeats.

        Strong modes are learned early and weak ones late, often a hundred times later; equal
        ratios resolve the former, equal distances the latter.

        Parameters
        ----------
        points : int
            About how many, at least 3; no more than there are steps.

        Returns
        -------
        array of int

        Raises
        ------
        ValueError
            If `points` is below 3.

        Examples
        --------
        >>> import dlnflow as dln
        >>> steps = dln.Run(dln.semantic_hierarchy()).grid(100)
        >>> int(steps[0]), int(steps[-1]), len(steps)
        (0, 2748, 96)
        """
        return even_and_geometric(self.n_steps, points)

    @cached_property
    def problem(self) -> loops.Problem:
        """The run in the reduced hidden basis, ready for `dlnflow.dynamics.loops`."""
        x = None if self.task.one_hot else self.task.x
        rule = self._rule(self.learning_rate)
        return loops.Problem(
            self._reduced[0], x, self.task.y, rule, self.stable_learning_rate, self.batches
        )

    @cached_property
    def _reduced(self) -> tuple[Weights, FloatArray | None]:
        if not self.traits.rotation_invariant:
            return self._initial, None
        return network.reduced(self._initial)

    def train(self, steps: ArrayLike, weights: ArrayLike | Schedule | None = None) -> Trajectory:
        """Train and keep the weights at the requested steps.

        Parameters
        ----------
        steps : sequence of int
            Strictly increasing, within [0, n_steps]; 0 is the initialisation.
        weights : array of shape (N,) or Schedule, optional
            Item weights, constant or changing over steps. Default: all 1.

        Returns
        -------
        Trajectory

        Raises
        ------
        ValueError
            If steps or weights have a wrong shape or range.
        dlnflow.DivergenceError
            As soon as the loss blows up, with the step and, where one is known, a stable learning
            rate.
        FloatingPointError
            If gradient flow cannot be integrated.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        schedule = self._schedule(weights)
        if schedule.batch:
            raise ValueError("`weights` must describe one network; use `losses` for a batch.")
        layers = [w.shape for w in self.problem.weights]
        flat = loops.run(self.problem, steps, schedule, network.flatten)
        return Trajectory(self, steps, network.unflatten(flat, layers), self._reduced[1])

    def losses(
        self, steps: ArrayLike, weights: ArrayLike | Schedule, *, query: IntArray | None = None
    ) -> FloatArray:
        """Per-item losses of many trainings that differ in item weights, run as one batch.

        Parameters
        ----------
        steps : sequence of int
        weights : array of shape (B, N) or batched Schedule
        query : array of int, optional
            Positions of the items whose losses are wanted. Default: all.

        Returns
        -------
        array, shape (B, T, n_query)
            Losses l_q on the unchanged items, whatever their weight in training.

        Raises
        ------
        ValueError, dlnflow.DivergenceError, FloatingPointError
            As `train`.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        return dispatch.losses(self.problem, steps, self._schedule(weights), query)

    def tangents(
        self,
        steps: ArrayLike,
        directions: FloatArray,
        *,
        query: IntArray | None = None,
        matrix: str = "hessian",
        weights: FloatArray | None = None,
    ) -> FloatArray:
        """Derivatives of the losses along directions in item-weight space, exact.

        Parameters
        ----------
        steps : sequence of int
        directions : array, shape (K, N)
            Changes of the item weights, at all steps.
        query : array of int, optional
            Positions of the items whose losses are wanted. Default: all.
        matrix : {"hessian", "gauss_newton"}
            What curves the response; only the Hessian gives the derivative.
        weights : array, shape (K, N), optional
            Item weights at which derivative k is taken. Default: all 1.

        Returns
        -------
        array, shape (T, n_query, K)

        Raises
        ------
        ValueError, dlnflow.DivergenceError, FloatingPointError
            As `train`.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        newton = matrix == "gauss_newton"
        return dispatch.tangents(
            self.problem, steps, directions, query, gauss_newton=newton, weights=weights
        )

    def adjoint(self, at: int, query: IntArray) -> Iterator[tuple[int, FloatArray]]:
        """Yield (k, d l_q(theta_at) / d w_i(k)), shape (n_query, N), for k = at - 1, ..., 0."""
        return adjoint.step_effects(self.problem, at, query)

    def branches(self, windows_: Windows, weights: FloatArray, query: IntArray) -> FloatArray:
        """Loss of the run minus loss with weights (I, N) in each window, (S, I, n_query)."""
        return windows.differences(self.problem, windows_, weights, query)

    def window_adjoint(self, windows_: Windows, query: IntArray) -> FloatArray:
        """First-order counterpart of `branches` per unit of weight, shape (S, n_query, N)."""
        return adjoint.window_effects(self.problem, windows_, query)

    def moments(self, stop: int) -> Iterator[replay.LinearMoment]:
        """Replay the steps 0, ..., stop - 1; for gradient flow, the states at those steps."""
        if self.traits.continuous:
            return replay.along_flow(self.problem, stop)
        return replay.forward(self.problem, stop)

    def segments(
        self, bounds: IntArray, steps: IntArray, train: IntArray, *, matrix: str
    ) -> Iterator[LinearSegment]:
        """Averages of Hessian and gradients between consecutive bounds; for two layers."""
        return segments(self.problem, bounds, steps, train, gauss_newton=matrix == "gauss_newton")

    def curvature(self, steps: ArrayLike) -> TwoLayerCurvature:
        """Curvature at checkpoints, in exact reduced form; for two layers."""
        steps = checks.recorded_steps(steps, self.n_steps)
        return TwoLayerCurvature.of(self.train(steps).weights, self.task, self.hidden)

    def traces(self, steps: ArrayLike, **sampling: Any) -> xr.DataArray:
        """Loss traces of the posterior localised at checkpoints: `dlnflow.sampling.trace_run`."""
        from dlnflow.sampling import trace_run

        wanted = ("query", "train")  # all are recorded
        return trace_run(self, steps, **{k: v for k, v in sampling.items() if k not in wanted})

    def _schedule(self, weights: ArrayLike | Schedule | None) -> Schedule:
        return Schedule.of(weights, self.task.n_items)
