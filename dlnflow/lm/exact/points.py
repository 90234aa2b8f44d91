"""A point of a training run: everything that a step depends on besides its rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Point:
    """Weights (P,) before a step, and both moments of the optimizer, its gradients' averages.

    Parameters stand one after another in one vector, in the order of the module.
    """

    step: int
    weights: Tensor
    mean: Tensor
    square: Tensor


def split(vectors: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Return the parts of vectors (..., P) in the shapes of parameters."""
    parts, leading = vectors.split([p.numel() for p in like], dim=-1), vectors.shape[:-1]
    return [part.reshape(*leading, *p.shape) for part, p in zip(parts, like, strict=True)]
