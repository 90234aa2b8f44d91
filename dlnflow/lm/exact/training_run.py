"""A language model's own training run, with the verbs of every run: items are training rows."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from dlnflow import checks, result
from dlnflow._support import FloatArray, IntArray
from dlnflow.dynamics import adjoint, windows
from dlnflow.dynamics.optimizers import Traits
from dlnflow.dynamics.recorded_steps import even_and_geometric
from dlnflow.dynamics.schedule import Schedule, Windows
from dlnflow.lm.exact import backward, row_problem
from dlnflow.lm.exact.derivatives import Query, StepDerivatives
from dlnflow.lm.exact.kept_sweep import KeptSweep
from dlnflow.lm.exact.queries import checked
from dlnflow.lm.exact.row_verbs import RowVerbs
from dlnflow.lm.exact.taken_steps import Replay
from dlnflow.lm.runs.checkpoints import Checkpoints
from dlnflow.lm.runs.folder import read_settings
from dlnflow.lm.runs.train import load_data

if TYPE_CHECKING:
    from dlnflow.lm.data.tokenizer import Tokens
    from dlnflow.lm.exact.points import Point
    from dlnflow.lm.runs.model import RunSettings


class TrainingRun(RowVerbs):
    """A run of `lm.train`, replayed step by step and differentiated exactly.

    Item ``k:r`` is row r of step k, and its weight multiplies the loss of the row in the mean over
    the batch, (1/n) sum_r w_r l_r. Every row is used once, so that its influence on a query at a
    later step is one number: d query / d w, in nats per unit of weight for a query that is a loss.
    AdamW with decay, warm-up, cosine and clipping are differentiated as they are.

    The replay takes the steps of `lm.train` in its precision and gives its weights, bit by bit on
    the same machine. Derivatives are taken at those weights in single precision, with attention
    written out, since the fused one has no second derivative. ``double=True`` takes steps and
    derivatives in double precision: the same rows and rates, without the rounding of the run.

    Parameters
    ----------
    settings : RunSettings
        As for `lm.train`.
    tokens : Tokens
        Training ids, ``lm.train.load_data(folder).training``.
    queries : mapping of str to function
        What influence is on: model -> one number that can be differentiated
        (`lm.queries.repeated_loss`, `lm.queries.class_loss`, or your own).
    n_steps : int, optional
        Follow only so many steps. Default: those of the settings.
    double : bool
        Whether steps and derivatives are in double precision.
    device : str
        Torch device.
    checkpoints : Checkpoints, optional
        Checkpoints of the run; the replay is compared with them, and a difference is warned of.

    Raises
    ------
    ValueError
        If there is no query, one of them gives no single finite number that depends on the
        weights, or `n_steps` is beyond the run.
    """

    kind: ClassVar[str] = "a language model's training run"
    linear: ClassVar[bool] = False
    traits: ClassVar[Traits] = Traits(differentiable=True)

    def __init__(
        self,
        settings: RunSettings,
        tokens: Tokens,
        queries: Mapping[str, Query],
        *,
        n_steps: int | None = None,
        double: bool = False,
        device: str = "cpu",
        checkpoints: Checkpoints | None = None,
    ) -> None:
        n_steps = settings.n_steps if n_steps is None else n_steps
        self.n_steps = checks.positive_integer("n_steps", n_steps)
        if self.n_steps > settings.n_steps:
            raise ValueError(
                f"`n_steps` must be at most {settings.n_steps}, the length of the run; got "
                f"{n_steps}."
            )
        self.settings, self.learning_rate = settings, settings.learning_rate
        self.batch = settings.rows * settings.accumulate
        self._checkpoints = checkpoints
        self._replay = Replay(settings, tokens, double=double, device=device)
        self._derivatives = StepDerivatives(settings, self.n_steps, double=double, device=device)
        self.queries, self._queries, self._first = checked(
            queries, self._derivatives, self._replay.start()
        )

    @classmethod
    def of(
        cls,
        folder: str | Path,
        queries: Mapping[str, Query],
        *,
        steps: int | None = None,
        **how: Any,
    ) -> TrainingRun:
        """Take a run from the folder that `lm.train` wrote.

        Parameters
        ----------
        folder : path
        queries : mapping of str to function
        **how
            n_steps, double and device.

        Returns
        -------
        TrainingRun

        Raises
        ------
        FileNotFoundError, ValueError
            If the folder holds no run or no data, or as for the class.
        """
        settings = read_settings(Path(folder))
        ladder = None if how.get("double") else Checkpoints.from_directory(folder)
        tokens = load_data(folder).training
        return cls(settings, tokens, queries, checkpoints=ladder, **how)

    def __repr__(self) -> str:
        return (
            f"TrainingRun({self.n_steps} steps of {self.batch} rows, queries "
            f"{', '.join(self.queries)})"
        )

    @cached_property
    def items(self) -> Sequence[str]:
        """Names ``step:row`` of all rows, step by step."""
        return [f"{k}:{r}" for k in range(self.n_steps) for r in range(self.batch)]

    @property
    def planted(self) -> NDArray[np.bool_]:
        """Whether the rows of a step are segments that the settings made it repeat, (batch,)."""
        count = round(self.settings.repeat_share * self.batch)
        return np.arange(self.batch) >= self.batch - count

    def rows(self, step: int) -> NDArray[np.int32]:
        """Return the ids of the rows of a step, (batch, context + 1)."""
        return self._replay.rows(step)

    def grid(self, points: int = 200) -> IntArray:
        """Return steps, half evenly spaced, half at equal ratios, as `Run.grid`."""
        return even_and_geometric(self.n_steps, points)

    def flow_time(self, steps: ArrayLike) -> FloatArray:
        """Return NaN: there is no dimensionless time."""
        return np.full(np.shape(steps), np.nan)

    def weights(self, steps: ArrayLike) -> list[dict[str, torch.Tensor]]:
        """Return the weights that the replay reaches at steps, as state dicts."""
        steps = checks.recorded_steps(steps, self.n_steps)
        found = [p.weights for p in self._forward(int(steps[-1])) if p.step in set(steps.tolist())]
        return [self._derivatives.named(weights) for weights in found]

    def measure(self, steps: ArrayLike) -> xr.DataArray:
        """Return the queries themselves, dims (time, query)."""
        steps = checks.recorded_steps(steps, self.n_steps)
        values = self.losses(steps, np.ones(len(self.items)))
        coords = {"time": steps, "query": list(self.queries)}
        return xr.DataArray(values[0], dims=("time", "query"), coords=coords, name="measured")

    def per_step(
        self, at: ArrayLike | None = None, *, since: int = 0, keep: str | Path | None = None
    ) -> xr.DataArray:
        """Exact influence of every training row on every query at some times, by one sweep back.

            K[t, q, k, r] = d q(theta_t) / d w_{k, r}

        It costs two replays, and per step the time of about one training step for the graph and
        two to three for every pair of a query and a time later than the step. About 2 sqrt(t)
        copies of weights and moments are held.

        Parameters
        ----------
        at : sequence of int, optional
            Times of the queries, strictly increasing. Default: the end.
        since : int
            First step whose rows are looked at; the sweep ends there.
        keep : path, optional
            File (.npz) in which the sweep is kept as it goes; a call that finds it goes on from
            there, after replaying the training up to that step.

        Returns
        -------
        xarray.DataArray
            Dims (time, query, step, row), 0 for steps at or after the time; negative = the row
            helps. The coordinate ``planted`` marks repeated rows.

        Raises
        ------
        ValueError
            If times are invalid, `since` is not before the last of them, or `keep` is damaged or
            of another sweep.
        FloatingPointError
            If the run diverges.
        """
        at = checks.recorded_steps([self.n_steps] if at is None else at, self.n_steps)
        if checks.whole_number("since", since) >= at[-1]:
            raise ValueError(f"`since` must be before the last of `at`, {at[-1]}; got {since}.")
        values = np.zeros((len(at), len(self.queries), int(at[-1]), self.batch))
        back = backward.RunAdjoint(self._derivatives, self._replay, self._queries)
        kept, open_, top = KeptSweep(keep, self._key(at)), [], int(at[-1])
        if (known := kept.load()) is not None:
            values, open_, top = known["values"], known["open"].tolist(), int(known["step"])
            back.restore([known[name] for name in backward.PARTS])
        stride = int(np.ceil(np.sqrt(at[-1])))
        for moment in self._backward(top) if top > since else ():
            for t in np.flatnonzero(at == moment.after.step):
                back.open()
                open_.append(int(t))
                back.add(moment.after, np.arange(len(open_)) == len(open_) - 1)
            effects = back.back(moment)
            values[open_, :, moment.step] = effects.reshape(len(open_), -1, self.batch)
            if moment.step % stride == 0 or moment.step == since:
                kept.save(values=values, open=open_, step=moment.step, **back.state())
            if moment.step == since:
                break
        coords = {
            "time": at,
            "query": list(self.queries),
            "step": np.arange(at[-1]),
            "row": np.arange(self.batch),
            "planted": ("row", self.planted),
        }
        about = {
            "sign": result.SIGN,
            "units": "nats per unit of a row's weight",
            "precision": str(self._replay.start().weights.dtype).removeprefix("torch."),
            "attention": "written out in the derivatives: fused kernels have no second one",
        }
        dims = ("time", "query", "step", "row")
        found = xr.DataArray(values, coords=coords, dims=dims, name="influence", attrs=about)
        return found.sel(step=slice(since, None))

    def _key(self, at: IntArray) -> dict[str, Any]:
        """What a sweep is of, as far as it can be written down."""
        return {
            "settings": dataclasses.asdict(self.settings) | {"n_steps": None},
            "training ids": self._replay.tokens.sha256,
            "queries": dict(zip(self.queries, self._first, strict=True)),
            "precision": str(self._replay.start().weights.dtype),
            "times": at.tolist(),
        }

    def along(self, groups: Mapping[str, ArrayLike], steps: ArrayLike) -> xr.DataArray:
        """Exact derivative of the queries along classes of rows, forward through the training.

        Parameters
        ----------
        groups : mapping of str to array, shape (n_steps, batch) or (batch,)
            Change of the weight of every row: True for the rows of a class.
        steps : sequence of int

        Returns
        -------
        xarray.DataArray
            Dims (time, query, train), train = groups; negative = more of the class helps.

        Raises
        ------
        ValueError
            If a shape or a step is wrong.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        directions = np.stack([self._direction(name, one) for name, one in groups.items()])
        values = self.tangents(steps, directions)
        return result.influence(
            values,
            steps,
            list(self.queries),
            list(groups),
            estimator="tangent",
            flow_time=self.flow_time(steps),
        )

    def _direction(self, name: str, change: ArrayLike) -> FloatArray:
        change, shape = np.asarray(change, float), (self.n_steps, self.batch)
        if change.shape not in (shape, shape[1:]):
            raise ValueError(
                f"`groups` must give every row its change, shape {shape} or {shape[1:]}; "
                f"{name!r} has {change.shape}."
            )
        return np.broadcast_to(change, shape).ravel()

    def losses(
        self, steps: ArrayLike, weights: ArrayLike | Schedule, *, query: IntArray | None = None
    ) -> FloatArray:
        """Train again under row weights (B, N), one after another; queries (B, T, n_query).

        Parameters
        ----------
        steps : sequence of int
        weights : array (B, N) or batched Schedule
        query : array of int, optional

        Returns
        -------
        array, shape (B, T, n_query)

        Raises
        ------
        ValueError, FloatingPointError
            If steps or weights are invalid, or a training diverges.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        schedule = Schedule.of(weights, len(self.items))
        values = schedule.values.reshape(len(schedule.starts), -1, len(self.items))
        step_of = np.repeat(np.arange(self.n_steps), self.batch)
        part = np.searchsorted(schedule.starts, step_of, side="right") - 1
        each = values[part, :, np.arange(len(self.items))].T  # a row has one weight, at its step
        chosen = self._chosen(query)
        found = []
        for one in each:
            reached = self._forward(int(steps[-1]), one)
            points = [p for p in reached if p.step in set(steps.tolist())]
            found.append([self._derivatives.values(chosen, p.weights) for p in points])
        return np.array(found)

    def tangents(
        self,
        steps: ArrayLike,
        directions: FloatArray,
        *,
        query: IntArray | None = None,
        matrix: str = "hessian",
    ) -> FloatArray:
        """Exact derivatives of the queries along directions (K, N) of row weights.

        Parameters
        ----------
        steps : sequence of int
        directions : array, shape (K, N)
        query : array of int, optional
        matrix : {"hessian", "gauss_newton"}
            What curves the losses of rows; only the Hessian gives the derivative.

        Returns
        -------
        array, shape (T, n_query, K)

        Raises
        ------
        ValueError
            If steps are invalid.
        FloatingPointError
            If the run diverges.
        """
        steps = checks.recorded_steps(steps, self.n_steps)
        if matrix == "gauss_newton":
            query = np.arange(len(self.queries)) if query is None else query
            replay, directions = partial(self._forward, int(steps[-1])), np.asarray(directions)
            return self.problem.response(replay, steps, directions, query)
        directions, chosen = np.asarray(directions, float), self._chosen(query)
        moved, wanted, kept, before = self._derivatives.none(len(directions)), {*steps}, [], None
        for point in self._forward(int(steps[-1])):
            if before is not None:
                push = backward.directions_at(directions, before.step, point.weights, self.batch)
                moved = self._derivatives.ahead(before, self.rows(before.step), moved, push)
            if point.step in wanted:
                gradients = [self._derivatives.query(q, point.weights)[1] for q in chosen]
                kept.append((torch.stack(gradients) @ moved.weights.T).cpu().double().numpy())
            before = point
        return np.stack(kept)

    @cached_property
    def problem(self) -> row_problem.RowProblem:
        """The run as pure functions of its weights, with rows as items."""
        about = self.settings, self.rows, self.n_steps
        return row_problem.RowProblem.of(*about, self._derivatives, self._queries)

    def adjoint(self, at: int, query: IntArray) -> Iterator[tuple[int, FloatArray]]:
        """Yield (k, d q(theta_at) / d w_i(k)), shape (n_query, N), for k = at - 1, ..., 0."""
        return adjoint.effects_at(self._backward(at), self._among_all(query))

    def window_adjoint(self, windows: Windows, query: IntArray) -> FloatArray:
        """First-order counterpart of `branches` per unit of weight, shape (S, n_query, N)."""
        shape = len(windows.starts), len(query), len(self.items)
        moments = self._backward(windows.last)
        return adjoint.effects_in(windows, moments, self._among_all(query), shape)

    def branches(self, windows_: Windows, weights: FloatArray, query: IntArray) -> FloatArray:
        """Query of the run minus query with row weights (I, N) in each window, (S, I, n_query)."""
        rows = backward.Branches(self._replay, self._derivatives, self._queries, weights)
        return windows.follow(rows, windows_, len(weights), query)

    def _among_all(self, query: IntArray) -> backward.AmongAll:
        back = backward.RunAdjoint(self._derivatives, self._replay, self._chosen(query))
        return backward.AmongAll(back, len(self.items))

    def _chosen(self, query: IntArray | None) -> list[Query]:
        return self._queries if query is None else [self._queries[q] for q in query]

    def _forward(self, stop: int, weights: FloatArray | None = None) -> Iterator[Point]:
        """Yield the points 0, ..., stop."""
        weigh = backward.row_weights(weights, self._replay)
        for point in self._replay.forward(stop, weigh):
            if weights is None:
                self._compare(point)
            yield point

    def _backward(self, stop: int) -> Iterator[backward.RunMoment]:
        return backward.moments(self._replay, stop, self._compare)

    def _compare(self, point: Point) -> None:
        """Warn if a point has other weights than the checkpoint of its step."""
        ladder = self._checkpoints
        if ladder is None or point.step not in ladder.steps:
            return
        known = torch.nn.utils.parameters_to_vector(ladder.load(point.step).parameters()).detach()
        difference = float((known - point.weights.cpu()).abs().max())
        if difference > 0:
            self._checkpoints = None  # say it once
            warnings.warn(
                f"the replay differs from the checkpoint of step {point.step} by up to "
                f"{difference:.2g}: another machine, number of threads or library version, or "
                "rows that were weighed. What follows is exact for the run as replayed.",
                RuntimeWarning,
                stacklevel=2,
            )
