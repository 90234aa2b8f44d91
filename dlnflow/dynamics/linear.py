"""A training run of a deep linear network, described before it is trained."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from dlnflow import checks
from dlnflow._support.typing import FloatArray, IntArray
from dlnflow.dynamics import defaults, loops, network
from dlnflow.dynamics.network import Weights
from dlnflow.dynamics.optimizers import Adam, GradientDescent, Momentum
from dlnflow.dynamics.schedule import Schedule
from dlnflow.dynamics.trajectory import Trajectory
from dlnflow.task import Task

OPTIMIZERS = ("gd", "flow", "momentum", "adam")


@dataclass(frozen=True, eq=False)
class Run:
    """Full-batch training of W = W_L ... W_1 on a task; nothing is computed until asked for.

    The objective is (1/N) sum_i w_i l_i with l_i = 1/2 |y_i - W x_i|^2 and item weights w_i = 1.

    Parameters
    ----------
    task : Task
    hidden : int
        Width of every hidden layer. Two-layer runs cost the same for every width beyond
        n_in + d_out (see `dlnflow.dynamics.network.reduced`), except with Adam.
    init_std : float
        Standard deviation of the initial weights.
    learning_rate : float, optional
        Default for "gd" and "flow": a hundredth of the largest value that is stable for gradient
        descent, both at the solution and for the initial weights. Momentum beta takes 1 - beta
        times that, Adam 0.002 of the final size of a weight.
    n_steps : int, optional
        Length of the run. Default: every mode is learned to 0.1 %, but at least 200 steps and at
        most 200,000, with a warning where they are too few. For Adam 5,000.
    seed : int
        Of the initial weights.
    optimizer : {"gd", "flow", "momentum", "adam"}
        Gradient descent; its continuous-time limit (solved to a relative 1e-11, one step =
        ``learning_rate`` of time); heavy ball (0.9); Adam, as in torch.optim.
    depth : int
        Number of weight matrices L, at least 2.

    Raises
    ------
    ValueError
        If a number is not positive, the optimizer is unknown, or the default length would end
        before any mode is learned.
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
    hidden: int = 50
    init_std: float = 1e-2
    learning_rate: float = None  # type: ignore[assignment]  # filled in by __post_init__
    n_steps: int = None  # type: ignore[assignment]  # filled in by __post_init__
    seed: int = 0
    optimizer: str = "gd"
    depth: int = 2

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TypeError(f"`task` must be a dlnflow.Task, got {type(self.task).__name__}.")
        checks.one_of("optimizer", self.optimizer, OPTIMIZERS)
        self._store("hidden", checks.positive_integer("hidden", self.hidden))
        self._store("init_std", checks.positive("init_std", self.init_std))
        self._store("seed", checks.whole_number("seed", self.seed))
        self._store("depth", checks.positive_integer("depth", self.depth))
        if self.depth < 2:
            raise ValueError("`depth` must be at least 2 (the number of weight matrices), got 1.")
        if self.learning_rate is None:
            rate = defaults.learning_rate(self.task, self._initial, self.optimizer)
            self._store("learning_rate", rate)
        self._store("learning_rate", checks.positive("learning_rate", self.learning_rate))
        if self.n_steps is None:
            self._store("n_steps", self._default_length())
        self._store("n_steps", checks.positive_integer("n_steps", self.n_steps))

    def _store(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _default_length(self) -> int:
        if self.optimizer == "adam":
            return defaults.ADAM_STEPS
        return defaults.length(
            self.task,
            start=(self.hidden * self.init_std**2 / 2) ** (self.depth / 2),
            depth=self.depth,
            time_per_step=self._time_per_step,
            stable=self.stable_learning_rate,
        )

    def __repr__(self) -> str:
        return (
            f"Run({self.task!r}, hidden={self.hidden}, init_std={self.init_std:g}, "
            f"learning_rate={self.learning_rate:.4g}, n_steps={self.n_steps}, seed={self.seed}, "
            f"optimizer={self.optimizer!r}, depth={self.depth})"
        )

    @cached_property
    def stable_learning_rate(self) -> float:
        """The largest step that is stable at the solution; see `dlnflow.dynamics.defaults`.

        Infinite for flow, whose learning rate only scales time; NaN for Adam, for which none is
        known.
        """
        return defaults.stable_learning_rate(self.task, self.depth, self.optimizer)

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
        """Drawn once; not to be changed."""
        sizes = [self.task.n_in, *[self.hidden] * (self.depth - 1), self.task.n_out]
        return network.initial_weights(sizes, self.init_std, self.seed)

    def flow_time(self, steps: ArrayLike) -> FloatArray:
        """Dimensionless time in which mode strengths obey da/dt = L a^(2-2/L) (s - a).

        t = learning_rate * steps * c / N, where X X^T = c I (the mean eigenvalue of X X^T where
        inputs are not whitened); momentum beta multiplies by 1/(1 - beta), its effective step.
        NaN for Adam, which has no such time.

        Parameters
        ----------
        steps : array of int, any shape

        Returns
        -------
        array, same shape
        """
        steps = np.asarray(steps, dtype=np.float64)
        if self.optimizer == "adam":
            return np.full(steps.shape, np.nan)
        return steps * self._time_per_step

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
        if checks.positive_integer("points", points) < 3:
            raise ValueError(f"`points` must be at least 3, got {points}.")
        points = min(points, 2 * (self.n_steps + 1))  # which is every step
        even = np.linspace(0, self.n_steps, points - points // 2)
        ratios = np.geomspace(max(1.0, self.n_steps / 1000), self.n_steps, points // 2)
        return np.unique(np.concatenate([even, ratios]).round().astype(np.int64))

    @property
    def _time_per_step(self) -> float:
        return defaults.time_per_step(self.task, self.learning_rate, self.optimizer)

    @cached_property
    def problem(self) -> loops.Problem:
        """The run in the reduced hidden basis, ready for `dlnflow.dynamics.loops`."""
        weights, _ = self._reduced
        rule = {
            "gd": GradientDescent(self.learning_rate),
            "momentum": Momentum(self.learning_rate, defaults.MOMENTUM),
            "adam": Adam(self.learning_rate),
            "flow": None,
        }[self.optimizer]
        x = None if self.task.one_hot else self.task.x
        return loops.Problem(
            weights, x, self.task.y, self.learning_rate, rule, self.stable_learning_rate
        )

    @cached_property
    def _reduced(self) -> tuple[Weights, FloatArray | None]:
        if self.optimizer == "adam":
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
            As soon as the loss blows up, with the step and, except for Adam, a stable learning
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

    def losses(self, steps: ArrayLike, weights: ArrayLike | Schedule) -> FloatArray:
        """Per-item losses of many trainings that differ in item weights, run as one batch.

        Parameters
        ----------
        steps : sequence of int
        weights : array of shape (B, N) or batched Schedule

        Returns
        -------
        array, shape (B, T, N)
            Losses l_i on the unchanged items, whatever their weight in training.

        Raises
        ------
        ValueError, dlnflow.DivergenceError, FloatingPointError
            As `train`.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        schedule = self._schedule(weights)
        problem = self.problem
        losses = loops.run(
            problem, steps, schedule, lambda w: network.losses(w, problem.x, problem.y)
        )
        return np.moveaxis(losses, 0, -2)

    def _schedule(self, weights: ArrayLike | Schedule | None) -> Schedule:
        n_items = self.task.n_items
        if weights is None:
            weights = np.ones(n_items)
        schedule = weights if isinstance(weights, Schedule) else Schedule.constant(weights)
        if schedule.values.shape[-1] != n_items:
            raise ValueError(
                f"`weights` must hold one weight per item, {n_items}, on the last axis; got "
                f"shape {schedule.values.shape[1:]}."
            )
        return schedule
