"""The localised posterior that every kernel samples, and what must evaluate it.

    p(theta) ~ exp(-U),    U(theta) = n_beta L_w(theta) + (localization / 2) |theta - center|^2,
    L_w = (1/N) sum_i w_i l_i

An evaluator knows a model and its data; kernels, the driver and the posterior ask it for no more
than `Evaluator` says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Scale = float | Tensor
"""One number for all chains, or a column (C, 1) with one per chain."""


class Evaluation(NamedTuple):
    """What a model says at theta.

    `loss` (C,) and `gradient` (C, P) are those of L_w; `items` (C, K) holds the loss of every
    observed item where it comes for free with the gradient, else None. `gradient` may be a buffer
    that the next evaluation overwrites.
    """

    loss: Tensor
    gradient: Tensor
    items: Tensor | None = None


class Evaluator(Protocol):
    """A model with its data, for C chains at once.

    Attributes
    ----------
    exact : bool
        False if minibatches are drawn: loss and gradient are then noisy.
    n_parameters : int
        Number P of parameters that move.
    """

    exact: bool
    n_parameters: int

    def __call__(self, theta: Tensor) -> Evaluation:
        """Return mean loss and gradient at theta (C, P)."""

    def observe(self, theta: Tensor) -> Tensor:
        """Return the losses (C, K) of the observed items, without minibatches."""


@dataclass(frozen=True)
class FullBatch:
    """A function theta (C, P) -> Evaluation as an evaluator; its `items` are what is observed."""

    function: Callable[[Tensor], Evaluation]
    n_parameters: int
    exact: bool = True

    def __call__(self, theta: Tensor) -> Evaluation:
        """Return what the function returns."""
        return self.function(theta)

    def observe(self, theta: Tensor) -> Tensor:
        """Return the losses of the items."""
        items = self.function(theta).items
        if items is None:
            raise ValueError("the function gives no losses of items, so nothing can be observed.")
        return items


class Restricted:
    """A model of which only some entries of theta move; the others stay at the center.

        L_u(u) = L(u, v_0),  theta = (u, v), v_0 the other entries of the center

    An evaluator (C, S) around one that takes all entries (C, P): kernels, noise and preconditioner
    see the S entries alone, so that a step costs at most an unrestricted one.

    Parameters
    ----------
    evaluate : Evaluator
        Evaluator of all entries.
    center : Tensor, shape (C, P)
        Where the others stay.
    entries : Tensor of int, shape (S,)
        Positions that move, increasing.
    """

    def __init__(self, evaluate: Evaluator, center: Tensor, entries: Tensor) -> None:
        self._inner, self._theta = evaluate, center.clone()
        first, last = int(entries[0]), int(entries[-1]) + 1
        # A view of one stretch needs no gathering.
        self._where = slice(first, last) if last - first == len(entries) else entries
        self.n_parameters = len(entries)

    @property
    def exact(self) -> bool:
        """Whether loss and gradient are those of the full batch."""
        return self._inner.exact

    def take(self, theta: Tensor) -> Tensor:
        """Return the moving entries (C, S) of (C, P)."""
        where = self._where
        return theta[:, where] if isinstance(where, slice) else theta.index_select(1, where)

    def __call__(self, theta: Tensor) -> Evaluation:
        """Return loss and gradient with respect to the moving entries (C, S)."""
        value = self._inner(self._placed(theta))
        return value._replace(gradient=self.take(value.gradient))

    def observe(self, theta: Tensor) -> Tensor:
        """Return what the model observes at the moving entries (C, S)."""
        return self._inner.observe(self._placed(theta))

    def _placed(self, theta: Tensor) -> Tensor:
        where = self._where
        if isinstance(where, slice):
            self._theta[:, where] = theta
        else:
            self._theta.index_copy_(1, where, theta)
        return self._theta


@dataclass(frozen=True)
class Posterior:
    """U of the module docstring.

    Parameters
    ----------
    evaluate : Evaluator
        theta (C, P) -> Evaluation.
    center : Tensor, shape (C, P)
        Where the chains start and the localisation pulls to.
    n_beta, localization : float or Tensor, shape (C, 1)
        Inverse temperature of the mean loss, and the precision of the Gaussian prior.
    """

    evaluate: Evaluator
    center: Tensor
    n_beta: Scale
    localization: Scale

    def __post_init__(self) -> None:
        """Refuse temperatures and localisations that define no posterior."""
        for name, value, hint in (
            ("n_beta", self.n_beta, "It multiplies the mean loss."),
            ("localization", self.localization, "Without it the posterior has no finite volume."),
        ):
            if not bool(torch.all(torch.as_tensor(value, dtype=torch.float64) > 0)):
                raise ValueError(f"`{name}` must be > 0, got {value}. {hint}")

    @property
    def exact(self) -> bool:
        """Whether loss and gradient are those of the full batch."""
        return self.evaluate.exact

    def potential(self, theta: Tensor, value: Evaluation) -> Tensor:
        """Return U, shape (C,)."""
        distance = (theta - self.center).square().sum(-1)
        return _column(self.n_beta) * value.loss + 0.5 * _column(self.localization) * distance

    def gradient(self, theta: Tensor, value: Evaluation) -> Tensor:
        """Return grad U = n_beta grad L + localization (theta - center), shape (C, P)."""
        pull = (theta - self.center).mul_(self.localization)
        return axpy(pull, value.gradient, self.n_beta)


def _column(scale: Scale) -> Scale:
    """Return a (C, 1) column as (C,), so that it multiplies one number per chain."""
    return scale[:, 0] if isinstance(scale, Tensor) and scale.ndim == 2 else scale


def axpy(x: Tensor, y: Tensor, a: Scale) -> Tensor:
    """Return x + a y, overwriting x, in one pass over memory."""
    return x.addcmul_(y, a) if isinstance(a, Tensor) else x.add_(y, alpha=a)


def combine(x: Tensor, y: Tensor, a: Scale) -> Tensor:
    """Return x + a y, overwriting y, in one pass over memory."""
    return (
        torch.addcmul(x, y, a, out=y) if isinstance(a, Tensor) else torch.add(x, y, alpha=a, out=y)
    )


def root(scale: Scale) -> Scale:
    """Return the square root of a number or a column."""
    return scale.sqrt() if isinstance(scale, Tensor) else scale**0.5


def checked_step_size(step_size: Scale) -> Scale:
    """Return `step_size` if it is finite and > 0.

    Returns
    -------
    float or Tensor
        The step size that was given.

    Raises
    ------
    ValueError
        If it is not.
    """
    value = torch.as_tensor(step_size, dtype=torch.float64)  # a float may be beyond float32
    if not bool(torch.all(torch.isfinite(value) & (value > 0))):
        raise ValueError(f"`step_size` must be finite and > 0, got {step_size}.")
    return step_size
