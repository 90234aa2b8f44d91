"""Losses of torch runs that have a name."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

ItemLoss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> one loss per item."""


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """1/2 |y - f(x)|^2 per item."""
    return 0.5 * (target - output).reshape(len(output), -1).square().sum(1)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """- log of the probability of the target class, per item."""
    return functional.cross_entropy(output, target, reduction="none")


LOSSES: dict[str, ItemLoss] = {"mse": half_squared_error, "cross_entropy": cross_entropy}
"""Losses by name."""
