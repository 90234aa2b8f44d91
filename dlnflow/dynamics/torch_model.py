"""A training run of any torch module, described before it is trained."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn

from dlnflow import checks
from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import (
    adjoint,
    notebook,
    torch_checks,
    torch_curvature,
    torch_reweighted,
    torch_rules,
    torch_segments,
    torch_steps,
    torch_sweeps,
)
from dlnflow.dynamics.optimizers import Rule, Traits
from dlnflow.dynamics.recorded_steps import even_and_geometric
from dlnflow.dynamics.schedule import Schedule, Windows, minibatches
from dlnflow.dynamics.torch_steps import TorchProblem
from dlnflow.task import distinct

FIRST = 64
"""Items on which a model is tried before the others."""


@dataclass(frozen=True, eq=False)
class TorchRun:
    """Training of any torch module from its own weights; nothing is computed until asked for.

    The objective is (1/N) sum_i w_i l_i, with l_i the loss of item i and item weights w_i = 1; in
    a minibatch the mean of w_i l_i over its items.

    Parameters
    ----------
    model : torch.nn.Module
        Any that `torch.func.functional_call` takes: one tensor in, one out, items first, without
        random numbers. It is copied and never changed; parameters with requires_grad=False stay.
        Its precision (float32 or float64) and device are those of the run.
    data : tuple (x, y)
        Inputs and targets of the N training items, arrays or tensors with items first.
    loss : str or callable
        "mse", 1/2 |y - f(x)|^2; "cross_entropy", of class labels (N,) or probabilities; or a
        function (output, target) -> one loss per item, shape (N,).
    optimizer : str or a class of update rules
        "gd", "momentum" (0.9), "adam", "adamw" or "lion", as for `Run`. A class is a rule of your
        own with start, update and displacement, see `dlnflow.dynamics.optimizers.base`.
    learning_rate : float
        It is that of every step, times the factor of `rate_schedule`.
    n_steps : int
        Length of the run.
    batch : int, optional
        Items per step, drawn without replacement and anew for every pass over the items; the order
        is `batches`, the one that `Run` has for the same seed. Default: all items.
    seed : int
        Seed of the order of minibatches.
    items : sequence of str, optional
        Names of the training items, all different. Default: item0, item1, ...
    queries : tuple (names, x, y), optional
        Losses that are measured and are not training items. Default: those of the items.
    options : dict, optional
        Fields of the rule: {"weight_decay": 0.1, "beta2": 0.95} for "adamw". A decay is one
        number, or one per parameter.
    rate_schedule : function of a step, or array of shape (n_steps,), optional
        Factors of the learning rate, as in torch's LambdaLR: `dlnflow.rates` has warm-ups, linear
        and cosine decay.
    clip : float, optional
        Largest norm of a gradient over all parameters, as torch.nn.utils.clip_grad_norm_. Exact
        derivatives pass through the factor that it scales by.

    Raises
    ------
    ValueError
        If the model draws random numbers or keeps batch statistics, shapes do not fit, the loss is
        a mean instead of one per item, a number is not finite, or an option is out of range.
    TypeError
        If `model` is no module.

    Examples
    --------
    >>> import torch
    >>> import dlnflow as dln
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ... ).double()
    >>> x, y = [[0, 0], [0, 1], [1, 0], [1, 1.0]], [[0], [1], [1], [0.0]]
    >>> run = dln.TorchRun(
    ...     model, (x, y), learning_rate=0.5, n_steps=200, items=["00", "01", "10", "11"]
    ... )
    >>> exact = dln.influence.tangent(run, [50, 200])
    >>> steps = dln.influence.per_step(run, range(200), at=200)
    >>> exact.dims, bool(abs(steps.sum("time") - exact.sel(time=200)).max() < 1e-9)
    (('time', 'query', 'train'), True)
    """

    model: nn.Module
    data: tuple[ArrayLike | Tensor, ArrayLike | Tensor]
    _: KW_ONLY
    loss: str | Callable[[Tensor, Tensor], Tensor] = "mse"
    optimizer: str | type[Rule] = "gd"
    learning_rate: float
    n_steps: int
    batch: int | None = None
    seed: int = 0
    items: Sequence[str] | None = None
    queries: Sequence[Any] | None = None
    options: Mapping[str, Any] | None = None
    rate_schedule: Callable[[int], float] | ArrayLike | None = None
    clip: float | None = None

    kind: ClassVar[str] = "a torch model"
    linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        rule = torch_checks.rule_of(self.optimizer)
        self._store("_rule", rule)
        self._store("optimizer", getattr(rule, "name", rule.__name__))
        self._store("learning_rate", checks.positive("learning_rate", self.learning_rate))
        self._store("n_steps", checks.positive_integer("n_steps", self.n_steps))
        self._store("seed", checks.whole_number("seed", self.seed))
        self._store("_tuned", self._tuned_rule())
        torch_checks.item_loss_of(self.loss)
        model, weights = torch_checks.copied_model(self.model)
        torch_rules.require_one_decay_each(self.options, len(weights))
        self._store("model", model)
        self._store("_weights", weights)
        self._describe_data()

    def _store(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _tuned_rule(self) -> Rule:
        return torch_rules.tuned(
            self._rule,
            self.learning_rate,
            self.n_steps,
            schedule=self.rate_schedule,
            clip=self.clip,
            options=self.options,
        )

    def _describe_data(self) -> None:
        like = next(iter(self._weights.values()))
        data = torch_checks.pair_of("data", self.data, like)
        self._store("data", data)
        self._store("items", distinct("items", self.items, len(data[0]), "item"))
        if self.batch is not None:
            batch = checks.positive_integer("batch", self.batch)
            if batch > len(data[0]):
                raise ValueError(f"`batch` must be at most {len(data[0])}, the number of items.")
            self._store("batch", batch)
        queried, names = data, self.items
        if self.queries is not None:
            names, pair = torch_checks.separate(self.queries, self.items)
            queried = torch_checks.pair_of("queries", pair, like)
            names = distinct("queries", names, len(queried[0]), "query")
        self._store("queries", names)
        self._store("_queried", queried)
        self._require_model(data, queried)
        torch_checks.require_functional(self._tuned, self._rule.__name__, self._weights)

    def _require_model(self, *pairs: tuple[Tensor, Tensor]) -> None:
        """Try the model on a few items, then see whether a step fits, then try it on all."""
        model, (x, y) = (self.model, self._weights, self.loss), pairs[0]
        torch_checks.require_losses(*model, (x[:FIRST], y[:FIRST]))
        self._full.require_room(self.batch or len(x))
        left = {} if len(x) <= FIRST else {"data": pairs[0]}
        left |= {} if pairs[1] is pairs[0] else {"queries": pairs[1]}
        for name, pair in left.items():
            for part in self._full.portions(pair):
                torch_checks.require_losses(*model, part, name)
        torch_checks.require_moving(*model, self._full.portions(pairs[0])[0])

    def _repr_html_(self) -> str:
        return notebook.table(self)

    def __repr__(self) -> str:
        batch = "" if self.batch is None else f", batch={self.batch}"
        return (
            f"TorchRun({type(self.model).__name__} of {self._count} parameters, "
            f"{len(self.items)} items, optimizer={self.optimizer!r}, "
            f"learning_rate={self.learning_rate:.4g}, n_steps={self.n_steps}{batch}, "
            f"seed={self.seed})"
        )

    @property
    def _count(self) -> int:
        return sum(weight.numel() for weight in self._weights.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done differently from the model as given."""
        if not torch_checks.attends(self.model, self._weights, self.data[0]):
            return ()
        return ("attention is written out: the fused kernels of torch have no second derivative",)

    @property
    def settings(self) -> dict[str, object]:
        """What the run is made of, for records."""
        names = ("optimizer", "learning_rate", "n_steps", "batch", "seed", "clip")
        loss = self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", "own")
        about = {"model": type(self.model).__name__, "parameters": self._count, "loss": loss}
        return about | {name: getattr(self, name) for name in names}

    @property
    def description(self) -> list[str]:
        """The data and the model in a few lines."""
        queries = "" if self.queries is self.items else f", {len(self.queries)} other queries"
        batch = "all items in every step" if self.batch is None else f"{self.batch} items a step"
        about = self.settings
        return [
            f"{len(self.items)} items{queries}",
            f"{about['model']} of {self._count} parameters, loss {about['loss']}",
            f"{self.optimizer}, {batch}, seed {self.seed}",
        ]

    def with_targets(self, y: ArrayLike | Tensor) -> "TorchRun":
        """The same run from the same initial weights on other targets of the training items."""
        model = copy.deepcopy(self.model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._weights)
        queries = None if self._queried is self.data else (self.queries, *self._queried)
        data = self.data[0], y
        return dataclasses.replace(
            self, model=model, data=data, queries=queries, optimizer=self._rule
        )

    @property
    def traits(self) -> Traits:
        """What holds for the update rule of a torch model: no flow time, no rotations."""
        changed = self.rate_schedule is not None or self.clip is not None
        return torch_rules.tuned_traits(self._rule.traits, changed=changed)

    def grid(self, points: int = 200) -> IntArray:
        """Steps from 0 to the end, half evenly spaced, half at equal ratios; as `Run.grid`."""
        return even_and_geometric(self.n_steps, points)

    def flow_time(self, steps: ArrayLike) -> FloatArray:
        """Return NaN: a torch model has no dimensionless time."""
        return np.full(np.shape(steps), np.nan)

    @cached_property
    def batches(self) -> IntArray | None:
        """Items of every step's minibatch, shape (n_steps + 1, batch); None for the full batch."""
        if self.batch is None:
            return None
        return minibatches(self.seed, self.batch, len(self.items), self.n_steps + 1)

    @cached_property
    def problem(self) -> TorchProblem:
        """The run as pure functions, ready for `dlnflow.dynamics.torch_steps`."""
        if self.batch is None:
            return self._full
        return dataclasses.replace(self._full, batches=self.batches)

    @cached_property
    def _full(self) -> TorchProblem:
        loss = torch_checks.item_loss_of(self.loss)
        return TorchProblem(
            self.model, self._weights, loss, self.data, self._queried, self._tuned, None
        )

    def weights(
        self, steps: ArrayLike, item_weights: ArrayLike | Schedule | None = None
    ) -> list[dict[str, Tensor]]:
        """Train and return the weights at steps, as parts of a state dict.

        Parameters
        ----------
        steps : sequence of int
            Strictly increasing, within [0, n_steps].
        item_weights : array of shape (N,) or Schedule, optional
            Default: all 1.

        Returns
        -------
        list of dict
            Name of a parameter -> tensor, one dict per step.

        Raises
        ------
        ValueError
            If steps are invalid, or item weights are not those of one network.
        dlnflow.DivergenceError
            If the run diverges.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        schedule = Schedule.of(item_weights, len(self.items))
        if schedule.batch:
            raise ValueError("`item_weights` must describe one network; use `losses` for a batch.")
        trained = torch_steps.trained(self.problem, steps, schedule)
        return [dict(zip(self._weights, map(Tensor.clone, w), strict=True)) for w in trained]

    def losses(
        self, steps: ArrayLike, weights: ArrayLike | Schedule, *, query: IntArray | None = None
    ) -> FloatArray:
        """Losses of many trainings that differ in item weights, run as one batch; as `Run.losses`.

        Parameters
        ----------
        steps : sequence of int
        weights : array of shape (B, N) or batched Schedule
        query : array of int, optional
            Positions in `queries`. Default: all.

        Returns
        -------
        array, shape (B, T, n_query)

        Raises
        ------
        ValueError, dlnflow.DivergenceError
            If steps or weights are invalid, or a training diverges.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        schedule = Schedule.of(weights, len(self.items))
        single = not schedule.batch
        if single:
            schedule = Schedule(schedule.starts, schedule.values[:, None])
        found = torch_steps.retrain(self.problem, steps, schedule, query)
        return found[0] if single else found

    def tangents(
        self,
        steps: ArrayLike,
        directions: FloatArray,
        *,
        query: IntArray | None = None,
        matrix: str = "hessian",
        weights: FloatArray | None = None,
    ) -> FloatArray:
        """Exact derivatives of the losses along directions (K, N), shape (T, n_query, K).

        Parameters
        ----------
        steps : sequence of int
        directions : array, shape (K, N)
            Changes of the item weights, at all steps.
        query : array of int, optional
        matrix : {"hessian", "gauss_newton"}
            What curves the response; only the Hessian gives the derivative.
        weights : array, shape (K, N), optional
            Item weights at which derivative k is taken. Default: all 1.

        Returns
        -------
        array, shape (T, n_query, K)

        Raises
        ------
        ValueError, dlnflow.DivergenceError
            As `losses`.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        directions = np.asarray(directions, dtype=np.float64)
        if weights is not None:
            at = np.asarray(weights, dtype=np.float64)
            return torch_reweighted.tangents(self.problem, steps, directions, at, query, matrix)
        return torch_steps.tangents(self.problem, steps, directions, query, matrix)

    def adjoint(self, at: int, query: IntArray) -> Iterator[tuple[int, FloatArray]]:
        """Yield (k, d l_q(theta_at) / d w_i(k)), shape (n_query, N), for k = at - 1, ..., 0."""
        moments = torch_sweeps.backward(self.problem, at)
        return adjoint.effects_at(moments, torch_sweeps.TorchAdjoint(self.problem, query))

    def branches(self, windows: Windows, weights: FloatArray, query: IntArray) -> FloatArray:
        """Loss of the run minus loss with weights (I, N) in each window, (S, I, n_query)."""
        return torch_sweeps.branches(self.problem, windows, weights, query)

    def window_adjoint(self, windows: Windows, query: IntArray) -> FloatArray:
        """First-order counterpart of `branches` per unit of weight, shape (S, n_query, N)."""
        moments = torch_sweeps.backward(self.problem, windows.last)
        sweep = torch_sweeps.TorchAdjoint(self.problem, query)
        shape = len(windows.starts), len(query), len(self.items)
        return adjoint.effects_in(windows, moments, sweep, shape)

    def moments(self, stop: int) -> Iterator[torch_sweeps.TorchMoment]:
        """Replay the steps 0, ..., stop - 1."""
        return torch_sweeps.forward(self.problem, stop)

    def segments(
        self, bounds: IntArray, steps: IntArray, train: IntArray, *, matrix: str
    ) -> Iterator[torch_segments.TorchSegment]:
        """Averages of matrices, or of their products, and of gradients between bounds."""
        moments = torch_sweeps.forward(self.problem, int(bounds[-1]))
        return torch_segments.segments(moments, bounds, steps, train, matrix)

    def curvature(self, steps: ArrayLike) -> torch_curvature.TorchCurvature:
        """Curvature at checkpoints: a dense factor, or conjugate gradients for large models.

        Raises
        ------
        ModuleNotFoundError
            If the model is too large for a matrix and curvlinops is not installed.
        """
        torch_curvature.require_solver(self.problem)
        steps = checks.recorded_steps(steps, self.n_steps)
        points = torch_steps.trained(self.problem, steps)
        return torch_curvature.TorchCurvature(self.problem, points)

    def traces(
        self,
        steps: ArrayLike,
        *,
        query: IntArray | None = None,
        train: IntArray | None = None,
        trained_weights: ArrayLike | None = None,
        **sampling: Any,
    ) -> xr.DataArray:
        """Loss traces of the posterior localised at checkpoints: `dlnflow.sampling.sample`.

        Parameters
        ----------
        steps : sequence of int
            Checkpoints.
        query, train : array of int, optional
            What is wanted; everything is recorded all the same.
        trained_weights : array of shape (N,), optional
            Item weights with which the checkpoints are trained. Default: all 1.
        **sampling
            kernel, weights, fields of `dlnflow.sampling.Settings` (n_beta, localization and
            step_size have no default for a torch model) and of its evaluation options.

        Returns
        -------
        xarray.DataArray, dims (time, chain, draw, item)
            Losses of the items and, where they are others, of the queries.

        Raises
        ------
        ValueError
            If a setting is missing or out of range.
        """
        from dlnflow.dynamics.torch_traces import trace_problem

        steps, problem = checks.recorded_steps(steps, self.n_steps), self.problem
        states = self.weights(steps, trained_weights)
        points = {int(k): list(one.values()) for k, one in zip(steps, states, strict=True)}
        every = (np.arange(len(names)) for names in (self.items, self.queries))
        separate = [] if self.queries is self.items else self.queries
        names = [*self.items, *separate]
        return trace_problem(problem, points, problem.watched(*every), names, **sampling)
