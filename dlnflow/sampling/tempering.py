"""Parallel tempering of a two-layer linear network: all rungs of a ladder of posteriors at once.

    p_k(theta) ~ exp(-U_k),    U_k = (n_k / N) sum_i w_ki l_i(theta) + (localization / 2) |theta|^2

Rungs differ in n_k, or in item weights; the prior is around 0, so that these are posteriors over
all networks and not over the surroundings of a checkpoint. Every chain moves by MALA, and
neighbouring rungs a, b of one ladder exchange their networks with probability

    min(1, exp(sum_i (c_a - c_b)_i (l_i(theta_a) - l_i(theta_b)))),    c_ki = n_k w_ki / N,

under which every p_k stays stationary exactly. A network that is stuck at one rung leaves over
others (Swendsen and Wang 1986; Earl and Deem 2005). Steps are adapted while chains burn in, and
held after.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from dlnflow import checks
from dlnflow._support import FloatArray
from dlnflow._support.progress import Progress
from dlnflow.sampling import kernels
from dlnflow.sampling.evaluators.linear import LinearEvaluator
from dlnflow.sampling.noise import GAUSSIAN, UNIFORM, generator
from dlnflow.sampling.posterior import Posterior
from dlnflow.traces import labelled
from dlnflow.traces.free_energy import free_energy

Observe = Callable[[FloatArray], FloatArray]
"""W2 W1 (draws, d_out, n_in) -> numbers (draws, J)."""
KERNEL = "mala"
ACCEPTANCE = 0.57
"""The best for MALA in many dimensions (Roberts and Rosenthal 1998)."""
GAIN = 0.4
"""By how much the log of a step follows its acceptance, while chains burn in."""


@dataclass(frozen=True)
class Lengths:
    """How much is sampled.

    Parameters
    ----------
    ladders : int
        Independent ladders C.
    draws, burn_in, thin : int
        Recorded draws of each rung; steps before, rounded up to a multiple of `thin`; steps between
        draws, after which neighbours may exchange.
    seed : int
        Fixes all random numbers.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    ladders: int = 8
    draws: int = 500
    burn_in: int = 1000
    thin: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ladders", "draws", "burn_in", "thin"):
            checks.positive_integer(name, getattr(self, name))
        checks.whole_number("seed", self.seed)


@dataclass(frozen=True)
class Ladder:
    """What the rungs drew; K rungs, C independent ladders.

    Attributes
    ----------
    n_beta : array, shape (K,)
        The n_beta of each rung.
    weights : array, shape (K, N)
        Item weights of each rung.
    losses : array, shape (K, C, draws, N)
        Losses of all items.
    observed : array, shape (K, C, draws, J), or None
        What was asked to be observed.
    acceptance, exchanged : array, shape (K,), (K - 1,)
        Shares of proposals, and of exchanges with the next rung, that were accepted.
    localization : float
        Precision of the prior.
    n_parameters : int
        Number P of parameters that move.
    start_loss : array, shape (N,)
        Losses of the zero network.
    """

    n_beta: FloatArray
    weights: FloatArray
    losses: FloatArray
    observed: FloatArray | None
    acceptance: FloatArray
    exchanged: FloatArray
    localization: float
    n_parameters: int
    start_loss: FloatArray

    @property
    def pressure(self) -> FloatArray:
        """c_k, what multiplies the losses in U_k, (K, N)."""
        return self.n_beta[:, None] * self.weights / self.weights.shape[1]

    def free_energy(self) -> xr.Dataset:
        """Return the free energies of all rungs, as `dlnflow.traces.free_energy` gives them."""
        return free_energy(self.losses, self.pressure)

    def traces(self, rung: int, items: Sequence[str] | None = None) -> xr.DataArray:
        """Return one rung as loss traces, for `dlnflow.traces.influence` and `summary`.

        Parameters
        ----------
        rung : int
            Number of the rung.
        items : sequence of str, length N, optional
            Names of the items; default their numbers.

        Returns
        -------
        DataArray, dims (time, chain, draw, item)
            One time, 0; `checkpoint_loss` is that of the zero network.

        Raises
        ------
        ValueError
            If there is no such rung, or not one name per item.
        """
        rung, last = checks.whole_number("rung", rung), len(self.n_beta) - 1
        if rung > last:
            raise ValueError(f"`rung` must be at most {last}, the last one; got {rung}.")
        n_items = self.weights.shape[1]
        found = labelled(
            self.losses[rung][None],
            time=[0],
            items=list(map(str, range(n_items))) if items is None else list(items),
            checkpoint_loss=self.start_loss[None],
            attrs={
                "n_beta": float(self.n_beta[rung]),
                "localization": self.localization,
                "n_train": n_items,
                "n_parameters": self.n_parameters,
                "kernel": KERNEL,
            },
        )
        if np.all(self.weights[rung] == 1):
            return found
        return found.assign_coords(weight=("item", self.weights[rung]))


def ladder(
    y: ArrayLike,
    hidden: int,
    n_beta: ArrayLike,
    *,
    x: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    localization: float = 1.0,
    lengths: Lengths = Lengths(),
    observe: Observe | None = None,
) -> Ladder:
    """Sample all rungs of a ladder.

    Half of the ladders start at draws of the prior, the others at the network of least loss, so
    that chains that do not mix disagree.

    Parameters
    ----------
    y : array, shape (d_out, N)
        Targets of N items; 0 everywhere is allowed.
    hidden : int
        Number h of hidden units.
    n_beta : array, shape (K,)
        n_k > 0, in an order in which neighbours overlap.
    x : array, shape (n_in, N), optional
        Inputs; default one-hot.
    weights : array, shape (K, N), optional
        Item weights >= 0 of every rung; default 1.
    localization : float
        Precision of the Gaussian prior of all weights, around 0.
    lengths : Lengths
        Ladders, draws, and the seed.
    observe : callable, optional
        Numbers to record of the maps W2 W1.

    Returns
    -------
    Ladder

    Raises
    ------
    ValueError
        If a setting is out of range.
    """
    n_beta = np.atleast_1d(checks.finite("n_beta", n_beta))
    if n_beta.ndim != 1 or not len(n_beta) or not np.all(n_beta > 0):
        raise ValueError(f"`n_beta` must list numbers > 0, one per rung, got {n_beta}.")
    y = checks.finite_matrix("y", y)
    x = None if x is None else checks.finite_matrix("x", x)
    if x is not None and x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`x` must have one column per item, {y.shape[1]} as `y`, got {x.shape[1]}."
        )
    shape = len(n_beta), y.shape[1]
    weights = np.ones(shape) if weights is None else checks.nonnegative("weights", weights)
    if weights.shape != shape:
        raise ValueError(f"`weights` must have shape {shape} (rung, item), got {weights.shape}.")
    hidden = checks.positive_integer("hidden", hidden)
    localization = checks.positive("localization", localization)
    if not isinstance(lengths, Lengths):
        raise ValueError(f"`lengths` must be a Lengths(...), got {checks.shown(lengths)}.")
    chains = _Chains((x, y), hidden, n_beta, weights, localization, lengths)
    if observe is not None:
        _observed(observe, chains.maps())  # before the work, whether it can be
    losses = np.empty((shape[0], lengths.ladders, lengths.draws, shape[1]))
    seen: list[FloatArray] = []
    before = -(-lengths.burn_in // lengths.thin)
    with Progress(before + lengths.draws, "tempering") as progress:
        for _ in range(before):
            chains.advance(lengths.thin, adapt=True)
            progress.advance(1)
        chains.count_anew()
        for draw in range(lengths.draws):
            chains.advance(lengths.thin)
            losses[:, :, draw] = chains.items()
            if observe is not None:
                seen.append(_observed(observe, chains.maps()))
            progress.advance(1)
    observed = None
    if seen:
        by_chain = np.stack(seen, 1)  # (K C, draws, J)
        observed = by_chain.reshape(*losses.shape[:3], by_chain.shape[2])
    about = localization, chains.size, 0.5 * (y**2).sum(0)
    return Ladder(n_beta, weights, losses, observed, *chains.rates(), *about)


def _observed(observe: Observe, maps: FloatArray) -> FloatArray:
    """Compute what is observed.

    Returns
    -------
    array, shape (K C, J)

    Raises
    ------
    ValueError
        If they are not one row per map.
    """
    if not callable(observe):
        raise ValueError(f"`observe` must be a function of maps, got {checks.shown(observe)}.")
    found = np.asarray(observe(maps.copy()))
    if found.dtype.kind not in "biuf" or found.ndim < 1 or len(found) != len(maps):
        raise ValueError(
            f"`observe` must give one number, or one row of numbers, for each of the maps "
            f"{maps.shape}; got shape {found.shape} of {found.dtype}."
        )
    return found.reshape(len(maps), -1).astype(np.float64)


class _Together:
    """Random numbers of all chains at once: rungs exchange, so that none is a chain of its own."""

    def __init__(self, shape: torch.Size, seed: int) -> None:
        self._normals = torch.empty(shape, dtype=torch.float64)
        self._uniforms = torch.empty(shape[0], dtype=torch.float64)
        self._streams = [generator(seed, 0, 0, stream=stream) for stream in (GAUSSIAN, UNIFORM)]

    def normal(self) -> Tensor:
        """Return the next (K C, P) Gaussian numbers; valid until the next call."""
        return self._normals.normal_(generator=self._streams[0])

    def uniform(self) -> Tensor:
        """Return the next (K C,) uniform numbers in [0, 1)."""
        return self._uniforms.uniform_(generator=self._streams[1])


class _Chains:
    """All chains of all rungs, (K C, P) in the order of rungs, and their steps."""

    def __init__(
        self,
        data: tuple[FloatArray | None, FloatArray],
        hidden: int,
        n_beta: FloatArray,
        weights: FloatArray,
        localization: float,
        lengths: Lengths,
    ) -> None:
        rungs, ladders, seed, (x, y) = len(n_beta), lengths.ladders, lengths.seed, data
        self._shape = rungs, ladders
        each = torch.as_tensor(weights).repeat_interleave(ladders, 0)
        inputs = None if x is None else torch.as_tensor(x)
        evaluator = LinearEvaluator(inputs, torch.as_tensor(y), hidden, each)
        self.size = evaluator.n_parameters
        self._layers = (-1, self.size // hidden, hidden)
        column = torch.as_tensor(n_beta).repeat_interleave(ladders)[:, None]
        center = torch.zeros(rungs * ladders, self.size, dtype=torch.float64)
        self._posterior = Posterior(evaluator, center, column, localization)
        self._pressure = (n_beta[:, None] * weights / y.shape[1])[:, None]  # c (K, 1, N)
        self._noise = _Together(center.shape, seed)
        self._swaps = np.random.default_rng([seed, rungs, ladders])
        self._step = torch.as_tensor(1 / (localization + n_beta * (1 + y.std())))
        self._parity, self._exchanged = 0, np.zeros((2, rungs - 1))
        self._accepted, self._steps = np.zeros(rungs), 0
        self._restart(self._start(y if x is None else y @ np.linalg.pinv(x), seed))

    def _start(self, map_: FloatArray, seed: int) -> Tensor:
        """Return draws of the prior and, in every second ladder, the network of least loss."""
        rng = np.random.default_rng([seed, 1])
        theta = rng.standard_normal((*self._shape, self.size))
        theta /= np.sqrt(self._posterior.localization)
        u, s, vt = np.linalg.svd(map_, full_matrices=False)
        kept = min(self._layers[2], len(s))
        root = np.sqrt(s[:kept])
        best = np.zeros(self._layers[1:])
        best[:, :kept] = np.vstack([vt[:kept].T * root, u[:, :kept] * root])
        theta[:, 1::2] = best.ravel() + 0.01 * theta[:, 1::2]
        return torch.as_tensor(theta.reshape(-1, self.size))

    def _restart(self, theta: Tensor) -> None:
        step = self._step.repeat_interleave(self._shape[1])[:, None]
        self._kernel = kernels.named(KERNEL)(self._posterior, step_size=step)
        self._state = self._kernel.init(theta)

    def advance(self, steps: int, *, adapt: bool = False) -> None:
        """Take some steps of every chain, then let neighbours exchange."""
        for _ in range(steps):
            self._state = self._kernel.step(self._state, self._noise)
        rate = self._state.acceptance.reshape(self._shape).mean(1).numpy()
        self._accepted += steps * rate
        self._steps += steps
        if adapt:
            self._step = self._step * torch.as_tensor(np.exp(GAIN * (rate - ACCEPTANCE)))
        self._restart(self._exchange())

    def _exchange(self) -> Tensor:
        """Return the networks after every second pair of neighbours was asked to exchange."""
        rungs, ladders = self._shape
        theta = self._state.theta.reshape(rungs, ladders, -1)
        low = np.arange(self._parity, rungs - 1, 2)
        self._parity = 1 - self._parity
        if len(low):
            losses = self.items()
            gap = (self._pressure[low] - self._pressure[low + 1]) * (losses[low] - losses[low + 1])
            accept = np.log(self._swaps.random((len(low), ladders))) < gap.sum(-1)
            self._exchanged[:, low] += accept.mean(1), np.ones(len(low))
            which, ladder_of = np.nonzero(accept)
            a, b = low[which], low[which] + 1
            theta[a, ladder_of], theta[b, ladder_of] = theta[b, ladder_of], theta[a, ladder_of]
        return theta.reshape(rungs * ladders, -1)

    def items(self) -> FloatArray:
        """Return the losses of all items (K, C, N)."""
        found = self._state.value.items
        return found.reshape(*self._shape, -1).numpy()

    def maps(self) -> FloatArray:
        """Return W2 W1 of all chains, (K C, d_out, n_in)."""
        layers = self._state.theta.view(self._layers)
        n_in = self._posterior.evaluate.n_in
        return torch.bmm(layers[:, n_in:], layers[:, :n_in].mT).numpy()

    def count_anew(self) -> None:
        """Forget what was accepted while steps were adapted."""
        self._accepted[:], self._steps, self._exchanged[:] = 0, 0, 0

    def rates(self) -> tuple[FloatArray, FloatArray]:
        """Return the shares of proposals and of exchanges that were accepted, (K,), (K - 1,)."""
        tried = np.maximum(self._exchanged[1], 1)
        return self._accepted / max(self._steps, 1), self._exchanged[0] / tried
